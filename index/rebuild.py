"""The rebuild: a new snapshot when the old one has fallen behind, published only if it proves as good as exact search."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from index.catalog import Catalog, CatalogError, Collection, Reading
from index.engines.faiss import FLAT_LIMIT, FaissEngine
from index.recall import exact_top_k, recall_at_k
from index.snapshot import Manifest, Snapshot, SnapshotError, SnapshotStore
from index.vectors import Seqs, Vectors, digest

log = logging.getLogger(__name__)

RECALL_K = 10
_QUERIES = 256  # sampled per direction
_SELF_HITS = 256
_BUILD_SHARE = 20  # a rebuild for age alone waits this many times the seconds that the last one took


@dataclass(frozen=True)
class Policy:
    """When a rebuild is due and what it must reach."""

    min_changes: int = 256  # a shorter tail waits for its age
    tail_share: float = 0.1  # of the snapshot's size
    max_age_s: float = 10.0
    target_recall: float = 0.98  # what the search effort is tuned to
    recall_floor: float = 0.95  # below it nothing is published
    retry_s: float = 300.0  # after a refusal
    keep: int = 2  # older generations kept for rollback
    flat_limit: int = FLAT_LIMIT


@dataclass(frozen=True)
class Report:
    """What became of one rebuild. ``reason``: why it was due, or why it was refused."""

    collection: str
    generation: int
    published: bool
    reason: str
    count: int
    watermark: int
    recall_at_10: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class GateRefused(Exception):
    """The new snapshot is not fit to serve; the message says why."""


class Rebuilder:
    """Brings the snapshots of every collection up to date, one step at a time."""

    def __init__(
        self,
        catalog: Catalog,
        store_of: Callable[[Collection], SnapshotStore],
        text_queries: Callable[[str], Vectors | None],
        policy: Policy = Policy(),
    ) -> None:
        """``text_queries`` gives (m, dim) rows of text queries for an encoder_id, to measure recall with, or None."""
        self._catalog = catalog
        self._store_of = store_of
        self._text_queries = text_queries
        self._policy = policy
        self._refused_at: dict[str, float] = {}

    def run(self, stop: threading.Event, interval_s: float, on_report: Callable[[Report], None]) -> None:
        """Step until ``stop`` is set. A failed step is logged, and the next one tries again."""
        while not stop.is_set():
            try:
                for report in self.step(time.time()):
                    on_report(report)
            except Exception:
                log.exception("the rebuild step failed; it will be tried again")
            stop.wait(interval_s)

    def step(self, now: float) -> list[Report]:
        """Rebuild every collection for which it is due at ``now`` (seconds since the epoch)."""
        reports = []
        for collection in self._catalog.collections():
            if now - self._refused_at.get(collection.uid, -np.inf) < self._policy.retry_s:
                continue
            try:
                reason = self._due(collection, now)
                if reason is not None:
                    reports.append(self.rebuild(collection.name, reason, now))
            except CatalogError as error:
                log.warning("collection %s was not rebuilt: %s", collection.name, error)
        return reports

    def rebuild(self, name: str, reason: str, now: float) -> Report:
        """Build, measure and, if the gate passes, publish a snapshot of a collection as it stands."""
        started = time.monotonic()
        with self._catalog.reading(name) as reading:
            collection, watermark = reading.collection, reading.watermark
            ids, vectors, pictures = _read(reading)
        store = self._store_of(collection)
        queries = self._queries(collection, vectors, pictures)
        with store.publishing():
            generation = store.next_generation()
            try:
                recall = self._publish(store, generation, collection, watermark, ids, vectors, queries, now)
            except (GateRefused, SnapshotError) as error:
                self._refused_at[collection.uid] = now
                log.error("generation %d of %s refused: %s", generation, name, error)
                return Report(name, generation, False, str(error), len(ids), watermark)
            store.prune(self._policy.keep)
        seconds = time.monotonic() - started
        log.info(
            "generation %d of %s published: %d items, recall %s, %.2f s",
            generation,
            name,
            len(ids),
            recall,
            seconds,
        )
        return Report(name, generation, True, reason, len(ids), watermark, recall, seconds)

    def _due(self, collection: Collection, now: float) -> str | None:
        manifest = self._current(collection)
        policy = self._policy
        with self._catalog.reading(collection.name) as reading:
            if manifest is None:
                return "there is no usable snapshot" if reading.watermark else None
            tail, hidden, oldest = reading.backlog(manifest.watermark)
        if max(tail, hidden) >= max(policy.min_changes, policy.tail_share * manifest.count):
            return f"{tail} changes are not in the snapshot"
        patience_s = max(policy.max_age_s, _BUILD_SHARE * manifest.seconds)
        if oldest is not None and now - oldest >= patience_s:
            return f"the oldest of {tail} changes is older than {patience_s:.0f} s"
        return None

    def _current(self, collection: Collection) -> Manifest | None:
        """The manifest of the snapshot that serves, or None when a rebuild must replace it."""
        store = self._store_of(collection)
        generation = store.current()
        if generation is None:
            return None
        try:
            manifest = store.manifest(generation)
        except SnapshotError as error:
            log.error("the current snapshot of %s is damaged: %s", collection.name, error)
            return None
        ours = (manifest.collection_uid, manifest.encoder_id) == (collection.uid, collection.encoder_id)
        return manifest if ours and manifest.watermark <= collection.last_seq else None

    def _queries(self, collection: Collection, vectors: Vectors, pictures: Seqs) -> dict[str, Vectors]:
        """Queries per direction: texts that the encoder's maker chose, and a sample of the collection's pictures."""
        queries = {}
        texts = self._text_queries(collection.encoder_id)
        if texts is not None and len(texts):
            queries["text"] = texts[:_QUERIES]
        if len(pictures):
            chosen = np.random.default_rng(len(pictures)).choice(
                pictures, min(_QUERIES, len(pictures)), replace=False
            )
            queries["image"] = vectors[chosen]
        return queries

    def _publish(
        self,
        store: SnapshotStore,
        generation: int,
        collection: Collection,
        watermark: int,
        ids: Seqs,
        vectors: Vectors,
        queries: dict[str, Vectors],
        now: float,
    ) -> dict[str, float]:
        engine = FaissEngine.build(vectors, self._policy.flat_limit)
        every_query = np.concatenate([*queries.values(), np.empty((0, collection.dim), np.float32)])
        engine = engine.tuned(every_query, RECALL_K, self._policy.target_recall)
        manifest = Manifest(
            generation=generation,
            collection_uid=collection.uid,
            encoder_id=collection.encoder_id,
            watermark=watermark,
            count=len(ids),
            dim=collection.dim,
            metric="cosine",
            factory=engine.factory,
            ef_search=engine.ef_search,
            digest=f"{digest(ids, vectors):016x}",
            recall_at_10={direction: measured(engine, vectors, rows) for direction, rows in queries.items()},
            sha256={},
            built_at=now,
            seconds=0.0,
        )
        store.write(engine, ids, manifest)
        check(store.load(generation, collection.uid, collection.encoder_id), self._policy.recall_floor)
        store.set_current(generation)
        return manifest.recall_at_10


def measured(engine: FaissEngine, vectors: Vectors, queries: Vectors) -> float:
    """recall@10 of an engine against exact search over the vectors it should hold."""
    truth, _ = exact_top_k(vectors, queries, RECALL_K)
    found, _ = engine.search(queries, RECALL_K)
    return round(recall_at_k(truth, found), 4)


def check(snapshot: Snapshot, recall_floor: float) -> None:
    """The gate, on a snapshot as read back from disk: digest, self-hits, recall per direction. Raises GateRefused."""
    manifest, engine, ids = snapshot.manifest, snapshot.engine, snapshot.ids
    for direction, recall in manifest.recall_at_10.items():
        if recall < recall_floor:
            raise GateRefused(
                f"recall@{RECALL_K} of {direction} queries is {recall:.3f}, below {recall_floor:.3f}"
            )
    if f"{digest(ids, engine.vectors(np.arange(len(ids)))):016x}" != manifest.digest:
        raise GateRefused("its vectors are not those of the catalog")
    if not len(ids):
        return
    rows = np.random.default_rng(manifest.generation).choice(
        len(ids), min(_SELF_HITS, len(ids)), replace=False
    )
    scores, _ = engine.search(engine.vectors(rows), 1)
    share = float(np.mean(scores[:, 0] > 1 - 1e-3))
    if share < recall_floor:
        raise GateRefused(f"only {share:.1%} of its vectors find themselves")


def _read(reading: Reading) -> tuple[Seqs, Vectors, Seqs]:
    """Every seq and vector of a collection, and the positions of those with a picture."""
    count, dim = reading.count(), reading.collection.dim
    ids, vectors, pictures = (
        np.empty(count, np.int64),
        np.empty((count, dim), np.float32),
        np.zeros(count, np.bool_),
    )
    filled = 0
    for seqs, rows, modalities in reading.rows():
        end = filled + len(seqs)
        ids[filled:end], vectors[filled:end] = seqs, rows
        pictures[filled:end] = [modality != "text" for modality in modalities]
        filled = end
    if filled != count:
        raise CatalogError(f"{count - filled} of {count} items have no embedding")
    return ids, vectors, np.flatnonzero(pictures)


def store_in(root: Path) -> Callable[[Collection], SnapshotStore]:
    """Where each collection's snapshots stand below ``root``: ``<collection>/<encoder_id>``."""
    return lambda collection: SnapshotStore(root / collection.name / collection.encoder_id)
