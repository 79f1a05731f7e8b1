"""The worker: rebuilds snapshots at low priority, in a process of its own."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from index.catalog import CollectionNotFound
from index.rebuild import Report, prune_folders, store_in
from index.snapshot import SnapshotStore
from service.config import Settings
from service.stores import open_catalog, open_images, open_rebuilder, open_spool
from service.tasks import TaskRunner

log = logging.getLogger(__name__)
_NICENESS = 10  # searches go first
_PRUNE_EVERY_S = 3600.0
_ORPHAN_AGE_S = 3600.0


def report_file(store: SnapshotStore) -> Path:
    """Where the worker leaves its last report and counts, for the API to show."""
    return store.root / "REPORT.json"


def run(settings: Settings, *, until_stdin_closes: bool) -> None:
    """Rebuild what is due until SIGTERM or SIGINT; if supervised, also until stdin closes."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if until_stdin_closes:
        threading.Thread(target=_wait_for_parent, args=(stop,), daemon=True).start()
    os.nice(_NICENESS)
    catalog = open_catalog(settings)
    rebuilder = open_rebuilder(settings, catalog)
    store_of = store_in(settings.snapshots_dir)
    images, spool = open_images(settings), open_spool(settings)
    log.info("the worker is running (process %d)", os.getpid())

    def on_report(report: Report) -> None:
        with suppress(CollectionNotFound):  # deleted meanwhile
            leave_report(store_of(catalog.collection(report.collection)), report)

    def keep_tidy() -> None:
        while not stop.wait(_PRUNE_EVERY_S):
            try:
                catalog.prune_embeddings()
                images.prune(catalog.images(), _ORPHAN_AGE_S)
                catalog.jobs.prune(time.time())
                spool.prune(catalog.jobs.unfinished(), _ORPHAN_AGE_S)
                prune_folders(settings.snapshots_dir, catalog.every_collection())
            except Exception:
                log.exception("pruning failed; it will be tried again")

    tasks = TaskRunner(catalog, rebuilder, store_of, settings.data_dir / "tasks.lock", on_report)
    threading.Thread(target=keep_tidy, daemon=True).start()
    threading.Thread(target=tasks.run, args=(stop, settings.rebuild_interval_s), daemon=True).start()
    rebuilder.run(stop, settings.rebuild_interval_s, on_report)
    catalog.close()
    log.info("the worker has stopped")


def leave_report(store: SnapshotStore, report: Report) -> None:
    """Replace the report file, counting publications and refusals on."""
    path = report_file(store)
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        before = {}
    if not isinstance(before, dict):
        before = {}
    causes = Counter(before.get("refused_by", {}))
    if not report.published:
        causes[report.cause] += 1
    counts = {
        "published": int(before.get("published", 0)) + report.published,
        "refused": int(before.get("refused", 0)) + (not report.published),
        "refused_by": causes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({**counts, "at": time.time(), "last": asdict(report)}))
    os.replace(fresh, path)


def _wait_for_parent(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # unbuffered: no lock is held at exit
        pass
    stop.set()
