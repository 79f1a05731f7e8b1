"""Aliases as JSON."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.json_schema import one_of
from service.schemas import COLLECTION_PATTERN, Strict, example

Name = Annotated[str, Field(pattern=COLLECTION_PATTERN)]
_ALIAS = {"alias": "shop", "collection": "shop-2026-11"}


class CreateAlias(Strict):
    """Let a name stand for a collection, whatever it stood for before."""

    alias: Name = Field(description="no collection's name")
    collection: Name = Field(description="a collection, by its own name or another alias of it")


class DeleteAlias(Strict):
    """Let a name stand for nothing."""

    alias: Name = Field(description="one that there is")


class AliasAction(Strict):
    """One action: exactly one member."""

    model_config = ConfigDict(json_schema_extra=one_of("create", "delete"))

    create: CreateAlias | None = Field(None, description="make or move an alias")
    delete: DeleteAlias | None = Field(None, description="remove an alias")

    @model_validator(mode="after")
    def _one(self) -> "AliasAction":
        if (self.create is None) == (self.delete is None):
            raise ValueError("an action is one of create and delete")
        return self


class AliasesRequest(Strict):
    """Actions that are carried out in order, all or none."""

    model_config = example(
        actions=[{"delete": {"alias": "old"}}, {"create": {"alias": "shop", "collection": "shop-2026-11"}}]
    )

    actions: list[AliasAction] = Field(min_length=1, max_length=100, description="in this order")


class AliasReply(BaseModel):
    """An alias as it stands."""

    model_config = example(**_ALIAS)

    alias: str = Field(description="the name that stands for a collection")
    collection: str = Field(description="the collection's own name")


class AliasList(BaseModel):
    """A page of aliases."""

    model_config = example(aliases=[_ALIAS], next_cursor=None)

    aliases: list[AliasReply] = Field(description="in order of name")
    next_cursor: str | None = Field(description="where the next page begins; null behind the last")
