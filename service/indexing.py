"""``momoseek index``: sources into a collection, with a progress bar."""

import asyncio
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service import sources
from service.compose import running
from service.config import Settings
from service.console import err
from service.drafts import Draft
from service.metrics import Metrics
from service.retriever import Retriever
from service.stores import open_cluster, open_rebuilder

_CHUNK = 32  # items indexed together


async def index(settings: Settings, paths: list[Path], collection: str) -> int:
    """Index sources with a progress bar; the number of items that failed."""
    tally: dict[str, int] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task(f"indexing {collection}", total=sources.count(paths), rate="")
        async with running(settings, Metrics()) as service:
            await service.retriever.create_collection(collection)
            chunk: list[sources.Entry] = []
            for entry in sources.entries(paths, settings.max_image_bytes):
                chunk.append(entry)
                if len(chunk) == _CHUNK:
                    await _write(service.retriever, collection, chunk, tally)
                    speed = progress.tasks[task].speed or 0
                    progress.update(task, advance=len(chunk), rate=f"{speed:.0f}/s")
                    chunk = []
            await _write(service.retriever, collection, chunk, tally)
            progress.update(task, advance=len(chunk))
            rebuilder = open_rebuilder(settings, service.catalog, open_cluster(settings))
            await asyncio.to_thread(rebuilder.rebuild, collection, "indexing is done", time.time())
    err.print(f"{collection}: " + ", ".join(f"{number} {status}" for status, number in sorted(tally.items())))
    return tally.get("failed", 0)


async def _write(
    retriever: Retriever, collection: str, chunk: list[sources.Entry], tally: dict[str, int]
) -> None:
    drafts = [(entry.where, entry.draft) for entry in chunk if isinstance(entry.draft, Draft)]
    failures = [(entry.where, entry.draft) for entry in chunk if isinstance(entry.draft, Exception)]
    written = await retriever.write(collection, [draft for _, draft in drafts], "bulk")
    for (where, _), outcome in zip(drafts, written.outcomes, strict=True):
        if isinstance(outcome, Exception):
            failures.append((where, outcome))
        else:
            tally[outcome.status] = tally.get(outcome.status, 0) + 1
    for where, error in failures:
        tally["failed"] = tally.get("failed", 0) + 1
        err.print(f"[red]failed[/] {where}: {sources.describe(error)}", soft_wrap=True)
