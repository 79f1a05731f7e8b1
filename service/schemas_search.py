"""Search as JSON: what to look for, and what was found."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from service.json_schema import whole
from service.paging import MAX_OFFSET
from service.parsing import parse_json
from service.schemas import (
    MAX_LIMIT,
    ByKind,
    Form,
    ItemId,
    Strict,
    TimeoutMs,
    example,
)
from service.schemas_adapters import AdapterChoice
from service.schemas_query import Query

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


class HybridRequest(Strict):
    """Look for words, too: the order by nearness and the order by words are fused by reciprocal ranks.

    A word counts by its rarity, once for each item that has it; case does not matter, and endings do. Results
    are the candidates of both and no others. Their score stays the cosine, and score_threshold and
    min_relevance are about it; hybrid_score is what the order goes by.
    """

    text: str | None = Field(None, max_length=100_000, description="the words; absent: those of the query")
    keys: list[str] = Field(
        default_factory=list,
        max_length=16,
        description="members of the metadata whose words count beside those of the text",
        examples=[["title"]],
    )
    alpha: float = Field(0.5, ge=0, le=1, description="weight of nearness; that of words is 1 less it")
    fusion: Literal["rrf"] = Field("rrf", description="how orders are fused; there is no other way")
    k: Annotated[int, whole] = Field(60, ge=1, le=10_000, description="the larger, the less a first place is")
    candidates: Annotated[int, whole] = Field(
        200, ge=1, le=MAX_LIMIT, description="so many of each order are fused"
    )


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
        max_length=96,
        description=(
            "next_cursor of the page before, sent with the same request otherwise. It goes on in the same "
            "order as long as one generation serves; after a rebuild, when the alias moved, or when another "
            "adapter answers, it is refused (409 cursor_expired). What is written between two pages may move "
            "results from one to the other."
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
    hybrid: HybridRequest | None = Field(None, description="look for words, too")
    rerank: Rerank | None = Field(None, description="for a query of one document")
    explain: bool = Field(
        False,
        description="results say how near they are to each term of the query, and which words they have",
    )
    min_relevance: float | None = Field(
        None, ge=0, le=1, description="the lowest relevance wanted, for a query of one document"
    )

    adapter: AdapterChoice | None = Field(
        None,
        description="an adapter to try, serving or not; none: the encoder alone; absent: what serves",
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


_JSON_FIELDS = {"filter", "hybrid", "rerank", "diversity", "dedup", "fields", "consistency"}


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
