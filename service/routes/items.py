"""Items: write, read, delete, list, and their pictures."""

import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, cast

from fastapi import Depends, Query, Request, Response

from index.catalog import ItemNotFound, Outcome
from service.bodies import content_parts, draft_of, given_of, image_bytes, parsed, read
from service.conditional import CHANGED, FAILED, TAGGED, ConditionDep, Known, NotOneItem, entity_tag, tagged
from service.drafts import Draft
from service.embedder import TooManyItems
from service.errors import problem_of
from service.jobs import JobDesk
from service.paging import place_of, read_place
from service.parsing import parse_json, validated
from service.routes import (
    ONCE,
    CollectionName,
    ItemIdPath,
    RetrieverDep,
    body,
    filter_of,
    guarded,
    item_members,
    item_reply,
)
from service.schemas import Content
from service.schemas_items import (
    DeleteReply,
    ItemPatch,
    ItemReply,
    ItemsReply,
    ItemsRequest,
    ItemStatus,
    PatchReply,
)
from service.schemas_subsets import (
    CountReply,
    CountRequest,
    DeletedReply,
    DeleteRequest,
    FacetReply,
    FacetRequest,
    FacetValue,
    ListedItem,
    ScrollReply,
    ScrollRequest,
)
from service.subsets import Listed, Subsets
from service.tokens import write_token

router = guarded("items", "/v1/collections")


async def _subsets(request: Request) -> Subsets:
    return cast(Subsets, request.app.state.subsets)


SubsetsDep = Annotated[Subsets, Depends(_subsets)]


@router.put(
    "/{collection}/items",
    openapi_extra=body(ItemsRequest, form=True),
    response_model_exclude_none=True,
    responses={202: {"model": ItemsReply}, **FAILED},
    dependencies=ONCE,
)
async def put_items(
    collection: CollectionName,
    request: Request,
    response: Response,
    retriever: RetrieverDep,
    condition: ConditionDep,
    wait: Annotated[
        Literal["accepted", "durable", "searchable"],
        Query(
            description=(
                "what the reply waits for. accepted (202): the items are on the disk as lines of a bulk job, "
                "which embeds and writes them behind whoever waits. durable: they are written. searchable: "
                "every search of this process finds them"
            )
        ),
    ] = "searchable",
    timeout_ms: Annotated[
        int | None,
        Query(ge=1, le=600_000, description="how long items that are written are waited for to be found"),
    ] = None,
) -> ItemsReply:
    """Write items; each succeeds or fails alone. ``state`` says how far they have come with the reply.

    With If-Match or If-None-Match there is one item, and the condition is about the item that it replaces.
    """
    wanted, uploads = await read(request, ItemsRequest)
    if len(wanted.items) > retriever.limits.max_items:
        raise TooManyItems(
            f"{len(wanted.items)} items; at most {retriever.limits.max_items} are allowed. Use bulk."
        )
    if condition is not None and (len(wanted.items) != 1 or wait == "accepted"):
        raise NotOneItem("If-Match and If-None-Match are about one item, and about when it is written.")
    max_bytes = retriever.limits.max_image_bytes
    drafts = [draft_of(item, uploads, max_bytes, condition, wanted.mode) for item in wanted.items]
    good = [draft for draft in drafts if isinstance(draft, Draft)]
    if wait == "accepted":
        response.status_code = 202
        job = await _submit(request, collection, good) if good else None
        statuses = _statuses(wanted.items, drafts, ["accepted"] * len(good))
        return ItemsReply(items=statuses, errors=len(good) < len(drafts), state="accepted", job=job)
    patience_s = 0.0 if wait == "durable" else math.inf if timeout_ms is None else timeout_ms / 1000
    written = await retriever.write(collection, good, patience_s=patience_s)
    statuses = _statuses(wanted.items, drafts, written.outcomes)
    return ItemsReply(
        items=statuses,
        errors=any(status.problem for status in statuses),
        state="searchable" if written.searchable else "durable",
        write_token=write_token(written.seq),
    )


