"""What /metrics shows. Labels are route templates, stages, collections and outcomes: never ids or queries."""

from collections.abc import Callable
from functools import cache, partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from service import __version__, timing
from service.batcher import Batch
from service.exposition import MAX_COLLECTIONS, Exposition
from service.gpu_memory import GpuMemory
from service.recall_meter import Estimate, K

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which nobody asks for

_LATENCIES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_UNTIL_FOUND_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 43200)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)


class Metrics:
    """The metrics of one process, in a registry of their own; ``on_stage`` is told of stages as well."""

    def __init__(self, on_stage: Callable[[str, float], None] = lambda stage, seconds: None) -> None:
        self._on_stage = on_stage
        registry = CollectorRegistry()
        self._exposition = Exposition(registry)
        self.exposition = self._exposition.text
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        info = Gauge(
            "momoseek_info", "Always 1; the label says which release.", ["version"], registry=registry
        )
        info.labels(__version__).set(1)
        requests = ["route", "method", "code"]
        self.requests = Counter(
            "momoseek_http_requests_total", "Requests answered.", requests, registry=registry
        )
        self.request_duration = Histogram(
            "momoseek_http_request_duration_seconds",
            "Time from the first byte of a request to the last of its reply.",
            ["route", "method"],
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "momoseek_http_requests_in_flight", "Requests that are being answered.", registry=registry
        )
        self.stage_duration = Histogram(
            "momoseek_stage_duration_seconds",
            "Time of one stage: fetch, decode, queue, encode, filter, search, metadata, rerank, commit.",
            ["stage"],
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self.batch_size = Histogram(
            "momoseek_batch_size", "Documents in one encoder call.", buckets=_SIZES, registry=registry
        )
        self.batch_padding = Histogram(
            "momoseek_batch_padding_ratio",
            "Share of the tokens in one call of the encoder that are padding.",
            buckets=_SHARES,
            registry=registry,
        )
        self.batch_wait = Histogram(
            "momoseek_batch_wait_seconds",
            "Time a document waited for its batch.",
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self.queue_items = Gauge("momoseek_queue_items", "Documents waiting.", ["lane"], registry=registry)
        self.rejected = Counter("momoseek_rejected_total", "Requests refused.", ["reason"], registry=registry)
        self.cancelled = Counter(
            "momoseek_cancelled_total", "Requests whose client left before the reply.", registry=registry
        )
        self.fetch_blocked = Counter(
            "momoseek_fetch_blocked_total",
            "Pictures not fetched by URL: refused by policy, or nothing of use came.",
            ["reason"],
            registry=registry,
        )
        self.encoder_items = Counter(
            "momoseek_encoder_items_total",
            "Documents embedded or matched.",
            ["modality", "outcome"],
            registry=registry,
        )
        self.encoder_cache_hits = Counter(
            "momoseek_encoder_cache_hits_total",
            "Contents of items that had been embedded before, and were not again.",
            registry=registry,
        )
        self.model_info = Gauge(
            "momoseek_model_info",
            "Always 1; the labels say which encoder runs where.",
            ["model", "fingerprint", "provider", "precision"],
            registry=registry,
        )
        self.ready = Gauge("momoseek_ready", "1 when the service can answer, 0 when not.", registry=registry)
        self.canary_cosine = Gauge(
            "momoseek_canary_cosine",
            "Cosine of known documents to their known vectors, the worst.",
            registry=registry,
        )
        self.collections = Gauge(
            "momoseek_collections",
            f"Collections; those beyond {MAX_COLLECTIONS} have no series of their own.",
            registry=registry,
        )
        self.index_generation = Gauge(
            "momoseek_index_generation",
            "Generation of the snapshot that serves.",
            ["collection"],
            registry=registry,
        )
        self.index_items = Gauge(
            "momoseek_index_items",
            "Items found (live), of them in the tail (delta), and hidden in the snapshot (deleted).",
            ["collection", "state"],
            registry=registry,
        )
        self.index_bytes = Gauge(
            "momoseek_index_bytes",
            "Size of the files of the snapshot that serves.",
            ["collection"],
            registry=registry,
        )
        self.index_build_duration = Gauge(
            "momoseek_index_build_duration_seconds",
            "How long it took to build the snapshot that serves.",
            ["collection"],
            registry=registry,
        )
        self.index_swap = Counter(
            "momoseek_index_swap_total",
            "Snapshots loaded (swapped), refused by the gate (refused) or found damaged (damaged).",
            ["collection", "outcome"],
            registry=registry,
        )
        self.index_placed = Counter(
            "momoseek_index_placed_total",
            "Snapshots opened to be searched on a device, and why there.",
            ["device", "reason"],
            registry=registry,
        )
        self.index_refusals = Counter(
            "momoseek_index_refusals_total",
            "Generations that the gate refused, by what was wrong.",
            ["collection", "cause"],
            registry=registry,
        )
        kinds = ["collection", "k", "query", "target", "selectivity"]
        self.recall = Gauge(
            "momoseek_recall_at_k",
            "Share of the true nearest found, over the last sampled searches of a kind.",
            kinds,
            registry=registry,
        )
        self.recall_samples = Counter(
            "momoseek_recall_samples_total",
            "Searches that were answered again exactly.",
            kinds,
            registry=registry,
        )
        self.gate_recall = Gauge(
            "momoseek_gate_recall_at_10",
            "recall@10 of the serving snapshot, measured before it was published.",
            ["collection", "query"],
            registry=registry,
        )
        self.modality_gap = Gauge(
            "momoseek_modality_gap",
            "Distance between the mean row of texts and that of pictures, when the snapshot was taken over.",
            ["collection"],
            registry=registry,
        )
        self.query_drift = Gauge(
            "momoseek_query_drift",
            "1 less the cosine between the mean rows of the last text queries and of typical ones.",
            registry=registry,
        )
        self.gpu_memory = Gauge(
            "momoseek_gpu_memory_bytes",
            "Memory of a GPU, by whomever it is used; no series where there is none.",
            ["device", "kind"],
            registry=registry,
        )
        self.freshness = Gauge(
            "momoseek_freshness_seconds",
            "Age of the oldest write that this process cannot find yet.",
            ["collection"],
            registry=registry,
        )
        self.write_to_searchable = Histogram(
            "momoseek_write_to_searchable_seconds",
            "Time from the acceptance of writes until every search of this process finds them.",
            ["lane"],
            buckets=_UNTIL_FOUND_S,
            registry=registry,
        )
        self.snapshot_lag = Gauge(
            "momoseek_snapshot_lag_seconds",
            "Age of the oldest write that is not in a snapshot yet.",
            ["collection"],
            registry=registry,
        )
        self.adapted_searches = Counter(
            "momoseek_adapted_searches_total",
            "Searches whose words an adapter has adapted, by why it did: promoted, trial or asked.",
            ["collection", "why"],
            registry=registry,
        )
        self.worker_restarts = Counter(
            "momoseek_worker_restarts_total", "Times the rebuild worker was started again.", registry=registry
        )
        self.jobs = Gauge("momoseek_jobs", "Jobs in each state.", ["type", "state"], registry=registry)
        self.job_items = Counter(
            "momoseek_job_items_total",
            "Lines of jobs: written (done), found unchanged (skipped), or of no use (failed).",
            ["type", "outcome"],
            registry=registry,
        )
        # The series that every request adds to are looked up once: that takes longer than adding.
        self._requests_of = cache(self.requests.labels)
        self._request_duration_of = cache(self.request_duration.labels)
        self._stage_duration_of = cache(self.stage_duration.labels)
        self._encoder_items_of = cache(self.encoder_items.labels)

    def shown_collections(self) -> set[str]:
        """Those that series were shown of, and that take up room."""
        return self._exposition.collections

    def forget_collection(self, name: str) -> None:
        """Drop every series of a collection that is gone."""
        self._exposition.forget(name)
        for metric in (
            self.index_generation,
            self.index_items,
            self.index_bytes,
            self.index_build_duration,
            self.index_swap,
            self.index_refusals,
            self.recall,
            self.recall_samples,
            self.gate_recall,
            self.modality_gap,
            self.freshness,
            self.snapshot_lag,
            self.adapted_searches,
        ):
            metric.remove_by_labels({"collection": name})

    def count_adapted(self, collection: str, why: str) -> None:
        """Record a search that an adapter has had a part in."""
        self.adapted_searches.labels(collection, why).inc()

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Record a request that was answered."""
        self._requests_of(route, method, status).inc()
        self._request_duration_of(route, method).observe(seconds)

    def show_gpu_memory(self, memory: GpuMemory) -> None:
        """Show what there is of GPUs from now on, as of each scrape."""
        for device in range(memory.devices):
            self.gpu_memory.labels(str(device), "total").set_function(partial(memory.total_bytes, device))
            self.gpu_memory.labels(str(device), "used").set_function(partial(memory.used_bytes, device))

    def observe_batch(self, batch: Batch) -> None:
        """Record one encoder call."""
        self.batch_size.observe(batch.size)
        for wait_s in batch.waits_s:
            self.batch_wait.observe(wait_s)
            self._stage_duration_of("queue").observe(wait_s)
        self._encoder_items_of(batch.kind.partition("-")[0], "ok").inc(batch.size)

    def observe_fetch(self, seconds: float, reason: str | None) -> None:
        """Record a picture that was asked for by URL, and why it was not fetched if it was not."""
        self.observe_stage("fetch", seconds)
        if reason is not None:
            self.fetch_blocked.labels(reason).inc()

    def observe_recall(self, estimate: Estimate) -> None:
        """Record one measured search."""
        labels = (estimate.collection, str(K), estimate.query, estimate.target, estimate.selectivity)
        self.recall.labels(*labels).set(estimate.recall)
        self.recall_samples.labels(*labels).inc()

    def observe_placement(self, device: str, reason: str) -> None:
        """Record where a snapshot is searched, and why there."""
        self.index_placed.labels(device, reason).inc()

    def observe_searchable(self, lane: str, seconds: float) -> None:
        """Record how long writes took until they could be found; those of jobs are of the lane "bulk"."""
        self.write_to_searchable.labels(lane).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time of a stage that has just ended."""
        self._stage_duration_of(stage).observe(seconds)
        timing.note(stage, seconds)
        self._on_stage(stage, seconds)
