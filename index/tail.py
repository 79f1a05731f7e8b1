"""The tail: vectors written after the snapshot, searched exactly until the next snapshot holds them."""

import threading
from dataclasses import dataclass

import numpy as np

from index.engines import Mask, Rows, Scores
from index.engines.scanning import scan
from index.fields import Fields, grown, numbers
from index.filters import Filter
from index.recall import exact_top_k
from index.records import Change
from index.vectors import Seqs, Vectors

_LEAST_ROOM = 1024  # rows


class _Room:
    """Space that a tail shares with its successors, so that growing by one row does not copy all rows.

    Each row is claimed once and then never written again: of two successors of one tail only the first goes
    on in the same room, so no reader ever sees a row change.
    """

    def __init__(self, rows: int, dim: int) -> None:
        self.seqs: Seqs = np.empty(rows, np.int64)
        self.vectors: Vectors = np.empty((rows, dim), np.float32)
        self._claimed = 0
        self._claiming = threading.Lock()

    def claim(self, start: int, end: int) -> bool:
        """Whether rows ``start`` to ``end`` are the caller's to write."""
        with self._claiming:
            if start != self._claimed or end > len(self.seqs):
                return False
            self._claimed = end
            return True


@dataclass(frozen=True)
class Tail:
    """Versions of items in ascending seq. ``alive`` is False for those that later changes replaced.

    ``fields`` are of these rows, one part after the other.
    """

    seqs: Seqs
    vectors: Vectors
    alive: Mask
    fields: tuple[Fields, ...]
    _room: _Room

    @staticmethod
    def empty(dim: int) -> "Tail":
        """A tail without rows."""
        room = _Room(0, dim)
        return Tail(room.seqs, room.vectors, np.empty(0, np.bool_), (), room)

    @property
    def count(self) -> int:
        """How many items it holds."""
        return int(np.count_nonzero(self.alive))

    def extended(self, changes: list[Change]) -> "Tail":
        """This tail and the changes after it."""
        added = [change for change in changes if change.vector is not None]
        start, end = len(self.seqs), len(self.seqs) + len(added)
        room = self._room
        if not room.claim(start, end):
            room = _Room(max(_LEAST_ROOM, end + end // 2), self.vectors.shape[1])
            room.claim(0, end)
            room.seqs[:start], room.vectors[:start] = self.seqs, self.vectors
        for row, change in enumerate(added, start):
            room.seqs[row], room.vectors[row] = change.seq, change.vector
        seqs, alive = room.seqs[:end], np.ones(end, np.bool_)
        alive[:start] = self.alive
        alive[positions(seqs, replaced(changes))] = False
        fields = grown(self.fields, Fields.of(change.terms for change in added)) if added else self.fields
        return Tail(seqs, room.vectors[:end], alive, fields, room)

    def search(self, queries: Vectors, top_k: int, filter: Filter | None = None) -> tuple[Scores, Seqs]:
        """The ``top_k`` nearest of each query with their seqs, of the items that pass the filter if given."""
        wanted = self.passing(filter)
        if wanted.all():
            scores, rows = exact_top_k(self.vectors, queries, top_k)
        else:
            scores, rows = scan(self.vectors, queries, top_k, np.flatnonzero(wanted))
        return scores, np.append(self.seqs, -1)[rows]  # -1 stays -1

    def passing(self, filter: Filter | None) -> Mask:
        """Which rows are of items that pass the filter; of all items, without one."""
        if filter is None:
            return self.alive
        passing, start = np.zeros(len(self.seqs), np.bool_), 0
        for part in self.fields:
            passing[start + numbers(filter.rows(part))] = True
            start += part.count
        passing &= self.alive
        return passing


def positions(ascending: Seqs, wanted: Seqs) -> Rows:
    """Where the wanted seqs stand in an ascending array; those that are not in it are left out."""
    places = np.searchsorted(ascending, wanted).astype(np.int64, copy=False)
    inside = places < len(ascending)
    places, wanted = places[inside], wanted[inside]
    found: Rows = places[ascending[places] == wanted]
    return found


def replaced(changes: list[Change]) -> Seqs:
    """The seqs that the changes supersede."""
    return np.array([change.replaces for change in changes if change.replaces is not None], dtype=np.int64)
