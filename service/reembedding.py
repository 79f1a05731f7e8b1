"""Reembedding: every item of a collection is embedded by the encoder that runs, then the collection moves.

What serves goes on serving until then, and may be written by processes that run the encoder before. See
``index.spaces`` for the move.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from index.catalog import (
    Catalog,
    Collection,
    CollectionNotFound,
    Item,
    Outcome,
    StorageFull,
    StorageUnavailable,
)
from index.jobs import ENDED, Failure, Job, JobStateConflict, Step, StepRefused, new_id
from index.manifest import SnapshotError
from index.records import Space
from index.snapshot import SnapshotStore
from index.spaces import ItemsAhead, ItemsUnreadable, Renamed
from index.vectors import Vectors
from service.archivist import TaskFailed
from service.batcher import EncodingFailed
from service.drafts import NothingToRead, content_of_item, fingerprint_of
from service.embedder import Embedder
from service.errors import problem_of
from service.images import ImageNotFound, ImageStore
from service.jobs_runner import Pace
from service.metrics import Metrics
from service.reading import UNREADABLE, Content

log = logging.getLogger(__name__)
_READ = 1024  # items at once, of which most may be embedded already
_PART = 64  # items that are embedded and committed together
_AHEAD = 3  # parts in hand: one is committed while others are encoded and decoded
_LOADED_BYTES = 32 * 2**20  # of a part's contents in memory at once
_RETRY_S = 2.0
_LOOK_S = 1.0
_WORKER_S = 600.0  # that a worker may be busy with something else, or there may be none
LONG_TAIL = 10_000  # changes; fewer are searched exactly for the while that the worker needs
# What keeps an item out for good; anything else says nothing about the item.
_HOPELESS = (NothingToRead, ImageNotFound, EncodingFailed, *UNREADABLE)
_Entry = tuple[Item, bool]  # and whether it is embedded already
# Builds an index of the job's collection in a space, of what was written up to the job's checkpoint.
Build = Callable[[Job, Space], Awaitable[None]]


@dataclass(frozen=True)
class _Part:
    """Some items in order of seq, and what has come of each: a row of the space that is new, an error, or
    nothing to do."""

    outcomes: list[Outcome] = field(default_factory=list)
    errors: list[tuple[int, str, Exception]] = field(default_factory=list)  # with the item's place and id
    rows: dict[str, Vectors] = field(default_factory=dict)  # by content
    renamed: list[Renamed] = field(default_factory=list)
    last: int = 0  # seq
    size: int = 0


class Reembedder:
    """Moves collections into the space of one encoder. Its coroutines belong to one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        embedder: Embedder,
        images: ImageStore,
        store_of: Callable[[Collection], SnapshotStore],
        build: Build,
        refresh: Callable[[str], object],
        metrics: Metrics,
        long_tail: int = LONG_TAIL,
    ) -> None:
        """``build`` is asked for an index first where more than ``long_tail`` changes would have none.

        ``refresh`` lets this process search a collection that has moved.
        """
        self._catalog = catalog
        self._embedder = embedder
        self._images = images
        self._store_of = store_of
        self._build = build
        self._refresh = refresh
        self._metrics = metrics
        self._long_tail = long_tail
        self._space = Space(embedder.encoder.id, embedder.encoder.dim)

    async def do(self, job: Job, request: dict[str, Any]) -> None:
        """Carry out the job from where it stands. Raises StepRefused, TaskFailed (items cannot be embedded,
        and are not to be dropped), TRANSIENT errors, CollectionNotFound."""
        drop, built = request["drop_unreadable"], False
        while not await asyncio.to_thread(self._is_moved, job):
            job = await self._fill(job)
            if not built:
                await self._index(job)
                built = True
                continue  # with what was written meanwhile
            try:
                dropped = await asyncio.to_thread(self._catalog.spaces.move, job, self._space, drop=drop)
                log.info("%s is of %s now; %d items dropped", job.name, self._space.encoder_id, dropped)
            except ItemsAhead:
                continue
            except ItemsUnreadable as error:
                raise TaskFailed(str(error), "items_unreadable") from error
        try:
            await asyncio.to_thread(self._refresh, job.name)
        except Exception as error:  # who searches it tries again, and tells
            log.warning("%s has moved and cannot be searched yet: %s", job.name, error)

    def _is_moved(self, job: Job) -> bool:
        found = self._catalog.collection(job.name)
        if found.uid != job.uid:
            raise CollectionNotFound(f"collection {job.name!r} was deleted and made again")
        return found.space == self._space

    # -- the items

    async def _fill(self, job: Job) -> Job:
        """Embed what stands behind the checkpoint, until there is nothing more; the job then."""
        ahead: deque[asyncio.Task[_Part]] = deque()
        after, reading, pace = job.at_byte, True, Pace()
        read: Sequence[_Entry] = ()
        try:
            while True:
                while (read or reading) and len(ahead) < _AHEAD:
                    if not read:
                        wanted = job.uid, self._space.encoder_id, after, _READ
                        read = await asyncio.to_thread(self._catalog.spaces.items, *wanted)
                        reading, after = bool(read), read[-1][0].seq if read else after
                        continue
                    size = _first(read)
                    ahead.append(asyncio.create_task(self._embedded(read[:size])))
                    read = read[size:]
                if not ahead:
                    return job
                part = await ahead.popleft()
                job = await self._kept(job, part, pace.after(part.size))
                if job.state != "running":
                    raise StepRefused(f"job {job.id} is {job.state}")
        finally:
            for task in ahead:
                task.cancel()
            await asyncio.gather(*ahead, return_exceptions=True)

    async def _embedded(self, entries: Sequence[_Entry]) -> _Part:
        names = {item.id: fingerprint_of(item) for item, known in entries if not known}
        rows = await self._rows({names[item.id]: item for item, known in entries if not known})
        part = _Part(last=entries[-1][0].seq, size=len(entries))
        for place, (item, known) in enumerate(entries):
            row = None if known else rows[names[item.id]]
            if isinstance(row, Exception):
                part.errors.append((place, item.id, row))
                continue
            part.outcomes.append(Outcome(item.id, "unchanged" if row is None else "updated", item.seq))
            if row is None:
                continue
            content = item.content
            if content != names[item.id]:  # the vector was given, and others may have the same
                part.renamed.append(Renamed.of(item, names[item.id]))
                content = part.renamed[-1].content
            part.rows[content] = row
        return part

    async def _rows(self, items: dict[str, Item]) -> dict[str, Vectors | Exception]:
        """The row of each item's content, or what keeps it out."""
        found: dict[str, Vectors | Exception] = {}
        while left := [name for name in items if name not in found]:
            loaded = await asyncio.to_thread(self._loaded, [(name, items[name]) for name in left])
            contents = {name: each for name, each in loaded.items() if not isinstance(each, Exception)}
            rows = await self._embedder.embed(list(contents.values()), "bulk")
            found |= {name: each for name, each in loaded.items() if isinstance(each, Exception)}
            found |= dict(zip(contents, rows, strict=True))
        for error in found.values():
            if isinstance(error, Exception) and not isinstance(error, _HOPELESS):
                raise error
        return found

    def _loaded(self, items: Sequence[tuple[str, Item]]) -> dict[str, Content | Exception]:
        """The contents of the first items, of one at least, as far as there is room for them."""
        found: dict[str, Content | Exception] = {}
        size_bytes = 0
        for name, item in items:
            try:
                content = content_of_item(item, self._images.get)
                found[name], size_bytes = content, size_bytes + sum(map(len, content))
            except (NothingToRead, ImageNotFound) as error:
                found[name] = error
            if size_bytes > _LOADED_BYTES:
                break
        return found

    async def _kept(self, job: Job, part: _Part, rate: float) -> Job:
        failures = [
            Failure(job.at_line + place + 1, id, problem_of(error).model_dump(exclude_none=True))
            for place, id, error in part.errors
        ]
        step = Step(job.id, job.at_byte, part.last, job.at_line + part.size, failures, rate)
        wanted = job, self._space, part.rows, step, part.outcomes, part.renamed
        while True:
            try:
                job = await asyncio.to_thread(self._catalog.spaces.add, *wanted)
                break
            except (StorageFull, StorageUnavailable) as error:  # what was embedded is not embedded again
                log.warning("job %s has to wait: %s", job.id, error)
                await asyncio.sleep(_RETRY_S)
        counted = Counter("skipped" if one.status == "unchanged" else "done" for one in part.outcomes)
        for name, number in (counted | Counter(failed=len(failures))).items():
            self._metrics.job_items.labels("reembed", name).inc(number)
        return job

    # -- the index

    async def _index(self, job: Job) -> None:
        """See to it that there is an index of the space, of all but a few of the items."""
        if job.at_byte and await asyncio.to_thread(self._tail, job) > self._long_tail:
            try:
                await self._build(job, self._space)
            except StepRefused:
                raise
            except Exception as error:
                log.warning("%s moves without an index, which the worker builds: %s", job.name, error)

    def _tail(self, job: Job) -> int:
        """How many changes the index that there is in the space does not have."""
        with self._catalog.reading(job.name) as reading:
            store, watermark = self._store_of(reading.collection.within(self._space)), 0
            with suppress(SnapshotError):
                manifest = store.manifest(store.current() or 0)
                if reading.begins_with(manifest.collection_uid, manifest.watermark, manifest.watermark_at):
                    watermark = manifest.watermark
            return reading.backlog(watermark)[0]


