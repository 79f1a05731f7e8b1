"""The rebuild: a new snapshot when the old one has fallen behind, published only if it proves its worth."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from index.bases import Bases
from index.catalog import Catalog, CatalogError, Collection, CollectionNotFound, Reading
from index.contents import Contents
from index.engines.cluster import ClusterUnavailable
from index.engines.milvus import FACTORY
from index.folders import next_generation, unfinished
from index.gate import RECALL_K, GateRefused, Probe, check, sample
from index.growing import Built, built
from index.live import LiveIndex
from index.manifest import Manifest, SnapshotError
from index.mirror import Mirror, Watch
from index.policy import DEFAULT_POLICY, Policy
from index.priority import behind_others
from index.recall import recall_at_k
from index.records import Space
from index.snapshot import Snapshot, SnapshotStore
from index.vectors import Vectors

log = logging.getLogger(__name__)

_QUERIES = 256  # sampled per direction


@dataclass(frozen=True)
class Report:
    """What became of one rebuild. ``reason``: why it was due, or why it was refused and by which check
    (``cause``). ``how``: built anew ("full") or "grown"."""

    collection: str
    generation: int
    published: bool
    reason: str
    count: int
    watermark: int
    recall_at_10: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    how: str = ""
    cause: str = ""


@dataclass(frozen=True)
class Evaluation:
    """The recall of a generation and its tail, by kind of query, of which there were so many."""

    generation: int
    items: int
    tail: int
    recall_at_10: Mapping[str, float]
    queries: Mapping[str, int]


class Rebuilder:
    """Brings the snapshots of every collection up to date, one step at a time."""

    def __init__(
        self,
        catalog: Catalog,
        store_of: Callable[[Collection], SnapshotStore],
        text_queries: Callable[[str], Vectors | None],
        policy: Policy = DEFAULT_POLICY,
        mirror_of: Callable[[Collection, int], Mirror | None] = lambda *_: None,
    ) -> None:
        """``text_queries`` gives (m, dim) query rows for an encoder_id, to measure recall with, or None.

        ``mirror_of``: where the vectors of a collection with so many items stand, if not in its snapshots.
        """
        self._catalog = catalog
        self._store_of = store_of
        self._text_queries = text_queries
        self._policy = policy
        self._mirror_of = mirror_of
        self._watch = Watch()
        # Both by the collection's uid and encoder_id.
        self._refused_at: dict[tuple[str, str], float] = {}
        self._checked: dict[tuple[str, str], int] = {}  # the generation whose files were found whole

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
        for collection in self._catalog.every_collection():
            key = (collection.uid, collection.encoder_id)
            if now - self._refused_at.get(key, -np.inf) < self._policy.retry_s:
                continue
            try:
                lost = self._watch.lost(self._store_of(collection), collection, now)
                if lost is None and self._due(collection, now) is None:
                    continue
                with self._store_of(collection).publishing():
                    # Not due any more, if another publisher was faster.
                    reason = lost or self._due(collection, now)
                    if reason is not None:
                        reports.append(self._rebuild(collection, reason, now))
            except CollectionNotFound:
                continue  # deleted since
            except (CatalogError, OSError) as error:
                log.warning("collection %s was not rebuilt: %s", collection.name, error)
        return reports

    def rebuild(self, name: str, reason: str, now: float, *, anew: bool = False) -> Report:
        """Build, measure and, if the gate passes, publish a snapshot of a collection as it stands.

        ``anew``: not grown from the one that serves. Ends the hold of a rollback.
        """
        collection = self._catalog.collection(name)
        with self._store_of(collection).publishing():
            return self._rebuild(collection, reason, now, anew)

    def build_ahead(self, name: str, space: Space, watermark: int, now: float) -> Report:
        """Publish a snapshot of a collection in the space that it is about to move to, of its items there
        that were written up to ``watermark``: when it moves, this serves at once."""
        collection = self._catalog.collection(name).within(space)
        with self._store_of(collection).publishing():
            return self._rebuild(collection, "the collection moves", now, True, watermark)

    def evaluate(self, name: str) -> Evaluation:
        """Measure what a process that opens the collection now would find, against every vector it has."""
        live = LiveIndex(self._catalog, self._store_of, name)
        with live.reading() as (view, reading):
            contents = Contents.of(reading, self._store_of(view.collection).root)
        recall, queries = {}, {}
        for direction, probe in self._probes(view.collection, contents).items():
            recall[direction] = round(recall_at_k(probe.truth, view.scores(probe.queries, RECALL_K)), 4)
            queries[direction] = len(probe.queries)
        return Evaluation(view.generation, len(contents.ids), len(view.tail.seqs), recall, queries)

    def _due(self, collection: Collection, now: float) -> str | None:
        policy = self._policy
        with self._catalog.reading(collection.name) as reading:
            if not reading.watermark:
                return None
            manifest = self._serving(reading)
            if manifest is None:
                return "no snapshot can serve"
            if self._store_of(collection).is_held():
                return None
            changes, oldest_at = reading.backlog(manifest.watermark)
            dead = manifest.dead + reading.removed(manifest.watermark)
        return policy.due(manifest, changes, dead, 0.0 if oldest_at is None else now - oldest_at)

    def _serving(self, reading: Reading) -> Manifest | None:
        """The manifest of the snapshot that serves, or None when a rebuild must replace it."""
        collection = reading.collection
        store = self._store_of(collection)
        generation = store.current()
        if generation is None:
            return None
        try:
            manifest = store.manifest(generation)
            if not reading.begins_with(manifest.collection_uid, manifest.watermark, manifest.watermark_at):
                return None
            key = (collection.uid, collection.encoder_id)
            if self._checked.get(key) != generation:  # bits may have rotted since it was published
                store.load(generation, *key)
                self._checked[key] = generation
        except SnapshotError as error:
            log.error("the current snapshot of %s cannot serve: %s", collection.name, error)
            return None
        return manifest

    def _rebuild(
        self, collection: Collection, reason: str, now: float, anew: bool = False, ahead: int | None = None
    ) -> Report:
        return behind_others(lambda: self._rebuilt(collection, reason, now, anew, ahead))

    def _rebuilt(
        self, collection: Collection, reason: str, now: float, anew: bool, ahead: int | None
    ) -> Report:
        store, started = self._store_of(collection), time.monotonic()
        store.prune(self._policy.keep)  # else each publisher that dies would leave a whole index more
        generation = next_generation(store)
        policy, key = self._policy, (collection.uid, collection.encoder_id)
        anew = anew or key in self._refused_at  # whatever was wrong with what had grown

        def gate(snapshot: Snapshot) -> Manifest:
            recall = check(snapshot, probes, policy.recall_floor)
            return replace(snapshot.manifest, recall_at_10=recall, seconds=time.monotonic() - started)

        try:
            contents = self._contents(collection, ahead)
            probes = self._probes(collection, contents)
            mirror = self._mirror_of(collection, len(contents.ids))
            factory = FACTORY if mirror else policy.kind(collection, len(contents.ids)).factory
            grows = not anew and factory not in ("Flat", FACTORY)
            bases = Bases(self._catalog, collection, policy.dead_share / 2)
            base = bases.current(store) if grows else None
            target_recall = policy.recall_of(collection)
            steps = bases.steps(
                unfinished(store),
                policy.step_rows,
                lambda first, made: self._draft(0, collection, first, made, now),
            )
            made = built(contents, factory, base, list(probes.values()), target_recall, mirror, steps)
            draft = self._draft(generation, collection, contents, made, now)
            manifest = store.publish(draft, made.engine, made.ids, made.fields, gate)
        except CatalogError:
            raise
        except Exception as error:  # whatever it was: what serves goes on serving, and a retry waits
            self._refused_at[key] = now
            shutil.rmtree(unfinished(store).root, ignore_errors=True)
            log.exception("generation %d of %s refused", generation, collection.name)
            seconds = time.monotonic() - started
            return Report(
                collection.name, generation, False, str(error), 0, 0, seconds=seconds, cause=cause_of(error)
            )
        finally:
            store.prune(self._policy.keep)
        shutil.rmtree(unfinished(store).root, ignore_errors=True)
        if mirror is not None:
            mirror.tidy(store)
        self._refused_at.pop(key, None)
        self._checked[key] = generation
        log.info(
            "generation %d of %s published (%s): %d items",
            generation,
            collection.name,
            made.how,
            len(contents.ids),
        )
        return Report(
            collection=collection.name,
            generation=generation,
            published=True,
            reason=reason,
            count=len(contents.ids),
            watermark=manifest.watermark,
            recall_at_10=manifest.recall_at_10,
            seconds=time.monotonic() - started,
            how=made.how,
        )

    def _contents(self, collection: Collection, ahead: int | None) -> Contents:
        with self._catalog.reading(collection.name) as reading:
            if reading.collection.uid != collection.uid:
                raise CollectionNotFound(f"collection {collection.name!r} was deleted and made anew")
            if ahead is not None:
                reading = reading.within(collection.space, ahead)
            elif reading.collection.space != collection.space:
                raise CollectionNotFound(f"collection {collection.name!r} has moved to another space")
            return Contents.of(reading, self._store_of(collection).root)

    def _draft(
        self, generation: int, collection: Collection, contents: Contents, made: Built, now: float
    ) -> Manifest:
        return Manifest(
            generation=generation,
            collection_uid=collection.uid,
            encoder_id=collection.encoder_id,
            watermark=contents.watermark,
            watermark_at=contents.watermark_at,
            count=len(made.ids),
            dim=collection.dim,
            metric="cosine",
            factory=made.engine.factory,
            tuning=made.engine.tuning,
            digest=f"{contents.digest:016x}",
            recall_at_10={},
            tree_hash={},
            built_at=now,
            seconds=0.0,
            dead=made.dead,
        )

    def _probes(self, collection: Collection, contents: Contents) -> dict[str, Probe]:
        """Per direction: texts that the encoder's maker chose, and a sample of the collection's pictures."""
        queries = {}
        texts = self._text_queries(collection.encoder_id)
        if texts is not None and len(texts):
            queries["text"] = texts[:_QUERIES]
        if len(contents.pictures):
            queries["image"] = contents.vectors[sample(contents.pictures, _QUERIES)]
        return {direction: Probe.of(rows, contents.vectors) for direction, rows in queries.items()}


def cause_of(error: Exception) -> str:
    """Which kind of trouble kept a snapshot from serving, in one word."""
    if isinstance(error, GateRefused):
        return error.cause
    kinds = (
        (SnapshotError, "unreadable"),
        (OSError, "disk"),
        (MemoryError, "memory"),
        (ClusterUnavailable, "cluster"),
    )
    return next((cause for kind, cause in kinds if isinstance(error, kind)), "failed")
