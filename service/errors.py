"""Every refusal as RFC 9457 problem details."""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from index.catalog import (
    StorageFull,
    StorageUnavailable,
)
from index.engines.cluster import ClusterUnavailable
from index.keys import without_secrets
from index.replies import AlreadyAnswered, NotAnsweredYet
from service.admission import Overloaded
from service.batcher import EncoderBroken
from service.blame import Blamed
from service.idempotency import repeated
from service.images import (
    DiskFull,
    DiskUnavailable,
)
from service.intake import ShuttingDown, TooManyBodies
from service.kinds import INTERNAL, TABLE, Kind, http_kind, kind_of
from service.needs import (
    methods_at,
)
from service.parsing import InvalidBody
from service.quota import RateLimited
from service.schemas import Problem
from service.spool import SpoolFull
from service.tokens import WriteNotCovered

log = logging.getLogger(__name__)


_RETRY_AFTER_S = {
    NotAnsweredYet: 1,
    EncoderBroken: 5,
    TooManyBodies: 1,
    ShuttingDown: 5,
    WriteNotCovered: 1,
    StorageUnavailable: 5,
    StorageFull: 30,
    DiskFull: 30,
    DiskUnavailable: 5,
    ClusterUnavailable: 5,
    SpoolFull: 30,
}
# Codes of problems that say when to try again.
RETRIED = {TABLE[cls].code for cls in (Overloaded, RateLimited, *_RETRY_AFTER_S)}
_OPENAI_PATHS = ("/v1/embeddings", "/v1/models")
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_OTHERS = ("invalid_request_error", "server_error")
_CHALLENGES = {
    "key_missing": 'Bearer realm="momoseek"',
    "key_invalid": 'Bearer realm="momoseek", error="invalid_token"',
    "token_invalid": 'Bearer realm="momoseek", error="invalid_token"',
}


class Refusal(NamedTuple):
    """What was said to who was refused for want of room, and whether there is none still."""

    problem: Problem
    stands: Callable[[], bool]


def problem_of(error: Exception) -> Problem:
    """An exception as problem details; one that is Blamed points at the member of the body.

    What is not in the table is logged and says nothing of the inside.
    """
    error, pointer = (error.error, error.pointer) if isinstance(error, Blamed) else (error, None)
    kind = kind_of(error)
    if kind is INTERNAL:
        log.error("unexpected failure", exc_info=error)
        return _problem(kind, "An unexpected failure; the server's log has the details.")
    members: dict[str, Any] = {"retry_after_seconds": retry_after_s(error)}
    if isinstance(error, InvalidBody):
        members["errors"] = error.errors or None
        members["param"] = error.param
    # No member is to blame for a server that has no time or no room.
    if pointer is not None and kind.status < 500 and kind.status != HTTPStatus.TOO_MANY_REQUESTS:
        members["errors"] = [{"pointer": pointer, "detail": str(error)}]
        members["param"] = pointer
    return _problem(kind, str(error), **members)


def retry_after_s(error: Exception) -> int | None:
    """When to try again, where that may help."""
    if isinstance(error, Overloaded | RateLimited):
        return error.retry_after_s
    return next((seconds for cls, seconds in _RETRY_AFTER_S.items() if isinstance(error, cls)), None)


def install(app: FastAPI) -> None:
    """Make every failure of an application a problem reply."""
    for cls in TABLE:
        app.add_exception_handler(cls, _on_known)
    app.add_exception_handler(Blamed, _on_known)
    app.add_exception_handler(AlreadyAnswered, _on_answered)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)


async def _on_known(request: Request, error: Exception) -> JSONResponse:
    problem = problem_of(error)
    error = error.error if isinstance(error, Blamed) else error
    if isinstance(error, Overloaded):  # not itself: it would keep alive all that its frames hold
        request.state.refusal = Refusal(problem, error.stands)
    return reply(request, problem)


async def _on_answered(request: Request, error: Exception) -> Response:
    assert isinstance(error, AlreadyAnswered)
    return repeated(error)


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    route = request.scope.get("route")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and route is not None:
        headers["Allow"] = ", ".join(methods_at(route.path_format))
    problem = _problem(http_kind(HTTPStatus(error.status_code)), str(error.detail))
    return reply(request, problem, headers)


async def _on_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    findings = [
        {"pointer": "/" + "/".join(str(part) for part in entry["loc"]), "detail": str(entry["msg"])}
        for entry in error.errors()
    ]
    return reply(request, problem_of(InvalidBody.of(findings)))


def reply(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem as an HTTP reply to this request."""
    request_id = getattr(request.state, "request_id", None)
    request.state.problem_code = problem.code  # for the audit log and the metrics
    path = request.scope["path"]
    body = problem.model_dump(exclude_none=True)
    body["instance"] = without_secrets(path)
    if request_id is not None:
        body["request_id"] = request_id
    if path.startswith(_OPENAI_PATHS):
        body["error"] = {
            "message": problem.detail,
            "type": _OPENAI_TYPES.get(problem.status, _OPENAI_OTHERS[problem.status >= 500]),
            "param": problem.param,
            "code": problem.code,
        }
    sent = dict(headers or {})
    if problem.retry_after_seconds is not None:
        sent["Retry-After"] = str(problem.retry_after_seconds)
    if problem.code in _CHALLENGES:
        sent["WWW-Authenticate"] = _CHALLENGES[problem.code]
    return JSONResponse(body, problem.status, sent, "application/problem+json")


def _problem(kind: Kind, detail: str, **members: Any) -> Problem:
    return Problem(
        type=f"/problems/{kind.code}",
        title=kind.title,
        status=kind.status,
        code=kind.code,
        detail=without_secrets(detail),
        **members,
    )
