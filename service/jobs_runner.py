"""The runner: carries out bulk jobs in the API's process, one at a time, behind everybody who waits.

It runs here and not in the worker: the encoder is here, and only one batcher can let interactive documents go
first; what is committed is searchable in this process at once. The worker would need an encoder of its own,
which knows nothing of who waits.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

from index.catalog import Catalog, CollectionNotFound, Outcome, StorageFull, StorageUnavailable
from index.catalog import Delete as Deletion
from index.jobs import Failure, Job, Step, StepRefused
from service.admission import Overloaded
from service.batcher import EncoderBroken
from service.bodies import BodyTooLarge, Uploads, draft_of, urls_of_item
from service.bulk_lines import (
    SourceUnreadable,
)
from service.bulk_sources import SourceChanged, SourceElsewhere, SourceNotFound, SourcesDisabled
from service.drafts import Draft, refusal_of
from service.errors import problem_of
from service.fetch import Fetcher
from service.images import DiskUnavailable
from service.metrics import Metrics
from service.parsing import InvalidBody, InvalidJson, parse_json, validated
from service.reading import Limits
from service.schemas_jobs import BulkLine
from service.spool import Chunk, Records, Spool, SpoolMissing
from service.writer import Write, Writer

log = logging.getLogger(__name__)
_AHEAD = 5  # chunks in hand: one is committed, two are kept on the disk, one encoded, one decoded
_POLL_S = 1.0  # for jobs that other processes accepted, resumed, or left when they died
_RETRY_S = 2.0
TRANSIENT = (StorageFull, StorageUnavailable, DiskUnavailable, Overloaded, EncoderBroken)
_SOURCE = (SourcesDisabled, SourceNotFound, SourceUnreadable, SourceChanged)

_FETCHED_AT_ONCE = 8  # lines: their pictures are in memory, however large, until they are kept

Line = tuple[int, str | None, BulkLine | Exception]  # its number and custom_id
Entry = tuple[int, str | None, Draft | Deletion | Exception]  # line, custom_id, what it asks for


class JobRunner:
    """Takes up jobs, the oldest first, each from its checkpoint."""

    def __init__(
        self,
        catalog: Catalog,
        spool: Spool,
        writer: Writer,
        fetcher: Fetcher,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._writer = writer
        self._fetcher = fetcher
        self._limits = limits
        self._metrics = metrics
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be something to do; call it in the event loop."""
        self._news.set()

    async def run(self, only: Collection[str] | None = None) -> None:
        """Carry out jobs until cancelled; ``only`` has the ids of those to do, None: all.

        A failure that may pass is waited for; others end their job.
        """
        while True:
            self._news.clear()
            try:
                if await self.step(only):
                    continue
                pause_s = _POLL_S
            except TRANSIENT as error:
                log.warning("jobs have to wait: %s", error)
                pause_s = _RETRY_S
            except Exception:
                log.exception("a job could not be carried out; it will be tried again")
                pause_s = _RETRY_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), pause_s)

    async def step(self, only: Collection[str] | None = None) -> bool:
        """Work at the oldest job that nobody works at until it ends or is stopped; False if there is none."""
        await self._count()
        for job in await asyncio.to_thread(self._catalog.jobs.ready):
            if only is not None and job.id not in only:
                continue
            try:
                with self._spool.lines(job.id) as lines:
                    if lines is not None and await self._take_up(job.id, lines):
                        return True
            except SourceElsewhere:  # whoever began it will go on, if there is anything to go on with
                await self._end_if_gone(job)
            except (SpoolMissing, *_SOURCE) as error:  # unless it has ended meanwhile
                await self._end(job.id, error)
        return False

    async def _end_if_gone(self, job: Job) -> None:
        try:
            await self._check_collection(job)
        except CollectionNotFound as error:
            await self._end(job.id, error)

    async def _take_up(self, id: str, lines: Records) -> bool:
        job = await asyncio.to_thread(self._catalog.jobs.claim, id)
        if job is None:
            return False
        log.info("job %s begins at line %d of %d", id, job.at_line, job.total)
        try:
            await self._carry_out(job, lines)
        except StepRefused as error:  # cancelled; or committed by a transaction that seemed to fail
            log.info("%s", error)
        except TRANSIENT:
            raise
        except Exception as error:
            await self._end(id, error)
        return True

    async def _carry_out(self, job: Job, lines: Records) -> None:
        await self._check_collection(job)
        ahead: deque[tuple[Chunk, asyncio.Task[tuple[list[Entry], list[Write]]]]] = deque()
        reading, end, line = True, job.at_byte, job.at_line
        pace = Pace()
        try:
            while True:
                while reading and len(ahead) < _AHEAD:
                    chunk = await asyncio.to_thread(lines.chunk, end, line)
                    reading = chunk.end > end
                    if reading:
                        ahead.append((chunk, asyncio.create_task(self._prepare(job.name, chunk))))
                        end, line = chunk.end, chunk.line
                if not ahead:
                    break
                chunk, preparing = ahead.popleft()
                entries, writes = await preparing
                job = await self._commit(job, chunk, entries, writes, pace)
                # Paused: what is in hand is embedded already, and is committed; no more is begun.
                reading = reading and job.state == "running"
        finally:
            for _, preparing in ahead:
                preparing.cancel()
            await asyncio.gather(*(preparing for _, preparing in ahead), return_exceptions=True)
        if job.state == "running":
            await self._end(job.id)

    async def _check_collection(self, job: Job) -> None:
        collection = await asyncio.to_thread(self._catalog.collection, job.name)
        if collection.uid != job.uid:
            raise CollectionNotFound(
                f"collection {job.name!r} was deleted and made again since the job began"
            )

    async def _prepare(self, collection: str, chunk: Chunk) -> tuple[list[Entry], list[Write]]:
        entries: list[Entry] = []
        writes: list[Write] = []
        for lines in _portions(await asyncio.to_thread(_read, chunk)):
            pictures = await self._fetcher.fetch_each(url for line in lines for url in _urls_of(line))
            found = await asyncio.to_thread(self._entries, lines, pictures)
            written = await self._writer.prepare(collection, [entry for _, _, entry in found], "bulk")
            for write in written:
                if isinstance(write, TRANSIENT):  # says nothing about the line
                    raise write
            entries += found
            writes += written
        return entries, writes

    async def _commit(
        self, job: Job, chunk: Chunk, entries: list[Entry], writes: list[Write], pace: "Pace"
    ) -> Job:
        failures = [
            Failure(line, custom_id, problem_of(write).model_dump(exclude_none=True))
            for (line, custom_id, _), write in zip(entries, writes, strict=True)
            if isinstance(write, Exception)
        ]
        good = [
            (line, custom_id)
            for (line, custom_id, _), write in zip(entries, writes, strict=True)
            if not isinstance(write, Exception)
        ]
        rate = pace.after(len(entries))
        step = Step(job.id, job.at_byte, chunk.end, chunk.line, failures, rate, good, _told)
        while True:
            try:
                written = await self._writer.commit(job.name, writes, step, accepted_at=job.created_at)
                break
            except (StorageFull, StorageUnavailable) as error:  # what was embedded is not embedded again
                log.warning("job %s has to wait: %s", job.id, error)
                await asyncio.sleep(_RETRY_S)
        for counted, number in Counter(map(_counted, written.outcomes)).items():
            self._metrics.job_items.labels("bulk", counted).inc(number)
        return await asyncio.to_thread(self._catalog.jobs.get, job.id)

    async def _end(self, id: str, error: Exception | None = None) -> None:
        problem = None if error is None else problem_of(error).model_dump(exclude_none=True)
        await asyncio.to_thread(self._catalog.jobs.end, id, problem)
        log.info("job %s %s", id, "is done" if error is None else f"failed: {error}")
        if error is None:
            await asyncio.to_thread(self._spool.remove, id)

    async def _count(self) -> None:
        for type, states in (await asyncio.to_thread(self._catalog.jobs.counts)).items():
            for state, number in states.items():
                self._metrics.jobs.labels(type, state).set(number)

    def _entries(self, lines: Sequence[Line], pictures: Uploads) -> list[Entry]:
        return [(number, custom_id, self._entry(wanted, pictures)) for number, custom_id, wanted in lines]

    def _entry(self, wanted: BulkLine | Exception, pictures: Uploads) -> Draft | Deletion | Exception:
        if isinstance(wanted, Exception):
            return wanted
        if wanted.op == "delete":
            return Deletion(wanted.id or "")
        return draft_of(wanted.item, pictures, self._limits.max_image_bytes, mode=wanted.mode)


