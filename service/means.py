"""What the means of rows tell: how far texts lie from pictures, and queries from what was expected."""

import numpy as np

from index.filters import of_modalities
from index.live import View
from index.records import Modality
from index.vectors import Vectors

_SAMPLE = 1000  # items of a modality that stand for all of them
_RECENT = 1000  # queries; the weight of one is 1 in so many


def modality_gap(view: View) -> float | None:
    """The distance between the mean row of texts and that of pictures (Liang et al. 2022), from 0 to 2.

    Of each up to 1,000 items are looked at, evenly spread over the log. None where there are none of either.
    """
    text, picture = _mean(view, "text"), _mean(view, "image")
    return None if text is None or picture is None else float(np.linalg.norm(text - picture))


def _mean(view: View, modality: Modality) -> Vectors | None:
    seqs = view.seqs(of_modalities(None, (modality,)))
    if not len(seqs):
        return None
    places = np.linspace(0, len(seqs) - 1, min(_SAMPLE, len(seqs))).astype(np.int64)
    mean: Vectors = view.vectors(seqs[places]).mean(axis=0)
    return mean


class QueryDrift:
    """How far the direction of the last queries' mean is from that of (m, dim) typical rows.

    The mean begins as theirs, and each query moves it by a thousandth of the way: a few of them tell little.
    """

    def __init__(self, typical: Vectors) -> None:
        self._typical = typical.mean(axis=0)
        self._recent = self._typical.copy()

    def add(self, query: Vectors) -> None:
        """Take in a query of one (1, dim) row. Takes a few microseconds."""
        self._recent += (query[0] - self._recent) / np.float32(_RECENT)

    @property
    def value(self) -> float:
        """1 less the cosine: 0 where nothing has drifted, at most 2."""
        lengths = float(np.linalg.norm(self._recent) * np.linalg.norm(self._typical))
        return max(0.0, 1.0 - float(self._recent @ self._typical) / max(lengths, 1e-12))
