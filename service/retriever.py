"""The retriever: collections and items, from what is written to durable, searchable commits."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from index.aliases import Alias, DropAlias, PutAlias
from index.catalog import Catalog, Collection, Item, Outcome
from index.catalog import Delete as Deletion
from index.live import LiveIndex
from index.records import Condition
from service.adapters import ServingAdapters
from service.admission import Lane
from service.drafts import Draft, content_of_item
from service.embedder import Embedder
from service.images import ImageNotFound, ImageStore
from service.indexes import Indexes
from service.merging import merged
from service.reading import Content
from service.recall_meter import Sample
from service.searcher import Searcher
from service.writer import Writer, Written


class Retriever:
    """Everything the routes and the command line ask for; its coroutines belong to one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        embedder: Embedder,
        images: ImageStore,
        open_index: Callable[[str], LiveIndex],
        observe: Callable[[str, float], None] = lambda stage, seconds: None,
        sample: Callable[[Sample], None] = lambda sample: None,
        count_known: Callable[[int], None] = lambda contents: None,
        searchable: Callable[[Lane, float], None] = lambda lane, seconds: None,
        adapters: ServingAdapters | None = None,
    ) -> None:
        self.embedder = embedder
        self.encoder = embedder.encoder
        self.limits = embedder.limits
        self._catalog = catalog
        self._images = images
        self._indexes = Indexes(catalog, open_index, self.encoder.id)
        self.adapters = adapters or ServingAdapters(catalog, self.encoder.id, self.encoder.dim)
        self.searcher = Searcher(catalog, embedder, images, self._indexes, self.adapters, observe, sample)
        self.writer = Writer(catalog, embedder, images, self.index, observe, count_known, searchable)

    def close(self) -> None:
        """Release the committing thread."""
        self.writer.close()

    # -- collections

    async def create_collection(
        self, name: str, condition: Condition | None = None, **settings: Mapping[str, Any] | None
    ) -> tuple[Collection, bool]:
        """The collection of this name; True if it was made now.

        Its ``settings`` ("index", "fields", "limits") replace those that it has; None leaves them. Raises
        EncoderMismatch, ConditionFailed.
        """
        id, dim = self.encoder.id, self.encoder.dim
        return await self.writer.in_turn(
            lambda: self._catalog.create_collection(name, id, dim, condition, **settings)
        )

    async def patch_collection(
        self, name: str, patch: Mapping[str, Any], condition: Condition | None = None
    ) -> Collection:
        """The collection with its settings changed by a merge patch (RFC 7396).

        Raises CollectionNotFound, ConditionFailed.
        """

        def change(collection: Collection) -> dict[str, Any]:
            return {member: merged(getattr(collection, member), value) for member, value in patch.items()}

        return await self.writer.in_turn(lambda: self._catalog.change_collection(name, change, condition))

    async def collections(self, after: str, limit: int) -> list[tuple[Collection, int]]:
        """Collections in order of name with their item counts."""

        def read() -> list[tuple[Collection, int]]:
            return [(entry, self._catalog.count(entry)) for entry in self._catalog.collections(after, limit)]

        return await asyncio.to_thread(read)

    async def collection(self, name: str) -> tuple[Collection, int]:
        """One collection with its item count. Raises CollectionNotFound."""

        def read() -> tuple[Collection, int]:
            collection = self._catalog.collection(name)
            return collection, self._catalog.count(collection)

        return await asyncio.to_thread(read)

    async def delete_collection(self, name: str, condition: Condition | None = None) -> None:
        """Remove a collection with its items and aliases. Raises CollectionNotFound, ConditionFailed and, for
        the name of an alias, AliasConflict."""
        await self.writer.in_turn(lambda: self._catalog.delete_collection(name, condition))
        self._indexes.forget(name)

    # -- items

    async def write(
        self,
        name: str,
        drafts: Sequence[Draft],
        lane: Lane = "interactive",
        patience_s: float = math.inf,
    ) -> Written:
        """Embed and commit items; they are durable when it returns, and searchable in this process unless
        that takes longer than ``patience_s`` seconds.

        A draft that cannot be embedded fails alone. Raises CollectionNotFound, EncoderMismatch, Overloaded,
        ConditionFailed, StorageFull, StorageUnavailable.
        """

        accepted_at = time.time()

        async def work(own: str) -> Written:
            writes = await self.writer.prepare(own, drafts, lane)
            return await self.writer.commit(own, writes, None, patience_s, accepted_at)

        return await self._indexes.following(name, work)

    async def delete(self, name: str, item_id: str, condition: Condition | None = None) -> Outcome:
        """Delete an item. Raises CollectionNotFound, EncoderMismatch, ConditionFailed."""

        def commit() -> Outcome:
            index = self.index(name)
            own = index.collection.name
            outcome = self._catalog.commit(own, [Deletion(item_id, condition)], self.encoder.id)[0]
            index.refresh()
            return outcome

        accepted_at = time.time()
        outcome = await self.writer.in_turn(commit)
        if outcome.status == "deleted":
            self.writer.note_searchable(accepted_at)
        return outcome

    async def item(self, name: str, item_id: str) -> Item:
        """One item. Raises CollectionNotFound, ItemNotFound."""
        return await asyncio.to_thread(self._catalog.item, name, item_id)

    async def content(self, name: str, item_id: str) -> Content:
        """What was embedded of an item.

        Raises CollectionNotFound, ItemNotFound, ImageNotFound, NothingToRead.
        """
        item = await self.item(name, item_id)
        return await self.embedder.in_decoder(lambda: content_of_item(item, self._images.get))

    async def scroll(self, name: str, after: str, limit: int) -> list[Item]:
        """Items in order of id. Raises CollectionNotFound."""
        return await asyncio.to_thread(self._catalog.scroll, name, after, limit)

    async def image(
        self, name: str, item_id: str, size: int | None, part: int | None = None
    ) -> tuple[bytes, str]:
        """An item's picture, or that of one ``part`` of its content, whole or a thumbnail, and its type.

        Raises ItemNotFound, ImageNotFound.
        """
        item = await self.item(name, item_id)
        sha256, media = item.image, item.image_type
        if part is not None:
            parts = item.parts or []
            kept = parts[part] if part < len(parts) else {}
            sha256, media = kept.get("image"), kept.get("type")
        if sha256 is None:
            raise ImageNotFound(f"Item {item_id!r} has no {'such ' if part is not None else ''}picture.")
        if size is None:
            return await asyncio.to_thread(self._images.get, sha256), media or ""
        return await self.embedder.in_decoder(lambda: self._images.thumbnail(sha256, size)), "image/webp"

    # -- indexes

    def index(self, name: str) -> LiveIndex:
        """A collection's live index in this process, opened at first use. Raises CollectionNotFound."""
        return self._indexes.get(name)

    def open_indexes(self) -> dict[str, LiveIndex]:
        """The live indexes that are open, by collection."""
        return self._indexes.opened()

    def forget_index(self, name: str) -> None:
        """Close the index of a collection that is gone."""
        self._indexes.forget(name)

    # -- aliases

    async def move_aliases(self, actions: Sequence[PutAlias | DropAlias]) -> None:
        """Carry out all of ``actions`` in one transaction; searches that begin afterwards see them.

        Raises CollectionNotFound, AliasNotFound, AliasConflict.
        """
        await self.writer.in_turn(lambda: self._catalog.aliases.apply(actions))

    async def aliases(self, after: str, limit: int) -> list[Alias]:
        """Aliases in order of name."""
        return await asyncio.to_thread(self._catalog.aliases.page, after, limit)
