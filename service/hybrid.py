"""Hybrid search: orders by nearness and by words, fused by reciprocal ranks (Cormack et al. 2009).

Ranks are of candidates: the nearest items and those that the words tell best. Nothing is compared but places,
for a cosine and a sum of rarities have no common measure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from index.engines import AUTO, Mask, Params, Scores
from index.filters import Filter
from index.lexical import matching
from index.live import View
from index.terms import words
from index.vectors import Seqs, Vectors
from service.selection import Ranked

_MAX_WORDS = 64  # of a text that are looked for, the first in their order


@dataclass(frozen=True)
class Hybrid:
    """What to look for by words, in items' texts and in these metadata ``keys``.

    ``alpha`` is the weight of nearness, and 1 less it that of words; ``k`` makes first places count less, and
    ``candidates`` are taken of either order.
    """

    text: str
    keys: Sequence[str] = ()
    alpha: float = 0.5
    k: int = 60
    candidates: int = 200

    @property
    def words(self) -> list[str]:
        """What is looked for, without regard to case."""
        return sorted(words(self.text), key=lambda word: self.text.casefold().find(word))[:_MAX_WORDS]


@dataclass(frozen=True)
class Fused:
    """A ranking by both: see Ranking. Scores are 1 for what is first in both orders.

    ``passing`` says of candidates with these cosines which are wanted.
    """

    query: Vectors
    hybrid: Hybrid
    near: Callable[[View, int, Filter | None, Seqs], Ranked]
    passing: Callable[[Seqs, Scores], Mask]
    params: Params = AUTO

    def rank(self, view: View, count: int, filter: Filter | None, skipped: Seqs) -> Ranked:
        """All candidates, whatever ``count`` is: so a page is the same however many were asked for."""
        hybrid = self.hybrid

        def nearness(seqs: Seqs) -> Scores:
            return np.asarray(view.vectors(seqs) @ self.query[0], np.float32)

        matched = matching(view, filter, hybrid.words, hybrid.keys)
        nearest = self.near(view, hybrid.candidates, filter, skipped).seqs[: hybrid.candidates]
        seqs = np.union1d(nearest, matched.first(hybrid.candidates, nearness))
        seqs = seqs[~np.isin(seqs, skipped)]
        cosines = nearness(seqs)
        ranks = np.empty(len(seqs))
        ranks[np.lexsort((seqs, -cosines))] = np.arange(1, len(seqs) + 1)
        fused = hybrid.alpha / (hybrid.k + ranks)
        fused += (1 - hybrid.alpha) / (hybrid.k + matched.ranks_of(seqs))
        scores: Scores = (fused * (hybrid.k + 1)).astype(np.float32)
        order = np.lexsort((seqs, -cosines, -scores))
        order = order[self.passing(seqs[order], cosines[order])]
        return Ranked(seqs[order], scores[order], len(order), True)
