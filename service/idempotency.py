"""Requests that come again: the first reply to an Idempotency-Key is kept, and given to all that repeat it.

Only what succeeded is kept. A refusal changed nothing, so a repeat of it is tried afresh.
"""

import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Header, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index.records import CatalogError
from index.replies import AlreadyAnswered, Replies, Reply
from service.auth import route_of

log = logging.getLogger(__name__)
KEY_PATTERN = r"^[!-~]+$"
REPLAYED = "Idempotent-Replayed"
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


@dataclass(frozen=True)
class _Begun:
    """A request that goes ahead under its Idempotency-Key."""

    replies: Replies
    ticket: str
    secret: bool

    async def end(self, messages: Sequence[Message]) -> None:
        """Keep the reply that these messages are, if it is one of success. Its request is done either way."""
        status: int = messages[0]["status"] if messages else 500
        try:
            if status >= 400:
                await asyncio.to_thread(self.replies.forget, self.ticket)
                return
            headers = [
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in messages[0]["headers"]
            ]
            content = b"".join(message.get("body", b"") for message in messages[1:])
            reply = Reply(status, headers, None if self.secret else content)
            await asyncio.to_thread(self.replies.keep, self.ticket, reply)
        except CatalogError as error:
            log.warning("the reply to a request with an Idempotency-Key could not be kept: %s", error)


class Once:
    """A dependency of routes that write: a request with a key that was answered before goes no further.

    ``secret``: the reply holds one, so that only the fact is kept and a repeat is refused. Raises what
    Replies.begin raises.
    """

    def __init__(self, *, secret: bool = False) -> None:
        self._secret = secret

    async def __call__(
        self,
        request: Request,
        idempotency_key: Annotated[
            str | None,
            Header(
                alias="Idempotency-Key",
                min_length=1,
                max_length=255,
                pattern=KEY_PATTERN,
                description="names this write: sent again within a day it gets the same reply, done once",
            ),
        ] = None,
    ) -> None:
        if idempotency_key is None:
            return
        replies: Replies = request.app.state.replies
        caller = getattr(request.state, "key", None)
        key = _sha256(json.dumps([caller, route_of(request.scope), idempotency_key]).encode())
        wanted = await _fingerprint(request)
        ticket = await asyncio.to_thread(replies.begin, key, wanted, time.time())
        request.state.begun = _Begun(replies, ticket, self._secret)


class Repeats:
    """ASGI middleware: what Once let through is kept before the client hears of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not any(name == b"idempotency-key" for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        messages: list[Message] = []

        async def sending(message: Message) -> None:
            if "begun" not in state:
                await send(message)
                return
            messages.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await state.pop("begun").end(messages)
                for held in messages:
                    await send(held)

        try:
            await self._app(scope, receive, sending)
        finally:
            if "begun" in state:  # it failed in a way that no handler knew, or was cancelled
                await state.pop("begun").end(())


def repeated(error: AlreadyAnswered) -> Response:
    """The reply that was kept."""
    reply = error.reply
    response = Response(reply.content, reply.status)
    response.raw_headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers
    ]
    response.headers[REPLAYED] = "true"
    return response


async def _fingerprint(request: Request) -> str:
    """A hash of what is asked for. Clients make up a new multipart boundary each time: it does not count."""
    media, body = request.headers.get("content-type", ""), await request.body()
    if (boundary := _BOUNDARY.search(media)) is not None:
        media = media.replace(boundary[1], "")
        body = body.replace(boundary[1].encode("latin-1"), b"")
    conditions = [request.headers.getlist(name) for name in ("if-match", "if-none-match")]
    asked = json.dumps([request.url.path, request.url.query, media, *conditions])
    return _sha256(asked.encode() + b"\n" + body)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
