"""The live indexes that are open in this process, by the own names of their collections."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from index.catalog import Catalog, CollectionNotFound, check_encoder
from index.live import LiveIndex

T = TypeVar("T")


class Indexes:
    """Opens each index once, at first use; any thread may ask. Its coroutines belong to one event loop."""

    def __init__(self, catalog: Catalog, open_index: Callable[[str], LiveIndex], encoder_id: str) -> None:
        self._catalog = catalog
        self._open_index = open_index
        self._encoder_id = encoder_id
        self._indexes: dict[str, LiveIndex] = {}
        self._opening = threading.Lock()

    def get(self, name: str) -> LiveIndex:
        """The index of the collection that a name stands for. Raises CollectionNotFound."""
        found = self._indexes.get(name)
        if found is None:
            own = self._catalog.aliases.own_name(name)
            with self._opening:
                found = self._indexes.get(own) or self._open_index(own)
                self._indexes[own] = found
        return found

    def opened(self) -> dict[str, LiveIndex]:
        """Those that are open, by collection."""
        return dict(self._indexes)

    def forget(self, name: str) -> None:
        """Close the index of a collection that is gone."""
        self._indexes.pop(name, None)

    async def searchable(self, name: str) -> LiveIndex:
        """An index whose rows are the encoder's that runs. Raises CollectionNotFound, EncoderMismatch."""
        index = self._indexes.get(name)
        if index is None:
            index = await asyncio.to_thread(self.get, name)
        if index.collection.encoder_id != self._encoder_id:  # perhaps it has moved since
            await asyncio.to_thread(index.refresh)
        check_encoder(index.collection, self._encoder_id)
        return index

    async def following(self, name: str, work: Callable[[str], Awaitable[T]]) -> T:
        """Work on the collection that a name stands for, told its own name.

        If it was deleted since its alias moved on, this is done again with the next one. Raises
        CollectionNotFound and what ``work`` raises.
        """
        while True:
            own = await self._own_name(name)
            try:
                return await work(own)
            except CollectionNotFound:
                if own == name or await self._own_name(name) == own:
                    raise

    async def _own_name(self, name: str) -> str:
        if name in self._indexes:
            return name
        return await asyncio.to_thread(self._catalog.aliases.own_name, name)
