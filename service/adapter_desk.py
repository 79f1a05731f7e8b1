"""The adapter desk: adapters as clients see them, learned, tried, promoted and rolled back."""

import asyncio
from collections.abc import Callable
from collections.abc import Collection as Names
from typing import Any

from index.adapters import Adapter
from index.catalog import Catalog, CollectionNotFound, EncoderMismatch, check_encoder
from index.jobs import Job, new_id

__all__ = ["Adapter", "AdapterDesk", "CollectionNotFound", "EncoderMismatch", "Job"]


class AdapterDesk:
    """``within`` names the collections that the caller may see; None: all. What it changes, searches of this
    process see when it returns, and those of others at their next look.

    ``wake`` is called when there is something to learn, ``refresh`` when other adapters serve.
    """

    def __init__(
        self, catalog: Catalog, encoder_id: str, wake: Callable[[], None], refresh: Callable[[], None]
    ) -> None:
        self._catalog = catalog
        self._encoder_id = encoder_id
        self._wake = wake
        self._refresh = refresh

    async def submit(self, collection: str, request: dict[str, Any]) -> Job:
        """A job that learns what ``request`` has pairs for. Raises CollectionNotFound, EncoderMismatch."""

        def create() -> Job:
            found = self._catalog.collection(collection)
            check_encoder(found, self._encoder_id)
            return self._catalog.tasks.create(new_id(), "adapt", found.uid, found.name, request, 1)

        job = await asyncio.to_thread(create)
        self._wake()
        return job

    async def adapter(self, id: str, within: Names[str] | None) -> Adapter:
        """One adapter. Raises AdapterNotFound."""
        return await asyncio.to_thread(self._catalog.adapters.get, id, within)

    async def page(
        self, collection: str | None, before: str, limit: int, within: Names[str] | None
    ) -> list[Adapter]:
        """Adapters, the newest first, older than the one of id ``before`` ("": from the newest).

        Raises CollectionNotFound.
        """

        def read() -> list[Adapter]:
            own = None if collection is None else self._catalog.collection(collection).name
            return self._catalog.adapters.page(own, before, limit, within)

        return await asyncio.to_thread(read)

    async def promote(self, id: str, within: Names[str] | None) -> Adapter:
        """Let it answer all searches. Raises AdapterNotFound, AdapterRefused, AdapterStateConflict."""
        return await self._changed(lambda: self._catalog.adapters.promote(id, within))

    async def roll_back(self, id: str, within: Names[str] | None) -> Adapter:
        """Take it out of service. Raises AdapterNotFound, AdapterStateConflict."""
        return await self._changed(lambda: self._catalog.adapters.roll_back(id, within))

    async def set_share(self, id: str, share: float, within: Names[str] | None) -> Adapter:
        """Let it answer this share of searches.

        Raises AdapterNotFound, AdapterRefused, AdapterStateConflict.
        """
        return await self._changed(lambda: self._catalog.adapters.set_share(id, share, within))

    async def delete(self, id: str, within: Names[str] | None) -> None:
        """Forget one that does not serve. Raises AdapterNotFound, AdapterStateConflict."""
        await asyncio.to_thread(self._catalog.adapters.delete, id, within)

    async def _changed(self, change: Callable[[], Adapter]) -> Adapter:
        def work() -> Adapter:
            found = change()
            self._refresh()
            return found

        return await asyncio.to_thread(work)
