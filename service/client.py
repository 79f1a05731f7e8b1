"""A client of the REST API, sync and async, on nothing but the standard library's HTTP.

    from momoseek.client import Client

    with Client("http://127.0.0.1:8000", key="momo_…") as momoseek:
        momoseek.index("shop", [{"id": path.name, "image": path} for path in Path("photos").iterdir()])
        best = momoseek.search("shop", "a red apple").results[0]

A content is a text, or a mapping as the API takes it: ``{"text": …, "image": …}`` or ``{"content": […]}``.
A picture is its bytes, its Path, or base64.
"""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import numpy as np

from index.vectors import Vectors
from service.client_jobs import JobCalls
from service.schemas_collections import CollectionReply
from service.schemas_found import SearchBatchReply, SearchOutcome, SearchReply
from service.schemas_inference import ClassifyReply, EmbeddingsReply, RerankReply, SimilarityReply
from service.schemas_items import (
    DeleteReply,
    ItemReply,
    ItemsReply,
    ItemStatus,
    PatchReply,
)
from service.schemas_models import ModelList
from service.schemas_subsets import CountReply, DeletedReply, FacetReply, ScrollReply
from service.transport import ClientError, Refused, Unreachable, json_of, path_of

__all__ = ["AsyncClient", "Client", "ClientError", "Indexed", "Refused", "Unreachable"]

Content = str | Mapping[str, Any]
Item = Mapping[str, Any]
P = ParamSpec("P")
T = TypeVar("T")
_BATCH_BYTES = 8_000_000  # of items written in one request, well below a server's limit


@dataclass(frozen=True)
class Indexed:
    """How far an indexing has come: the number of items by status, and those that failed."""

    total: int | None  # None: not known before the end
    statuses: Mapping[str, int]  # created, updated, unchanged, failed
    failures: Sequence[ItemStatus]
    seconds: float
    write_token: str | None = None  # of the newest write

    @property
    def done(self) -> int:
        """How many items were sent and answered."""
        return sum(self.statuses.values())


