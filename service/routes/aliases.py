"""Aliases: second names of collections, moved atomically."""

from typing import Annotated

from fastapi import Query, Request

from index.aliases import DropAlias, PutAlias
from service.bodies import parsed
from service.routes import ONCE, RetrieverDep, body, guarded
from service.schemas_aliases import AliasAction, AliasesRequest, AliasList, AliasReply

router = guarded("collections", "/v1/aliases")


@router.post("", status_code=204, openapi_extra=body(AliasesRequest), dependencies=ONCE)
async def move_aliases(request: Request, retriever: RetrieverDep) -> None:
    """Carry out all actions in one transaction: no request sees a part of them.

    A collection can be called by an alias wherever its name is asked for, but not be deleted by it. A key
    that is limited to some collections is limited to their own names: an alias gives no way to another.
    """
    wanted = await parsed(AliasesRequest, await request.body())
    actions = [_action(entry) for entry in wanted.actions]
    request.state.target = ", ".join(action.alias for action in actions)
    await retriever.move_aliases(actions)


@router.get("")
async def list_aliases(
    retriever: RetrieverDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="how many, at most")] = 100,
    cursor: Annotated[str, Query(max_length=64, description="next_cursor of the page before")] = "",
) -> AliasList:
    """Aliases in order of name."""
    found = await retriever.aliases(cursor, limit)
    following = found[-1].alias if len(found) == limit else None
    return AliasList(
        aliases=[AliasReply(alias=entry.alias, collection=entry.collection) for entry in found],
        next_cursor=following,
    )


def _action(wanted: AliasAction) -> PutAlias | DropAlias:
    if wanted.create is not None:
        return PutAlias(wanted.create.alias, wanted.create.collection)
    assert wanted.delete is not None
    return DropAlias(wanted.delete.alias)
