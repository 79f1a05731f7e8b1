"""What a graph may grow from: the snapshot that serves, or one that was set aside while it was built."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from index.catalog import Catalog, Collection
from index.contents import Contents
from index.fields import Fields
from index.growing import Base, Built, Steps
from index.manifest import Manifest, SnapshotError
from index.snapshot import SnapshotStore

log = logging.getLogger(__name__)


class Bases:
    """Finds the bases of a collection, of whose rows at most ``dead_share`` may be dead in what grows."""

    def __init__(self, catalog: Catalog, collection: Collection, dead_share: float) -> None:
        self._catalog = catalog
        self._collection = collection
        self._dead_share = dead_share

    def current(self, store: SnapshotStore) -> Base | None:
        """The current snapshot of a store; None if there is none, it is of another log, or damaged."""
        generation, collection = store.current(), self._collection
        if generation is None:
            return None
        try:
            manifest = store.manifest(generation)
            log_of = (manifest.collection_uid, manifest.watermark, manifest.watermark_at)
            with self._catalog.reading(collection.name) as reading:
                if not reading.begins_with(*log_of):
                    return None
            snapshot = store.load(generation, collection.uid, collection.encoder_id)
        except SnapshotError as error:
            log.error("generation %d of %s cannot grow: %s", generation, collection.name, error)
            return None
        return Base(snapshot, store.folder(generation), self._dead_share)

    def steps(self, store: SnapshotStore, rows: int, draft: Callable[[Contents, Built], Manifest]) -> Steps:
        """Steps of a build, kept as snapshots of a store from which nobody serves."""

        def keep(first: Contents, made: Built) -> Base | None:
            with self._catalog.reading(self._collection.name) as reading:
                first = replace(first, watermark_at=reading.committed_at(first.watermark) or 0.0)
            manifest = replace(draft(first, made), generation=store.next_generation(), digest="")
            no_fields = Fields.of([]).spread(np.empty(0, np.int64), manifest.count)
            try:
                store.root.mkdir(parents=True, exist_ok=True)
                store.publish(manifest, made.engine, made.ids, no_fields, lambda snapshot: snapshot.manifest)
                store.prune(0)
            except (OSError, SnapshotError) as error:
                log.warning("a build of %s is not set aside: %s", self._collection.name, error)
                return None
            log.info("%d rows of %s are set aside", manifest.count, self._collection.name)
            return self.current(store)

        return Steps(rows, self.current(store), keep)
