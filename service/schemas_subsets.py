"""Subsets of a collection as JSON: what passes a filter, counted, told apart by a field, deleted."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from service.json_schema import one_of, whole
from service.schemas import (
    MAX_LIMIT,
    ItemId,
    Strict,
    example,
)
from service.schemas_items import (
    ITEM,
    ItemReply,
)

_FILTER: JsonDict = {
    "must": [{"key": "price", "range": {"lt": 50}}],
    "must_not": [{"key": "sold", "match": {"value": True}}],
}
_TOKEN = "every write up to this token was seen"

_TOLD = "as in a search; {} lets all pass"

Filter = Annotated[dict[str, Any], Field(description=_TOLD, examples=[_FILTER])]


class CountRequest(Strict):
    """What to count."""

    model_config = example(filter=_FILTER)

    filter: Filter = Field(default_factory=dict)


class CountReply(BaseModel):
    """How many items pass; exact."""

    model_config = example(count=412, covers_token="wt_00000004b1")

    count: int = Field(description="of the items that pass")
    covers_token: str = Field(description=_TOKEN)


class FacetRequest(Strict):
    """Which values to count, and of which items."""

    model_config = example(key="tags", filter=_FILTER, limit=10)

    key: str = Field(max_length=4096, description="a member of the metadata, as in a filter")
    filter: Filter = Field(default_factory=dict)
    limit: Annotated[int, whole] = Field(10, ge=1, le=MAX_LIMIT, description="how many values, at most")


class FacetValue(BaseModel):
    """One value."""

    value: str | int | float | bool = Field(description="a scalar; of a list each of its own")
    count: int = Field(description="of the items that have it")


class FacetReply(BaseModel):
    """The most frequent values, exactly counted. Those as frequent come in their own order."""

    model_config = example(
        values=[{"value": "suede", "count": 201}, {"value": "laces", "count": 17}],
        distinct=2,
        count=412,
        covers_token="wt_00000004b1",
    )

    values: list[FacetValue] = Field(description="the most frequent first")
    distinct: int = Field(description="how many different values there are")
    count: int = Field(description="of the items that pass, those without a value included")
    covers_token: str = Field(description=_TOKEN)


class DeleteRequest(Strict):
    """Which items to delete: exactly one of ids and filter."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"filter": _FILTER, "dry_run": True}], **one_of("ids", "filter")}
    )

    ids: list[ItemId] | None = Field(None, min_length=1, max_length=MAX_LIMIT, description="these items")
    filter: dict[str, Any] | None = Field(None, description=f"those that pass; {_TOLD}")
    dry_run: bool = Field(False, description="delete nothing, only say how many it would be")

    @model_validator(mode="after")
    def _one(self) -> "DeleteRequest":
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        return self


class DeletedReply(BaseModel):
    """How much was deleted."""

    model_config = example(matched=412, deleted=0, dry_run=True, write_token="wt_00000004b1")

    matched: int = Field(description="how many items there were")
    deleted: int = Field(description="how many of them are gone; one that was replaced meanwhile stays")
    dry_run: bool = Field(description="as in the request")
    write_token: str = Field(description="the log's position: what covers it has seen these writes")


class ScrollRequest(Strict):
    """Which page of which items."""

    model_config = example(filter=_FILTER, limit=60, fields=["title", "price"])

    filter: Annotated[dict[str, Any], Field(examples=[_FILTER])] | None = Field(
        None, description=f"only those that pass; {_TOLD}"
    )
    limit: Annotated[int, whole] = Field(60, ge=1, le=MAX_LIMIT, description="how many items")
    cursor: str | None = Field(
        None,
        max_length=2048,
        description="next_cursor of the page before, sent with the same request otherwise",
    )
    fields: list[str] | None = Field(
        None, max_length=256, description="members of the metadata to come back; all if absent"
    )
    with_vectors: bool = Field(False, description="items come with their unit rows")


class ListedItem(ItemReply):
    """An item of a page."""

    vector: list[float] | None = Field(None, description="its unit row; null if not asked for")


class ScrollReply(BaseModel):
    """A page of items."""

    model_config = example(items=[{**ITEM, "vector": None}], next_cursor="sku-77")

    items: list[ListedItem] = Field(
        description="in order of id; with a filter or vectors, in order of their last write"
    )
    next_cursor: str | None = Field(description="cursor of the next page; null: this is the last")
