"""Collections: create, change, list, read, delete."""

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel

from index.catalog import Collection
from service.bodies import parsed
from service.conditional import (
    CHANGED,
    FAILED,
    HAS_TAG,
    TAGGED,
    ConditionDep,
    Known,
    entity_tag,
    tagged,
)
from service.embedder import DimensionsUnsupported, model_name
from service.kinds import (
    ModelNotFound,
)
from service.parsing import parse_json, validated
from service.retriever import Retriever
from service.routes import ONCE, CollectionName, RetrieverDep, body, guarded
from service.schemas_collections import (
    CollectionList,
    CollectionPatch,
    CollectionReply,
    CollectionRequest,
    IndexSettings,
    Limits,
)

router = guarded("collections", "/v1/collections")


@router.put(
    "/{collection}",
    openapi_extra=body(CollectionRequest, required=False),
    responses={201: {"model": CollectionReply, **HAS_TAG}, **CHANGED},
    dependencies=ONCE,
)
async def create_collection(
    collection: CollectionName,
    request: Request,
    response: Response,
    retriever: RetrieverDep,
    condition: ConditionDep,
) -> CollectionReply:
    """Make a collection (201), or set how one that is there is indexed from its next generation on (200)."""
    data = await request.body()
    wanted = validated(CollectionRequest, parse_json(data or b"{}"))
    check_model(wanted.model, retriever)
    check_dimensions(wanted.dimensions, retriever)
    said = wanted.model_dump(include={"index", "fields", "limits"}, exclude_none=True)
    _, created = await retriever.create_collection(collection, condition, **said)
    response.status_code = 201 if created else 200
    found, count = await retriever.collection(collection)
    response.headers["ETag"] = entity_tag(found.version(count))
    return _reply(found, count)


@router.patch("/{collection}", openapi_extra=body(CollectionPatch), responses=CHANGED, dependencies=ONCE)
async def patch_collection(
    collection: CollectionName,
    request: Request,
    response: Response,
    retriever: RetrieverDep,
    condition: ConditionDep,
) -> CollectionReply:
    """Change settings of a collection; its items stay as they are.

    Those of its index hold from its next generation on, which a rebuild makes at once. Without If-Match a
    change goes onto the settings as they stand then, whoever else changes them.
    """
    wanted = await parsed(CollectionPatch, await request.body())
    patch = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    said = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        for name, value in patch.items()
    }
    await retriever.patch_collection(collection, said, condition)
    found, count = await retriever.collection(collection)
    response.headers["ETag"] = entity_tag(found.version(count))
    return _reply(found, count)


@router.get("")
async def list_collections(
    retriever: RetrieverDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many, at most")] = 100,
    cursor: Annotated[str, Query(max_length=64, description="next_cursor of the page before")] = "",
) -> CollectionList:
    """Collections in order of name."""
    found = await retriever.collections(cursor, limit)
    following = found[-1][0].name if len(found) == limit else None
    return CollectionList(collections=[_reply(*entry) for entry in found], next_cursor=following)


@router.get("/{collection}", response_model=CollectionReply, responses=TAGGED)
async def get_collection(
    collection: CollectionName, retriever: RetrieverDep, known: Known = None
) -> Response:
    """One collection as it stands."""
    found, count = await retriever.collection(collection)
    return tagged(known, found.version(count), _reply(found, count).model_dump_json())


@router.delete("/{collection}", status_code=204, responses=FAILED, dependencies=ONCE)
async def delete_collection(
    collection: CollectionName, retriever: RetrieverDep, condition: ConditionDep
) -> None:
    """Remove a collection with all its items."""
    await retriever.delete_collection(collection, condition)


def check_model(name: str | None, retriever: Retriever) -> None:
    """Raise ModelNotFound unless ``name`` is absent or names the encoder that runs."""
    encoder_id = retriever.encoder.id
    if name is not None and name not in (encoder_id, model_name(encoder_id)):
        raise ModelNotFound(f"This server runs {model_name(encoder_id)!r}, not {name!r}.")


def check_dimensions(dimensions: int | None, retriever: Retriever) -> None:
    """Raise DimensionsUnsupported unless ``dimensions`` is absent or the encoder's own."""
    if dimensions is not None and dimensions != retriever.encoder.dim:
        raise DimensionsUnsupported(
            f"This encoder's vectors have {retriever.encoder.dim} dimensions and cannot be shortened."
        )


def _reply(collection: Collection, count: int) -> CollectionReply:
    return CollectionReply(
        name=collection.name,
        model=model_name(collection.encoder_id),
        encoder_id=collection.encoder_id,
        dimensions=collection.dim,
        count=count,
        created_at=collection.created_at,
        index=IndexSettings(**(collection.index or {})),
        schema=dict(collection.fields or {}),
        limits=Limits(**(collection.limits or {})),
    )
