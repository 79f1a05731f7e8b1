"""Drawings as training reads them: what the stem saw of each, the texts about it, and its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.config import ModelConfig
from models.data.records import Record, read_records
from models.training.features import FOLDERS, VARIED_SETS, FeatureSet

CPU = torch.device("cpu")
_KIND_WEIGHT = {"name": 3.0, "keywords": 1.0, "description": 2.0}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Pictures:
    """A batch: patches (n, grid², features), pooled (n, pooled), float32."""

    patches: Tensor
    pooled: Tensor

    @classmethod
    def joined(cls, *parts: "Pictures") -> "Pictures":
        """One batch of several."""
        return cls(torch.cat([part.patches for part in parts]), torch.cat([part.pooled for part in parts]))


class FeatureBank:
    """A set of features, mapped from its files; what is read of it goes to a device."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Raises FileNotFoundError."""
        found = FeatureSet(folder)
        self.notes = found.notes
        self._patches, self._pooled = torch.from_numpy(found.patches), torch.from_numpy(found.pooled)
        self._device = device

    def read(self, rows: NDArray[np.int64]) -> Pictures:
        """The pictures in these rows."""
        chosen = torch.from_numpy(rows)
        patches, pooled = (found[chosen].to(self._device).float() for found in (self._patches, self._pooled))
        return Pictures(patches, pooled)


class Drawings:
    """The features of one split's records, plain and varied, and the texts about each."""

    def __init__(
        self, folder: Path, splits: Sequence[str], config: ModelConfig, device: torch.device = CPU
    ) -> None:
        """Raises RecordError, FileNotFoundError."""
        records = {record.id: record for record in read_records(folder) if record.split in splits}
        names = ["plain", *(f"varied-{number}" for number in range(1, VARIED_SETS + 1))]
        self._sets = [FeatureBank(folder / FOLDERS[config.front_end] / name, device) for name in names]
        order = [str(note["id"]) for note in self._sets[0].notes]
        self._rows = np.array([row for row, name in enumerate(order) if name in records])
        self.records = [records[order[row]] for row in self._rows]
        self.texts = [_weighted(record) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def read(self, chosen: NDArray[np.int64], views: NDArray[np.int64]) -> Pictures:
        """The features of these drawings, each in its view; 0 is the plain one."""
        # By view, then back in the order that was asked for.
        order = np.argsort(views, kind="stable")
        parts = [
            found.read(self._rows[chosen[order][views[order] == view]])
            for view, found in enumerate(self._sets)
        ]
        back = torch.from_numpy(np.argsort(order)).to(parts[0].pooled.device)
        read = Pictures.joined(*parts)
        return Pictures(read.patches[back], read.pooled[back])

    @property
    def views(self) -> int:
        return len(self._sets)


class Neighbours:
    """Drawings by what they show, and whose names are nearest: answers that are hard to tell apart."""

    _NEAREST = 8
    _CLUSTER = 4  # drawings that are drawn together

    def __init__(self, drawings: Drawings, names: Floats) -> None:
        """names (n, dim) are unit rows of the drawings' names."""
        concepts, first, of_drawing = np.unique(
            [record.concept for record in drawings.records], return_index=True, return_inverse=True
        )
        scores = names[first] @ names[first].T
        np.fill_diagonal(scores, -np.inf)
        count = min(self._NEAREST, len(concepts) - 1)
        near = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1)
        self._near = np.take_along_axis(near, order, axis=1)
        self._members = [np.flatnonzero(of_drawing == i) for i in range(len(concepts))]

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Drawings, some of each of a few neighbourhoods."""
        shown: list[int] = []
        while len(shown) < count:
            concept = int(rng.integers(len(self._members)))
            shown += [concept, *rng.permutation(self._near[concept])[: self._CLUSTER - 1].tolist()]
        return np.array([rng.choice(self._members[concept]) for concept in shown[:count]])


def _weighted(record: Record) -> dict[str, float]:
    """The English texts of a record; its name counts most."""
    return {text.text: _KIND_WEIGHT[text.kind] for text in reversed(record.in_language())}
