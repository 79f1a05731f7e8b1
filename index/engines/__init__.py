"""Engines: what finds the nearest rows. One Protocol; tests/test_engines.py is its contract."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.fields import RowSet
from index.vectors import Vectors

Rows = NDArray[np.int64]  # positions in an engine, 0 … count-1; -1 pads a short answer
Scores = NDArray[np.float32]  # inner products, highest first
Mask = NDArray[np.bool_]  # (count,): of which rows something holds


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
    def can_grow(self) -> bool:
        """Whether adding rows to it costs less than building it anew."""
        ...

    @property
    def factory(self) -> str:
        """What kind of index this is, as a FAISS factory string."""
        ...

    @property
    def ef_search(self) -> int:
        """The breadth of a graph search; an exact index ignores it."""
        ...

    def search(self, queries: Vectors, top_k: int, allowed: RowSet | None = None) -> tuple[Scores, Rows]:
        """The ``top_k`` nearest allowed rows of each query: two (n, top_k) arrays.

        If at least ``top_k`` rows are allowed, ``top_k`` come back; a shorter answer ends in rows of -1 with
        scores below any cosine.
        """
        ...

    def vectors(self, rows: Rows) -> Vectors:
        """Copies of the stored vectors of these rows, exactly as they were added."""
        ...

    def save(self, path: Path) -> None:
        """Write the index to a file. Raises RuntimeError or OSError."""
        ...
