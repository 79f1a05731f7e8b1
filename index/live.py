"""What search sees: a snapshot (the log up to W) plus a tail (the log after W), swapped by one assignment."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyroaring import BitMap

from index.catalog import Catalog, CatalogError, Change, Collection, Reading
from index.engines import AUTO, Params, Scores
from index.fields import RowSet, numbers
from index.filters import Filter
from index.manifest import Manifest, SnapshotError
from index.recall import best
from index.snapshot import Snapshot, SnapshotStore
from index.tail import Tail, positions, replaced
from index.vectors import Seqs, Vectors

log = logging.getLogger(__name__)


class Hit(NamedTuple):
    """One found version of an item; ``score`` is the cosine, higher is nearer."""

    seq: int
    score: float


@dataclass(frozen=True)
class View:
    """An immutable state of a collection: exactly its log up to ``watermark``. Take one per query."""

    collection: Collection  # as it stood at the watermark
    watermark: int
    watermark_at: float  # when that change was committed, in seconds since the epoch
    snapshot: Snapshot | None
    hidden: RowSet  # the snapshot's rows that are dead, or were deleted or replaced since
    tail: Tail

    @staticmethod
    def start(collection: Collection, snapshot: Snapshot | None = None) -> "View":
        """The view of a snapshot without a tail; without a snapshot, that of the empty log."""
        tail = Tail.empty(collection.dim)
        if snapshot is None:
            return View(collection, 0, 0.0, None, BitMap(), tail)
        manifest = snapshot.manifest
        return View(collection, manifest.watermark, manifest.watermark_at, snapshot, snapshot.dead, tail)

    @property
    def generation(self) -> int:
        """The snapshot's generation; 0 before the first."""
        return self.snapshot.manifest.generation if self.snapshot else 0

    @property
    def hidden_count(self) -> int:
        """How many of the snapshot's rows are of no item any more."""
        return len(self.hidden)

    @property
    def count(self) -> int:
        """How many items can be found."""
        in_snapshot = len(self.snapshot.ids) if self.snapshot else 0
        return in_snapshot - self.hidden_count + self.tail.count

    def search(
        self, queries: Vectors, top_k: int, filter: Filter | None = None, params: Params = AUTO
    ) -> list[list[Hit]]:
        """The ``top_k`` nearest of each (n, dim) query, best first; of those that pass the filter, if any.

        ``params`` are for the snapshot's engine: the tail is searched exactly.
        """
        scores, seqs = self._found(queries, top_k, filter, params)
        lines = zip(seqs.tolist(), scores.tolist(), strict=True)
        return [[Hit(*hit) for hit in zip(*line, strict=True) if hit[0] >= 0] for line in lines]

    def scores(
        self, queries: Vectors, top_k: int, filter: Filter | None = None, params: Params = AUTO
    ) -> Scores:
        """The scores (n, top_k) of what ``search`` finds, padded below any cosine."""
        return self._found(queries, top_k, filter, params)[0]

    def _found(
        self, queries: Vectors, top_k: int, filter: Filter | None, params: Params
    ) -> tuple[Scores, Seqs]:
        snapshot, tail = self.snapshot, self.tail
        if snapshot is None or not len(snapshot.ids):
            return tail.search(queries, top_k, filter)
        scores, rows = snapshot.engine.search(queries, top_k, self._allowed(snapshot, filter), params)
        seqs = np.where(rows < 0, -1, snapshot.ids[rows])
        if len(tail.seqs):
            newer = tail.search(queries, top_k, filter)
            scores, seqs = best(np.hstack((scores, newer[0])), np.hstack((seqs, newer[1])), top_k)
        return scores, seqs

    def seqs(self, filter: Filter | None = None) -> Seqs:
        """The versions of all items, ascending; of those that pass the filter, if any."""
        found = self.tail.seqs[self.tail.passing(filter)]
        if self.snapshot is None:
            return found
        allowed = self._allowed(self.snapshot, filter)
        older = self.snapshot.ids if allowed is None else self.snapshot.ids[numbers(allowed)]
        return np.concatenate((older, found))

    def vectors(self, seqs: Seqs) -> Vectors:
        """Copies of the rows (n, dim) of versions that were found in this view."""
        found: Vectors = np.empty((len(seqs), self.collection.dim), np.float32)
        newer = seqs > (self.snapshot.manifest.watermark if self.snapshot else 0)
        found[newer] = self.tail.vectors[np.searchsorted(self.tail.seqs, seqs[newer])]
        if self.snapshot is not None:
            found[~newer] = self.snapshot.engine.vectors(np.searchsorted(self.snapshot.ids, seqs[~newer]))
        return found

    def caught_up(self, reading: Reading) -> "View":
        """This view brought forward to the moment of a reading of the same log."""
        view = self
        while view.watermark < reading.watermark:
            changes = reading.changes(after=view.watermark)
            if not changes:
                raise CatalogError(f"the log of collection {self.collection.name!r} ends too early")
            view = view._after(changes)
        unchanged = view.collection == reading.collection
        return view if unchanged else replace(view, collection=reading.collection)

    def _after(self, changes: list[Change]) -> "View":
        hidden = self.hidden
        if self.snapshot is not None:
            hidden = hidden | BitMap(positions(self.snapshot.ids, replaced(changes)).tolist())
        tail, last = self.tail.extended(changes), changes[-1]
        return replace(self, watermark=last.seq, watermark_at=last.at, hidden=hidden, tail=tail)

    def _allowed(self, snapshot: Snapshot, filter: Filter | None) -> RowSet | None:
        if filter is not None:
            rows = filter.rows(snapshot.fields)
            return rows - self.hidden if self.hidden else rows
        return self.hidden.flip(0, len(snapshot.ids)) if self.hidden else None


