"""The audit log: one line for every write and every act of administration, done or refused."""

import json
import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth import (
    route_of,
)
from service.needs import (
    NEEDS,
)

log = logging.getLogger("momoseek.audit")
log.setLevel(logging.INFO)  # who changed what is kept also where only errors are shown


class AuditLog:
    """ASGI middleware. A line is JSON: key (its prefix), action, collection, target, request_id, status,
    outcome."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            # Unless a reply began, it failed in a way that no handler knew.
            _record_request(scope, scope["state"].get("status", 500))


def record_command(action: str, target: str) -> None:
    """Tell what was done at the command line, such as ``momoseek key create``, and to which key."""
    _write(key=None, action=action, target=target, outcome="ok")


def _record_request(scope: Scope, status: int) -> None:
    action = route_of(scope)
    need = None if action is None else NEEDS.get(action)
    if need is None or need.scope == "read":
        return
    state = scope.get("state", {})
    _write(
        key=state.get("key"),  # None: there are no keys, or none was recognised
        action=action,
        collection=scope.get("path_params", {}).get("collection"),
        target=state.get("target"),  # the key that was made or revoked
        request_id=state.get("request_id"),
        status=status,
        outcome=state.get("problem_code", "ok"),
    )


def _write(**line: str | int | None) -> None:
    log.info(json.dumps(line), extra={"fields": line})
