"""Collections as JSON."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from index.engines.kinds import PATTERN
from service.json_schema import whole
from service.schemas import Strict, example

_COLLECTION: dict[str, Any] = {
    "name": "shop",
    "model": "momo-mini",
    "encoder_id": "momo-mini-3f9a1c0b77de",
    "dimensions": 384,
    "metric": "cosine",
    "count": 1200,
    "created_at": 1_790_812_800.0,
    "index": {"type": None, "memory_budget_bytes": 500_000_000, "target_recall": None},
    "schema": {"price": "number", "tags": "string"},
    "limits": {"max_items": 5_000_000},
}


class IndexSettings(Strict):
    """How a collection is indexed from its next generation on; what is absent, the server's settings say."""

    type: str | None = Field(
        None,
        pattern=f"^(auto|Milvus)$|{PATTERN}",
        description="auto: by size and memory; Milvus: in the cluster; or a FAISS factory string",
        examples=["auto", "HNSW32,SQ8,RFlat", "IVF4096,RaBitQfs4,RFlat"],
    )
    memory_budget_bytes: Annotated[int, Field(ge=1, lt=2**63), whole] | None = Field(
        None, description="what searches may keep busy, for the choice of a type"
    )
    target_recall: float | None = Field(
        None, ge=0.5, le=1, description="recall@10 that searches are tuned to"
    )


_FieldName = Annotated[str, Field(min_length=1, max_length=512)]
_FieldType = Literal["string", "number", "boolean"]
_MaxItems = Annotated[int, Field(ge=1, lt=2**63), whole]
_FIELDS_SAID = (
    "types of members of its items' metadata, by name: values are of this type, lists of such, null or "
    "absent. Items that are there already stay as they are; what is not named may be anything"
)
_LIMITS_SAID = "how much it may hold"


class Limits(Strict):
    """How much a collection may hold."""

    max_items: _MaxItems | None = Field(
        None, description="a request that would leave more is refused (409 collection_full)"
    )


class CollectionRequest(Strict):
    """Settings of a collection."""

    model_config = example(
        metric="cosine",
        index={"memory_budget_bytes": 500_000_000},
        schema={"price": "number", "tags": "string"},
        limits={"max_items": 5_000_000},
    )

    model: str | None = Field(None, description="the encoder; the server's own if absent")
    dimensions: Annotated[int, Field(ge=1), whole] | None = Field(
        None, description="the encoder's own; it cannot be shortened"
    )
    metric: Literal["cosine"] = Field("cosine", description="how items are compared; there is no other")
    index: IndexSettings | None = Field(None, description="how it is indexed; absent: as before")
    fields: dict[_FieldName, _FieldType] | None = Field(
        None, alias="schema", max_length=256, description=f"{_FIELDS_SAID}; absent: as before"
    )
    limits: Limits | None = Field(None, description=f"{_LIMITS_SAID}; absent: as before")


class CollectionPatch(Strict):
    """What to change of a collection's settings, in the manner of RFC 7396: null removes, what is absent
    stays."""

    model_config = example(index={"target_recall": 0.99}, schema={"price": "number", "tags": None})

    index: IndexSettings | None = Field(None, description="from its next generation on; null: the server's")
    fields: dict[_FieldName, _FieldType | None] | None = Field(
        None, alias="schema", max_length=256, description=_FIELDS_SAID
    )
    limits: Limits | None = Field(None, description=_LIMITS_SAID)


class CollectionReply(BaseModel):
    """A collection as it stands."""

    model_config = ConfigDict(**example(**_COLLECTION), serialize_by_alias=True)

    name: str = Field(description="as in its address")
    model: str = Field(description="the encoder's name")
    encoder_id: str = Field(description="the very encoder: weights, tokenizer and preprocessing")
    dimensions: int = Field(description="of its vectors")
    metric: str = Field("cosine", description="how items are compared")
    count: int = Field(description="how many items it has")
    created_at: float = Field(description="seconds since the epoch")
    index: IndexSettings = Field(description="what of its index it sets itself")
    fields: dict[str, str] = Field(
        alias="schema", description="types of members of its items' metadata that are fixed"
    )
    limits: Limits = Field(description="how much it may hold")


class CollectionList(BaseModel):
    """A page of collections."""

    model_config = example(collections=[_COLLECTION], next_cursor="shop")

    collections: list[CollectionReply] = Field(description="in order of name")
    next_cursor: str | None = Field(description="cursor of the next page; null: this is the last")
