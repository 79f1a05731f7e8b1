"""The door: who asks again for what was refused a moment ago is refused again, before it is read."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission import Overloaded
from service.auth import route_of
from service.errors import problem_of, reply
from service.http import ON_SIGHT
from service.needs import need_of
from service.schemas import Problem

log = logging.getLogger(__name__)
_WATCHFUL_S = 1.0  # after a refusal
_TOLD_EVERY_S = 1.0  # for a line each would cost as much as the refusal itself
_MOST = 256  # callers and what they asked for
_ALIKE = 1.25  # times as long, or as short
_TELLING = (b"authorization", b"x-api-key", b"content-type")  # headers

Asked = tuple[bytes | str | int | None, ...]  # where, with how many strings, and by whom


@dataclass(frozen=True)
class _Refused:
    error: Overloaded
    problem: Problem
    route: Any
    size: int  # of its body


class Door:
    """ASGI middleware. To read a request and refuse it costs three times as much as a look at it, and when
    far more come than can be served the encoder lacks that time.

    A refusal stands until the queue has room for what was refused. It is remembered of requests that read,
    and applies to those of the same key, to the same path, with as many strings and about as long. They are
    counted like others, but have no log line each.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refused: dict[Asked, _Refused] = {}
        self._watchful_until = 0.0
        self._untold, self._told_at = 0, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif time.monotonic() < self._watchful_until:
            await self._look(scope, receive, send)
        else:
            await self._app(scope, receive, send)
            if "refusal" in scope["state"]:
                self._watchful_until = time.monotonic() + _WATCHFUL_S

    async def _look(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = b"" if message.get("more_body", False) else message.get("body", b"")
        asked = _asked(scope, body)
        if (known := self._refused.get(asked)) is not None:
            if not known.error.stands():
                del self._refused[asked]
            elif known.size / _ALIKE <= len(body) <= known.size * _ALIKE:
                scope["route"] = known.route
                scope["state"][ON_SIGHT] = True
                self._tell()
                await reply(Request(scope), known.problem)(scope, receive, send)
                return
        first: list[Message] = [message]

        async def receiving() -> Message:
            return first.pop() if first else await receive()

        await self._app(scope, receiving, send)
        if (refusal := scope["state"].get("refusal")) is not None:
            self._watchful_until = time.monotonic() + _WATCHFUL_S
            need = need_of(route_of(scope) or "")
            if body and need is not None and need.scope == "read":
                if len(self._refused) >= _MOST:
                    self._refused.clear()
                self._refused[asked] = _Refused(refusal, problem_of(refusal), scope["route"], len(body))

    def _tell(self) -> None:
        self._untold += 1
        if (now := time.monotonic()) - self._told_at >= _TOLD_EVERY_S:
            log.info("requests refused on sight since the last such line: %d", self._untold)
            self._untold, self._told_at = 0, now


def _asked(scope: Scope, body: bytes) -> Asked:
    headers = dict(scope["headers"])
    return scope["path"], scope["query_string"], body.count(b'"'), *map(headers.get, _TELLING)
