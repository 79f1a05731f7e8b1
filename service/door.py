"""The door: who asks again for what was refused a moment ago is refused again, before it is read."""

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.auth import authorize, route_of
from service.errors import Refusal, reply
from service.http import ON_SIGHT
from service.needs import need_of

log = logging.getLogger(__name__)
_WATCHFUL_S = 1.0  # after a refusal
_KNOWN_S = 1.0  # for which a refusal is remembered: then work may take longer than it did, or less long
_TOLD_EVERY_S = 1.0  # for a line each would cost as much as the refusal itself
_MOST = 256  # callers and what they asked for
_ALIKE = 1.25  # times as long, or as short
_TELLING = (b"authorization", b"x-api-key")  # headers
_MEMBERS = re.compile(rb'"(\w+)"\s*:')  # of JSON objects, and perhaps what looks like it in a text

Asked = tuple[bytes | str | int | tuple[bytes, ...] | None, ...]  # what, where, and by whom


@dataclass(frozen=True)
class _Refused:
    refusal: Refusal
    route: Any
    path_params: dict[str, Any]
    size: int  # of its body
    until: float

    def applies(self, size: int) -> bool:
        """To a request with a body of this size, now."""
        alike = self.size / _ALIKE <= size <= self.size * _ALIKE
        return alike and time.monotonic() < self.until


class Door:
    """ASGI middleware. To read a request and refuse it costs three times as much as a look at it, and when
    far more come than can be served the encoder lacks that time.

    A refusal stands while the queue has no room for what was refused. It is remembered for a moment, of
    requests that read, and applies to those of the same caller, to the same path, with as many strings in the
    same members, and about as long. Keys, quotas and metrics are as for others; log lines tell of all of a
    second.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refused: dict[Asked, _Refused] = {}
        self._watchful_until = 0.0
        self._untold = 0

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
        headers = dict(scope["headers"])
        if not headers.get(b"content-type", b"application/json").startswith(b"application/json"):
            await self._app(scope, receive, send)
            return
        first: list[Message | Exception] = []
        try:
            first.append(await receive())
        except Exception as error:  # of a body that does not come: who is meant to read it is told
            first.append(error)
        body = _whole(first[0])
        strings = body.count(b'"'), tuple(_MEMBERS.findall(body))
        asked = scope["path"], scope["query_string"], *strings, *map(headers.get, _TELLING)
        known = self._refused.get(asked)
        # Once there is room and somebody has taken it, there may be none again for the next.
        if known is not None and known.applies(len(body)) and known.refusal.stands():
            scope.update(route=known.route, path_params=dict(known.path_params))
            if await self._refuse(scope, receive, send, known.refusal):
                return

        async def receiving() -> Message:
            message = first.pop() if first else await receive()
            if isinstance(message, Exception):
                raise message
            return message

        await self._app(scope, receiving, send)
        if (refusal := scope["state"].get("refusal")) is not None:
            self._watchful_until = time.monotonic() + _WATCHFUL_S
            need = need_of(route_of(scope) or "")
            if body and need is not None and need.scope == "read":
                if len(self._refused) >= _MOST:
                    self._refused.clear()
                until = time.monotonic() + _KNOWN_S
                self._refused[asked] = _Refused(
                    refusal, scope["route"], scope["path_params"], len(body), until
                )

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> bool:
        """Whether it was; who may not even ask is left to the route."""
        request = Request(scope)
        try:
            noting_use: BackgroundTask | None = await authorize(request)
        except Exception:
            return False
        scope["state"][ON_SIGHT] = True
        if not self._untold:
            asyncio.get_running_loop().call_later(_TOLD_EVERY_S, self._tell)
        self._untold += 1
        response = reply(request, refusal.problem)
        response.background = noting_use
        await response(scope, receive, send)
        return True

    def _tell(self) -> None:
        log.info("requests refused on sight in the last second: %d", self._untold)
        self._untold = 0


def _whole(message: Message | Exception) -> bytes:
    """A body that has come in one piece."""
    if isinstance(message, Exception) or message.get("more_body", False):
        return b""
    body: bytes = message.get("body", b"")
    return body
