"""What search sees: a snapshot (the log up to W) plus a tail (the log after W), swapped by one assignment."""

import logging
import threading
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.catalog import Catalog, Change, Reading
from index.engines import Mask, Rows
from index.recall import exact_top_k
from index.snapshot import Snapshot, SnapshotError, SnapshotStore
from index.vectors import Seqs, Vectors, digest

log = logging.getLogger(__name__)
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Hit(NamedTuple):
    """One found version of an item; ``score`` is the cosine, higher is nearer."""

    seq: int
    score: float


@dataclass(frozen=True)
class Tail:
    """Vectors written after the snapshot. ``alive`` is False for those that later changes replaced."""

    seqs: Seqs
    vectors: Vectors
    alive: Mask

    @staticmethod
    def empty(dim: int) -> "Tail":
        """A tail without rows."""
        return Tail(np.empty(0, np.int64), np.empty((0, dim), np.float32), np.empty(0, np.bool_))

    def extended(self, changes: list[Change]) -> "Tail":
        """This tail and the changes after it."""
        added = [(change.seq, change.vector) for change in changes if change.vector is not None]
        count = len(self.seqs) + len(added)
        seqs, vectors = _grown(self.seqs, count), _grown(self.vectors, count)
        alive = np.ones(count, np.bool_)
        alive[: len(self.alive)] = self.alive
        for row, (seq, vector) in enumerate(added, start=len(self.seqs)):
            seqs[row], vectors[row] = seq, vector
        alive[_positions(seqs, _replaced(changes))] = False
        return Tail(seqs, vectors, alive)


@dataclass(frozen=True)
class View:
    """An immutable state of a collection: exactly the log up to ``watermark``. Take one per query and keep it."""

    watermark: int
    snapshot: Snapshot | None
    visible: Mask | None  # of the snapshot's rows; None: all
    tail: Tail

    @property
    def generation(self) -> int:
        """The snapshot's generation; 0 before the first."""
        return self.snapshot.manifest.generation if self.snapshot else 0

    @property
    def hidden_count(self) -> int:
        """How many of the snapshot's rows were deleted or replaced since."""
        return 0 if self.visible is None else int(np.count_nonzero(~self.visible))

    @property
    def count(self) -> int:
        """How many items can be found."""
        in_snapshot = len(self.snapshot.ids) if self.snapshot else 0
        return in_snapshot - self.hidden_count + int(np.count_nonzero(self.tail.alive))

    def search(self, queries: Vectors, top_k: int, allowed: Seqs | None = None) -> list[list[Hit]]:
        """The ``top_k`` nearest of each (n, dim) query, best first; of the versions ``allowed`` (ascending) if given."""
        seqs, scores = [], []
        if self.snapshot is not None and len(self.snapshot.ids):
            found, rows = self.snapshot.engine.search(
                queries, top_k, self._allowed_rows(self.snapshot.ids, allowed)
            )
            seqs.append(np.where(rows < 0, -1, self.snapshot.ids[rows]))
            scores.append(found)
        in_tail = self.tail.alive if allowed is None else self.tail.alive & np.isin(self.tail.seqs, allowed)
        if in_tail.any():
            every = bool(in_tail.all())
            vectors = self.tail.vectors if every else self.tail.vectors[in_tail]
            found, rows = exact_top_k(vectors, queries, top_k)
            tail_seqs = self.tail.seqs if every else self.tail.seqs[in_tail]
            seqs.append(np.where(rows < 0, -1, tail_seqs[rows]))
            scores.append(found)
        return _merged(seqs, scores, len(queries), top_k)

    def digest(self) -> int:
        """The digest of everything that can be found: it must equal the catalog's at the same watermark."""
        total = digest(self.tail.seqs[self.tail.alive], self.tail.vectors[self.tail.alive])
        if self.snapshot is not None:
            rows = np.arange(len(self.snapshot.ids)) if self.visible is None else np.flatnonzero(self.visible)
            total += digest(self.snapshot.ids[rows], self.snapshot.engine.vectors(rows))
        return total % 2**64

    def after(self, changes: list[Change], watermark: int) -> "View":
        """This view brought forward by the changes up to ``watermark``."""
        visible = self.visible
        if self.snapshot is not None:
            hidden = _positions(self.snapshot.ids, _replaced(changes))
            if len(hidden):
                visible = np.ones(len(self.snapshot.ids), np.bool_) if visible is None else visible.copy()
                visible[hidden] = False
        return replace(self, watermark=watermark, visible=visible, tail=self.tail.extended(changes))

    def _allowed_rows(self, ids: Seqs, allowed: Seqs | None) -> Mask | None:
        if allowed is None:
            return self.visible
        rows = np.zeros(len(ids), np.bool_)
        rows[_positions(ids, allowed)] = True
        return rows if self.visible is None else rows & self.visible


