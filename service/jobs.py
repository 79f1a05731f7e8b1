"""Bulk jobs as clients see them: accepted with their lines, looked at, paused, resumed and cancelled."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from collections.abc import Collection as Names
from dataclasses import replace
from pathlib import Path
from typing import Any

from index.catalog import Catalog, Collection, EncoderMismatch, check_encoder
from index.jobs import Failure, Job, State, Wish, new_id
from service.bulk_sources import Format, Source, Sources
from service.bulk_vectors import Made
from service.schemas_jobs import SourceFormat
from service.spool import Kept, Spool

__all__ = ["Failure", "Job", "JobDesk", "State", "Wish"]
_FAILURES_AT_ONCE = 500


class JobDesk:
    """Accepts jobs and answers for them. ``within`` names the collections that the caller may see; None: all.

    ``wake`` is called when there may be something to do for who carries jobs out.
    """

    def __init__(
        self, catalog: Catalog, spool: Spool, sources: Sources, encoder_id: str, wake: Callable[[], None]
    ) -> None:
        self._catalog = catalog
        self._spool = spool
        self._sources = sources
        self._encoder_id = encoder_id
        self._wake = wake

    async def submit(
        self,
        collection: str,
        body: AsyncIterator[bytes],
        announced_bytes: int,
        caller: str | None,
        key: str | None,
    ) -> tuple[Job, bool]:
        """A job on the lines of ``body``, durable when it returns; True if it was made now.

        ``key`` is the caller's own name for it: sent again with the same lines it is the same job. Raises
        CollectionNotFound, EncoderMismatch, SpoolFull, DiskUnavailable, KeyReused.
        """
        found = await self._checked(collection)
        await asyncio.to_thread(self._spool.check_room, announced_bytes)
        id = new_id()
        kept = await self._spool.keep(id, body)
        return await self._created(id, found, kept, caller, key)

    async def submit_source(
        self,
        collection: str,
        uri: str,
        format: SourceFormat,
        caller: str | None,
        key: str,
        made: Made | None = None,
        items_uri: str | None = None,
    ) -> tuple[Job, bool]:
        """A job on a file in the folder of sources, as ``submit``.

        Raises CollectionNotFound, EncoderMismatch, SourcesDisabled, SourceNotFound, SourceUnreadable,
        SpoolFull, DiskUnavailable, KeyReused.
        """
        found = await self._checked(collection)
        self._check_made(made)
        source, total = await asyncio.to_thread(self._sources.find, uri, format, made, items_uri)
        return await self._on_source(source, total, found, caller, key)

    async def submit_path(
        self, collection: str, path: Path, format: Format, made: Made | None, caller: str, key: str
    ) -> tuple[Job, bool]:
        """A job on any file of this machine, for who sits at it. Raises as ``submit_source``."""
        found = await self._checked(collection)
        self._check_made(made)
        source, total = await asyncio.to_thread(self._sources.here, path, format, made)
        return await self._on_source(source, total, found, caller, key)

    async def unfinished(self, collection: str, caller: str, key: str) -> Job | None:
        """The job that ``caller`` named so, unless it has ended: then the key may name a new one.

        Raises CollectionNotFound, EncoderMismatch.
        """
        found = await self._checked(collection)
        named = _named(caller, found.name, key)  # whatever alias it was called by
        return await asyncio.to_thread(self._catalog.jobs.unfinished_of, named, found.uid)

    async def submit_file(
        self,
        collection: str,
        body: AsyncIterator[bytes],
        announced_bytes: int,
        format: Format,
        made: Made | None,
        caller: str | None,
        key: str | None,
    ) -> tuple[Job, bool]:
        """A job on a file that is sent, as ``submit``. Raises what it raises, and SourceUnreadable."""
        found = await self._checked(collection)
        self._check_made(made)
        await asyncio.to_thread(self._spool.check_room, announced_bytes)
        id = new_id()
        try:
            sent = await self._spool.keep(id, body, "file")
            source, total = await asyncio.to_thread(self._sources.sent, f"{id}.file", format, made)
            await self._spool.keep(id, _once(source.as_json()), "source")
        except BaseException:
            self._spool.remove(id)
            raise
        return await self._created(id, found, replace(sent, total=total), caller, key)

    async def _on_source(
        self, source: Source, total: int, found: Collection, caller: str | None, key: str
    ) -> tuple[Job, bool]:
        id = new_id()
        kept = await self._spool.keep(id, _once(source.as_json()), "source")
        return await self._created(id, found, replace(kept, total=total), caller, key)

    def _check_made(self, made: Made | None) -> None:
        if made is not None and made.space != self._encoder_id:
            raise EncoderMismatch(f"the vectors are of {made.space!r}, not of {self._encoder_id}")

    async def _checked(self, name: str) -> Collection:
        found = await asyncio.to_thread(self._catalog.collection, name)
        check_encoder(found, self._encoder_id)
        return found

    async def _created(
        self, id: str, found: Collection, kept: Kept, caller: str | None, key: str | None
    ) -> tuple[Job, bool]:
        named = None if key is None else _named(caller, found.name, key)

        def create() -> tuple[Job, bool]:
            return self._catalog.jobs.create(id, found.uid, found.name, kept.total, kept.digest, named)

        created = False
        try:
            job, created = await asyncio.to_thread(create)
        finally:
            if not created:
                self._spool.remove(id)
        self._wake()
        return job, created

    async def job(self, id: str, within: Names[str] | None) -> Job:
        """One job. Raises JobNotFound."""
        return await asyncio.to_thread(self._catalog.jobs.get, id, within)

    async def page(
        self, state: State | None, before: str, limit: int, within: Names[str] | None
    ) -> list[Job]:
        """Jobs, the newest first, older than the one of id ``before`` ("": from the newest)."""
        return await asyncio.to_thread(self._catalog.jobs.page, state, before, limit, within)

    async def wish(self, id: str, wish: Wish, within: Names[str] | None) -> Job:
        """Pause, resume or cancel a job. Raises JobNotFound, JobStateConflict."""
        job = await asyncio.to_thread(self._catalog.jobs.wish, id, wish, within)
        if job.state == "cancelled":
            await asyncio.to_thread(self._spool.remove, id)
        self._wake()
        return job

    async def results(self, id: str) -> AsyncIterator[dict[str, Any]]:
        """What a job has found so far, in order."""
        after = 0
        while page := await asyncio.to_thread(self._catalog.tasks.results, id, after, _FAILURES_AT_ONCE):
            for _, found in page:
                yield found
            after = page[-1][0]

    async def failures(self, id: str) -> AsyncIterator[Failure]:
        """The lines of a job that failed so far, in order."""
        after = 0
        while page := await asyncio.to_thread(self._catalog.jobs.failures, id, after, _FAILURES_AT_ONCE):
            for failure in page:
                yield failure
            after = page[-1].line


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _named(caller: str | None, collection: str, key: str) -> str:
    """What the catalog calls a caller's key for a job."""
    return hashlib.sha256(json.dumps([caller, collection, key]).encode()).hexdigest()
