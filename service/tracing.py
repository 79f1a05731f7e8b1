"""Which request it was: an id of its own and its place in a trace, in every reply, problem and log line."""

import json
import logging
import random
import re
import time
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# https://www.w3.org/TR/trace-context/: version, trace, parent, flags. Later versions may say more after that.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
# What the log lines of a request say of it: its id and, if it has one, its trace's.
_named: ContextVar[dict[str, str] | None] = ContextVar("named", default=None)


class Tracing:
    """ASGI middleware: X-Request-Id in, or made here, and out; traceparent in, and out unless ``place_at``
    says otherwise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = [(b"x-request-id", request_id.encode())]
                if "traceparent" in state:
                    told.append((b"traceparent", state["traceparent"].encode()))
                message["headers"] = [*message["headers"], *told]
            await send(message)

        token = _named.set({"request_id": request_id})
        try:
            if (trace := traceparent(headers.getlist("traceparent"))) is not None:
                place_at(scope, trace)
            await self._app(scope, receive, sending)
        finally:
            _named.reset(token)


class Lines(logging.Formatter):
    """Log lines; those that belong to a request name it: ``[its id]``, or ``[its id trace=its trace]``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s%(request)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One line, or several where there is a traceback."""
        named = _named.get()
        trace = f" trace={named['trace_id']}" if named and "trace_id" in named else ""
        record.request = f" [{named['request_id']}{trace}]" if named else ""
        return super().format(record)


class JsonLines(logging.Formatter):
    """The same as one JSON object each: time, level, logger, message, request_id, trace_id, exception, and
    the fields of access and audit lines by themselves."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever there is to tell."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_named.get() or {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def place_at(scope: Scope, place: str) -> None:
    """Tell this traceparent of the request that runs, in its reply, and its trace in its log lines."""
    scope["state"]["traceparent"] = place
    if (named := _named.get()) is not None:
        named["trace_id"] = place[3:35]


def traceparent(headers: list[str]) -> str | None:
    """The caller's place in its trace, to be handed on as it came; None where there is none that is valid."""
    found = _TRACEPARENT.fullmatch(headers[0]) if len(headers) == 1 else None
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == "00" and more is not None:
        return None
    return f"00-{trace}-{parent}-{flags}"  # of a later version, the part that this one knows


def describe(document: dict[str, Any]) -> None:
    """Add to an OpenAPI document the two headers, which every operation reads and every reply has."""
    text = {"type": "string"}
    known = {
        "X-Request-Id": (
            "names this request, in up to 128 of A-Z a-z 0-9 _ . : -; else one is made here",
            text,
        ),
        "traceparent": (
            "W3C Trace Context of the caller; comes back as it was, or as this request's place in the trace",
            text,
        ),
    }
    components = document.setdefault("components", {})
    components["parameters"] = {
        name: {"name": name, "in": "header", "required": False, "description": told, "schema": schema}
        for name, (told, schema) in known.items()
    }
    components["headers"] = {
        name: {"description": told, "schema": schema} for name, (told, schema) in known.items()
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.setdefault("parameters", []).extend(
                {"$ref": f"#/components/parameters/{name}"} for name in known
            )
            for reply in operation["responses"].values():
                reply.setdefault("headers", {}).update(
                    {name: {"$ref": f"#/components/headers/{name}"} for name in known}
                )
