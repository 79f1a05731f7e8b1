"""API keys: create, list, revoke."""

from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request

from service.auth import Gate
from service.bodies import UnsupportedMediaType, parsed
from service.idempotency import Once
from service.routes import ONCE, body, guarded
from service.schemas_keys import KeyCreated, KeyList, KeyReply, KeyRequest

_PREFIX = "momo_[0-9a-f]{12}"
router = guarded("keys", "/v1/keys")


async def _gate(request: Request) -> Gate:
    return cast(Gate, request.app.state.gate)


GateDep = Annotated[Gate, Depends(_gate)]


@router.post("", status_code=201, openapi_extra=body(KeyRequest), dependencies=[Depends(Once(secret=True))])
async def create_key(request: Request, gate: GateDep) -> KeyCreated:
    """Make a key. From the first one on, every request needs a key.

    Repeated under its Idempotency-Key this is refused (409): the key was made, and is shown only once.
    """
    # Any page in a browser may post a form to this address, and the first key locks everybody else out.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("Send application/json.")
    wanted = await parsed(KeyRequest, await request.body())
    key, secret = await gate.create(wanted.name, wanted.scope, wanted.collections)
    request.state.target = key.prefix
    return KeyCreated(key=secret, about=KeyReply.of(key))


@router.get("")
async def list_keys(
    gate: GateDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many, at most")] = 100,
    cursor: Annotated[
        str, Query(pattern=f"^({_PREFIX})?$", description="next_cursor of the page before")
    ] = "",
) -> KeyList:
    """Keys in order of creation, the revoked ones included; never a secret."""
    found = await gate.keys(cursor, limit)
    following = found[-1].prefix if len(found) == limit else None
    return KeyList(keys=[KeyReply.of(key) for key in found], next_cursor=following)


@router.delete("/{prefix}", status_code=204, dependencies=ONCE)
async def revoke_key(
    prefix: Annotated[
        str, Path(pattern=f"^{_PREFIX}$", description="the key's prefix", examples=["momo_0123456789ab"])
    ],
    request: Request,
    gate: GateDep,
) -> None:
    """Refuse a key from now on: at once in this process, within a second in all others."""
    request.state.target = (await gate.revoke(prefix)).prefix
