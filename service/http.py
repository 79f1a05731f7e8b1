"""Around every request: the bounds of its body, its metrics and one log line."""

import asyncio
import logging
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import timing
from service.auth import (
    route_of,
)
from service.errors import problem_of, reply
from service.intake import Intake
from service.metrics import Metrics
from service.needs import (
    need_of,
)

log = logging.getLogger("service.access")
_STREAMED = re.compile(r"/v1/collections/[^/]+/bulk")  # a stream of lines, each with its own limit
_LEFT = 499  # of a request whose client has gone: as nginx logs it; nobody sees it
_METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS")
ON_SIGHT = "refused_on_sight"  # in the state of a request that nobody read
QUIET = ("/livez", "/readyz", "/startupz", "/healthz", "/metrics")


class Frame:
    """ASGI middleware: bodies, metrics, access log. Reading ends when its client leaves; writing does not."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, intake: Intake) -> None:
        self._app = app
        self._metrics = metrics
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["method"] == "HEAD":  # answered as GET; the server knows that it must not send the body
            scope = {**scope, "method": "GET"}
        is_json = headers.get(b"content-type", b"").startswith(b"application/json")
        streamed = _STREAMED.fullmatch(scope["path"]) is not None and not is_json
        announced_bytes = int(headers.get(b"content-length", b"0") or 0)
        status, gone = 0, False
        spans: timing.Spans = {}
        started = time.perf_counter()
        task = asyncio.current_task()
        self._metrics.in_flight.inc()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = scope["state"]["status"] = message["status"]
                more = scope["state"].get("headers", [])  # such as those of the rate limit
                took = [(b"server-timing", timing.server_timing(spans).encode())] if spans else []
                message["headers"] = [*message["headers"], *more, *took]
            await send(message)

        def left() -> None:
            nonlocal gone
            route = route_of(scope)
            need = None if route is None else need_of(route)
            if not status and task is not None and need is not None and need.scope == "read":
                gone = True
                task.cancel()

        try:
            with timing.measuring() as spans:
                async with self._intake.receiving(
                    receive, announced_bytes, streamed=streamed, left=left
                ) as receiving:
                    await self._app(scope, receiving, sending)
        except asyncio.CancelledError:
            if not gone or task is None or task.uncancel():
                raise
            status = _LEFT
            self._metrics.cancelled.inc()
        except Exception as error:  # what no handler knew
            if status:  # too late for another reply
                raise
            await reply(Request(scope), problem_of(error))(scope, receive, sending)
        finally:
            self._metrics.in_flight.dec()
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        known = route != "unmatched" and scope["method"] in _METHODS  # a client may invent methods
        method = scope["method"] if known else "any"
        self._metrics.observe_request(route, method, status, seconds)
        if status in (413, 429, 503, 507):
            refused = scope["state"].get("problem_code", "queue_full")
            reason = {413: "too_large", 429: refused, 503: "unavailable", 507: "storage_full"}[status]
            self._metrics.rejected.labels(reason).inc()
        if ON_SIGHT in scope["state"]:
            return
        level = logging.DEBUG if route in QUIET else logging.INFO
        fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
        log.log(level, "%s %s %d %.1f ms", *fields.values(), extra={"fields": fields})


def describe(document: dict[str, Any]) -> None:
    """Add to an OpenAPI document the headers of any reply: how long it took, and what is left."""
    text = {"type": "string"}
    told = {
        "Server-Timing": "milliseconds of the stages that there were, such as queue, decode, encode, search",
        "RateLimit": "what is left of the key's limit, if it has one",
        "RateLimit-Policy": "the key's limit, if it has one",
    }
    components = document.setdefault("components", {}).setdefault("headers", {})
    components |= {name: {"description": what, "schema": text} for name, what in told.items()}
    for operations in document["paths"].values():
        for operation in operations.values():
            names = told if "security" in operation else ()
            for answer in operation["responses"].values():
                answer.setdefault("headers", {}).update(
                    {name: {"$ref": f"#/components/headers/{name}"} for name in names}
                )
