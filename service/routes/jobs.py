"""Bulk writes, and the jobs that they become."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.bodies import UnsupportedMediaType, parsed
from service.bulk_vectors import Made
from service.idempotency import KEY_PATTERN, REPLAYED
from service.jobs import Failure, JobDesk, State
from service.parsing import InvalidBody
from service.routes import CollectionName, WithinDep, guarded
from service.schemas import SPACE
from service.schemas_jobs import BulkRequest, JobList, JobReply, LineError, SourceFormat, url_of

_FOUND = '{"id": "sku-9", "duplicate_of": "sku-4", "score": 0.983}\n'
router = guarded("jobs", "/v1")
_PATTERN = "job_[0-9a-f]{24}"
# What may be sent as a file, and how it is read.
_FILES: dict[str, SourceFormat] = {
    "application/vnd.apache.parquet": "parquet",
    "application/x-npy": "npy",
    "application/x-tar": "webdataset",
    "text/uri-list": "url_list",
}
# What lines of JSON are called: there is no registered name. "" is a body that does not say what it is; plain
# text is what scripts of pages send unless they say something else.
_LINES_OF_JSON = (
    *("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"),
    *("application/jsonlines", "text/plain", ""),
)
_LINES = """\
{"op": "upsert", "custom_id": "line-1", "item": {"id": "sku-4", "text": "a striped beach umbrella"}}
{"op": "delete", "custom_id": "line-2", "id": "sku-2"}
"""


async def _desk(request: Request) -> JobDesk:
    return cast(JobDesk, request.app.state.jobs)


DeskDep = Annotated[JobDesk, Depends(_desk)]
JobId = Annotated[
    str, Path(pattern=f"^{_PATTERN}$", description="the job's id", examples=["job_019aac3d1f5e8c0d6f2b7a91"])
]


@router.post(
    "/collections/{collection}/bulk",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}, "example": _LINES},
                "application/json": {"schema": {"$ref": "#/components/schemas/BulkRequest"}},
                **{media: {"schema": {"type": "string", "format": "binary"}} for media in _FILES},
            },
        }
    },
    responses={
        202: {
            "headers": {
                "Location": {"schema": {"type": "string"}, "description": "where the job is looked at"}
            }
        }
    },
)
async def bulk(
    collection: CollectionName,
    request: Request,
    response: Response,
    desk: DeskDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=KEY_PATTERN,
            description="names these lines: sent again they are the same job, done once",
        ),
    ] = None,
    embedding_space: Annotated[
        str | None, Query(max_length=512, description=f"of a file of vectors (application/x-npy): {SPACE}")
    ] = None,
) -> JobReply:
    """Write and delete many items by lines ``{"op": "upsert" | "delete", "custom_id"?, "item" | "id"}``.

    They become a job. All lines are kept on disk before the reply; there may be as many as there is room for.
    They are done in their order, behind whoever waits for an answer, and a bad line fails alone. What is
    committed stays whatever happens, and the job goes on behind it.

    With application/json the lines are made from a file in a folder that the server was told to read from
    (``bulk_source_root``). It is not copied: while the job goes on it must stay as it is, else the job fails
    as a whole. An Idempotency-Key is required. Files of the formats that sources have may be sent themselves
    too: Parquet, a WebDataset, vectors, a list of URLs. Lines may have the other names that are in use
    (application/ndjson, application/jsonl, application/x-jsonlines, text/plain), or none; any other media
    type is refused (415), and so is an empty body (422).
    """
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    caller = getattr(request.state, "key", None)
    if media == "application/json":
        source = (await parsed(BulkRequest, await request.body())).source
        if idempotency_key is None:
            detail = "a job on a source needs one, so that nothing is done twice"
            raise InvalidBody.of([{"pointer": "Idempotency-Key", "detail": detail}])
        made = None
        if source.embedding_space is not None:
            made = Made(source.embedding_space, source.modality or "image")
        job, created = await desk.submit_source(
            collection, source.uri, source.format, caller, idempotency_key, made, source.items_uri
        )
    elif media in _FILES or media in _LINES_OF_JSON:
        body, announced_bytes = _said(request.stream()), int(request.headers.get("content-length") or 0)
        if media in _LINES_OF_JSON:
            job, created = await desk.submit(collection, body, announced_bytes, caller, idempotency_key)
        else:
            format = _FILES[media]
            made = _made(embedding_space) if format == "npy" else None
            job, created = await desk.submit_file(
                collection, body, announced_bytes, format, made, caller, idempotency_key
            )
    else:
        raise UnsupportedMediaType(f"Send lines of JSON as application/x-ndjson, not {media!r}.")
    request.state.target = job.id
    response.headers["Location"] = url_of(job.id)
    if not created:
        response.headers[REPLAYED] = "true"
    return JobReply.of(job)


async def _said(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a body. Raises InvalidBody at the end of one that has nothing in it."""
    empty = True
    async for piece in body:
        empty = empty and not piece
        yield piece
    if empty:
        raise InvalidBody.of([{"pointer": "/", "detail": "the body is empty: there are no lines"}])


