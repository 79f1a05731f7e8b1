"""Conditional requests (RFC 9110, section 13): what is known is not sent again, what changed not overwritten.

The entity tag of a thing is its version, a hash of all of it, so that all tags here are strong ones.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Header
from fastapi.responses import Response
from pydantic import StringConstraints, WithJsonSchema

from index.records import Condition

_TAG = re.compile(r'(W/)?"([^"]*)"')
_TAGS = r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$'
_LIVE = {"Cache-Control": "private, no-cache"}  # to be kept, and asked about each time

Known = Annotated[
    Annotated[list[str], WithJsonSchema({"type": "string"})] | None,
    Header(alias="If-None-Match", description="entity tags that the client has: if current, 304 comes back"),
]
# To clients one header; it may come in several lines, as any that is a list.
_Tags = Annotated[
    list[Annotated[str, StringConstraints(pattern=_TAGS)]],
    WithJsonSchema({"type": "string", "pattern": _TAGS, "format": "entity-tags"}),
]
HAS_TAG: dict[str, Any] = {
    "headers": {"ETag": {"description": "names this very content", "schema": {"type": "string"}}}
}
TAGGED: dict[int | str, dict[str, Any]] = {
    200: HAS_TAG,
    304: {"description": "the client has it, as If-None-Match says"},
}
FAILED: dict[int | str, dict[str, Any]] = {
    412: {
        "description": "If-Match or If-None-Match does not hold; nothing was written",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
CHANGED: dict[int | str, dict[str, Any]] = {200: HAS_TAG, **FAILED}


class NotOneItem(ValueError):
    """A condition came with several items, and does not say which it is about."""


async def _condition(
    if_match: Annotated[
        _Tags | None,
        Header(alias="If-Match", description="entity tags, one of which must be current; *: it must exist"),
    ] = None,
    if_none_match: Annotated[
        _Tags | None,
        Header(
            alias="If-None-Match", description="entity tags that must not be current; *: it must not exist"
        ),
    ] = None,
) -> Condition | None:
    if if_match is None and if_none_match is None:
        return None

    def holds(version: str | None) -> bool:
        wanted = if_match is None or _names(if_match, version, weak=False)
        return wanted and not (if_none_match is not None and _names(if_none_match, version, weak=True))

    return holds


ConditionDep = Annotated[Condition | None, Depends(_condition)]


def tagged(
    known: list[str] | None,
    version: str,
    content: bytes | str,
    media_type: str = "application/json",
    headers: Mapping[str, str] = _LIVE,
) -> Response:
    """The content with its entity tag, or 304 without it where the client has this version."""
    sent = {"ETag": entity_tag(version), **headers}
    if known is not None and _names(known, version, weak=True):
        return Response(status_code=304, headers=sent)
    return Response(content, media_type=media_type, headers=sent)


def entity_tag(version: str) -> str:
    """The ETag of a version."""
    return f'"{version}"'


def _names(lines: list[str], version: str | None, *, weak: bool) -> bool:
    """Whether a list of entity tags names this version; ``*`` names any. Only ``weak`` ignores the W/."""
    if version is None:
        return False
    header = ",".join(lines)
    named = {tag for is_weak, tag in _TAG.findall(header) if weak or not is_weak}
    return header.strip() == "*" or version in named
