"""Items: write, read, delete, list, stream in bulk, and their pictures."""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from index.catalog import Condition, ItemNotFound, Outcome
from service.bodies import Uploads, image_bytes, lines, parsed, read
from service.conditional import FAILED, TAGGED, ConditionDep, Known, NotOneItem, tagged
from service.drafts import Draft
from service.embedder import TooManyItems
from service.errors import problem_of
from service.parsing import InvalidBody, InvalidJson, parse_json, validated
from service.retriever import Retriever
from service.routes import (
    ONCE,
    PROBLEMS,
    CollectionName,
    ItemIdPath,
    RetrieverDep,
    body,
    item_reply,
    write_token,
)
from service.schemas import (
    BulkLine,
    DeleteReply,
    ImageRef,
    ItemReply,
    ItemRequest,
    ItemsReply,
    ItemsRequest,
    ItemStatus,
    ScrollReply,
    ScrollRequest,
)

router = APIRouter(prefix="/v1/collections", tags=["items"], responses=PROBLEMS)
_BULK_CHUNK = 32  # lines embedded and committed together
_SPOOL_BYTES = 1_000_000  # of bulk replies kept in memory


@router.put(
    "/{collection}/items",
    openapi_extra=body(ItemsRequest, form=True),
    response_model_exclude_none=True,
    responses=FAILED,
    dependencies=ONCE,
)
async def put_items(
    collection: CollectionName,
    request: Request,
    retriever: RetrieverDep,
    condition: ConditionDep,
    wait: Annotated[Literal["durable", "searchable"], Query()] = "searchable",
) -> ItemsReply:
    """Write items; each succeeds or fails alone. What is acknowledged is durable, and searchable here.

    With If-Match or If-None-Match there is one item, and the condition is about the item that it replaces.
    """
    wanted, uploads = await read(request, ItemsRequest)
    if len(wanted.items) > retriever.limits.max_items:
        raise TooManyItems(
            f"{len(wanted.items)} items; at most {retriever.limits.max_items} are allowed. Use bulk."
        )
    if condition is not None and len(wanted.items) != 1:
        raise NotOneItem(f"{len(wanted.items)} items; If-Match and If-None-Match are about one.")
    items = [(item, None) for item in wanted.items]
    statuses, seq = await _write(retriever, collection, items, uploads, "interactive", condition)
    return ItemsReply(
        items=statuses, errors=any(status.problem for status in statuses), write_token=write_token(seq)
    )


@router.post("/{collection}/items/scroll", openapi_extra=body(ScrollRequest, required=False))
async def scroll_items(collection: CollectionName, request: Request, retriever: RetrieverDep) -> ScrollReply:
    """Items in order of id, a page at a time."""
    wanted = validated(ScrollRequest, parse_json(await request.body() or b"{}"))
    items = await retriever.scroll(collection, wanted.cursor or "", wanted.limit)
    following = items[-1].id if len(items) == wanted.limit else None
    return ScrollReply(items=[item_reply(collection, item) for item in items], next_cursor=following)


@router.get("/{collection}/items/{item_id:path}", response_model=ItemReply, responses=TAGGED)
async def get_item(
    collection: CollectionName, item_id: ItemIdPath, retriever: RetrieverDep, known: Known = None
) -> Response:
    """One item as it stands."""
    item = await retriever.item(collection, item_id)
    return tagged(known, item.version, item_reply(collection, item).model_dump_json())


@router.delete("/{collection}/items/{item_id:path}", responses=FAILED, dependencies=ONCE)
async def delete_item(
    collection: CollectionName, item_id: ItemIdPath, retriever: RetrieverDep, condition: ConditionDep
) -> DeleteReply:
    """Delete an item; no later search finds it."""
    outcome = await retriever.delete(collection, item_id, condition)
    if outcome.status == "not_found":
        raise ItemNotFound(f"collection {collection!r} has no item {item_id!r}")
    return DeleteReply(id=item_id, status="deleted", write_token=write_token(outcome.seq))


@router.get("/{collection}/images/{item_id:path}", response_class=Response, responses=TAGGED)
async def get_image(
    collection: CollectionName,
    item_id: ItemIdPath,
    retriever: RetrieverDep,
    size: Annotated[int | None, Query(ge=16, le=512)] = None,
    known: Known = None,
) -> Response:
    """An item's picture: as it was sent, or a thumbnail of at most ``size`` pixels a side."""
    data, media = await retriever.image(collection, item_id, size)
    headers = {"Cache-Control": "private, max-age=60", "X-Content-Type-Options": "nosniff"}
    return tagged(known, hashlib.sha256(data).hexdigest()[:32], data, media, headers)


