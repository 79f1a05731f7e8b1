"""Engines: what finds the nearest rows. One Protocol; tests/test_engines.py is its contract."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from index.fields import RowSet
from index.vectors import Vectors

# FAISS's OpenMP threads must sleep between searches, not spin on the cores that the encoder needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Rows = NDArray[np.int64]  # positions in an engine, 0 … count-1; -1 pads a short answer
Scores = NDArray[np.float32]  # inner products, highest first
Mask = NDArray[np.bool_]  # (count,): of which rows something holds
Tuning = Mapping[str, int]  # what effort "auto" stands for: "ef" or "nprobe", and "rescore"
Effort = Literal["low", "auto", "high"]


@dataclass(frozen=True)
class Params:
    """How hard one search tries.

    ``ef``, the breadth of a walk through a graph, and ``nprobe``, the number of lists read, stand in for what
    the effort means. Each counts where the index has such a thing: what kind it is may change by a rebuild.
    """

    effort: Effort = "auto"
    ef: int | None = None
    nprobe: int | None = None
    exact: bool = False  # every allowed row is compared
    rescore: bool = (
        True  # codes only find candidates; their vectors decide. Without it scores are approximate
    )


AUTO = Params()


class Engine(Protocol):
    """An immutable set of unit rows that can be searched from many threads at once."""

    @property
    def count(self) -> int:
        """How many rows it holds."""
        ...

    @property
    def dim(self) -> int:
        """The length of a row."""
        ...

    @property
    def factory(self) -> str:
        """What kind of index this is, as a FAISS factory string."""
        ...

    @property
    def tuning(self) -> Tuning:
        """What effort "auto" stands for; empty for an exact index."""
        ...

    def search(
        self, queries: Vectors, top_k: int, allowed: RowSet | None = None, params: Params = AUTO
    ) -> tuple[Scores, Rows]:
        """The ``top_k`` nearest allowed rows of each query: two (n, top_k) arrays.

        If at least ``top_k`` rows are allowed, ``top_k`` come back; a shorter answer ends in rows of -1 with
        scores below any cosine.
        """
        ...

    def vectors(self, rows: Rows) -> Vectors:
        """Copies of the stored vectors of these rows, exactly as they were added."""
        ...

    def save(self, folder: Path) -> list[str]:
        """Write the index to files in a folder; their names. Raises RuntimeError or OSError."""
        ...


# Opens what an engine saved in a folder: of this factory, so tuned. Raises RuntimeError or OSError.
OpenEngine = Callable[[Path, str, Tuning], Engine]
