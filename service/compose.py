"""Composition: every object is built here once, handed down, and closed in reverse order."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from index.catalog import Catalog
from models.encoder import Encoder
from service.adapter_desk import AdapterDesk
from service.adapters import ServingAdapters
from service.adapting import Adapting
from service.admission import Admission
from service.batcher import Batcher
from service.classify import Classifier
from service.config import Settings
from service.embedder import Embedder, model_name
from service.encoding import Work, work_of
from service.encoding_tasks import EncodingTasks
from service.fetch import INTERNET, Fetcher, Internet
from service.gpu_memory import GpuMemory
from service.grouping import batch_limit, beside, pauses
from service.health import Health
from service.index_desk import IndexDesk
from service.jobs import JobDesk
from service.jobs_runner import JobRunner
from service.means import QueryDrift
from service.metrics import Metrics
from service.reading import Limits
from service.recall_meter import RecallMeter, Sample
from service.reembedding import Reembedder, built_by_worker
from service.retriever import Retriever
from service.shelf import Shelf
from service.snapshot_desk import SnapshotDesk
from service.stores import (
    encoding_lock,
    engine_opener,
    open_bundle,
    open_catalog,
    open_cluster,
    open_images,
    open_index,
    open_sources,
    open_spool,
    open_stores,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """The running parts of one API (or command-line) process."""

    settings: Settings
    catalog: Catalog
    encoder: Encoder
    retriever: Retriever
    classifier: Classifier
    fetcher: Fetcher
    desk: JobDesk
    index: IndexDesk
    adapters: AdapterDesk
    snapshots: SnapshotDesk
    meter: RecallMeter
    runner: JobRunner
    tasks: EncodingTasks
    health: Health


def open_encoder(settings: Settings) -> Encoder:
    """The encoder on the device in force, as it serves."""
    return Encoder.load(
        open_bundle(settings),
        device=settings.device,
        threads=settings.encoder_threads,
        max_batch=settings.max_batch,
        side_by_side=True,
    )


@asynccontextmanager
async def running(
    settings: Settings, metrics: Metrics, encoder: Encoder | None = None, internet: Internet = INTERNET
) -> AsyncIterator[Service]:
    """A composed service inside the running event loop, closed when the block is left."""
    catalog = await asyncio.to_thread(open_catalog, settings)
    if encoder is None:
        encoder = await asyncio.to_thread(open_encoder, settings)
    canaries = encoder.canaries()
    on_cores = encoder.workers > 1
    admission = Admission(settings.max_queue, settings.max_wait_s)
    batcher: Batcher[Work] = Batcher(
        work_of(encoder),
        max_batch=batch_limit(settings.max_batch, on_cores=on_cores),
        # Elsewhere a call is padded to its longest text.
        beside=beside if on_cores else None,
        pauses=pauses,
        admission=admission,
        workers=encoder.workers,
        known_good=canaries[0].document,
        observe=metrics.observe_batch,
    )
    embedder = Embedder(
        encoder,
        batcher,
        admission,
        Limits(
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_text_chars=settings.max_text_chars,
            max_metadata_bytes=settings.max_metadata_bytes,
            max_items=settings.max_items,
            max_request_pixels=settings.max_request_pixels,
        ),
        settings.decode_threads,
        metrics.observe_stage,
    )
    # Set here: it may have been opened before there were metrics.
    encoder.observe_padding = metrics.batch_padding.observe
    drift = QueryDrift(encoder.probes())
    metrics.query_drift.set_function(lambda: drift.value)
    if (gpus := GpuMemory.find()) is not None:
        metrics.show_gpu_memory(gpus)
    cluster = open_cluster(settings)
    open_engine = engine_opener(settings, cluster, metrics.observe_placement)
    meter = RecallMeter(settings.recall_sample_share, metrics.observe_recall)

    def sample(answered: Sample) -> None:
        if answered.kind == "text":
            drift.add(answered.query)
        meter.offer(answered)

    images = open_images(settings)
    retriever = Retriever(
        catalog,
        embedder,
        images,
        lambda name: open_index(settings, catalog, name, open_engine),
        metrics.observe_stage,
        sample,
        metrics.encoder_cache_hits.inc,
        metrics.observe_searchable,
        adapters := ServingAdapters(catalog, encoder.id, encoder.dim, metrics.count_adapted),
    )
    provider = encoder.providers[0]
    metrics.model_info.labels(model_name(encoder.id), encoder.id, provider, encoder.precision).set(1)
    health = Health(retriever, batcher, catalog, canaries, provider, metrics.canary_cosine.set)
    fetcher = Fetcher(
        settings.fetching_from,
        max_bytes=settings.max_image_bytes,
        max_request_bytes=settings.max_body_bytes,
        internet=internet,
        observe=metrics.observe_fetch,
    )
    spool = open_spool(settings)
    runner = JobRunner(catalog, spool, retriever.writer, fetcher, retriever.limits, metrics)
    desk = JobDesk(catalog, spool, open_sources(settings), encoder.id, runner.wake)
    stores = open_stores(settings, cluster)

    def refresh(name: str) -> None:
        retriever.index(name).refresh()

    reembedder = Reembedder(catalog, embedder, images, stores, built_by_worker(catalog), refresh, metrics)
    doers = {"reembed": reembedder.do, "adapt": Adapting(catalog, embedder).do}
    tasks = EncodingTasks(catalog, encoding_lock(settings), doers, encoder.id)
    adapter_desk = AdapterDesk(catalog, encoder.id, tasks.wake, adapters.refresh)
    index = IndexDesk(catalog, retriever.index, stores, meter.estimates, encoder.id, tasks.wake)
    snapshots = SnapshotDesk(catalog, Shelf(settings.data_dir), encoder.id)
    classifier = Classifier(retriever)
    batcher.start()
    meter.start()
    try:
        yield Service(
            settings=settings,
            catalog=catalog,
            encoder=encoder,
            retriever=retriever,
            classifier=classifier,
            fetcher=fetcher,
            desk=desk,
            index=index,
            adapters=adapter_desk,
            snapshots=snapshots,
            meter=meter,
            runner=runner,
            tasks=tasks,
            health=health,
        )
    finally:
        await asyncio.to_thread(meter.close)
        await batcher.close()
        fetcher.close()
        embedder.close()
        retriever.close()
        if cluster is not None:
            cluster.close()
        catalog.close()
