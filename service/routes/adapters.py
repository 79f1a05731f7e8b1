"""Adapters: learned from a collection's own pairs, judged, tried on some searches, promoted, rolled back."""

from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request, Response

from service.adapter_desk import AdapterDesk, CollectionNotFound, EncoderMismatch
from service.auth import CollectionForbidden, allowed_collection
from service.blame import blaming
from service.bodies import parsed
from service.routes import ACCEPTED, ONCE, WithinDep, body, guarded
from service.schemas import COLLECTION_PATTERN
from service.schemas_adapters import (
    ADAPTER_PATTERN,
    AdapterList,
    AdapterReply,
    AdapterRequest,
    TrafficRequest,
)
from service.schemas_jobs import JobReply, url_of

router = guarded("adapters", "/v1/adapters")


async def _desk(request: Request) -> AdapterDesk:
    return cast(AdapterDesk, request.app.state.adapters)


DeskDep = Annotated[AdapterDesk, Depends(_desk)]
AdapterId = Annotated[
    str,
    Path(
        pattern=f"^{ADAPTER_PATTERN}$",
        description="the adapter's id",
        examples=["ada_019aac3d1f5e8c0d6f2b7a91"],
    ),
]


@router.post("", status_code=202, openapi_extra=body(AdapterRequest), responses=ACCEPTED, dependencies=ONCE)
async def create_adapter(request: Request, response: Response, desk: DeskDep) -> JobReply:
    """Learn an adapter: what brings the rows of queries nearer to the items that answer them.

    Items keep their rows, so that nothing is embedded again and no index is built. A part of the pairs is
    held out and decides whether the adapter may serve. The job's result names the adapter and tells what was
    measured; it serves nothing until it is promoted or given a share of the searches.
    """
    wanted = await parsed(AdapterRequest, await request.body())
    pairs = [[pair.query, pair.item] for pair in wanted.pairs]
    golden = [[pair.query, pair.item] for pair in wanted.golden]
    asked = {"name": wanted.name, "pairs": pairs, "golden": golden}
    with blaming("/collection", CollectionForbidden, CollectionNotFound, EncoderMismatch):
        collection = await allowed_collection(request, wanted.collection)
        job = await desk.submit(collection, asked)
    request.state.target = job.id
    response.headers["Location"] = url_of(job.id)
    return JobReply.of(job)


@router.get("")
async def list_adapters(
    request: Request,
    desk: DeskDep,
    within: WithinDep,
    collection: Annotated[
        str | None, Query(pattern=COLLECTION_PATTERN, description="only those of this collection")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many, at most")] = 100,
    cursor: Annotated[
        str, Query(pattern=f"^({ADAPTER_PATTERN})?$", description="next_cursor of the page before")
    ] = "",
) -> AdapterList:
    """Adapters, the newest first, with what the gate said of each."""
    if collection is not None:
        collection = await allowed_collection(request, collection)
    found = await desk.page(collection, cursor, limit, within)
    following = found[-1].id if len(found) == limit else None
    return AdapterList(adapters=[AdapterReply.of(adapter) for adapter in found], next_cursor=following)


@router.get("/{adapter}")
async def get_adapter(adapter: AdapterId, desk: DeskDep, within: WithinDep) -> AdapterReply:
    """An adapter as it stands."""
    return AdapterReply.of(await desk.adapter(adapter, within))


@router.delete("/{adapter}", status_code=204, dependencies=ONCE)
async def delete_adapter(adapter: AdapterId, request: Request, desk: DeskDep, within: WithinDep) -> None:
    """Forget an adapter that serves nothing."""
    request.state.target = adapter
    await desk.delete(adapter, within)


@router.post("/{adapter}/promote", dependencies=ONCE)
async def promote_adapter(
    adapter: AdapterId, request: Request, desk: DeskDep, within: WithinDep
) -> AdapterReply:
    """Let it answer the searches of its collection, in place of the one before, which is kept for a rollback.

    One that the gate has refused is not promoted.
    """
    request.state.target = adapter
    return AdapterReply.of(await desk.promote(adapter, within))


@router.post("/{adapter}/rollback", dependencies=ONCE)
async def roll_back_adapter(
    adapter: AdapterId, request: Request, desk: DeskDep, within: WithinDep
) -> AdapterReply:
    """Take it out of service at once. If it was promoted, the one before it answers again, or the encoder
    alone."""
    request.state.target = adapter
    return AdapterReply.of(await desk.roll_back(adapter, within))


@router.put("/{adapter}/traffic", openapi_extra=body(TrafficRequest), dependencies=ONCE)
async def set_adapter_traffic(
    adapter: AdapterId, request: Request, desk: DeskDep, within: WithinDep
) -> AdapterReply:
    """Try it on a share of the searches. The same words are always on the same side; replies say which
    adapter answered."""
    wanted = await parsed(TrafficRequest, await request.body())
    request.state.target = adapter
    return AdapterReply.of(await desk.set_share(adapter, wanted.share, within))