class _Moved(Exception):
    """The collection is in another space than the view."""


class LiveIndex:
    """The view of one collection in this process. Take ``view`` once per query; any thread may refresh."""

    def __init__(self, catalog: Catalog, store_of: Callable[[Collection], SnapshotStore], name: str) -> None:
        """Open a collection's index. Raises CollectionNotFound and what else the catalog raises.

        ``store_of`` gives its snapshots by the encoder that it is embedded by, which may become another.
        """
        self._catalog = catalog
        self._store_of = store_of
        self._name = name
        self._opening = threading.Lock()
        self._refreshing = threading.Lock()
        self._standby: Snapshot | None = None  # of the log that will be this collection's in a moment
        self._refused: dict[Path, int] = {}  # damaged generations, as they were when that was found
        self.last_error: str | None = None  # why the current snapshot does not serve
        self.view = View.start(catalog.collection(name))
        self.refresh()

    @property
    def collection(self) -> Collection:
        """The collection as the view knows it."""
        return self.view.collection

    @contextmanager
    def reading(self) -> Iterator[tuple[View, Reading]]:
        """A view and a reading of the very same moment: what is found in the one stands in the other.

        Raises CollectionNotFound and what else the catalog raises.
        """
        view = self.view  # taken first: a reading that begins later is never behind it
        with self._catalog.reading(self._name) as reading:
            if goes_on := self._goes_on(view, reading):
                caught_up = view.caught_up(reading)
                self._offer(view, caught_up)
                yield caught_up, reading
        if goes_on:
            return
        view = self.refresh()  # it was made anew or restored, and has an index of its own perhaps
        with self._catalog.reading(self._name) as reading:
            if not self._goes_on(view, reading):
                view = View.start(reading.collection)
            caught_up = view.caught_up(reading)
            self._offer(view, caught_up)
            yield caught_up, reading

    def prepare(self) -> None:
        """Open what is announced to serve soon, so that nobody has to wait for it then."""
        store, standby = self._store_of(self.view.collection), self._standby
        generation = store.announced()
        if standby is not None and standby.manifest.generation not in (generation, store.current()):
            self._standby = standby = None
        if generation is not None and standby is None and not self._is_refused(store, generation):
            try:
                manifest = store.manifest(generation)
                self._standby = store.load(generation, manifest.collection_uid, manifest.encoder_id)
            except SnapshotError as error:
                self._refuse(store, generation)
                log.warning("what will serve soon cannot be opened: %s", error)

    def refresh(self) -> View:
        """Bring the view up to the log and the current snapshot; returns it. Raises what the catalog raises.

        One caller at a time opens a new snapshot, which may take seconds; others go on with the one before,
        unless its collection is no more, or has moved to the space of another encoder.
        """
        if self._has_news() and self._opening.acquire(blocking=self._is_replaced()):
            try:
                return self._advance(self._opened())
            finally:
                self._opening.release()
        try:
            return self._advance(None)
        except _Moved:
            with self._opening:
                return self._advance(self._opened())

    def _offer(self, before: View, after: View) -> None:
        """Let others go on from ``after``, unless one has gone on already: else each would copy the tail."""
        if after.watermark > before.watermark and self._refreshing.acquire(blocking=False):
            try:
                if self.view is before:
                    self.view = after
            finally:
                self._refreshing.release()

    def _has_news(self) -> bool:
        view = self.view
        store = self._store_of(view.collection)
        if view.snapshot is None:
            return any(not self._is_refused(store, generation) for generation in store.servable())
        current = store.current()
        return current is not None and current != view.generation and not self._is_refused(store, current)

    def _goes_on(self, view: View, reading: Reading) -> bool:
        """Whether a reading is of the view's log, in its space, and not behind it."""
        return _index_of(reading.collection) == _index_of(view.collection) and (
            reading.watermark >= view.watermark
        )

    def _is_replaced(self) -> bool:
        return _index_of(self._catalog.collection(self._name)) != _index_of(self.view.collection)

    def _is_refused(self, store: SnapshotStore, generation: int) -> bool:
        return self._refused.get(store.folder(generation)) == store.changed_at(generation)

    def _refuse(self, store: SnapshotStore, generation: int) -> None:
        self._refused[store.folder(generation)] = store.changed_at(generation)

    def _advance(self, opened: View | None) -> View:
        with self._refreshing, self._catalog.reading(self._name) as reading:
            view = self.view if opened is None else opened
            if reading.collection.space != view.collection.space:
                if opened is None:
                    raise _Moved
                view = View.start(reading.collection)
            if not reading.begins_with(view.collection.uid, view.watermark, view.watermark_at):
                log.warning("collection %s was made anew or restored: its index starts again", self._name)
                view = View.start(reading.collection)
            self.view = view.caught_up(reading)
            return self.view

    def _opened(self) -> View | None:
        """The best snapshot that can serve, as a view without a tail; None when none is better than now.

        It is opened before the log is read: what it holds was committed, so that reading is never behind it.
        """
        collection = self._catalog.collection(self._name)
        store = self._store_of(collection)
        current, moved = store.current(), collection.space != self.view.collection.space
        self.last_error = None if moved else self.last_error
        for generation in store.servable():
            if self._is_refused(store, generation):
                continue
            if generation == self.view.generation and not moved:
                return None
            try:
                manifest, standby = store.manifest(generation), self._standby
                if self._is_stale(manifest):
                    continue
                if standby is not None and standby.manifest == manifest:
                    snapshot, self._standby = standby, None
                else:
                    snapshot = store.load(generation, collection.uid, collection.encoder_id)
            except SnapshotError as error:
                if store.current() != current:  # replaced, and perhaps pruned, while it was read
                    return self._opened()
                self._refuse(store, generation)
                self.last_error = str(error)
                log.error("snapshot refused: %s", error)
                continue
            if generation == current:
                self.last_error = None
            return View.start(collection, snapshot)
        return View.start(collection) if moved else None

    def _is_stale(self, manifest: Manifest) -> bool:
        """Whether a snapshot holds another log: of a deleted collection, or from before a restore."""
        with self._catalog.reading(self._name) as reading:
            return not reading.begins_with(manifest.collection_uid, manifest.watermark, manifest.watermark_at)


def _index_of(collection: Collection) -> tuple[str, str]:
    """What an index is of: the rows that one encoder has made of one collection."""
    return collection.uid, collection.encoder_id
