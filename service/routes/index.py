"""The index of a collection: how it is, and what may be asked of it."""

from typing import Annotated, cast

from fastapi import Depends, Request, Response

from service.index_desk import IndexDesk, Job
from service.parsing import parse_json, validated
from service.routes import ACCEPTED, ONCE, CollectionName, body, filter_of, guarded
from service.schemas_index import (
    AuditReply,
    DuplicatesRequest,
    IndexReply,
    RebuildRequest,
    ReembedRequest,
    RollbackRequest,
)
from service.schemas_jobs import JobReply, url_of

router = guarded("index", "/v1/collections")


async def _desk(request: Request) -> IndexDesk:
    return cast(IndexDesk, request.app.state.index)


DeskDep = Annotated[IndexDesk, Depends(_desk)]


@router.get("/{collection}/index")
async def get_index(collection: CollectionName, desk: DeskDep) -> IndexReply:
    """An index as it stands: what serves, how far behind it is, how well it finds, and what the gate said."""
    return IndexReply.of(await desk.state(collection))


@router.get("/{collection}/index/audit")
async def audit_index(collection: CollectionName, desk: DeskDep) -> AuditReply:
    """Prove that what can be found is what was written. It reads everything, which takes a while."""
    return AuditReply.of(await desk.audit(collection))


@router.post(
    "/{collection}/index/rebuild",
    status_code=202,
    openapi_extra=body(RebuildRequest, required=False),
    responses=ACCEPTED,
    dependencies=ONCE,
)
async def rebuild_index(
    collection: CollectionName, request: Request, response: Response, desk: DeskDep
) -> JobReply:
    """Have the worker build a newer generation now; if the gate refuses it, the job fails and says why.

    It ends the hold of a rollback.
    """
    wanted = validated(RebuildRequest, parse_json(await request.body() or b"{}"))
    return _accepted(request, response, await desk.submit(collection, "rebuild", wanted.model_dump()))


@router.post("/{collection}/index/evaluate", status_code=202, responses=ACCEPTED, dependencies=ONCE)
async def evaluate_index(
    collection: CollectionName, request: Request, response: Response, desk: DeskDep
) -> JobReply:
    """Have the worker measure recall@10 of what serves, for queries that are texts and pictures, against
    every vector in the catalog."""
    return _accepted(request, response, await desk.submit(collection, "evaluate", {}))


@router.post(
    "/{collection}/index/rollback",
    openapi_extra=body(RollbackRequest, required=False),
    dependencies=ONCE,
)
async def roll_back_index(collection: CollectionName, request: Request, desk: DeskDep) -> IndexReply:
    """Let an older generation serve at once, and hold it: no rebuild replaces it until one is asked for.

    Nothing is lost: what was written since is searched beside it.
    """
    wanted = validated(RollbackRequest, parse_json(await request.body() or b"{}"))
    return IndexReply.of(await desk.roll_back(collection, wanted.generation))


@router.post(
    "/{collection}/reembed",
    status_code=202,
    openapi_extra=body(ReembedRequest, required=False),
    responses=ACCEPTED,
    dependencies=ONCE,
)
async def reembed_collection(
    collection: CollectionName, request: Request, response: Response, desk: DeskDep
) -> JobReply:
    """Embed every item by the encoder that runs, beside what serves, and let the collection be of it then.

    What was written stays as it is; who runs the encoder before can search and write until the collection
    moves. If items cannot be embedded, it does not move, and the job fails and tells them.
    """
    wanted = validated(ReembedRequest, parse_json(await request.body() or b"{}"))
    job = await desk.reembed(collection, drop_unreadable=wanted.drop_unreadable)
    return _accepted(request, response, job)


@router.post(
    "/{collection}/duplicates",
    status_code=202,
    openapi_extra=body(DuplicatesRequest, required=False),
    responses=ACCEPTED,
    dependencies=ONCE,
)
async def find_duplicates(
    collection: CollectionName, request: Request, response: Response, desk: DeskDep
) -> JobReply:
    """Have the worker find items that are nearly the same as an older one.

    Each result is ``{"id", "duplicate_of", "score"}``; deleting all these ids leaves one of each kind.
    """
    wanted = validated(DuplicatesRequest, parse_json(await request.body() or b"{}"))
    if wanted.filter is not None:
        filter_of(wanted.filter)
    return _accepted(request, response, await desk.submit(collection, "duplicates", wanted.model_dump()))


def _accepted(request: Request, response: Response, job: Job) -> JobReply:
    request.state.target = job.id
    response.headers["Location"] = url_of(job.id)
    return JobReply.of(job)
