"""Search as JSON: what to look for, and what was found."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag, model_validator

from service.json_schema import whole
from service.paging import MAX_OFFSET
from service.parsing import parse_json
from service.schemas import (MAX_LIMIT, ByKind, Form, ItemId, Problem, Strict, TimeoutMs, example,)
from service.schemas_items import (ItemReply,)
from service.schemas_query import Query

_HIT = {
    "id": "sku-12",
    "modality": "image",
    "text": None,
    "image": {"url": "/v1/collections/shop/images/sku-12", "type": "image/jpeg"},
    "content": None,
    "version": "1d9c1e5d7a3b4c2d8e6f1a2b3c4d5e6f",
    "metadata": {"title": "Ankle boot", "price": 79},
    "created_at": 1793000000.0,
    "updated_at": 1793000000.0,
    "score": 0.413,
    "relevance": 0.82,
    "rerank_score": None,
    "vector": None,
}
_REPLY = {
    "results": [_HIT],
    "next_cursor": "c_7d0c3a1f5e8b4c0d9f6e2b7a91c4d5e6_29_a",
    "index": {"generation": 41, "covers_token": "wt_00000184d0"},
    "degraded": [],
    "timing_ms": {"encode": 9.1, "search": 3.4},
}
MAX_RERANKED = 100  # results read beside the query in one search


class Rerank(Strict):
    """Read the first results beside the query, and put them in order of how well they match."""

    top_n: Annotated[int, whole] = Field(ge=1, le=MAX_RERANKED, description="how many of the first results")


class Diversity(Strict):
    """Maximal marginal relevance: near to the query, and unlike the results before."""

    weight: float = Field(
        0.5, alias="lambda", ge=0, le=1, description="of nearness; 1 is the plain order, 0 novelty alone"
    )
    candidates: Annotated[int, whole] = Field(
        100, ge=1, le=MAX_LIMIT, description="so many of the nearest are put in order"
    )


class Dedup(Strict):
    """Near-identical results count once: the best of them comes back."""

    threshold: float = Field(0.98, ge=0, le=1, description="the cosine from which on two are the same")


class Consistency(Strict):
    """What a search must have seen."""

    write_token: str = Field(
        max_length=32,
        description="of a reply to a write, to any process of this server: the search sees that write",
    )
    timeout_ms: Annotated[int, whole] = Field(
        1000, ge=0, le=60_000, description="how long it is waited for; then 504 write_not_covered"
    )


class SearchParams(Strict):
    """How hard the index is searched. An index without a graph ignores ef, one without lists nprobe."""

    effort: Literal["low", "auto", "high"] = Field(
        "auto", description="auto: what reaches the target of recall; low: half of that; high: four times"
    )
    ef: Annotated[int, Field(ge=1, le=100_000), whole] | None = Field(
        None, description="instead of effort, in a graph: how broad the walk is"
    )
    nprobe: Annotated[int, Field(ge=1, le=1_000_000), whole] | None = Field(
        None, description="instead of effort, in lists: how many are read"
    )
    exact: bool = Field(False, description="compare every item: slower, and nothing is missed")
    rescore: bool = Field(True, description="exact scores where vectors are compressed; false: approximate")


class Choices(Strict):
    """Which results are wanted. In this order: filter and target, score_threshold, dedup, group_by,
    diversity, rerank, offset and limit. As many come back as there are."""

    filter: dict[str, Any] | None = Field(
        None,
        description=(
            "{must: […], should: […], must_not: […], min_should: {conditions: […], min_count}}. A condition "
            "is a filter again, {has_id: […]}, or about a member of the metadata: {key, match: {value | any "
            "| except | text}}, {key, range: {gt, gte, lt, lte}}, {key, is_null: true | false} or {key, "
            "is_empty: true | false}. A list matches when one of its values does; text asks for words, in "
            "any order."
        ),
        examples=[
            {
                "must": [
                    {"key": "price", "range": {"gte": 10, "lt": 50}},
                    {"key": "tags", "match": {"any": ["red", "blue"]}},
                ],
                "must_not": [{"key": "sold", "match": {"value": True}}],
            },
            {"should": [{"key": "title", "match": {"text": "boots"}}, {"has_id": ["item-1", "item-2"]}]},
        ],
    )
    limit: Annotated[int, whole] = Field(10, ge=1, le=MAX_LIMIT, description="how many results, at most")
    offset: Annotated[int, whole] = Field(
        0, ge=0, le=MAX_OFFSET, description="results to leave out before the first"
    )
    cursor: str | None = Field(
        None,
        max_length=64,
        description=(
            "next_cursor of the page before, sent with the same request otherwise. It goes on in the same "
            "order as long as one generation serves; after a rebuild, or when the alias moved, it is refused "
            "(409 cursor_expired). What is written between two pages may move results from one to the other."
        ),
    )
    target: Literal["any", "image", "text"] = Field(
        "any", description="items that have a picture, a text, or any"
    )
    score_threshold: float | None = Field(
        None, ge=-10_000, le=10_000, allow_inf_nan=False, description="the lowest score wanted"
    )
    diversity: Diversity | None = Field(None, description="results unlike each other")
    dedup: Dedup | None = Field(None, description="near-identical results count once")
    group_by: str | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="a member of the metadata; items without it, or with null or an empty list, stand alone",
        examples=["product"],
    )
    group_size: Annotated[int, whole] = Field(
        1, ge=1, le=MAX_LIMIT, description="so many results of a group, the best"
    )
    fields: list[str] | None = Field(
        None, max_length=256, description="members of the metadata to come back; all if absent"
    )
    consistency: Consistency | None = Field(None, description="which write a search must see")
    with_vectors: bool = Field(False, description="results come with their unit rows")
    params: SearchParams = Field(default_factory=SearchParams, description="speed against recall")
    timeout_ms: TimeoutMs = None

    @model_validator(mode="after")
    def _one_place(self) -> "Choices":
        if self.cursor is not None and self.offset:
            raise ValueError("give either offset or cursor, not both")
        return self


class SearchRequest(Choices, Form):
    """What to look for and where."""

    model_config = example(
        query=[
            {"image": {"id": "sku-77"}},
            {"text": "suede", "weight": 0.6},
            {"text": "laces", "weight": -0.4},
        ],
        filter={"must": [{"key": "price", "range": {"lte": 90}}]},
        target="image",
        limit=20,
        group_by="product",
        fields=["title", "price"],
    )

    query: Query = Field(
        description="words, one term, weighted terms that are added up, or a picture with a wish",
        examples=["a red apple", [{"text": "apple", "weight": 1.0}, {"text": "tree", "weight": -0.5}]],
    )
    rerank: Rerank | None = Field(None, description="for a query of one document")
    min_relevance: float | None = Field(
        None, ge=0, le=1, description="the lowest relevance wanted, for a query of one document"
    )

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields query or text, others as they are or as JSON, and uploads: terms are added up."""
        request: dict[str, Any] = dict(fields)
        words = [{"text": request.pop(name)} for name in ("query", "text") if name in request]
        request["query"] = [*words, *({"image": {"upload": upload}} for upload in uploads)]
        for name in _JSON_FIELDS & request.keys():
            request[name] = parse_json(request[name])
        return request