def _made(space: str | None) -> Made:
    if space is None:
        detail = "a file of vectors comes with the encoder_id that made them"
        raise InvalidBody.of([{"pointer": "/query/embedding_space", "detail": detail}])
    return Made(space)


@router.get("/jobs")
async def list_jobs(
    desk: DeskDep,
    within: WithinDep,
    state: Annotated[State | None, Query(description="only those in this state")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many, at most")] = 100,
    cursor: Annotated[
        str, Query(pattern=f"^({_PATTERN})?$", description="next_cursor of the page before")
    ] = "",
) -> JobList:
    """Jobs, the newest first. They are kept for a week after their end."""
    found = await desk.page(state, cursor, limit, within)
    following = found[-1].id if len(found) == limit else None
    return JobList(jobs=[JobReply.of(job) for job in found], next_cursor=following)


@router.get("/jobs/{job}")
async def get_job(job: JobId, desk: DeskDep, within: WithinDep) -> JobReply:
    """A job as it stands."""
    return JobReply.of(await desk.job(job, within))


@router.get(
    "/jobs/{job}/errors",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/LineError"}}}}
    },
)
async def get_errors(job: JobId, desk: DeskDep, within: WithinDep) -> StreamingResponse:
    """The lines that failed so far, in their order: a line of JSON for each."""
    await desk.job(job, within)
    return StreamingResponse(_shaped(desk.failures(job)), media_type="application/x-ndjson")


@router.get(
    "/jobs/{job}/results",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}, "example": _FOUND}}}},
)
async def get_results(job: JobId, desk: DeskDep, within: WithinDep) -> StreamingResponse:
    """What a job has found so far, in order: a line of JSON for each. Bulk jobs find nothing."""
    await desk.job(job, within)
    lines = (json.dumps(found, ensure_ascii=False) + "\n" async for found in desk.results(job))
    return StreamingResponse(lines, media_type="application/x-ndjson")


async def _shaped(failures: AsyncIterator[Failure]) -> AsyncIterator[str]:
    async for failure in failures:
        yield LineError.of(failure).model_dump_json(exclude_none=True) + "\n"


@router.post("/jobs/{job}/pause")
async def pause_job(job: JobId, request: Request, desk: DeskDep, within: WithinDep) -> JobReply:
    """Begin no more lines; what is in hand is done first. A paused job stays so until it is resumed."""
    request.state.target = job
    return JobReply.of(await desk.wish(job, "pause", within))


@router.post("/jobs/{job}/resume")
async def resume_job(job: JobId, request: Request, desk: DeskDep, within: WithinDep) -> JobReply:
    """Go on from the checkpoint with a job that is paused, or has failed as a whole."""
    request.state.target = job
    return JobReply.of(await desk.wish(job, "resume", within))


@router.post("/jobs/{job}/cancel")
async def cancel_job(job: JobId, request: Request, desk: DeskDep, within: WithinDep) -> JobReply:
    """End a job where it stands: after the reply nothing more of it is written. What was, stays."""
    request.state.target = job
    return JobReply.of(await desk.wish(job, "cancel", within))
