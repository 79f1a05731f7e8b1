"""Snapshots of collections: archives that are made, listed, restored and deleted one by one."""

from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request, Response

from service.auth import allowed_collection
from service.parsing import parse_json, validated
from service.routes import ACCEPTED, ONCE, CollectionName, body, guarded
from service.schemas_jobs import JobReply, url_of
from service.schemas_snapshots import (
    SNAPSHOT_PATTERN,
    RestoreRequest,
    SnapshotList,
    SnapshotReply,
    SnapshotRequest,
)
from service.snapshot_desk import SnapshotDesk

router = guarded("snapshots", "/v1/collections")


async def _desk(request: Request) -> SnapshotDesk:
    return cast(SnapshotDesk, request.app.state.snapshots)


DeskDep = Annotated[SnapshotDesk, Depends(_desk)]
SnapshotName = Annotated[
    str,
    Path(pattern=SNAPSHOT_PATTERN, description="the snapshot's name", examples=["before-the-sale"]),
]


@router.post(
    "/{collection}/snapshots",
    status_code=202,
    openapi_extra=body(SnapshotRequest, required=False),
    responses=ACCEPTED,
    dependencies=ONCE,
)
async def create_snapshot(
    collection: CollectionName, request: Request, response: Response, desk: DeskDep
) -> JobReply:
    """Have the worker archive a collection as it stands at one moment: settings, items, vectors, pictures and
    index. Writes go on meanwhile. All of the archive is read back before it gets its name.

    The job's result is ``{"snapshot", "items", "pictures", "size_bytes"}``. Archives stay until they are
    deleted, also when the collection is. An archive on the same disk does not help if that is lost: copy it.
    """
    wanted = validated(SnapshotRequest, parse_json(await request.body() or b"{}"))
    job, name = await desk.create(collection, wanted.name)
    request.state.target = name
    response.headers["Location"] = url_of(job.id)
    return JobReply.of(job)


@router.get("/{collection}/snapshots")
async def list_snapshots(collection: CollectionName, desk: DeskDep) -> SnapshotList:
    """All archives of a collection, with their sizes; also of one that was deleted."""
    return SnapshotList.of(collection, await desk.entries(collection))


@router.get("/{collection}/snapshots/{snapshot}")
async def get_snapshot(
    collection: CollectionName,
    snapshot: SnapshotName,
    request: Request,
    desk: DeskDep,
    verify: Annotated[bool, Query(description="read all of it, which takes a while")] = False,
) -> SnapshotReply:
    """What an archive holds, and whether it can be restored. It is there when its job has succeeded."""
    request.state.target = snapshot
    return SnapshotReply.of(collection, await desk.entry(collection, snapshot, verify))


@router.delete("/{collection}/snapshots/{snapshot}", status_code=204, dependencies=ONCE)
async def delete_snapshot(
    collection: CollectionName, snapshot: SnapshotName, request: Request, desk: DeskDep
) -> None:
    """Delete an archive."""
    request.state.target = snapshot
    await desk.delete(collection, snapshot)


@router.post(
    "/{collection}/snapshots/{snapshot}/restore",
    status_code=202,
    openapi_extra=body(RestoreRequest, required=False),
    responses=ACCEPTED,
    dependencies=ONCE,
)
async def restore_snapshot(
    collection: CollectionName, snapshot: SnapshotName, request: Request, response: Response, desk: DeskDep
) -> JobReply:
    """Have the worker make a collection what an archive holds. Nothing is merged: what was written since is
    gone, in one transaction, and until then what was there is searched. Aliases stay.

    With ``as`` the collection is made under another name, beside what serves: the safer way, and an alias can
    move to it. All of the archive is checked meanwhile; if anything is wrong, the job fails and all stays as
    it was. The job's result is ``{"collection", "items", "write_token"}``.
    """
    wanted = validated(RestoreRequest, parse_json(await request.body() or b"{}"))
    target = None if wanted.as_ is None else await allowed_collection(request, wanted.as_)
    job = await desk.restore(collection, snapshot, target)
    request.state.target = snapshot
    response.headers["Location"] = url_of(job.id)
    return JobReply.of(job)