class LiveIndex:
    """The view of one collection in this process. ``search`` readers take ``view``; one thread at a time refreshes."""

    def __init__(self, catalog: Catalog, store: SnapshotStore, name: str) -> None:
        self._catalog = catalog
        self._store = store
        self._name = name
        self._refreshing = threading.Lock()
        self._refused: set[int] = set()
        self.collection = catalog.collection(name)
        self.last_error: str | None = None
        self.view = self._opened()
        self.refresh()

    def refresh(self) -> View:
        """Bring the view up to the log and to the current snapshot; returns it. Raises what the catalog raises."""
        with self._refreshing, self._catalog.reading(self._name) as reading:
            view = self.view
            if reading.collection.uid != self.collection.uid:  # deleted, and made anew under the same name
                self.collection = reading.collection
                view = self._opened()
            elif self._store.current() not in (view.generation, None, *self._refused):
                view = self._opened()
            self.view = caught_up(view, reading)
            return self.view

    def _opened(self) -> View:
        """The newest servable snapshot with an empty tail; without one, the empty view that the whole log extends."""
        current = self._store.current()
        candidates = [
            generation
            for generation in reversed(self._store.generations())
            if current and generation <= current
        ]
        for generation in candidates:
            try:
                snapshot = self._store.load(generation, self.collection.uid, self.collection.encoder_id)
            except SnapshotError as error:
                self._refused.add(generation)
                self.last_error = str(error)
                log.error("snapshot refused: %s", error)
                continue
            # A snapshot ahead of the log was made from a catalog that has since been restored to an older state.
            if snapshot.manifest.watermark <= self._catalog.collection(self._name).last_seq:
                return View(snapshot.manifest.watermark, snapshot, None, Tail.empty(self.collection.dim))
        return View(0, None, None, Tail.empty(self.collection.dim))


def caught_up(view: View, reading: Reading) -> View:
    """``view`` brought forward to the moment of ``reading``."""
    while view.watermark < reading.watermark:
        changes = reading.changes(after=view.watermark)
        view = view.after(changes, changes[-1].seq if changes else reading.watermark)
    return view


def _positions(ascending: Seqs, wanted: Seqs) -> Rows:
    """Where the wanted seqs stand in an ascending array; those that are not in it are left out."""
    places = np.searchsorted(ascending, wanted)
    inside = places < len(ascending)
    places, wanted = places[inside], wanted[inside]
    return places[ascending[places] == wanted]


def _replaced(changes: list[Change]) -> Seqs:
    return np.array([change.replaces for change in changes if change.replaces is not None], dtype=np.int64)


def _grown(array: NDArray[_Scalar], count: int) -> NDArray[_Scalar]:
    """``array`` lengthened to ``count`` rows, the new ones unset, without copying the old ones each time.

    A tail and its successor share one buffer: rows that a reader can see are never written again, and a tail gets
    at most one successor at a time (LiveIndex refreshes under a lock).
    """
    buffer = array if array.base is None else array.base
    if len(buffer) < count:
        buffer = np.empty((max(1024, count + count // 2), *array.shape[1:]), array.dtype)
        buffer[: len(array)] = array
    return buffer[:count]


def _merged(seqs: list[Seqs], scores: list[NDArray[np.float32]], queries: int, top_k: int) -> list[list[Hit]]:
    if not seqs:
        return [[] for _ in range(queries)]
    all_seqs, all_scores = np.concatenate(seqs, axis=1), np.concatenate(scores, axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :top_k]
    return [
        [Hit(int(all_seqs[q, i]), float(all_scores[q, i])) for i in order[q] if all_seqs[q, i] >= 0]
        for q in range(queries)
    ]