_JSON_FIELDS = {"filter", "rerank", "diversity", "dedup", "fields", "consistency"}


class SearchBatch(Strict):
    """Searches that stand alone: a bad one fails without the others."""

    model_config = example(searches=[{"query": "a red apple", "limit": 3}, {"query": {"id": "sku-77"}}])

    searches: list[Any] = Field(min_length=1, max_length=100, description="each a SearchRequest")


class Example(Strict):
    """An item as an example."""

    id: ItemId = Field(description="of an item of this collection")
    weight: float = Field(
        1.0, ge=0.001, le=1000, allow_inf_nan=False, description="beside the other examples"
    )


_Example = Annotated[Annotated[ItemId, Tag("<text>")] | Annotated[Example, Tag("<object>")], ByKind]


class RecommendRequest(Choices):
    """Items to resemble, and items to keep away from."""

    model_config = example(
        positive=["sku-77", {"id": "sku-12", "weight": 2.0}],
        negative=["sku-3"],
        strategy="best_score",
        diversity={"lambda": 0.7},
    )

    positive: list[_Example] = Field(
        min_length=1, max_length=32, description="ids, or objects of id and weight"
    )
    negative: list[_Example] = Field(default_factory=list, max_length=32, description="as positive")
    strategy: Literal["average", "best_score"] = Field(
        "average",
        description=(
            "average: near to twice the weighted mean of the positive examples less that of the negative "
            "ones (to the mean alone if there are none). best_score: near to any positive example; the score "
            "is the greatest cosine with one, times its weight, less what that of a negative exceeds it by"
        ),
    )
    exclude_inputs: bool = Field(True, description="leave the examples out of the results")


class SearchHit(ItemReply):
    """An item that was found."""

    model_config = example(**_HIT)

    score: float = Field(description="higher is nearer: a cosine, unless by strategy best_score")
    relevance: float | None = Field(
        None,
        description=(
            "what the score says, for texts and pictures alike: 0.5 is where pairs that belong together are "
            "as frequent as pairs that do not, when there are as many of each. Null for a query of several "
            "terms, and for an encoder that was not calibrated"
        ),
    )
    rerank_score: float | None = Field(None, description="probability that it matches; null if not reranked")
    vector: list[float] | None = Field(None, description="its unit row; null if not asked for")


class IndexState(BaseModel):
    """What was searched."""

    generation: int = Field(description="of the snapshot searched; 0 before the first")
    covers_token: str = Field(description="every write up to this token was searched")


class SearchReply(BaseModel):
    """What was found."""

    model_config = example(**_REPLY)

    results: list[SearchHit] = Field(description="the best first")
    next_cursor: str | None = Field(None, description="where the next page begins; null behind the last")
    index: IndexState = Field(description="what was searched")
    degraded: list[str] = Field(
        description=(
            "rerank_skipped: no result could be reranked; rerank_incomplete: some kept their places; "
            "selection_cut_short: of the nearest 50,000 items too few were distinct or in groups of their own"
        )
    )
    timing_ms: dict[str, float] = Field(description="milliseconds by stage: encode, search, rerank")


class SearchOutcome(BaseModel):
    """What became of one search of a batch: exactly one member is not null."""

    reply: SearchReply | None = Field(None, description="what was found")
    problem: Problem | None = Field(None, description="why it failed")


class SearchBatchReply(BaseModel):
    """What became of a batch of searches."""

    model_config = example(results=[{"reply": _REPLY, "problem": None}])

    results: list[SearchOutcome] = Field(description="one for each search, in order")