@router.post("/{collection}/items/scroll", openapi_extra=body(ScrollRequest, required=False))
async def scroll_items(
    collection: CollectionName, request: Request, retriever: RetrieverDep, subsets: SubsetsDep
) -> ScrollReply:
    """Items, a page at a time: all of them in order of id, or those that pass a filter.

    With a filter or vectors they come in order of their last write, so that one that is written meanwhile
    comes once more, and none is missed.
    """
    wanted = validated(ScrollRequest, parse_json(await request.body() or b"{}"))
    cursor = wanted.cursor or ""
    if wanted.filter is None and not wanted.with_vectors:
        listed = [Listed(item) for item in await retriever.scroll(collection, cursor, wanted.limit)]
        following = listed[-1].item.id if len(listed) == wanted.limit else None
    else:
        listed = await subsets.scroll(
            collection,
            filter_of(wanted.filter or {}),
            read_place(cursor),
            wanted.limit,
            with_vectors=wanted.with_vectors,
        )
        following = place_of(listed[-1].item.seq) if len(listed) == wanted.limit else None
    entries = [
        ListedItem(
            **item_members(collection, each.item, wanted.fields),
            vector=None if each.vector is None else each.vector.tolist(),
        )
        for each in listed
    ]
    return ScrollReply(items=entries, next_cursor=following)


@router.post("/{collection}/items/count", openapi_extra=body(CountRequest, required=False))
async def count_items(collection: CollectionName, request: Request, subsets: SubsetsDep) -> CountReply:
    """How many items pass a filter; all, without one."""
    wanted = validated(CountRequest, parse_json(await request.body() or b"{}"))
    found = await subsets.find(collection, filter_of(wanted.filter))
    return CountReply(count=found.count, covers_token=write_token(found.view.watermark))


@router.post("/{collection}/items/facet", openapi_extra=body(FacetRequest))
async def facet_items(collection: CollectionName, request: Request, subsets: SubsetsDep) -> FacetReply:
    """The most frequent values of a member of the metadata, with the number of items that have each.

    An item whose member is a list counts once for each of the list's values; null and objects are no values.
    """
    wanted = await parsed(FacetRequest, await request.body())
    found = await subsets.facet(collection, filter_of(wanted.filter), wanted.key, wanted.limit)
    return FacetReply(
        values=[FacetValue(value=value, count=count) for value, count in found.facet.values],
        distinct=found.facet.distinct,
        count=found.count,
        covers_token=write_token(found.watermark),
    )


@router.post("/{collection}/items/delete", openapi_extra=body(DeleteRequest), dependencies=ONCE)
async def delete_items(collection: CollectionName, request: Request, subsets: SubsetsDep) -> DeletedReply:
    """Delete the items of these ids, or those that pass a filter now; ``dry_run`` only counts them.

    Items that are written or replaced after the request came stay. They go a thousand at a time: if the
    server stops half-way, what is gone stays gone, and the same request again deletes the rest.
    """
    wanted = await parsed(DeleteRequest, await request.body())
    tree = {"must": [{"has_id": wanted.ids}]} if wanted.filter is None else wanted.filter
    done = await subsets.delete(collection, filter_of(tree), dry_run=wanted.dry_run)
    return DeletedReply(
        matched=done.matched, deleted=done.deleted, dry_run=wanted.dry_run, write_token=write_token(done.seq)
    )


@router.get("/{collection}/items/{item_id:path}", response_model=ItemReply, responses=TAGGED)
async def get_item(
    collection: CollectionName, item_id: ItemIdPath, retriever: RetrieverDep, known: Known = None
) -> Response:
    """One item as it stands."""
    item = await retriever.item(collection, item_id)
    return tagged(known, item.version, item_reply(collection, item).model_dump_json())