class Client(JobCalls):
    """The API's calls; what it takes, how it tries again and what it raises is the Transport's."""

    # -- inference

    def models(self) -> ModelList:
        """The encoder that runs, and its limits."""
        return self._call("GET", "/v1/models", ModelList)

    def embed(self, inputs: Sequence[Content]) -> Vectors:
        """A unit row for each input: float32 (inputs, dim)."""
        body = {"input": inputs, "encoding_format": "base64"}
        entries = self._call("POST", "/v1/embeddings", EmbeddingsReply, body).data
        rows = [np.frombuffer(base64.b64decode(str(entry.embedding)), "<f4") for entry in entries]
        return np.stack(rows).astype(np.float32)

    def rerank(
        self, query: Content, documents: Sequence[Content], *, top_n: int | None = None
    ) -> RerankReply:
        """Documents in order of the probability that they match the query."""
        body = _given(query=query, documents=documents, top_n=top_n)
        return self._call("POST", "/v1/rerank", RerankReply, body)

    def classify(
        self,
        inputs: Sequence[Content],
        labels: Sequence[str] | None = None,
        *,
        label_set: str | None = None,
        templates: Sequence[str] | None = None,
        multi_label: bool = False,
        min_score: float = 0.0,
        top_k: int | None = None,
    ) -> ClassifyReply:
        """Which of the labels, or of the labels in the collection ``label_set``, fit each input."""
        options = _given(labels=labels, label_set=label_set, templates=templates, top_k=top_k)
        body = {"inputs": inputs, "multi_label": multi_label, "min_score": min_score, **options}
        return self._call("POST", "/v1/classify", ClassifyReply, body)

    def similarity(self, source: Content, targets: Sequence[Content]) -> list[float]:
        """The cosine of a source with each target."""
        body = {"source": source, "targets": targets}
        return self._call("POST", "/v1/similarity", SimilarityReply, body).scores

    # -- collections and items

    def create_collection(self, collection: str) -> CollectionReply:
        """Make a collection, or find that it is there."""
        return self._call("PUT", path_of(collection), CollectionReply, {})

    def collection(self, collection: str) -> CollectionReply:
        """A collection as it stands."""
        return self._call("GET", path_of(collection), CollectionReply)

    def delete_collection(self, collection: str) -> None:
        """Remove a collection with all its items."""
        self.send("DELETE", path_of(collection), None)

    def put_items(self, collection: str, items: Sequence[Item]) -> ItemsReply:
        """Write items, each with an id and a text, an image, or both; each succeeds or fails alone."""
        return self._put(collection, [json_of(item) for item in items])

    def item(self, collection: str, item_id: str) -> ItemReply:
        """An item as it stands."""
        return self._call("GET", path_of(collection, "items", item_id), ItemReply)

    def delete_item(self, collection: str, item_id: str) -> DeleteReply:
        """Delete an item."""
        return self._call("DELETE", path_of(collection, "items", item_id), DeleteReply)

    def patch_item(self, collection: str, item_id: str, changes: Mapping[str, Any]) -> PatchReply:
        """Change parts of an item: its text, its image, members of its metadata; None removes."""
        return self._call("PATCH", path_of(collection, "items", item_id), PatchReply, changes)

    def delete_items(
        self,
        collection: str,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        dry_run: bool = False,
    ) -> DeletedReply:
        """Delete the items of these ids, or those that pass a filter; ``dry_run`` only counts them."""
        body = {**_given(ids=ids, filter=filter), "dry_run": dry_run}
        return self._call("POST", path_of(collection, "items", "delete"), DeletedReply, body)

    def count(self, collection: str, filter: Mapping[str, Any] | None = None) -> int:
        """How many items pass a filter; all, without one."""
        body = _given(filter=filter)
        return self._call("POST", path_of(collection, "items", "count"), CountReply, body).count

    def facet(
        self, collection: str, key: str, *, filter: Mapping[str, Any] | None = None, limit: int = 10
    ) -> FacetReply:
        """The most frequent values of a member of the metadata."""
        body = _given(key=key, filter=filter, limit=limit)
        return self._call("POST", path_of(collection, "items", "facet"), FacetReply, body)

    def scroll(self, collection: str, *, limit: int = 60, cursor: str | None = None) -> ScrollReply:
        """A page of items in order of id; the next one begins at its ``next_cursor``."""
        body = _given(limit=limit, cursor=cursor)
        return self._call("POST", path_of(collection, "items", "scroll"), ScrollReply, body)

    def search(
        self,
        /,
        collection: str,
        query: Content | Sequence[Content],
        *,
        limit: int = 10,
        target: Literal["any", "image", "text"] = "any",
        filter: Mapping[str, Any] | None = None,
        rerank: int | None = None,
        **more: Any,
    ) -> SearchReply:
        """The items nearest to a query, best first; ``rerank`` reads so many of them beside the query.

        ``more`` are members of the API's SearchRequest: offset or cursor, score_threshold, diversity,
        dedup, group_by, group_size, fields, with_vectors,
        params.
        """
        best = None if rerank is None else {"top_n": rerank}
        body = _given(query=query, limit=limit, target=target, filter=filter, rerank=best, **more)
        return self._call("POST", path_of(collection, "search"), SearchReply, body)

    def search_batch(self, collection: str, searches: Sequence[Mapping[str, Any]]) -> list[SearchOutcome]:
        """Up to 100 searches, each the API's SearchRequest; each succeeds or fails alone."""
        path = path_of(collection, "search", "batch")
        return self._call("POST", path, SearchBatchReply, {"searches": searches}).results

    def recommend(
        self, /, collection: str, positive: Sequence[Content], negative: Sequence[Content] = (), **more: Any
    ) -> SearchReply:
        """The items like some and unlike others: ids, or ``{"id": …, "weight": …}``; more as the API's."""
        body = _given(positive=positive, negative=negative, **more)
        return self._call("POST", path_of(collection, "recommend"), SearchReply, body)

    def index(
        self,
        collection: str,
        items: Iterable[Item],
        *,
        progress: Callable[[Indexed], None] = lambda indexed: None,
        batch: int = 64,
    ) -> Indexed:
        """Write any number of items, ``batch`` or fewer to a request; memory stays at one batch.

        Calls ``progress`` after each. An item that fails does so alone: ``failures`` has its problem.
        """
        started = time.monotonic()
        total = len(items) if isinstance(items, Sized) else None
        statuses: dict[str, int] = {}
        failures: list[ItemStatus] = []
        state = Indexed(total, {}, (), 0.0, None)
        for lines in _batches(items, batch):
            try:
                reply = self._put(collection, lines)
            except Refused as error:
                if error.problem.status != 413 or len(lines) > 1:
                    raise
                failed = ItemStatus(id=json.loads(lines[0]).get("id"), status="failed", problem=error.problem)
                reply = ItemsReply(items=[failed], errors=True, write_token=state.write_token)
            for entry in reply.items:
                statuses[entry.status] = statuses.get(entry.status, 0) + 1
            failures += [entry for entry in reply.items if entry.problem is not None]
            seconds = time.monotonic() - started
            state = Indexed(total, dict(statuses), tuple(failures), seconds, reply.write_token or None)
            progress(state)
        return state

    # -- inside

    def _put(self, collection: str, items: Sequence[str]) -> ItemsReply:
        body = f'{{"items":[{",".join(items)}]}}'.encode()
        return ItemsReply.model_validate_json(self.send("PUT", path_of(collection, "items"), body))


