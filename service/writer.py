"""The writer: drafts become embeddings, and these become durable commits that are searchable here at once."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from index.catalog import (
    Catalog,
    Collection,
    ConditionFailed,
    InvalidItem,
    Item,
    ItemNotFound,
    Outcome,
    Upsert,
    check_encoder,
)
from index.catalog import Delete as Deletion
from index.jobs import Step
from index.live import LiveIndex, View
from index.records import Condition, check_condition
from index.vectors import Vectors
from service.admission import Lane
from service.drafts import Draft, MetadataMismatch, MetadataTooLarge, content_of_item, named, refusal_of
from service.embedder import Embedder
from service.images import ImageStore
from service.merging import merged

T = TypeVar("T")
Write = Upsert | Deletion | Exception  # ready to be committed, or what keeps it out


@dataclass(frozen=True)
class Written:
    """What became of each write, in order: an Outcome, or the error that kept it out."""

    outcomes: list[Outcome | Exception]
    seq: int  # what covers it has seen these writes: the write token
    searchable: bool = True  # in this process


class Writer:
    """Embeds and commits; its coroutines belong to one event loop. Commits take turns on one thread."""

    def __init__(
        self,
        catalog: Catalog,
        embedder: Embedder,
        images: ImageStore,
        index: Callable[[str], LiveIndex],
        observe: Callable[[str, float], None] = lambda stage, seconds: None,
        count_known: Callable[[int], None] = lambda contents: None,
        searchable: Callable[[Lane, float], None] = lambda lane, seconds: None,
    ) -> None:
        """``count_known`` is told how many contents had been embedded before, ``searchable`` how long writes
        took that can be found now."""
        self._searchable = searchable
        self._observe = observe
        self._count_known = count_known
        self._catalog = catalog
        self._embedder = embedder
        self._images = images
        self._index = index
        # Commits wait for the database's one writer, perhaps long: they must not take the threads that read.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")

    def close(self) -> None:
        """Release the committing thread."""
        self._thread.shutdown(wait=True)

    async def in_turn(self, work: Callable[[], T]) -> T:
        """Run work that commits, after what was committed before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def prepare(
        self, name: str, drafts: Sequence[Draft | Deletion | Exception], lane: Lane
    ) -> list[Write]:
        """Embed drafts and keep their pictures; a draft for which that fails becomes its error, alone.

        Content that was embedded before is not embedded again. Raises CollectionNotFound, EncoderMismatch,
        Overloaded, DiskUnavailable, StorageUnavailable.
        """
        encoder = self._embedder.encoder
        collection = await asyncio.to_thread(self._catalog.collection, name)
        check_encoder(collection, encoder.id)
        contents, given = await asyncio.to_thread(named, drafts, encoder.id, encoder.dim)
        wanted = [content for content in contents.values() if content not in given]
        known = await asyncio.to_thread(self._catalog.embeddings, encoder.id, encoder.dim, wanted)
        self._count_known(len(known))
        vectors: dict[str, Vectors | Exception] = {**known, **given}
        unknown = {
            contents[i]: draft.content
            for i, draft in enumerate(drafts)
            if isinstance(draft, Draft) and contents[i] not in vectors
        }
        rows = await self._embedder.embed(list(unknown.values()), lane)
        vectors.update(zip(unknown, rows, strict=True))

        def work() -> list[Write]:
            writes = [
                self._ready(collection, draft, contents[i], vectors[contents[i]])
                if isinstance(draft, Draft)
                else draft
                for i, draft in enumerate(drafts)
            ]
            self._images.put_all(
                {
                    sha256: picture
                    for draft, write in zip(drafts, writes, strict=True)
                    if isinstance(draft, Draft) and isinstance(write, Upsert)
                    for sha256, picture in draft.pictures.items()
                }
            )
            return writes

        return await asyncio.to_thread(work)

    async def commit(
        self,
        name: str,
        writes: Sequence[Write],
        step: Step | None = None,
        patience_s: float = math.inf,
        accepted_at: float | None = None,
    ) -> Written:
        """Commit what can be, in one transaction, and move a job on by ``step``.

        For ``patience_s`` seconds at most it is waited until it can be found here. The writes were accepted
        ``accepted_at``, in seconds since the epoch; now, if that is not given. Raises what Catalog.commit
        raises.
        """

        def work() -> list[Outcome]:
            good = [write for write in writes if not isinstance(write, Exception)]
            return self._catalog.commit(name, good, self._embedder.encoder.id, step)

        def work_and_refresh() -> tuple[list[Outcome], int]:
            return work(), self._index(name).refresh().watermark

        started, begun_at = time.perf_counter(), time.time()
        if patience_s == math.inf:  # one trip to the thread
            found, seq = await self.in_turn(work_and_refresh)
            searchable = True
        else:
            found = await self.in_turn(work)
            seq = max((outcome.seq for outcome in found), default=0)
            searchable = await self._refreshed(name, patience_s)
        self._observe("commit", time.perf_counter() - started)
        if found:
            self.note_searchable(begun_at if accepted_at is None else accepted_at, step is not None)
        done = (refusal_of(outcome) if outcome.refused else outcome for outcome in found)
        outcomes = [write if isinstance(write, Exception) else next(done) for write in writes]
        return Written(outcomes, seq, searchable)

    def note_searchable(self, accepted_at: float, of_job: bool = False) -> None:
        """Writes that were accepted then are found from now on: whatever is committed, every search sees."""
        self._searchable("bulk" if of_job else "interactive", max(0.0, time.time() - accepted_at))

    async def patch(
        self, name: str, item_id: str, changes: Mapping[str, Any], condition: Condition | None = None
    ) -> Outcome:
        """Change an item by what ``changes`` has of ``text``, ``image`` (encoded bytes), ``content``,
        ``metadata`` and ``given``, a vector.

        None removes; metadata is merged (RFC 7396). Only new content is embedded. Raises CollectionNotFound,
        ItemNotFound, ConditionFailed, InvalidItem, MetadataTooLarge, MetadataMismatch, ImageNotFound, and
        what ``prepare``, ``commit`` and the content raise.
        """
        accepted_at = time.time()
        while True:
            # The name may be an alias, which moves between two attempts.
            own = await asyncio.to_thread(lambda: self._index(name).collection.name)
            item = await self._item(own, item_id, condition)
            write = await self._patched(own, item, changes)
            try:
                written = await self.commit(own, [write], accepted_at=accepted_at)
            except ConditionFailed:
                continue  # another writer was faster, and there is a newer version to change
            (outcome,) = written.outcomes
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    async def delete_versions(self, view: View, seqs: Sequence[int]) -> tuple[int, int]:
        """Delete those of these versions of a view's items that still stand; how many, and the newest seq.

        Raises CollectionNotFound, EncoderMismatch, StorageFull, StorageUnavailable.
        """

        name, accepted_at = view.collection.name, time.time()

        def work() -> tuple[int, int]:
            while True:
                with self._index(name).reading() as (now, reading):
                    # In a collection that was made anew or restored these seqs are others' items.
                    if not reading.begins_with(view.collection.uid, view.watermark, view.watermark_at):
                        return 0, now.watermark
                    items = reading.items_at(seqs).values()
                try:
                    deletions = [Deletion(item.id, _is(item.version)) for item in items]
                    self._catalog.commit(name, deletions, self._embedder.encoder.id)
                except ConditionFailed:
                    continue  # another process has just replaced one of them
                return len(deletions), self._index(name).refresh().watermark

        count, seq = await self.in_turn(work)
        if count:
            self.note_searchable(accepted_at)
        return count, seq

    async def _refreshed(self, name: str, patience_s: float) -> bool:
        """Whether the index caught up with the log in time; it goes on if it did not."""
        if not patience_s:
            return False
        refreshing = asyncio.ensure_future(asyncio.to_thread(lambda: self._index(name).refresh()))
        done, _ = await asyncio.wait([refreshing], timeout=patience_s)
        refreshing.add_done_callback(_forgotten)
        return bool(done) and refreshing.exception() is None

    async def _item(self, name: str, item_id: str, condition: Condition | None) -> Item:
        """The item as it stands, of which the condition holds."""
        try:
            item = await asyncio.to_thread(self._catalog.item, name, item_id)
        except ItemNotFound:
            check_condition(condition, None, f"item {item_id!r}")
            raise
        check_condition(condition, item.version, f"item {item_id!r}")
        return item

    async def _patched(self, name: str, item: Item, changes: Mapping[str, Any]) -> Write:
        """The item with these changes, to be written while it stands as it is."""
        metadata = merged(item.metadata, changes.get("metadata", {})) or {}
        given = changes.get("given")
        said: dict[str, Any] = {"metadata": metadata, "condition": _is(item.version)}
        text = changes.get("text", item.text)
        if text == item.text and not {"image", "content"} & changes.keys() and given is None:
            collection = await asyncio.to_thread(self._catalog.collection, name)
            self._check_metadata(collection, Draft(item.id, metadata=metadata))
            vector = await asyncio.to_thread(self._catalog.vector, name, item.id)
            kept = (item.modality, item.text, item.image, item.image_type, metadata, _is(item.version))
            return Upsert(item.id, item.content, vector, *kept, item.parts)
        if changes.get("content") is not None:
            draft = Draft.of(item.id, changes["content"], given=given, **said)
        elif item.parts is not None and "content" not in changes:
            if {"text", "image"} & changes.keys():
                raise InvalidItem("the item's content is a list of parts: replace it as a whole")
            content = await asyncio.to_thread(content_of_item, item, self._images.get)
            draft = Draft(item.id, parts=content, given=given, **said)
        else:
            before = item if item.parts is None else item._replace(text=None, image=None)
            text, image = changes.get("text", before.text), changes.get("image")
            if "image" not in changes and before.image is not None:
                image = await asyncio.to_thread(self._images.get, before.image)
            if text is None and image is None and given is None:
                raise InvalidItem("an item has a text, an image, or both")
            draft = Draft(item.id, text, image, given=given, modality=item.modality, **said)
        (write,) = await self.prepare(name, [draft], "interactive")
        return write

    def _ready(
        self, collection: Collection, draft: Draft, content: str, vector: Vectors | Exception
    ) -> Upsert | Exception:
        if isinstance(vector, Exception):
            return vector
        try:
            self._check_metadata(collection, draft)
            return draft.upsert(content, vector)
        except (MetadataTooLarge, MetadataMismatch, InvalidItem) as error:
            return error

    def _check_metadata(self, collection: Collection, draft: Draft) -> None:
        draft.check_metadata(self._embedder.limits.max_metadata_bytes, collection.fields or {})


def _forgotten(refreshing: "asyncio.Future[View]") -> None:
    """The write is durable whatever becomes of this; the watcher tries again and tells."""
    if not refreshing.cancelled():
        refreshing.exception()  # is taken note of


def _is(version: str) -> Condition:
    return lambda standing: standing == version
