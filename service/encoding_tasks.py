"""Tasks that need the encoder, carried out in the API's process behind everybody who waits for an answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from index.catalog import Catalog, CollectionNotFound
from index.jobs import Job, StepRefused
from service.jobs_runner import TRANSIENT
from service.tasks import alone_at, problem_of_task

log = logging.getLogger(__name__)
_POLL_S = 1.0  # for tasks that other processes accepted, resumed, or left when they died
_RETRY_S = 2.0
# Does a task from where it stands to its end. Raises StepRefused when somebody wants it to stop.
Doer = Callable[[Job, dict[str, Any]], Awaitable[None]]


class EncodingTasks:
    """Does tasks, the oldest first, one at a time in the whole installation."""

    def __init__(self, catalog: Catalog, lock: Path, doers: Mapping[str, Doer], encoder_id: str) -> None:
        """``lock`` is a file that all processes see; ``doers`` do tasks of their types, with this encoder:
        other tasks wait for who can do them."""
        self._catalog = catalog
        self._lock = lock
        self._doers = doers
        self._encoder_id = encoder_id
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be something to do; call it in the event loop."""
        self._news.set()

    async def run(self) -> None:
        """Do tasks until cancelled. A failure that may pass is waited for; others end their task."""
        while True:
            self._news.clear()
            pause_s = _POLL_S
            try:
                if await self.step():
                    continue
            except TRANSIENT as error:
                log.warning("tasks have to wait: %s", error)
                pause_s = _RETRY_S
            except Exception:
                log.exception("a task could not be begun or ended; it will be tried again")
                pause_s = _RETRY_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause_s)

    async def step(self) -> bool:
        """Do the oldest task, or go on with it; False if there is none, or another process does one."""
        task = await asyncio.to_thread(self._catalog.tasks.next, self._encoder_id, self._doers)
        if task is None:
            return False
        with alone_at(self._lock) as alone:
            job = await asyncio.to_thread(self._catalog.jobs.claim, task.job.id) if alone else None
            if job is None:
                return False
            log.info("task %s (%s of %s) begins", job.id, job.type, job.name)
            try:
                await self._do(job, task.request)
            except StepRefused as error:  # cancelled, or paused
                log.info("%s", error)
            except TRANSIENT:
                raise
            except Exception as error:
                log.exception("task %s failed", job.id)
                await asyncio.to_thread(self._catalog.jobs.end, job.id, problem_of_task(error))
            return True

    async def _do(self, job: Job, request: dict[str, Any]) -> None:
        found = await asyncio.to_thread(self._catalog.collection, job.name)
        if found.uid != job.uid:
            raise CollectionNotFound(f"collection {job.name!r} was deleted and made again")
        await self._doers[job.type](job, request)
        await asyncio.to_thread(self._catalog.jobs.end, job.id)
