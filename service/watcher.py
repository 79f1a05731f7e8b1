"""The watcher: keeps this process's views up to date with what other processes write, and meters them."""

import asyncio
import logging
import time
from collections import Counter

from index.catalog import Catalog, CatalogError, CollectionNotFound
from index.engines import milvus
from index.folders import store_in
from index.live import LiveIndex
from service import gate_reports
from service.config import Settings
from service.means import modality_gap
from service.metrics import Metrics
from service.recall_meter import RecallMeter
from service.retriever import Retriever

log = logging.getLogger(__name__)
_LAG_EVERY_S = 5.0  # counting the tail costs more than refreshing it


class Watcher:
    """Refreshes every open index each ``interval_s``; opens those of collections that appear."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        retriever: Retriever,
        metrics: Metrics,
        meter: RecallMeter,
    ) -> None:
        self._meter = meter
        self._catalog = catalog
        self._retriever = retriever
        self._metrics = metrics
        self._interval_s = settings.refresh_s
        self._store_of = store_in(settings.snapshots_dir)
        self._failing_since: dict[str, float] = {}
        self._refusals: dict[str, Counter[str]] = {}
        self._generations: dict[str, int] = {}
        self._uids: dict[str, str] = {}  # of the collections that are metered, by name
        self._lag_due = 0.0

    async def run(self) -> None:
        """Refresh until cancelled; a failure is logged, shows in the metrics, and is tried again."""
        while True:
            try:
                await asyncio.to_thread(self.step)
            except Exception:
                log.exception("the watcher's step failed; it will be tried again")
            await asyncio.sleep(self._interval_s)

    def step(self) -> None:
        """Refresh everything once."""
        opened = self._retriever.open_indexes()
        try:
            self._retriever.adapters.refresh()
            uids = {collection.name: collection.uid for collection in self._catalog.every_collection()}
        except CatalogError as error:
            log.warning("the catalog cannot be read: %s", error)
            uids = {name: index.collection.uid for name, index in opened.items()} | self._uids
        self._metrics.collections.set(len(uids))
        with_lag = time.monotonic() >= self._lag_due
        for name in opened.keys() - uids.keys():
            self._retriever.forget_index(name)
        # What is shown is asked too: a search that was measured late brings a series back.
        for name in self._uids.keys() | self._metrics.shown_collections():
            if name not in uids or uids[name] != self._uids.get(name, uids[name]):
                self._forget_metrics(name)
        self._uids = uids
        for name in uids:
            try:
                index = self._retriever.index(name)
                index.prepare()
                index.refresh()
                self._failing_since.pop(name, None)
                self._show(name, index, with_lag)
            except CollectionNotFound:
                self._retriever.forget_index(name)
                self._forget_metrics(name)
                continue
            except Exception as error:
                self._failing_since.setdefault(name, time.time())
                log.warning("the index of %s was not refreshed: %s", name, error)
            stale_s = time.time() - self._failing_since[name] if name in self._failing_since else 0.0
            self._metrics.freshness.labels(name).set(stale_s)
        if with_lag:
            self._lag_due = time.monotonic() + _LAG_EVERY_S

    def _forget_metrics(self, name: str) -> None:
        """Of a collection that is gone, or of another that had its name."""
        self._meter.forget(name)
        self._metrics.forget_collection(name)
        for known in (self._failing_since, self._refusals, self._generations):
            known.pop(name, None)

    def _show(self, name: str, index: LiveIndex, with_lag: bool) -> None:
        view, metrics = index.view, self._metrics
        if self._generations.get(name, 0) != view.generation:
            self._generations[name] = view.generation
            metrics.index_swap.labels(name, "swapped").inc()
            size_bytes = self._store_of(index.collection).size_bytes(view.generation)
            metrics.index_bytes.labels(name).set(size_bytes)
            if view.snapshot:
                metrics.index_build_duration.labels(name).set(view.snapshot.manifest.seconds)
            if view.snapshot and view.snapshot.manifest.factory != milvus.FACTORY:  # else they are far away
                gap = modality_gap(view)
                if gap is None:
                    metrics.modality_gap.remove_by_labels({"collection": name})
                else:
                    metrics.modality_gap.labels(name).set(gap)
            for query, recall in (view.snapshot.manifest.recall_at_10 if view.snapshot else {}).items():
                metrics.gate_recall.labels(name, query).set(recall)
        metrics.index_generation.labels(name).set(view.generation)
        counts = {"live": view.count, "delta": len(view.tail.seqs), "deleted": view.hidden_count}
        for state, count in counts.items():
            metrics.index_items.labels(name, state).set(count)
        if with_lag:
            watermark = view.snapshot.manifest.watermark if view.snapshot else 0
            with self._catalog.reading(name) as reading:
                _, oldest = reading.backlog(watermark)
            metrics.snapshot_lag.labels(name).set(0 if oldest is None else max(0.0, time.time() - oldest))
            self._count_refusals(name, index)

    def _count_refusals(self, name: str, index: LiveIndex) -> None:
        """The gate works in the worker's process: what it refused is read from the report it leaves."""
        report = gate_reports.read(self._store_of(index.collection))
        refused = Counter(report.refused_by if report else {})
        for cause, count in (refused - self._refusals.get(name, refused)).items():
            self._metrics.index_swap.labels(name, "refused").inc(count)
            self._metrics.index_refusals.labels(name, cause).inc(count)
        self._refusals[name] = refused  # what was refused before this process is no news