@router.patch(
    "/{collection}/items/{item_id:path}",
    openapi_extra=body(ItemPatch, form=True),
    responses=CHANGED,
    dependencies=ONCE,
)
async def patch_item(
    collection: CollectionName,
    item_id: ItemIdPath,
    request: Request,
    response: Response,
    retriever: RetrieverDep,
    condition: ConditionDep,
) -> PatchReply:
    """Change parts of an item: metadata is merged, a text or a picture takes the place of the one before.

    It is embedded again only if its content changes. Without a condition a change goes onto the item as it
    stands then, whoever else writes at the same time. The reply has the ETag that the next change may name.
    """
    wanted, uploads = await read(request, ItemPatch)
    changes = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    changes["given"] = given_of(changes.pop("vector", None), changes.pop("embedding_space", None))
    if wanted.image is not None:
        changes["image"] = image_bytes(wanted.image, uploads, retriever.limits.max_image_bytes)
    if wanted.content is not None:
        content = Content(content=wanted.content)
        changes["content"] = content_parts(content, uploads, retriever.limits.max_image_bytes)
    outcome = await retriever.writer.patch(collection, item_id, changes, condition)
    with suppress(ItemNotFound):  # somebody may have written or deleted it since
        item = await retriever.item(collection, item_id)
        if item.seq == outcome.seq:
            response.headers["ETag"] = entity_tag(item.version)
    status: Literal["updated", "unchanged"] = "unchanged" if outcome.status == "unchanged" else "updated"
    return PatchReply(id=outcome.id, status=status, write_token=write_token(outcome.seq))


@router.delete("/{collection}/items/{item_id:path}", responses=FAILED, dependencies=ONCE)
async def delete_item(
    collection: CollectionName, item_id: ItemIdPath, retriever: RetrieverDep, condition: ConditionDep
) -> DeleteReply:
    """Delete an item; no later search finds it."""
    outcome = await retriever.delete(collection, item_id, condition)
    if outcome.status == "not_found":
        raise ItemNotFound(f"collection {collection!r} has no item {item_id!r}")
    return DeleteReply(id=item_id, status="deleted", write_token=write_token(outcome.seq))


@router.get(
    "/{collection}/images/{item_id:path}",
    response_class=Response,
    responses={**TAGGED, 200: {**TAGGED[200], "description": "the picture", "content": {"image/*": {}}}},
)
async def get_image(
    collection: CollectionName,
    item_id: ItemIdPath,
    retriever: RetrieverDep,
    size: Annotated[
        int | None,
        Query(ge=16, le=512, description="pixels a side of a thumbnail; absent: the picture itself"),
    ] = None,
    part: Annotated[
        int | None,
        Query(ge=0, le=63, description="of content that is a list: its place there, counted from 0"),
    ] = None,
    known: Known = None,
) -> Response:
    """An item's picture: as it was sent, or a thumbnail of at most ``size`` pixels a side."""
    data, media = await retriever.image(collection, item_id, size, part)
    headers = {"Cache-Control": "private, max-age=60", "X-Content-Type-Options": "nosniff"}
    return tagged(known, hashlib.sha256(data).hexdigest()[:32], data, media, headers)


async def _submit(request: Request, collection: str, drafts: Sequence[Draft]) -> str:
    """The id of the bulk job that will write these items."""

    async def lines() -> AsyncIterator[bytes]:
        for draft in drafts:
            yield draft.line

    desk: JobDesk = request.app.state.jobs
    job, _ = await desk.submit(collection, lines(), 0, getattr(request.state, "key", None), None)
    request.state.target = job.id
    return job.id


def _statuses(
    wanted: Sequence[Any],
    drafts: Sequence[Draft | Exception],
    outcomes: Sequence[Outcome | Exception | Literal["accepted"]],
) -> list[ItemStatus]:
    """What became of each item, of which those that are drafts have these outcomes in order."""
    rest, statuses = iter(outcomes), list[ItemStatus]()
    for draft, item in zip(drafts, wanted, strict=True):
        outcome = next(rest) if isinstance(draft, Draft) else draft
        item_id = item.get("id") if isinstance(item, dict) else None
        known = item_id if isinstance(item_id, str) else None
        if isinstance(outcome, Exception):
            statuses.append(ItemStatus(id=known, status="failed", problem=problem_of(outcome)))
        else:
            status = outcome.status if isinstance(outcome, Outcome) else outcome
            statuses.append(ItemStatus.model_validate({"id": known, "status": status}))
    return statuses
