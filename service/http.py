"""Around every request: its size limit, its metrics and one log line."""

import logging
import re
import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.bodies import BodyTooLarge
from service.errors import problem_of, reply
from service.metrics import Metrics

log = logging.getLogger("service.access")
_UNLIMITED = re.compile(r"/v1/collections/[^/]+/bulk")  # a stream of lines, each with its own limit
_METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS")
QUIET = ("/livez", "/readyz", "/startupz", "/healthz", "/metrics")


class Frame:
    """ASGI middleware: body limit, metrics, access log."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["method"] == "HEAD":  # answered as GET; the server knows that it must not send the body
            scope = {**scope, "method": "GET"}
        limit = None if _UNLIMITED.fullmatch(scope["path"]) else self._max_body_bytes
        status = 0
        started = time.perf_counter()
        self._metrics.in_flight.inc()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = scope["state"].get("headers", [])  # such as those of the rate limit
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            if limit is not None and int(headers.get(b"content-length", b"0") or 0) > limit:
                raise _too_large(limit)  # before a byte of it is read
            await self._app(scope, _limited(receive, limit), sending)
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
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_duration.labels(route, method).observe(seconds)
        if status in (413, 429, 503, 507):
            refused = scope["state"].get("problem_code", "queue_full")
            reason = {413: "too_large", 429: refused, 503: "unavailable", 507: "storage_full"}[status]
            self._metrics.rejected.labels(reason).inc()
        level = logging.DEBUG if route in QUIET else logging.INFO
        fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
        log.log(level, "%s %s %d %.1f ms", *fields.values(), extra={"fields": fields})


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body has more than {limit} bytes.")


def _limited(receive: Receive, limit: int | None) -> Receive:
    """``receive`` that raises BodyTooLarge once more than ``limit`` bytes have come."""
    if limit is None:
        return receive
    received = 0

    async def receiving() -> Message:
        nonlocal received
        message: dict[str, Any] = dict(await receive())
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return receiving
