"""Explanations as JSON: what makes two documents near."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.bounds import MAX_GRID, MAX_WORDS
from service.json_schema import one_of, whole
from service.schemas import COLLECTION_PATTERN, Form, Input, ItemId, Strict, TimeoutMs, example

if TYPE_CHECKING:  # clients have no use for what this brings
    from service.explanation import Explanation


class StoredItem(Strict):
    """An item of a collection."""

    collection: str = Field(pattern=COLLECTION_PATTERN, description="its collection")
    id: ItemId = Field(description="its id there")


class ExplainRequest(Form):
    """Two documents: what is looked for, and what was found."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "a red boot", "stored": {"collection": "shop", "id": "sku-77"}}],
            **one_of("item", "stored"),
        }
    )

    query: Input = Field(description="what was looked for")
    item: Input | None = Field(None, description="what was found")
    stored: StoredItem | None = Field(None, description="instead of item: one that is kept here")
    method: Literal["occlusion"] = Field(
        "occlusion", description="regions are covered and words left out, and the cosine is measured again"
    )
    grid: Annotated[int, whole] = Field(6, ge=2, le=MAX_GRID, description="regions a side of the picture")
    overlay: bool = Field(False, description="draw the regions over the picture, too")
    model: str | None = Field(None, description="the encoder; the server's own if absent")
    timeout_ms: TimeoutMs = None

    @model_validator(mode="after")
    def _one(self) -> "ExplainRequest":
        if (self.item is None) == (self.stored is None):
            raise ValueError("give either item or stored")
        return self

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields query, method, grid, overlay and model, and one uploaded picture, the item."""
        return {**fields, **({"item": {"image": {"upload": uploads[0]}}} if uploads else {})}


class TokenScore(BaseModel):
    """A word, and what it adds."""

    token: str = Field(description="as it stands in the text")
    start: int = Field(description="where it stands, in characters")
    score: float = Field(description="what the cosine loses without it; below zero: it is in the way")


class ExplainReply(BaseModel):
    """What makes the cosine."""

    model_config = example(
        score=0.412,
        grid=[[0.01, 0.03], [0.11, 0.02]],
        grid_of="item",
        tokens=[{"token": "red", "start": 2, "score": 0.05}, {"token": "boot", "start": 6, "score": 0.21}],
        tokens_of="query",
        overlay=None,
        model="momo-mini",
    )

    score: float = Field(description="the cosine of the two")
    grid: list[list[float]] | None = Field(
        description="what each region adds to the cosine, row by row from the top left; null without a "
        "picture. The grid covers the square that the encoder reads, as the overlay shows it"
    )
    grid_of: Literal["query", "item"] | None = Field(
        description="whose first picture that is: the item's, if it has one"
    )
    tokens: list[TokenScore] | None = Field(
        description=f"the first {MAX_WORDS} words of a text; null without one"
    )
    tokens_of: Literal["query", "item"] | None = Field(
        description="whose first text that is: the query's, if it has one"
    )
    overlay: str | None = Field(
        description="a PNG as a data: URI, red where a region adds and blue where it takes away"
    )
    model: str = Field(description="the encoder's name")

    @classmethod
    def of(cls, found: "Explanation", overlay: str | None, model: str) -> "ExplainReply":
        """As clients see it."""
        tokens = found.tokens
        return cls(
            score=round(found.score, 6),
            grid=None if found.heat is None else [[round(float(v), 6) for v in row] for row in found.heat],
            grid_of=found.heat_of,
            tokens=None
            if tokens is None
            else [TokenScore(token=one.token, start=one.start, score=round(one.score, 6)) for one in tokens],
            tokens_of=found.tokens_of,
            overlay=overlay,
            model=model,
        )
