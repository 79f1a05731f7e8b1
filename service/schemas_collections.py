"""Collections as JSON."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.schemas import Strict, example

_COLLECTION: dict[str, Any] = {
    "name": "shop",
    "model": "momo-mini",
    "encoder_id": "momo-mini-3f9a1c0b77de",
    "dimensions": 384,
    "metric": "cosine",
    "count": 1200,
    "created_at": 1_790_812_800.0,
}


class CollectionRequest(Strict):
    """Settings of a collection."""

    model_config = example(metric="cosine")

    model: str | None = Field(None, description="the encoder; the server's own if absent")
    metric: Literal["cosine"] = Field("cosine", description="how items are compared; there is no other")


class CollectionReply(BaseModel):
    """A collection as it stands."""

    model_config = example(**_COLLECTION)

    name: str = Field(description="as in its address")
    model: str = Field(description="the encoder's name")
    encoder_id: str = Field(description="the very encoder: weights, tokenizer and preprocessing")
    dimensions: int = Field(description="of its vectors")
    metric: str = Field("cosine", description="how items are compared")
    count: int = Field(description="how many items it has")
    created_at: float = Field(description="seconds since the epoch")


class CollectionList(BaseModel):
    """A page of collections."""

    model_config = example(collections=[_COLLECTION], next_cursor="shop")

    collections: list[CollectionReply] = Field(description="in order of name")
    next_cursor: str | None = Field(description="cursor of the next page; null: this is the last")
