"""What searches find, as JSON."""

from pydantic import BaseModel, Field

from service.schemas import Problem, example
from service.schemas_items import ItemReply

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
    "hybrid_score": None,
    "explain": None,
    "vector": None,
}
_REPLY = {
    "results": [_HIT],
    "next_cursor": "c_7d0c3a1f5e8b4c0d9f6e2b7a91c4d5e6_29_a",
    "index": {"generation": 41, "covers_token": "wt_00000184d0"},
    "degraded": [],
    "timing_ms": {"encode": 9.1, "search": 3.4, "metadata": 0.8},
}


class HitExplanation(BaseModel):
    """What speaks for a result; POST /v1/explain tells by regions of the picture and words of the text."""

    terms: list[float] = Field(description="the cosine with each term of the query, in their order")
    words: list[str] = Field(description="those of a hybrid search that the item has")


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
    hybrid_score: float | None = Field(
        None, description="what a hybrid order goes by: 1 is first by nearness and by words"
    )
    explain: HitExplanation | None = Field(None, description="null if not asked for")
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
    adapter: str | None = Field(None, description="what has adapted the words of the query; null: nothing")
    degraded: list[str] = Field(
        description=(
            "hybrid_without_words: neither hybrid nor the query has any; rerank_skipped: no result could be "
            "reranked; rerank_incomplete: some kept their places; "
            "selection_cut_short: of the nearest 50,000 items too few were distinct or in groups of their own"
        )
    )
    timing_ms: dict[str, float] = Field(
        description="milliseconds by stage: encode, search, metadata (reading the items found), rerank"
    )


class SearchOutcome(BaseModel):
    """What became of one search of a batch: exactly one member is not null."""

    reply: SearchReply | None = Field(None, description="what was found")
    problem: Problem | None = Field(None, description="why it failed")


class SearchBatchReply(BaseModel):
    """What became of a batch of searches."""

    model_config = example(results=[{"reply": _REPLY, "problem": None}])

    results: list[SearchOutcome] = Field(description="one for each search, in order")
