"""The REST routes: each parses, calls and shapes."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, cast
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Request

from index.catalog import Item
from index.filters import Filter, parse
from service.auth import Guarded
from service.blame import blaming
from service.idempotency import Once
from service.retriever import Retriever
from service.schemas import (
    COLLECTION_PATTERN,
)
from service.schemas_items import ImageReply, ItemReply, PartReply

CollectionName = Annotated[
    str, Path(pattern=COLLECTION_PATTERN, description="the collection's name", examples=["shop"])
]
ItemIdPath = Annotated[
    str, Path(min_length=1, max_length=512, description="the item's id", examples=["sku-77"])
]


def retriever_of(request: Request) -> Retriever:
    """The retriever of the application. What is asked most calls this: a dependency takes longer."""
    return cast(Retriever, request.app.state.retriever)


async def _retriever(request: Request) -> Retriever:  # async: a plain one would cost a thread hop
    return retriever_of(request)


RetrieverDep = Annotated[Retriever, Depends(_retriever)]


async def _within(request: Request) -> tuple[str, ...] | None:
    """The collections that the caller's key is limited to."""
    return getattr(request.state, "within", None)


WithinDep = Annotated[tuple[str, ...] | None, Depends(_within)]


def filter_of(tree: Any) -> Filter:
    """What the body's ``filter`` says. Raises InvalidFilter, blamed on it."""
    with blaming("/filter"):
        return parse(tree)


# Of routes that write: a request that comes again under its Idempotency-Key is done once.
ONCE = [Depends(Once())]

# Of routes whose work is a job.
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "headers": {"Location": {"schema": {"type": "string"}, "description": "where the job is looked at"}}
    }
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, description in {
        400: "bad syntax",
        404: "no such thing",
        409: "another encoder, or the same Idempotency-Key at work; see Retry-After",
        413: "too large",
        415: "media type not supported",
        422: "valid JSON, unusable value",
        429: "the queue is full; see Retry-After",
        503: "not ready; see Retry-After",
        507: "the disk is full; see Retry-After",
    }.items()
}


def guarded(tag: str, prefix: str = "") -> APIRouter:
    """A router behind the gate, whose refusals are problems."""
    return APIRouter(route_class=Guarded, prefix=prefix, tags=[tag], responses=PROBLEMS)


def body(model: type[Any], *, form: bool = False, required: bool = True) -> dict[str, Any]:
    """The OpenAPI request body of a route that reads its body itself."""
    schema = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    content: dict[str, Any] = {"application/json": schema}
    if form:
        content["multipart/form-data"] = {
            "schema": {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}
        }
    return {"requestBody": {"required": required, "content": content}}


def image_url(collection: str, item_id: str, part: int | None = None) -> str:
    """Where an item's picture is served, or that of one part of its content."""
    of_part = "" if part is None else f"?part={part}"
    return f"/v1/collections/{collection}/images/{quote(item_id, safe='')}{of_part}"


def item_reply(collection: str, item: Item) -> ItemReply:
    """An item as clients see it."""
    return ItemReply(**item_members(collection, item))


def item_members(collection: str, item: Item, fields: Collection[str] | None = None) -> dict[str, Any]:
    """The members of an item as clients see it, with these members of its metadata; None: all."""
    image = None
    if item.image is not None:
        image = ImageReply(
            url=image_url(collection, item.id), type=item.image_type or "application/octet-stream"
        )
    content = None
    if item.parts is not None:
        content = [_part(collection, item.id, place, part) for place, part in enumerate(item.parts)]
    return {
        "id": item.id,
        "modality": item.modality,
        "text": item.text,
        "image": image,
        "content": content,
        "version": item.version,
        "metadata": item.metadata
        if fields is None
        else {key: value for key, value in item.metadata.items() if key in fields},
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }


def _part(collection: str, item_id: str, place: int, part: Mapping[str, str]) -> PartReply:
    if "text" in part:
        return PartReply(type="text", text=part["text"])
    image = ImageReply(url=image_url(collection, item_id, place), type=part["type"])
    return PartReply(type="image", image=image)