class Pace:
    """Lines per second, smoothed over chunks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._rate: float | None = None

    def after(self, lines: int) -> float:
        """The rate now that so many more lines are done."""
        now = self._clock()
        fresh = lines / max(now - self._since, 1e-6)
        self._since = now
        self._rate = fresh if self._rate is None else self._rate + 0.3 * (fresh - self._rate)
        return self._rate


def _read(chunk: Chunk) -> list[Line]:
    lines: list[Line] = []
    for number, line in chunk.lines:
        unread = chunk.unread.get(number)
        lines.append((number, *(_parsed(line) if unread is None else (unread.custom_id, unread.error))))
    return lines


def _parsed(line: bytes | None) -> tuple[str | None, BulkLine | Exception]:
    if line is None:
        return None, BodyTooLarge("The line is longer than a request body may be.")
    custom_id = None
    try:
        value = parse_json(line)
        if isinstance(value, dict) and isinstance(value.get("custom_id"), str):
            custom_id = value["custom_id"][:512]
        return custom_id, validated(BulkLine, value)
    except (InvalidJson, InvalidBody) as error:
        return custom_id, error


def _urls_of(line: Line) -> list[str]:
    wanted = line[2]
    return [] if isinstance(wanted, Exception) else list(urls_of_item(wanted.item))


def _portions(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    """All at once, or a few at a time if there is a picture to fetch."""
    step = _FETCHED_AT_ONCE if any(map(_urls_of, lines)) else max(1, len(lines))
    for start in range(0, len(lines), step):
        yield lines[start : start + step]


def _told(refused: Outcome) -> dict[str, Any]:
    return problem_of(refusal_of(refused)).model_dump(exclude_none=True)


def _counted(outcome: Outcome | Exception) -> str:
    if isinstance(outcome, Exception):
        return "failed"
    return "skipped" if outcome.status in ("unchanged", "not_found") else "done"