@router.post(
    "/{collection}/bulk",
    response_class=StreamingResponse,
    openapi_extra={"requestBody": {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}}},
    responses={
        200: {"content": {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/ItemStatus"}}}}
    },
)
async def bulk(collection: CollectionName, request: Request, retriever: RetrieverDep) -> StreamingResponse:
    """Write lines ``{"op": "upsert" | "delete", "custom_id"?, "item" | "id"}``; replies a status for each.

    Chunks are committed as they arrive; the statuses are sent when the whole body was read, so that a client
    that does not read while it writes cannot block. Repeating a stream is harmless: what is unchanged stays.
    """
    await retriever.collection(collection)
    limits = retriever.limits
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115  closed when sent
    try:
        chunk: list[bytes | bytearray] = []
        async for line in lines(request, 2 * limits.max_image_bytes):
            if line.strip():
                chunk.append(line)
            if len(chunk) == _BULK_CHUNK or sum(map(len, chunk)) > limits.max_image_bytes:
                _spool(spool, await _bulk_chunk(retriever, collection, chunk))
                chunk = []
        _spool(spool, await _bulk_chunk(retriever, collection, chunk))
    except Exception as error:
        if not spool.tell():
            spool.close()
            raise
        _spool(spool, [_failed(None, error, None)])  # what was committed is told all the same
    return StreamingResponse(_sent(spool), media_type="application/x-ndjson")


async def _bulk_chunk(
    retriever: Retriever, collection: str, chunk: Sequence[bytes | bytearray]
) -> list[ItemStatus]:
    """Runs of upserts are written together; a delete between them keeps its place."""
    statuses: list[ItemStatus] = []
    run: list[tuple[Any, str | None]] = []

    async def flush() -> None:
        if run:
            statuses.extend((await _write(retriever, collection, run, {}, "bulk"))[0])
            run.clear()

    for line in chunk:
        try:
            entry = await parsed(BulkLine, line)
        except (InvalidJson, InvalidBody) as error:
            await flush()
            statuses.append(_failed(None, error, None))
            continue
        if entry.op == "upsert":
            run.append((entry.item, entry.custom_id))
            continue
        await flush()
        outcome = await retriever.delete(collection, entry.id or "")
        statuses.append(ItemStatus(id=entry.id, status=outcome.status, custom_id=entry.custom_id))
    await flush()
    return statuses


async def _write(
    retriever: Retriever,
    collection: str,
    wanted: Sequence[tuple[Any, str | None]],
    uploads: Uploads,
    lane: Literal["interactive", "bulk"],
    condition: Condition | None = None,
) -> tuple[list[ItemStatus], int]:
    """Statuses of (item, custom_id) pairs in order, and the newest seq."""
    drafts: list[Draft | Exception] = [_draft(item, uploads, retriever, condition) for item, _ in wanted]
    good = [draft for draft in drafts if isinstance(draft, Draft)]
    written = await retriever.write(collection, good, lane)
    outcomes = iter(written.outcomes)
    statuses = []
    for draft, (item, custom_id) in zip(drafts, wanted, strict=True):
        outcome = next(outcomes) if isinstance(draft, Draft) else draft
        if isinstance(outcome, Outcome):
            statuses.append(ItemStatus(id=outcome.id, status=outcome.status, custom_id=custom_id))
        else:
            item_id = item.get("id") if isinstance(item, dict) else None
            statuses.append(_failed(item_id if isinstance(item_id, str) else None, outcome, custom_id))
    return statuses, written.seq


def _draft(
    value: Any, uploads: Uploads, retriever: Retriever, condition: Condition | None
) -> Draft | Exception:
    try:
        item = validated(ItemRequest, value)
        if isinstance(item.image, ImageRef) and item.image.id is not None:
            raise InvalidBody.of(
                [{"pointer": "/image/id", "detail": "an item's picture cannot be another item"}]
            )
        image = None
        if item.image is not None:
            image = image_bytes(item.image, uploads, retriever.limits.max_image_bytes)
        return Draft(item.id, item.text, image, item.metadata, condition)
    except ValueError as error:
        return error


def _failed(item_id: str | None, error: Exception, custom_id: str | None) -> ItemStatus:
    return ItemStatus(id=item_id, status="failed", problem=problem_of(error), custom_id=custom_id)


def _spool(spool: IO[bytes], statuses: Sequence[BaseModel]) -> None:
    for status in statuses:
        spool.write(status.model_dump_json(exclude_none=True).encode() + b"\n")


async def _sent(spool: IO[bytes]) -> AsyncIterator[bytes]:
    with spool:
        spool.seek(0)
        while data := spool.read(65_536):
            yield data
