"""The client's calls about items: written, read, found."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from service.client_inference import Content
from service.schemas_found import SearchBatchReply, SearchOutcome, SearchReply
from service.schemas_items import DeleteReply, ItemReply, ItemsReply, Mode, PatchReply
from service.schemas_subsets import CountReply, DeletedReply, FacetReply, ScrollReply
from service.transport import Transport, given, json_of, path_of

Item = Mapping[str, Any]


class ItemCalls(Transport):
    """Items of a collection, by its name or an alias of it."""

    def put_items(self, collection: str, items: Sequence[Item], *, mode: Mode = "upsert") -> ItemsReply:
        """Write items, each with an id and a text, an image, content or a vector; each succeeds or fails
        alone."""
        return self._put_lines(collection, [json_of(item) for item in items], mode)

    def _put_lines(self, collection: str, items: Sequence[str], mode: Mode = "upsert") -> ItemsReply:
        """The same for items that are JSON already."""
        body = f'{{"mode":"{mode}","items":[{",".join(items)}]}}'.encode()
        return ItemsReply.model_validate_json(self.send("PUT", path_of(collection, "items"), body))

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
        body = {**given(ids=ids, filter=filter), "dry_run": dry_run}
        return self._call("POST", path_of(collection, "items", "delete"), DeletedReply, body)

    def count(self, collection: str, filter: Mapping[str, Any] | None = None) -> int:
        """How many items pass a filter; all, without one."""
        body = given(filter=filter)
        return self._call("POST", path_of(collection, "items", "count"), CountReply, body).count

    def facet(
        self, collection: str, key: str, *, filter: Mapping[str, Any] | None = None, limit: int = 10
    ) -> FacetReply:
        """The most frequent values of a member of the metadata."""
        body = given(key=key, filter=filter, limit=limit)
        return self._call("POST", path_of(collection, "items", "facet"), FacetReply, body)

    def scroll(
        self, /, collection: str, *, limit: int = 60, cursor: str | None = None, **more: Any
    ) -> ScrollReply:
        """A page of items in order of id; the next one begins at its ``next_cursor``.

        ``more`` are members of the API's ScrollRequest: filter, fields, with_vectors.
        """
        body = given(limit=limit, cursor=cursor, **more)
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

        ``more`` are members of the API's SearchRequest: offset or cursor, score_threshold, hybrid, diversity,
        dedup, group_by, group_size, fields, with_vectors, explain, params, adapter.
        """
        best = None if rerank is None else {"top_n": rerank}
        body = given(query=query, limit=limit, target=target, filter=filter, rerank=best, **more)
        return self._call("POST", path_of(collection, "search"), SearchReply, body)

    def search_batch(self, collection: str, searches: Sequence[Mapping[str, Any]]) -> list[SearchOutcome]:
        """Up to 100 searches, each the API's SearchRequest; each succeeds or fails alone."""
        path = path_of(collection, "search", "batch")
        return self._call("POST", path, SearchBatchReply, {"searches": searches}).results

    def recommend(
        self, /, collection: str, positive: Sequence[Content], negative: Sequence[Content] = (), **more: Any
    ) -> SearchReply:
        """The items like some and unlike others: ids, or ``{"id": …, "weight": …}``; more as the API's."""
        body = given(positive=positive, negative=negative, **more)
        return self._call("POST", path_of(collection, "recommend"), SearchReply, body)
