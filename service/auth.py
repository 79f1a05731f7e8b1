"""Who may do what: the scope that each route needs, and the gate that every request passes.

While there is no key everything is open, except to pages of other servers; `momoseek serve` allows it on the
loopback address only. From the first key on every request needs one, and revoking the last does not open the
door again. Where JSON Web Tokens are accepted, every request needs a key or a token from the start.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.background import BackgroundTask
from starlette.datastructures import Headers
from starlette.types import Scope as AsgiScope

from index.aliases import Aliases
from index.keys import Key, KeyNotFound, KeyRing, Keys, Scope
from index.records import CatalogError
from service.browsers import BrowserGuard
from service.caller import identified
from service.direct import Handle, directly
from service.needs import Need, need_of
from service.parsing import InvalidBody
from service.quota import Quota
from service.signed_tokens import PREFIX, Tokens, is_token

log = logging.getLogger(__name__)
_FRESH_S = 1.0  # how long a key that another process revoked may still be let in
_USE_NOTED_EVERY_S = 60.0  # a write for each request would cost more than most requests


class KeyMissing(Exception):
    """The request carries no API key."""


class KeyRefused(Exception):
    """The request's API key is unknown or revoked: which of the two is not told."""


class ScopeInsufficient(Exception):
    """The API key is good, but not for this."""


class CollectionForbidden(Exception):
    """The API key is limited to other collections."""


def route_of(scope: AsgiScope) -> str | None:
    """The matched route as the table names it, such as ``GET /v1/models/{model}``; None if none matched."""
    route = scope.get("route")
    return None if route is None else f"{scope['method']} {route.path_format}"


class Gate:
    """Knows the keys as they stood at most a second ago."""

    def __init__(
        self,
        keys: Keys,
        aliases: Aliases,
        quota: Quota,
        browsers: BrowserGuard,
        *,
        metrics_open: bool,
        tokens: Tokens | None = None,
    ) -> None:
        self.quota = quota
        self._keys = keys
        self._aliases = aliases
        self._browsers = browsers
        self._metrics_open = metrics_open
        self._tokens = tokens
        self._reading = asyncio.Lock()
        self._ring: KeyRing | None = None
        self._read_at = 0.0
        self._locked = tokens is not None
        self._use_noted: dict[str, float] = {}

    async def identify(self, headers: Headers) -> Key | None:
        """The key of a request, or what stands for one in a token; None while there are no keys.

        Raises KeyMissing, KeyRefused or TokenRefused; while there are none, what BrowserGuard.check raises.
        """
        ring = await self._fresh_ring()
        # An older catalog may be restored under a server that has since been put on the network.
        self._locked = self._locked or len(ring) > 0
        if not self._locked:
            self._browsers.check(headers)
            return None
        secret = _presented(headers)
        if secret is None:
            raise KeyMissing("Send an API key as `Authorization: Bearer KEY` or as `X-API-Key: KEY`.")
        if self._tokens is not None and is_token(secret):
            return self._tokens.verify(secret)
        key = ring.find(secret)
        if key is None:
            raise KeyRefused("This API key is not known here, or was revoked.")
        return key

    def is_open(self, route: str) -> bool:
        """Whether a route never asks for a key."""
        return need_of(route) is None or (route == "GET /metrics" and self._metrics_open)

    async def own_name(self, collection: str) -> str:
        """A collection's own name where it is called by an alias: keys are limited to own names."""
        return await asyncio.to_thread(self._aliases.own_name, collection)

    def noting_use(self, key: Key) -> BackgroundTask | None:
        """What records, after the reply, in the catalog that a key is in use; None if it is known already."""
        now = time.time()
        if key.prefix.startswith(PREFIX) or now - self._use_noted.get(key.prefix, 0.0) < _USE_NOTED_EVERY_S:
            return None
        self._use_noted[key.prefix] = now
        return BackgroundTask(self._write_use, key.prefix, now)

    async def create(self, name: str, scope: Scope, collections: list[str] | None) -> tuple[Key, str]:
        """A new key and its secret.

        Raises InvalidBody where the first key would leave nobody who may make another.
        """
        if not self._locked and (scope != "admin" or collections is not None):
            told = "the first key must be an admin's, of all collections: who else could make another?"
            raise InvalidBody.of([{"pointer": "/scope", "detail": told}])
        async with self._reading:  # so that no older reading is taken for the newest
            self._ring = None
            return await asyncio.to_thread(self._keys.create, name, scope, collections)

    async def keys(self, after: str, limit: int) -> list[Key]:
        """Up to ``limit`` keys in order of creation, the revoked ones included.

        They begin after the key of the prefix ``after``, or with the first if it is "". Raises KeyNotFound.
        """
        keys = (await asyncio.to_thread(self._keys.ring)).keys
        prefixes = ["", *(key.prefix for key in keys)]
        if after not in prefixes:
            raise KeyNotFound(f"There is no key {after!r}.")
        start = prefixes.index(after)
        return keys[start : start + limit]

    async def revoke(self, prefix: str) -> Key:
        """Refuse a key from now on; other processes follow within a second. Raises KeyNotFound."""
        async with self._reading:
            self._ring = None
            return await asyncio.to_thread(self._keys.revoke, prefix)

    async def _fresh_ring(self) -> KeyRing:
        """Raises StorageUnavailable: with a catalog that cannot be read nobody is let in."""
        if (ring := self._known_ring()) is not None:
            return ring
        async with self._reading:
            if (ring := self._known_ring()) is None:  # or another request has read it meanwhile
                now = time.monotonic()
                ring = self._ring = await asyncio.to_thread(self._keys.ring)
                self._read_at = now
            return ring

    def _known_ring(self) -> KeyRing | None:
        return self._ring if time.monotonic() - self._read_at <= _FRESH_S else None

    def _write_use(self, prefix: str, at: float) -> None:
        try:
            self._keys.note_use(prefix, at)
        except CatalogError as error:  # a disk that is full must not refuse who only reads
            log.warning("the use of key %s could not be noted: %s", prefix, error)