def _first(entries: Sequence[_Entry]) -> int:
    """How many make a part: as many as have so many among them that are to be embedded."""
    unknown = [place for place, (_, known) in enumerate(entries) if not known]
    return unknown[_PART] if len(unknown) > _PART else len(entries)


def built_by_worker(catalog: Catalog, patience_s: float = _WORKER_S) -> Build:
    """Has the worker build, which is a job of its own. If it does not begin for so long, there is none."""

    async def build(job: Job, space: Space) -> None:
        request = {"full": True, "space": vars(space), "watermark": job.at_byte}
        create = partial(catalog.tasks.create, new_id(), "rebuild", job.uid, job.name, request, 1)
        building, waited_s = await asyncio.to_thread(create), 0.0
        while building.state not in ENDED:
            await asyncio.sleep(_LOOK_S)
            waited_s += _LOOK_S if building.state == "queued" else 0.0
            mine = await asyncio.to_thread(catalog.jobs.get, job.id)
            if mine.state != "running" or waited_s >= patience_s:
                with suppress(JobStateConflict):
                    await asyncio.to_thread(catalog.jobs.wish, building.id, "cancel")
            if mine.state != "running":
                raise StepRefused(f"job {job.id} is {mine.state}")
            building = await asyncio.to_thread(catalog.jobs.get, building.id)

    return build
