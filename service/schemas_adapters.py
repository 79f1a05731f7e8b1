"""Adapters as JSON."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from service.schemas import COLLECTION_PATTERN, ItemId, Strict, example

if TYPE_CHECKING:  # clients have no use for what these bring
    from service.adapter_desk import Adapter

ADAPTER_PATTERN = "ada_[0-9a-f]{24}"
MAX_PAIRS = 10_000
_EXAMPLE: dict[str, Any] = {
    "id": "ada_019aac3d1f5e8c0d6f2b7a91",
    "collection": "shop",
    "name": "clicks of November",
    "state": "ready",
    "share": 0.1,
    "encoder_id": "momo-mini-3f9a1c0b77de",
    "follows": None,
    "created_at": 1_790_812_800.0,
    "promoted_at": None,
    "gate": {
        "accepted": True,
        "reason": "it finds more of what it has not seen",
        "trained_on": 1260,
        "left_out": 3,
        "among": 20_700,
        "held_out": {
            "queries": 149,
            "ndcg_before": 0.134,
            "ndcg_after": 0.27,
            "recall_at_10_before": 0.037,
            "recall_at_10_after": 0.279,
        },
        "gain_low": 0.118,
        "new": None,
        "golden": 25,
        "golden_lost": 0,
    },
}


class AdapterPair(Strict):
    """A query and an item that answers it: what was searched for and clicked, or a product and its name."""

    query: str = Field(min_length=1, max_length=2000, description="words that are searched for")
    item: ItemId = Field(description="the id of an item of the collection")


class AdapterRequest(Strict):
    """What an adapter is learned from."""

    model_config = example(
        collection="shop",
        name="clicks of November",
        pairs=[{"query": "rubber boots for kids", "item": "sku-77"}],
        golden=[{"query": "umbrella", "item": "sku-12"}],
    )

    collection: str = Field(pattern=COLLECTION_PATTERN, description="whose queries it is for")
    name: str | None = Field(None, min_length=1, max_length=128, description="what it is called by people")
    pairs: list[AdapterPair] = Field(
        min_length=1,
        max_length=MAX_PAIRS,
        description="what it learns from. A part is held out, and decides whether it may serve; some hundred "
        "are a good number. Those whose item is not there are left out",
    )
    golden: list[AdapterPair] = Field(
        default_factory=list,
        max_length=1000,
        description="pairs that it does not learn from: if one of their items is among the first ten and is "
        "so no more, the adapter is refused",
    )


class TrafficRequest(Strict):
    """How much an adapter is tried."""

    model_config = example(share=0.1)

    share: float = Field(ge=0, le=1, description="of the collection's searches; 0 ends the trial")


class HeldOut(BaseModel):
    """How well the items of pairs are found that training has not seen, each query alike."""

    queries: int = Field(description="how many")
    ndcg_before: float = Field(description="1 / log2(1 + place), by the encoder alone")
    ndcg_after: float = Field(description="the same with the adapter")
    recall_at_10_before: float = Field(description="share of items among the first ten, by the encoder alone")
    recall_at_10_after: float = Field(description="the same with the adapter")


class AdapterGate(BaseModel):
    """What the gate found."""

    accepted: bool = Field(description="whether it may serve")
    reason: str = Field(description="why, or why not")
    trained_on: int = Field(description="pairs")
    left_out: int = Field(description="pairs whose item is not there, or whose query cannot be read")
    among: int = Field(description="items among which those of the pairs were looked for")
    held_out: HeldOut = Field(description="pairs of items that training has not seen")
    gain_low: float = Field(
        description="what ndcg gains at least, at 95 % confidence (bootstrap over queries): less than "
        "0.005 is refused"
    )
    new: HeldOut | None = Field(description="of these, the queries that training has not seen either")
    golden: int = Field(description="golden pairs")
    golden_lost: int = Field(description="of these, how many are not among the first ten any more")


class AdapterReply(BaseModel):
    """An adapter as it stands. Times are in seconds since the epoch."""

    model_config = example(**_EXAMPLE)

    id: str = Field(description="names it at /v1/adapters/{adapter}")
    collection: str = Field(description="whose queries it is for")
    name: str | None = Field(description="what it is called by people")
    state: Literal["ready", "refused", "promoted", "retired", "rolled_back"] = Field(
        description="ready: it may serve; refused: by the gate; promoted: it answers searches; retired: "
        "another one was promoted; rolled_back: it was taken out of service"
    )
    share: float = Field(description="of searches that it answers on trial")
    encoder_id: str = Field(description="the encoder whose queries it adapts")
    follows: str | None = Field(description="the one that was promoted before it, and is so after a rollback")
    created_at: float = Field(description="when it was learned")
    promoted_at: float | None = Field(description="when it was promoted last")
    gate: AdapterGate = Field(description="what was measured before it might serve")

    @classmethod
    def of(cls, adapter: "Adapter") -> "AdapterReply":
        """As clients see it."""
        return cls(
            id=adapter.id,
            collection=adapter.name,
            name=adapter.label,
            state=adapter.state,
            share=adapter.share,
            encoder_id=adapter.encoder_id,
            follows=adapter.follows,
            created_at=adapter.created_at,
            promoted_at=adapter.promoted_at,
            gate=AdapterGate.model_validate(dict(adapter.report)),
        )


class AdapterList(BaseModel):
    """A page of adapters."""

    model_config = example(adapters=[_EXAMPLE], next_cursor=None)

    adapters: list[AdapterReply] = Field(description="the newest first")
    next_cursor: str | None = Field(description="cursor of the next page; null: this is the last")


AdapterChoice = Annotated[str, Field(pattern=f"^(none|{ADAPTER_PATTERN})$")]
