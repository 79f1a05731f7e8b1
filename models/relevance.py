"""Calibrated relevance: what a cosine says of whether two documents belong together, direction by direction.

Cosines have a scale of their own in each direction: a caption is nearer to any other caption than to its own
picture. So a curve is fitted to each (`bench/relevance.py` does), on pairs that belong together and, as many,
pairs that do not. A relevance of one half is where the two are as frequent.

The curves lie beside a bundle, in relevance.json. They decide no row, so that encoder_id does not depend on
them, and name the encoder that they were fitted to: those of another one are not used.
"""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle, BundleError
from models.preprocess import Modality

log = logging.getLogger(__name__)
FILE = "relevance.json"
Floats = NDArray[np.float64]
Direction = tuple[Modality, Modality]  # of the query and of the item
KINDS: tuple[Modality, ...] = ("text", "image", "mixed")


@dataclass(frozen=True)
class Curve:
    """A logistic curve: 1 / (1 + exp(-slope * (cosine - offset)))."""

    slope: float
    offset: float

    def relevance(self, cosine: float) -> float:
        """From 0 to 1."""
        return 0.5 * (1.0 + math.tanh(0.5 * self.slope * (cosine - self.offset)))  # exp would overflow

    def cosine(self, relevance: float) -> float:
        """The cosine of a relevance; infinite at 0 and 1, which no cosine has."""
        if relevance in (0.0, 1.0):
            return math.copysign(math.inf, relevance - 0.5)
        return self.offset + math.log(relevance / (1.0 - relevance)) / self.slope


@dataclass(frozen=True)
class Relevance:
    """The curves of one encoder."""

    encoder_id: str
    curves: Mapping[Direction, Curve]

    @classmethod
    def read(cls, bundle: Bundle) -> "Relevance | None":
        """Those beside a bundle; None without, or if they are another encoder's. Raises BundleError."""
        file = bundle.path / FILE
        if not file.is_file():
            return None
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            curves = {_direction(name): Curve(**curve) for name, curve in document["curves"].items()}
            found = cls(str(document["encoder_id"]), curves)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{file}: {error!r}") from error
        if found.encoder_id != bundle.encoder_id:
            log.warning("%s is of %s and not used: calibrate this bundle", file, found.encoder_id)
            return None
        return found

    def write(self, folder: Path) -> None:
        """Put them beside the bundle in a folder."""
        curves = {f"{query} to {item}": asdict(curve) for (query, item), curve in self.curves.items()}
        document = {"encoder_id": self.encoder_id, "curves": curves}
        (folder / FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def logistic(matching: Floats, others: Floats, ridge: float = 0.0) -> tuple[float, float]:
    """Slope and offset of 1 / (1 + exp(-slope (x - offset))), by Newton; both kinds weigh the same.

    Few cosines may not overlap at all, and any steeper slope would fit them better: ``ridge`` times half its
    square is what a slope costs then.
    """
    x = np.concatenate([matching, others])
    inputs = np.stack([x, np.ones_like(x)], axis=1)
    wanted = np.repeat([1.0, 0.0], [len(matching), len(others)])
    weight = np.repeat([0.5 / len(matching), 0.5 / len(others)], [len(matching), len(others)])
    cost = np.diag([ridge, 0.0])
    found = np.zeros(2)
    for _ in range(50):
        said = 1 / (1 + np.exp(-inputs @ found))
        slopes = (inputs * (weight * said * (1 - said))[:, None]).T @ inputs + cost
        found -= np.linalg.solve(slopes, inputs.T @ (weight * (said - wanted)) + cost @ found)
    return float(found[0]), float(-found[1] / found[0])


def _direction(name: str) -> Direction:
    found = [(query, item) for query in KINDS for item in KINDS if name == f"{query} to {item}"]
    if not found:
        raise ValueError(f"{name!r} is no direction")
    return found[0]