def _in_thread(
    call: Callable[Concatenate[Client, P], T],
) -> Callable[Concatenate["AsyncClient", P], Awaitable[T]]:
    @wraps(call)
    async def run(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self.threads, partial(call, self.client, *args, **kwargs)
        )

    return run


class AsyncClient:
    """The calls of a Client as coroutines, at most ``connections`` at once; each runs on a thread.

    A call that is cancelled ends its waiting, not its request. Of ``index``, items and progress are run on
    that thread too.
    """

    def __init__(self, client: Client, *, connections: int = 16) -> None:
        self.client = client
        self.threads = ThreadPoolExecutor(connections, thread_name_prefix="momoseek-client")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for what is under way, then close the connections."""
        await asyncio.to_thread(self.threads.shutdown)
        self.client.close()

    models = _in_thread(Client.models)
    embed = _in_thread(Client.embed)
    rerank = _in_thread(Client.rerank)
    classify = _in_thread(Client.classify)
    similarity = _in_thread(Client.similarity)
    create_collection = _in_thread(Client.create_collection)
    collection = _in_thread(Client.collection)
    delete_collection = _in_thread(Client.delete_collection)
    put_items = _in_thread(Client.put_items)
    item = _in_thread(Client.item)
    delete_item = _in_thread(Client.delete_item)
    scroll = _in_thread(Client.scroll)
    search = _in_thread(Client.search)
    search_batch = _in_thread(Client.search_batch)
    recommend = _in_thread(Client.recommend)
    index = _in_thread(Client.index)
    patch_item = _in_thread(Client.patch_item)
    count = _in_thread(Client.count)
    facet = _in_thread(Client.facet)
    delete_items = _in_thread(Client.delete_items)
    bulk = _in_thread(Client.bulk)
    wait = _in_thread(Client.wait)
    job = _in_thread(Client.job)
    jobs = _in_thread(Client.jobs)
    job_errors = _in_thread(Client.job_errors)
    pause_job = _in_thread(Client.pause_job)
    resume_job = _in_thread(Client.resume_job)
    cancel_job = _in_thread(Client.cancel_job)


def _batches(items: Iterable[Item], most: int) -> Iterator[list[str]]:
    """Items as JSON, at most so many and about _BATCH_BYTES together."""
    batch: list[str] = []
    size = 0
    for item in items:
        line = json_of(item)
        if batch and (len(batch) == most or size + len(line) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
