"""The snapshot desk: archives of single collections, which the worker makes and restores."""

import asyncio
import secrets
from datetime import UTC, datetime

from index.aliases import check_own_name
from index.archive import Archive, ArchiveError
from index.backup import Contents
from index.catalog import Catalog, CollectionNotFound
from index.jobs import Job, new_id
from index.tasks import TaskType
from service.shelf import Entry, Shelf, SnapshotExists, entry_of

__all__ = ["CollectionExists", "Entry", "Job", "SnapshotDamaged", "SnapshotDesk"]


class SnapshotDamaged(Exception):
    """The archive is not what was written, or holds what this release cannot read."""


class CollectionExists(Exception):
    """There is a collection of the name under which another is to be restored."""


class SnapshotDesk:
    """Answers for archives. A collection may be called by an alias; its archives outlive it.

    Its coroutines belong to one event loop.
    """

    def __init__(self, catalog: Catalog, shelf: Shelf, encoder_id: str) -> None:
        self._catalog = catalog
        self._shelf = shelf
        self._encoder_id = encoder_id
        self._verifying = asyncio.Lock()

    async def create(self, collection: str, name: str | None) -> tuple[Job, str]:
        """A task that makes an archive, and the archive's name. Raises CollectionNotFound, SnapshotExists."""

        def work() -> tuple[Job, str]:
            found = self._catalog.collection(collection)
            chosen = name or f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
            if self._shelf.path(found.name, chosen).exists():
                raise SnapshotExists(f"Collection {found.name!r} has a snapshot {chosen!r} already.")
            return self._submit("snapshot", found.uid, found.name, {"snapshot": chosen}), chosen

        return await asyncio.to_thread(work)

    async def entries(self, collection: str) -> list[Entry]:
        """The archives of a collection, the newest first. Raises CollectionNotFound: there is neither."""

        def work() -> list[Entry]:
            own = self._own_name(collection)
            if not self._shelf.has_any(own):
                self._catalog.collection(own)
            return self._shelf.entries(own)

        return await asyncio.to_thread(work)

    async def entry(self, collection: str, name: str, verify: bool) -> Entry:
        """One archive; ``verify``: all of it is read, one at a time. Raises SnapshotNotFound."""

        def work() -> Entry:
            return entry_of(self._shelf.found(self._own_name(collection), name), verify=verify)

        if not verify:
            return await asyncio.to_thread(work)
        async with self._verifying:
            return await asyncio.to_thread(work)

    async def delete(self, collection: str, name: str) -> None:
        """Delete an archive. Raises SnapshotNotFound."""
        await asyncio.to_thread(lambda: self._shelf.remove(self._own_name(collection), name))

    async def restore(self, collection: str, name: str, target: str | None) -> Job:
        """A task that restores an archive in place of its collection, or as ``target``, which must be new.

        Raises SnapshotNotFound, SnapshotDamaged, EncoderMismatch, CollectionExists, AliasConflict.
        """

        def work() -> Job:
            own = self._own_name(collection)
            path = self._shelf.found(own, name)
            try:
                contents = Contents.of(Archive(path))
                contents.check_tables()
                contents.collection(own)
            except (ArchiveError, CollectionNotFound) as error:
                raise SnapshotDamaged(f"The snapshot {name!r} cannot be restored: {error}") from error
            contents.check_encoder(self._encoder_id, own)
            replaces = self._uid_of(own if target is None else target)
            if replaces and target not in (None, own):
                raise CollectionExists(f"There is a collection {target!r} already.")
            request = {"snapshot": name, "of": own, "encoder_id": self._encoder_id}
            return self._submit("restore", replaces, own if target is None else target, request)

        return await asyncio.to_thread(work)

    def _submit(self, type: TaskType, uid: str, name: str, request: dict[str, str]) -> Job:
        return self._catalog.tasks.create(new_id(), type, uid, name, dict(request), 1)

    def _own_name(self, collection: str) -> str:
        return self._catalog.aliases.own_name(collection)

    def _uid_of(self, name: str) -> str:
        """The uid of the collection of this own name; "" if there is none. Raises AliasConflict."""
        try:
            found = self._catalog.collection(name)
        except CollectionNotFound:
            return ""
        check_own_name(found, name)
        return found.uid
