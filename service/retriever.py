"""The retriever: from contents to embeddings to neighbours, and from items to durable, searchable commits."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from index.catalog import Catalog, Collection, InvalidItem, Item, Modality, Outcome, Upsert, check_encoder
from index.catalog import Delete as Deletion
from index.filters import Filter
from index.live import LiveIndex, View
from index.records import Condition
from index.vectors import Vectors
from service.batcher import Lane
from service.drafts import Draft, MetadataTooLarge
from service.embedder import Content, Embedder
from service.images import ImageNotFound, ImageStore
from service.reranker import Found, NotOneDocument, Reranker

T = TypeVar("T")
Target = Literal["any", "image", "text"]
_TARGETS: dict[Target, tuple[Modality, ...]] = {
    "any": (),
    "image": ("image", "mixed"),
    "text": ("text", "mixed"),
}
_MIN_LENGTH = 1e-3  # of a weighted sum of unit rows; a shorter one is rounding noise without a direction


class QueryCancelsOut(ValueError):
    """The weighted terms of a query add up to nothing."""


@dataclass(frozen=True)
class Term:
    """One term of a query: the content to look for, or the id of an item to resemble."""

    content: Content = ()
    item_id: str | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Answer:
    """The results of a search, the view that gave them, and what was left out. ``timings_s`` by stage."""

    results: list[Found]
    view: View
    timings_s: dict[str, float]
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """What became of each draft, in order: an Outcome, or the error that kept it out."""

    outcomes: list[Outcome | Exception]
    seq: int  # the newest seq among them: the write token


class Retriever:
    """Everything the routes and the command line ask for; its coroutines belong to one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        embedder: Embedder,
        images: ImageStore,
        open_index: Callable[[str], LiveIndex],
        observe: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> None:
        self.embedder = embedder
        self.encoder = embedder.encoder
        self.limits = embedder.limits
        self._catalog = catalog
        self._images = images
        self._reranker = Reranker(embedder, images)
        self._open_index = open_index
        self._observe = observe
        self._indexes: dict[str, LiveIndex] = {}
        self._opening = threading.Lock()
        # Commits wait for the database's one writer, perhaps long: they must not take the threads that read.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="commit")

    def close(self) -> None:
        """Release the committing thread."""
        self._writer.shutdown(wait=True)

    # -- collections

    async def create_collection(
        self, name: str, condition: Condition | None = None
    ) -> tuple[Collection, bool]:
        """The collection of this name; True if it was made now. Raises EncoderMismatch, ConditionFailed."""
        id, dim = self.encoder.id, self.encoder.dim
        return await self._in_writer(lambda: self._catalog.create_collection(name, id, dim, condition))

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
        """Remove a collection and all its items. Raises CollectionNotFound, ConditionFailed."""
        await self._in_writer(lambda: self._catalog.delete_collection(name, condition))
        self._indexes.pop(name, None)

    # -- items

    async def write(self, name: str, drafts: Sequence[Draft], lane: Lane = "interactive") -> Written:
        """Embed and commit items; they are durable and searchable in this process when it returns.

        A draft that cannot be embedded fails alone. Raises CollectionNotFound, EncoderMismatch, Overloaded,
        ConditionFailed, StorageFull, StorageUnavailable.
        """
        collection = await asyncio.to_thread(self._catalog.collection, name)
        check_encoder(collection, self.encoder.id)
        contents = await asyncio.to_thread(lambda: [draft.fingerprint for draft in drafts])
        known = await asyncio.to_thread(self._catalog.embeddings, self.encoder.id, self.encoder.dim, contents)
        unknown = [i for i, content in enumerate(contents) if content not in known]
        rows = await self.embedder.embed([drafts[i].content for i in unknown], lane)
        vectors: dict[int, Vectors | Exception] = {i: known[c] for i, c in enumerate(contents) if c in known}
        vectors.update(zip(unknown, rows, strict=True))
        return await self._in_writer(lambda: self._commit(name, drafts, contents, vectors))

    async def delete(self, name: str, item_id: str, condition: Condition | None = None) -> Outcome:
        """Delete an item. Raises CollectionNotFound, EncoderMismatch, ConditionFailed."""

        def commit() -> Outcome:
            outcome = self._catalog.commit(name, [Deletion(item_id, condition)], self.encoder.id)[0]
            self.index(name).refresh()
            return outcome

        return await self._in_writer(commit)

    async def item(self, name: str, item_id: str) -> Item:
        """One item. Raises CollectionNotFound, ItemNotFound."""
        return await asyncio.to_thread(self._catalog.item, name, item_id)

    async def scroll(self, name: str, after: str, limit: int) -> list[Item]:
        """Items in order of id. Raises CollectionNotFound."""
        return await asyncio.to_thread(self._catalog.scroll, name, after, limit)

    async def image(self, name: str, item_id: str, size: int | None) -> tuple[bytes, str]:
        """An item's picture, whole or a thumbnail, and its type. Raises ItemNotFound, ImageNotFound."""
        item = await self.item(name, item_id)
        if item.image is None:
            raise ImageNotFound(f"Item {item_id!r} has no picture.")
        sha256 = item.image
        if size is None:
            return await asyncio.to_thread(self._images.get, sha256), item.image_type or ""
        return await self.embedder.in_decoder(lambda: self._images.thumbnail(sha256, size)), "image/webp"

    # -- search

    async def search(
        self,
        name: str,
        terms: Sequence[Term],
        *,
        limit: int,
        target: Target = "any",
        filter: Filter | None = None,
        rerank: int = 0,
    ) -> Answer:
        """The items nearest to the weighted sum of the terms, best first; items named by a term are left out.

        With ``rerank`` the first so many are put in order of their match with the query, which is one term
        then. Raises CollectionNotFound, ItemNotFound, EncoderMismatch, QueryCancelsOut, RerankUnsupported,
        NotOneDocument, Overloaded and what the contents raise.
        """
        started = time.perf_counter()
        index = self._indexes.get(name)
        if index is None:
            index = await asyncio.to_thread(self.index, name)
        check_encoder(index.collection, self.encoder.id)
        if rerank:
            self.embedder.check_matches()
            _check_one_document(terms)
        query = await self._query(name, terms)
        encoded = time.perf_counter()
        named = {term.item_id for term in terms if term.item_id is not None}
        depth = max(limit, rerank)
        view, results = await asyncio.to_thread(self._find, name, query, depth, target, filter, named)
        searched = time.perf_counter()
        timings_s = {"encode": encoded - started, "search": searched - encoded}
        degraded: tuple[str, ...] = ()
        if rerank:
            term = terms[0]
            document = term.content if term.item_id is None else await self.item(name, term.item_id)
            reranked = await self._reranker.rerank(document, results, rerank)
            results, degraded = reranked.results, reranked.degraded
            timings_s["rerank"] = time.perf_counter() - searched
        for stage, seconds in timings_s.items():
            self._observe(stage, seconds)
        return Answer(results[:limit], view, timings_s, degraded)

    def index(self, name: str) -> LiveIndex:
        """A collection's live index in this process, opened at first use. Raises CollectionNotFound."""
        found = self._indexes.get(name)
        if found is None:
            with self._opening:
                found = self._indexes.get(name) or self._open_index(name)
                self._indexes[name] = found
        return found

    def open_indexes(self) -> dict[str, LiveIndex]:
        """The live indexes that are open, by collection."""
        return dict(self._indexes)

    def forget_index(self, name: str) -> None:
        """Close the index of a collection that is gone."""
        self._indexes.pop(name, None)

    # -- inside

    async def _query(self, name: str, terms: Sequence[Term]) -> Vectors:
        contents = [term.content for term in terms if term.item_id is None]
        rows = iter(await self.embedder.embed(contents, "interactive"))
        total = np.zeros(self.encoder.dim, np.float32)
        for term in terms:
            row = next(rows) if term.item_id is None else await self._vector(name, term.item_id)
            if isinstance(row, Exception):
                raise row
            total += np.float32(term.weight) * row
        length = float(np.linalg.norm(total))
        if not length > _MIN_LENGTH:
            raise QueryCancelsOut("The weighted terms of the query cancel out.")
        return (total / np.float32(length)).reshape(1, -1)

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def _vector(self, name: str, item_id: str) -> Vectors:
        return await asyncio.to_thread(self._catalog.vector, name, item_id)

    def _find(
        self, name: str, query: Vectors, limit: int, target: Target, filter: Filter | None, named: set[str]
    ) -> tuple[View, list[Found]]:
        with self.index(name).reading() as (view, reading):
            check_encoder(reading.collection, self.encoder.id)
            everything = filter is None and target == "any"
            allowed = None if everything else reading.matching(filter, _TARGETS[target])
            hits = view.search(query, limit + len(named), allowed)[0]
            items = reading.items_at([hit.seq for hit in hits])
        results = [Found(items[hit.seq], hit.score) for hit in hits]
        return view, [found for found in results if found.item.id not in named][:limit]

    def _commit(
        self,
        name: str,
        drafts: Sequence[Draft],
        contents: Sequence[str],
        vectors: Mapping[int, Vectors | Exception],
    ) -> Written:
        outcomes: dict[int, Outcome | Exception] = {}
        upserts: dict[int, Upsert] = {}
        for i, draft in enumerate(drafts):
            vector = vectors[i]
            if isinstance(vector, Exception):
                outcomes[i] = vector
                continue
            try:
                draft.check_metadata(self.limits.max_metadata_bytes)
                upserts[i] = draft.upsert(contents[i], vector)
            except (MetadataTooLarge, InvalidItem) as error:
                outcomes[i] = error
                continue
            if draft.image is not None:
                self._images.put(draft.image)
        done = self._catalog.commit(name, list(upserts.values()), self.encoder.id)
        outcomes.update(zip(upserts, done, strict=True))
        view = self.index(name).refresh()
        return Written([outcomes[i] for i in range(len(drafts))], view.watermark)


def _check_one_document(terms: Sequence[Term]) -> None:
    if len(terms) > 1:
        raise NotOneDocument(
            "Weighted terms cannot be reranked; put the parts of the query into one content list."
        )
    if terms[0].weight <= 0:
        raise NotOneDocument("A query to keep away from cannot be reranked.")
