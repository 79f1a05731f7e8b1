"""The worker's tasks: rebuilding and measuring an index because somebody asked, looking for duplicates,
making and restoring archives."""

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from index.catalog import Catalog, Collection, CollectionNotFound, StorageFull, StorageUnavailable
from index.duplicates import duplicates
from index.filters import parse
from index.jobs import Job, StepRefused
from index.live import LiveIndex
from index.rebuild import Rebuilder, Report
from index.records import Space
from index.snapshot import SnapshotStore
from service.archivist import Archivist, TaskFailed

log = logging.getLogger(__name__)
_RETRY_S = 2.0
_LOOK_S = 1.0


class TaskRunner:
    """Does tasks, the oldest first, one at a time in the whole installation."""

    def __init__(
        self,
        catalog: Catalog,
        rebuilder: Rebuilder,
        store_of: Callable[[Collection], SnapshotStore],
        lock: Path,
        on_report: Callable[[Report], None],
        archivist: Archivist,
    ) -> None:
        """``lock`` is a file that all workers of the installation see."""
        self._catalog = catalog
        self._rebuilder = rebuilder
        self._store_of = store_of
        self._lock = lock
        self._on_report = on_report
        self._archivist = archivist

    def run(self, stop: threading.Event, interval_s: float) -> None:
        """Do tasks until ``stop`` is set. What fails for want of storage is tried again."""
        while not stop.is_set():
            pause_s = interval_s
            try:
                if self.step(stop):
                    continue
            except (StorageFull, StorageUnavailable) as error:
                log.warning("tasks have to wait: %s", error)
                pause_s = _RETRY_S
            except Exception:
                log.exception("a task could not be begun or ended; it will be tried again")
                pause_s = _RETRY_S
            stop.wait(pause_s)

    def step(self, stop: threading.Event) -> bool:
        """Do the oldest task, or go on with it; False if there is none, or another worker does one."""
        with alone_at(self._lock) as alone:
            task = self._catalog.tasks.next() if alone else None
            job = None if task is None else self._catalog.jobs.claim(task.job.id)
            if task is None or job is None:
                return False
            log.info("task %s (%s of %s) begins", job.id, job.type, job.name)
            try:
                self._do(job, task.request, stop)
            except StepRefused as error:  # cancelled
                log.info("%s", error)
            except (StorageFull, StorageUnavailable):
                raise
            except Exception as error:
                log.exception("task %s failed", job.id)
                self._catalog.jobs.end(job.id, problem_of_task(error))
            return True

    def _do(self, job: Job, request: dict[str, Any], stop: threading.Event) -> None:
        if job.type == "restore":  # what it replaces may be gone, and is looked at when all is ready
            self._archivist.restore(job, request, self._going_on(job, stop))
            self._catalog.jobs.end(job.id)
            return
        if self._catalog.collection(job.name).uid != job.uid:
            raise CollectionNotFound(f"collection {job.name!r} was deleted and made again")
        if job.type == "rebuild":
            self._rebuild(job, request)
        elif job.type == "evaluate":
            self._finish(job, asdict(self._rebuilder.evaluate(job.name)))
        elif job.type == "snapshot":
            self._archivist.make(job, request["snapshot"], self._going_on(job, stop))
            self._catalog.jobs.end(job.id)
        else:
            self._compare(job, request, stop)

    def _rebuild(self, job: Job, request: dict[str, Any]) -> None:
        if "space" in request:  # that the collection moves to: what serves is not concerned
            ahead = Space(**request["space"]), request["watermark"]
            report = self._rebuilder.build_ahead(job.name, *ahead, time.time())
        else:
            report = self._rebuilder.rebuild(job.name, "somebody asked", time.time(), anew=request["full"])
            self._on_report(report)
        if not report.published:
            raise TaskFailed(report.reason, "generation_refused")
        self._finish(job, asdict(report))

    def _finish(self, job: Job, found: dict[str, Any]) -> None:
        self._catalog.tasks.advance(job, 1, 1, [found])
        self._catalog.jobs.end(job.id)

    def _going_on(self, job: Job, stop: threading.Event) -> Callable[[], None]:
        """Raises StepRefused when the process ends, or somebody wants the job to, which is looked at once a
        second."""
        looked_at = time.monotonic()

        def check() -> None:
            nonlocal looked_at
            if stop.is_set():
                raise StepRefused(f"job {job.id} waits for the next worker")
            if time.monotonic() - looked_at >= _LOOK_S:
                looked_at = time.monotonic()
                state = self._catalog.jobs.get(job.id).state
                if state != "running":
                    raise StepRefused(f"job {job.id} is {state}")

        return check

    def _compare(self, job: Job, request: dict[str, Any], stop: threading.Event) -> None:
        view = LiveIndex(self._catalog, self._store_of, job.name).view
        filter = None if request["filter"] is None else parse(request["filter"])
        began, done = time.monotonic(), job.done
        for part in duplicates(view, job.at_byte, request["threshold"], filter):
            with self._catalog.reading(job.name) as reading:
                items = reading.items_at([seq for one in part.found for seq in (one.seq, one.older)])
            found = [
                {
                    "id": items[one.seq].id,
                    "duplicate_of": items[one.older].id,
                    "score": round(one.score, 6),
                }
                for one in part.found
                if one.seq in items and one.older in items  # else replaced meanwhile
            ]
            rate = (job.done + part.items - done) / max(time.monotonic() - began, 1e-6)
            job = self._catalog.tasks.advance(job, part.last, part.items, found, rate)
            if stop.is_set() or job.state != "running":
                return
        self._catalog.jobs.end(job.id)


@contextmanager
def alone_at(lock: Path) -> Iterator[bool]:
    """Whether no other process holds ``lock``, a file; it is free again when the process ends, however."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def problem_of_task(error: Exception) -> dict[str, Any]:
    """Why a task failed, as clients see it."""
    if isinstance(error, TaskFailed):
        code = error.code
    else:
        code = "collection_not_found" if isinstance(error, CollectionNotFound) else "task_failed"
    # Of the operating system's errors the reason, without the path.
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return {"code": code, "title": "The task failed", "detail": detail}
