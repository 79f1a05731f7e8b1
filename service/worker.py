"""The worker: rebuilds snapshots at low priority, in a process of its own."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from index import mirror
from index.catalog import CollectionNotFound
from index.folders import prune_folders
from index.priority import MODEST
from index.rebuild import Report
from index.restoring import Restorer
from service import gate_reports
from service.archivist import Archivist
from service.config import Settings
from service.stores import open_catalog, open_cluster, open_images, open_rebuilder, open_spool, open_stores
from service.tasks import TaskRunner

log = logging.getLogger(__name__)
_PRUNE_EVERY_S = 3600.0
_ORPHAN_AGE_S = 3600.0


def run(settings: Settings, *, until_stdin_closes: bool) -> None:
    """Rebuild what is due until SIGTERM or SIGINT; if supervised, also until stdin closes."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if until_stdin_closes:
        threading.Thread(target=_wait_for_parent, args=(stop,), daemon=True).start()
    os.nice(MODEST)
    catalog = open_catalog(settings)
    cluster = open_cluster(settings)
    rebuilder = open_rebuilder(settings, catalog, cluster)
    store_of = open_stores(settings, cluster)
    restorer = Restorer(catalog, settings.data_dir, store_of)
    images, spool = open_images(settings), open_spool(settings)
    log.info("the worker is running (process %d)", os.getpid())

    def on_report(report: Report) -> None:
        with suppress(CollectionNotFound):  # deleted meanwhile
            gate_reports.leave(store_of(catalog.collection(report.collection)), report)

    def forget(folder: Path) -> None:
        if cluster is not None:
            mirror.forget(cluster, folder)

    tidied: list[Callable[[], object]] = [
        # Before the embeddings: those made anew are perhaps not bit for bit what a snapshot has.
        lambda: prune_folders(
            settings.snapshots_dir, catalog.every_collection(), forget, catalog.spaces.kept()
        ),
        catalog.prune_embeddings,
        lambda: images.prune(catalog.images(), _ORPHAN_AGE_S),
        lambda: catalog.jobs.prune(time.time()),
        lambda: spool.prune(catalog.jobs.unfinished(), _ORPHAN_AGE_S),
        lambda: restorer.tidy(_ORPHAN_AGE_S),
    ]

    def keep_tidy() -> None:
        while not stop.wait(_PRUNE_EVERY_S):
            for tidy in tidied:
                try:
                    tidy()
                except Exception:
                    log.exception("pruning failed; it will be tried again")

    archivist = Archivist(catalog, settings.data_dir, store_of, settings.refresh_s, stop.wait)
    lock = settings.data_dir / "tasks.lock"
    tasks = TaskRunner(catalog, rebuilder, store_of, lock, on_report, archivist)
    threading.Thread(target=keep_tidy, daemon=True).start()
    threading.Thread(target=tasks.run, args=(stop, settings.rebuild_interval_s), daemon=True).start()
    rebuilder.run(stop, settings.rebuild_interval_s, on_report)
    catalog.close()
    log.info("the worker has stopped")


def _wait_for_parent(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # unbuffered: no lock is held at exit
        pass
    stop.set()
