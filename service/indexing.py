"""``momoseek index`` and ``momoseek reembed``: what is asked becomes jobs, which they carry out themselves,
with a progress bar.

A job outlives the command: whoever is killed goes on from the checkpoint when it is called again.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from index.jobs import ENDED
from index.records import Space
from service import sources
from service.bulk_lines import SourceUnreadable
from service.bulk_sources import SourceNotFound
from service.compose import Service, running
from service.config import Settings
from service.console import CommandError, err
from service.encoding_tasks import EncodingTasks
from service.images import DiskUnavailable
from service.jobs import Failure, Job, JobDesk
from service.metrics import Metrics
from service.reembedding import Reembedder
from service.spool import SpoolFull
from service.stores import encoding_lock, open_cluster, open_images, open_rebuilder, open_stores

_LOOK_S = 0.1  # at how far the jobs are
_CALLER = "momoseek index"  # no API key has this id


async def index(settings: Settings, paths: list[Path], collection: str, space: str | None = None) -> int:
    """Index sources with a progress bar; the number of items that failed.

    ``space`` is the encoder_id of arrays of vectors. Raises SourceError, CommandError.
    """
    wanted = sources.wanted(paths, space)
    async with running(settings, Metrics()) as service:
        await service.retriever.create_collection(collection)
        jobs = [await _submitted(service.desk, collection, one) for one in wanted]
        work = service.runner.run({job.id for job in jobs})
        jobs = await _carried_out(service.desk, f"indexing {collection}", jobs, work)
        for job, one in zip(jobs, wanted, strict=True):
            async for failure in service.desk.failures(job.id):
                err.print(f"[red]failed[/] {escape(_told(one, failure))}", soft_wrap=True)
        rebuilder = open_rebuilder(settings, service.catalog, open_cluster(settings))
        await asyncio.to_thread(rebuilder.rebuild, collection, "indexing is done", time.time())
    err.print(f"{collection}: {_tally(jobs, 'written', 'unchanged')}")
    _check_all_well(jobs)
    return sum(job.failed for job in jobs)


async def reembed(settings: Settings, names: Collection[str] | None, *, drop_unreadable: bool) -> int:
    """Move these collections (None: all) to the encoder in force, one after the other, each with a progress
    bar; the number of items that failed.

    Raises CollectionNotFound, CommandError.
    """
    failed, ended = 0, list[Job]()
    async with running(settings, Metrics()) as service:
        for name in names or [entry.name for entry in service.catalog.every_collection()]:
            job = await service.index.reembed(name, drop_unreadable=drop_unreadable)
            if job.state == "paused":
                job = await service.desk.wish(job.id, "resume", None)
            work = _moving(service).run()
            (job,) = await _carried_out(service.desk, f"reembedding {job.name}", [job], work)
            async for failure in service.desk.failures(job.id):
                told = f"{failure.custom_id}: {_in_one_line(failure.problem['detail'])}"
                err.print(f"[red]failed[/] {escape(told)}", soft_wrap=True)
            err.print(f"{job.name}: {_tally([job], 'embedded', 'embedded before')}")
            failed += job.failed
            ended.append(job)
    _check_all_well(ended)
    return failed


def _moving(service: Service) -> EncodingTasks:
    """What moves collections here: it builds their indexes itself, before, however small they are."""
    settings, catalog, retriever = service.settings, service.catalog, service.retriever
    cluster = open_cluster(settings)
    rebuilder = open_rebuilder(settings, catalog, cluster)

    async def build(job: Job, space: Space) -> None:
        await asyncio.to_thread(rebuilder.build_ahead, job.name, space, job.at_byte, time.time())

    stores, images = open_stores(settings, cluster), open_images(settings)
    reembedder = Reembedder(
        catalog, retriever.embedder, images, stores, build, lambda name: None, Metrics(), long_tail=0
    )
    doers = {"reembed": reembedder.do}
    return EncodingTasks(catalog, encoding_lock(settings), doers, service.encoder.id)


def _check_all_well(jobs: Collection[Job]) -> None:
    for job in jobs:
        if job.state != "succeeded":
            why = _in_one_line((job.problem or {}).get("detail", "somebody cancelled it"))
            raise CommandError(f"{job.id} {job.state}: {why}")


async def _submitted(desk: JobDesk, collection: str, wanted: sources.Wanted) -> Job:
    """The job on what is wanted: one that was begun and not ended, or a new one."""
    job = await desk.unfinished(collection, _CALLER, wanted.key)
    if job is not None:
        err.print(f"going on with {job.id} behind {job.at_line} of {job.total}")
        return await desk.wish(job.id, "resume", None) if job.state == "paused" else job
    try:
        if wanted.format == "pictures":
            job, _ = await desk.submit_file(
                collection, _each(wanted), 0, wanted.format, None, _CALLER, wanted.key
            )
        else:
            (path,) = wanted.paths
            job, _ = await desk.submit_path(collection, path, wanted.format, wanted.made, _CALLER, wanted.key)
    except (DiskUnavailable, SourceNotFound, SourceUnreadable, SpoolFull) as error:
        raise CommandError(str(error)) from error
    return job


async def _each(wanted: sources.Wanted) -> AsyncIterator[bytes]:
    for line in wanted.listed():
        yield line


async def _carried_out(
    desk: JobDesk, what: str, jobs: list[Job], work: Coroutine[Any, Any, None]
) -> list[Job]:
    """The jobs at their end, carried out here by ``work``, or by a server that was quicker."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    running = asyncio.create_task(work)
    try:
        with Progress(*columns, TimeRemainingColumn(), console=err) as progress:
            total = sum(job.total for job in jobs)
            task = progress.add_task(what, total=total, rate="")
            while True:
                jobs = [await desk.job(job.id, None) for job in jobs]
                rate = sum(job.rate or 0 for job in jobs)
                done = sum(job.total - job.left for job in jobs)
                progress.update(task, completed=done, rate=f"{rate:.0f}/s" if rate else "")
                if all(job.state in ENDED for job in jobs):
                    return jobs
                await asyncio.sleep(_LOOK_S)
    except asyncio.CancelledError:
        err.print("stopped; the same command goes on from here")
        raise
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def _told(wanted: sources.Wanted, failure: Failure) -> str:
    """Where a failure comes from, and what it is."""
    where = failure.custom_id if wanted.format == "pictures" else f"{wanted.paths[0]}:{failure.line}"
    return f"{where}: {_in_one_line(failure.problem['detail'])}"


def _tally(jobs: Collection[Job], done: str, skipped: str) -> str:
    counts = {
        done: sum(job.done for job in jobs),
        skipped: sum(job.skipped for job in jobs),
        "failed": sum(job.failed for job in jobs),
    }
    return ", ".join(f"{number} {what}" for what, number in counts.items() if number) or "nothing to do"


def _in_one_line(detail: Any) -> str:
    return json.dumps(str(detail), ensure_ascii=False)[1:-1][:300]
