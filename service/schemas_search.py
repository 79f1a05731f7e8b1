"""Search as JSON: what to look for, and what was found."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag

from service.parsing import parse_json
from service.schemas import (
    MAX_LIMIT,
    ByKind,
    Content,
    Form,
    ImageRef,
    ItemId,
    ItemReply,
    Strict,
    Text,
)

MAX_RERANKED = 100  # results read beside the query in one search
Weight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


class QueryTerm(Content):
    """One term of a query. Weights may be negative: "like this picture, less of that word"."""

    id: ItemId | None = Field(None, description="an item to resemble")
    weight: Weight = 1.0

    def _something(self) -> "Content":
        named = self.id is not None or (isinstance(self.image, ImageRef) and self.image.id is not None)
        content = (self.text, self.content, self.image if self.id is not None else None)
        if named and any(part is not None for part in content):
            raise ValueError("an item stands alone in its term: give the rest in terms of their own")
        return self if named else super()._something()


_Term = Annotated[Text | Annotated[QueryTerm, Tag("<object>")], ByKind]
_Terms = Annotated[list[_Term], Field(min_length=1, max_length=32), Tag("<list>")]
Query = Annotated[Text | Annotated[QueryTerm, Tag("<object>")] | _Terms, ByKind]


class Rerank(Strict):
    """Read the first results beside the query, and put them in order of how well they match."""

    top_n: int = Field(ge=1, le=MAX_RERANKED)


class SearchRequest(Form):
    """What to look for and where."""

    query: Query = Field(
        description="words, one term, or weighted terms that are added up",
        examples=["a red apple", [{"text": "apple", "weight": 1.0}, {"text": "tree", "weight": -0.5}]],
    )
    filter: dict[str, Any] | None = Field(
        None, description="{must: [{key, match: {value | any}}], must_not: […]} on metadata"
    )
    limit: int = Field(10, ge=1, le=MAX_LIMIT)
    target: Literal["any", "image", "text"] = Field(
        "any", description="items that have a picture, a text, or any"
    )
    rerank: Rerank | None = Field(None, description="for a query of one document")

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields query or text, limit, target, filter and rerank (JSON), and uploads: terms are added up."""
        request: dict[str, Any] = dict(fields)
        words = [{"text": request.pop(name)} for name in ("query", "text") if name in request]
        request["query"] = [*words, *({"image": {"upload": upload}} for upload in uploads)]
        for name in {"filter", "rerank"} & request.keys():
            request[name] = parse_json(request[name])
        return request


class SearchHit(ItemReply):
    score: float = Field(description="cosine, higher is nearer")
    rerank_score: float | None = Field(None, description="probability that it matches; null if not reranked")


class IndexState(BaseModel):
    generation: int = Field(description="of the snapshot searched; 0 before the first")
    covers_token: str = Field(description="every write up to this token was searched")


class SearchReply(BaseModel):
    results: list[SearchHit]
    next_cursor: str | None = None
    index: IndexState
    degraded: list[str] = Field(
        description="rerank_skipped: no result could be reranked; rerank_incomplete: some kept their places"
    )
    timing_ms: dict[str, float]
