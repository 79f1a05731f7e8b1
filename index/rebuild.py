"""The rebuild: a new snapshot when the old one has fallen behind, published only if it proves its worth."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from index.catalog import Catalog, CatalogError, Collection, CollectionNotFound, Reading
from index.engines import Rows
from index.engines.faiss import FaissEngine
from index.engines.kinds import FLAT_LIMIT, Goal, choose
from index.fields import Fields
from index.gate import GateRefused, Probe, check, sample
from index.snapshot import Manifest, Snapshot, SnapshotError, SnapshotStore
from index.vectors import Seqs, Vectors, digest

log = logging.getLogger(__name__)

_QUERIES = 256  # sampled per direction
_BUILD_SHARE = 20  # a rebuild for age alone waits this many times the seconds that the last one took


@dataclass(frozen=True)
class Policy:
    """When a rebuild is due and what it must reach."""

    min_changes: int = 256  # a shorter tail waits for its age
    tail_share: float = 0.1  # changes, additions and removals alike, as a share of the snapshot's size
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
    recall_at_10: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Contents:
    """A collection as it stood at one moment, to build from. ``pictures``: the rows that hold one."""

    watermark: int
    watermark_at: float
    ids: Seqs
    vectors: Vectors
    pictures: Rows
    fields: Fields


class Rebuilder:
    """Brings the snapshots of every collection up to date, one step at a time."""

    def __init__(
        self,
        catalog: Catalog,
        store_of: Callable[[Collection], SnapshotStore],
        text_queries: Callable[[str], Vectors | None],
        policy: Policy = Policy(),
    ) -> None:
        """``text_queries`` gives (m, dim) query rows for an encoder_id, to measure recall with, or None."""
        self._catalog = catalog
        self._store_of = store_of
        self._text_queries = text_queries
        self._policy = policy
        self._refused_at: dict[str, float] = {}  # by collection uid
        self._checked: dict[str, int] = {}  # by collection uid: the generation whose files were found whole

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
            if now - self._refused_at.get(collection.uid, -np.inf) < self._policy.retry_s:
                continue
            try:
                if self._due(collection, now) is None:
                    continue
                with self._store_of(collection).publishing():
                    reason = self._due(collection, now)  # not any more, if another publisher was faster
                    if reason is not None:
                        reports.append(self._rebuild(collection, reason, now))
            except CollectionNotFound:
                continue  # deleted since
            except CatalogError as error:
                log.warning("collection %s was not rebuilt: %s", collection.name, error)
        return reports

    def rebuild(self, name: str, reason: str, now: float) -> Report:
        """Build, measure and, if the gate passes, publish a snapshot of a collection as it stands."""
        collection = self._catalog.collection(name)
        with self._store_of(collection).publishing():
            return self._rebuild(collection, reason, now)

    def _due(self, collection: Collection, now: float) -> str | None:
        policy = self._policy
        with self._catalog.reading(collection.name) as reading:
            if not reading.watermark:
                return None
            manifest = self._serving(reading)
            if manifest is None:
                return "no snapshot can serve"
            changes, oldest_at = reading.backlog(manifest.watermark)
        if changes >= max(policy.min_changes, policy.tail_share * manifest.count):
            return f"{changes} changes are not in the snapshot"
        patience_s = max(policy.max_age_s, _BUILD_SHARE * manifest.seconds)
        if oldest_at is not None and now - oldest_at >= patience_s:
            return f"the oldest of {changes} changes is older than {patience_s:.0f} s"
        return None

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
            if self._checked.get(collection.uid) != generation:  # bits may have rotted since it was published
                store.load(generation, collection.uid, collection.encoder_id)
                self._checked[collection.uid] = generation
        except SnapshotError as error:
            log.error("the current snapshot of %s cannot serve: %s", collection.name, error)
            return None
        return manifest

    def _rebuild(self, collection: Collection, reason: str, now: float) -> Report:
        store, started = self._store_of(collection), time.monotonic()
        store.prune(self._policy.keep)  # else each publisher that dies would leave a whole index more
        generation = store.next_generation()
        try:
            contents = self._contents(collection)
            manifest = self._publish(store, generation, collection, contents, now)
        except CatalogError:
            raise
        except Exception as error:  # whatever it was: what serves goes on serving, and a retry waits
            self._refused_at[collection.uid] = now
            log.exception("generation %d of %s refused", generation, collection.name)
            return Report(collection.name, generation, False, str(error), 0, 0)
        finally:
            store.prune(self._policy.keep)
        self._refused_at.pop(collection.uid, None)
        self._checked[collection.uid] = generation
        log.info("generation %d of %s published: %d items", generation, collection.name, manifest.count)
        return Report(
            collection=collection.name,
            generation=generation,
            published=True,
            reason=reason,
            count=manifest.count,
            watermark=manifest.watermark,
            recall_at_10=manifest.recall_at_10,
            seconds=time.monotonic() - started,
        )

    def _contents(self, collection: Collection) -> Contents:
        with self._catalog.reading(collection.name) as reading:
            if reading.collection.uid != collection.uid:
                raise CollectionNotFound(f"collection {collection.name!r} was deleted and made anew")
            return read(reading)

    def _publish(
        self, store: SnapshotStore, generation: int, collection: Collection, contents: Contents, now: float
    ) -> Manifest:
        started = time.monotonic()
        probes = self._probes(collection, contents)
        goal = Goal(target_recall=self._policy.target_recall, flat_limit=self._policy.flat_limit)
        kind = choose(len(contents.ids), collection.dim, goal)
        engine = FaissEngine.build(contents.vectors, kind.factory)
        samples = [(probe.queries, probe.truth) for probe in probes.values()]
        engine = engine.tuned(samples, goal.target_recall)
        draft = Manifest(
            generation=generation,
            collection_uid=collection.uid,
            encoder_id=collection.encoder_id,
            watermark=contents.watermark,
            watermark_at=contents.watermark_at,
            count=len(contents.ids),
            dim=collection.dim,
            metric="cosine",
            factory=engine.factory,
            tuning=engine.tuning,
            digest=f"{digest(contents.ids, contents.vectors):016x}",
            recall_at_10={},
            sha256={},
            built_at=now,
            seconds=0.0,
        )

        def gate(snapshot: Snapshot) -> Manifest:
            recall = check(snapshot, probes, self._policy.recall_floor)
            return replace(snapshot.manifest, recall_at_10=recall, seconds=time.monotonic() - started)

        return store.publish(draft, engine, contents.ids, contents.fields, gate)

    def _probes(self, collection: Collection, contents: Contents) -> dict[str, Probe]:
        """Per direction: texts that the encoder's maker chose, and a sample of the collection's pictures."""
        queries = {}
        texts = self._text_queries(collection.encoder_id)
        if texts is not None and len(texts):
            queries["text"] = texts[:_QUERIES]
        if len(contents.pictures):
            queries["image"] = contents.vectors[sample(contents.pictures, _QUERIES)]
        return {direction: Probe.of(rows, contents.vectors) for direction, rows in queries.items()}


def read(reading: Reading) -> Contents:
    """Every seq and vector of a collection. Raises GateRefused when items have no embedding."""
    count, dim = reading.count(), reading.collection.dim
    ids, vectors, pictures = (
        np.empty(count, np.int64),
        np.empty((count, dim), np.float32),
        np.zeros(count, np.bool_),
    )
    filled = 0
    for seqs, rows, modalities in reading.rows():
        part = slice(filled, filled + len(seqs))
        ids[part], vectors[part] = seqs, rows
        pictures[part] = [modality != "text" for modality in modalities]
        filled = part.stop
    if filled != count:
        raise GateRefused(f"{count - filled} of {count} items have no embedding")
    committed_at = reading.committed_at(reading.watermark)
    if committed_at is None:
        raise GateRefused(f"the log has no change {reading.watermark}")
    fields = Fields.of_many(reading.terms())
    return Contents(reading.watermark, committed_at, ids, vectors, np.flatnonzero(pictures), fields)


def store_in(root: Path) -> Callable[[Collection], SnapshotStore]:
    """Where each collection's snapshots stand below ``root``: ``<collection>/<encoder_id>``."""
    return lambda collection: SnapshotStore(root / _folder(collection.name) / _folder(collection.encoder_id))


def prune_folders(root: Path, collections: Iterable[Collection]) -> list[Path]:
    """Delete the snapshots below ``root`` of collections that are gone; the folders deleted."""
    kept = {store_in(root)(collection).root.parent for collection in collections}
    doomed = [folder for folder in root.iterdir() if folder not in kept] if root.is_dir() else []
    for folder in doomed:
        shutil.rmtree(folder, ignore_errors=True)
    return doomed


def _folder(name: str) -> str:
    # Ordinary names are their own folder; others must neither leave the root nor meet each other.
    quoted = quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
