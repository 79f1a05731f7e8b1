"""What /metrics shows. Labels are route templates, stages, collections and outcomes: never ids or queries."""

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

from service.batcher import Batch
from service.recall_meter import Estimate, K

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which nobody asks for

_LATENCIES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
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
        self.stage_duration = Histogram(
            "momoseek_stage_duration_seconds",
            "Time of one stage of a request: encode, search, rerank.",
            ["stage"],
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self.batch_size = Histogram(
            "momoseek_batch_size", "Documents in one encoder call.", buckets=_SIZES, registry=registry
        )
        self.batch_wait = Histogram(
            "momoseek_batch_wait_seconds",
            "Time a document waited for its batch.",
            buckets=_LATENCIES_S,
            registry=registry,
        )
        self.queue_items = Gauge("momoseek_queue_items", "Documents waiting.", ["lane"], registry=registry)
        self.rejected = Counter("momoseek_rejected_total", "Requests refused.", ["reason"], registry=registry)
        self.encoder_items = Counter(
            "momoseek_encoder_items_total",
            "Documents embedded or matched.",
            ["modality", "outcome"],
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
        self.freshness = Gauge(
            "momoseek_freshness_seconds",
            "Age of the oldest write that this process cannot find yet.",
            ["collection"],
            registry=registry,
        )
        self.snapshot_lag = Gauge(
            "momoseek_snapshot_lag_seconds",
            "Age of the oldest write that is not in a snapshot yet.",
            ["collection"],
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

    def forget_collection(self, name: str) -> None:
        """Drop every series of a collection that is gone."""
        for metric in (
            self.index_generation,
            self.index_items,
            self.index_swap,
            self.index_refusals,
            self.recall,
            self.recall_samples,
            self.gate_recall,
            self.freshness,
            self.snapshot_lag,
        ):
            metric.remove_by_labels({"collection": name})

    def observe_batch(self, batch: Batch) -> None:
        """Record one encoder call."""
        self.batch_size.observe(batch.size)
        for wait_s in batch.waits_s:
            self.batch_wait.observe(wait_s)
        self.encoder_items.labels(batch.group.partition("-")[0], "ok").inc(batch.size)

    def observe_recall(self, estimate: Estimate) -> None:
        """Record one measured search."""
        labels = (estimate.collection, str(K), estimate.query, estimate.target, estimate.selectivity)
        self.recall.labels(*labels).set(estimate.recall)
        self.recall_samples.labels(*labels).inc()

    def observe_placement(self, device: str, reason: str) -> None:
        """Record where a snapshot is searched, and why there."""
        self.index_placed.labels(device, reason).inc()

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the time of one stage."""
        self.stage_duration.labels(stage).observe(seconds)