class Guarded(APIRoute):
    """A route behind the gate. As a dependency of all routes the gate would cost each request more."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's own handler, for whom it is meant."""
        handle: Handle = super().get_route_handler()
        if not self.dependencies:
            handle = directly(self.endpoint, self.path_format, handle)

        async def guarded(request: Request) -> Response:
            noting_use = await authorize(request)
            response = await handle(request)
            if noting_use is not None and response.background is None:
                response.background = noting_use
            return response

        return guarded


async def authorize(request: Request) -> BackgroundTask | None:
    """Let in who may; what is to be done after the reply. Raises what Gate.identify, Quota.take and check
    raise."""
    route = route_of(request.scope)
    assert route is not None  # it is called by one
    need = need_of(route)
    if need is None:
        return None
    gate: Gate = request.app.state.gate
    if gate.is_open(route):
        return None
    key = await gate.identify(request.headers)
    if key is None:
        return None
    request.state.key, request.state.within = key.prefix, key.collections
    identified(key.prefix)
    try:
        gate.quota.take(key.prefix)
    finally:
        request.state.headers = gate.quota.headers(key.prefix)
    collection = request.path_params.get("collection")
    if collection is not None and key.collections is not None:
        # The route goes on with this name: what was checked is what it reaches, should an alias move now.
        collection = request.path_params["collection"] = await gate.own_name(collection)
    check(key, need, collection)
    return gate.noting_use(key)


def check(key: Key, need: Need, collection: str | None) -> None:
    """Raise ScopeInsufficient or CollectionForbidden unless a key is good for this."""
    if not key.allows(need.scope):
        raise ScopeInsufficient(f"This needs a key of scope {need.scope!r}; this one has {key.scope!r}.")
    if key.collections is None:
        return
    if need.everywhere:
        raise CollectionForbidden("This needs a key that is not limited to some collections.")
    if collection is not None and collection not in key.collections:
        raise CollectionForbidden("This key is limited to other collections.")


async def allowed_collection(request: Request, collection: str) -> str:
    """For a collection that the body names: the name to go on with.

    Raises CollectionForbidden if the key is limited to others.
    """
    within: Collection[str] | None = getattr(request.state, "within", None)
    if within is None:
        return collection
    gate: Gate = request.app.state.gate
    own = await gate.own_name(collection)
    if own not in within:
        raise CollectionForbidden("This key is limited to other collections.")
    return own


def describe(document: dict[str, Any]) -> None:
    """Add to an OpenAPI document how keys are sent, and which scope each operation needs."""
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            need = need_of(f"{method.upper()} {path}")
            if need is None:
                continue
            operation["security"] = [{"bearer": [need.scope]}, {"header": [need.scope]}]
            for status, description in (("401", "no key, or not a good one"), ("403", "not with this key")):
                operation["responses"][status] = {"description": description, "content": problem}


def _presented(headers: Headers) -> str | None:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return headers.get("x-api-key") or None
