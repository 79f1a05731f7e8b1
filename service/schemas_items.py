"""Items as JSON: what is written, what became of it, and how it stands."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.json_schema import any_of, given
from service.parsing import InvalidBody, parse_json
from service.schemas import (
    SPACE,
    VECTOR,
    Content,
    ContentPart,
    EmbeddingSpace,
    Form,
    Image,
    ItemId,
    Problem,
    Vector,
    example,
)

ITEM: dict[str, Any] = {
    "id": "sku-77",
    "modality": "mixed",
    "text": "brown suede boots",
    "image": {"url": "/v1/collections/shop/images/sku-77", "type": "image/jpeg"},
    "content": None,
    "version": "0f9c1e5d7a3b4c2d8e6f1a2b3c4d5e6f",
    "metadata": {"price": 79.5, "tags": ["suede", "laces"]},
    "created_at": 1_790_812_800.0,
    "updated_at": 1_790_816_400.0,
}


Mode = Literal["upsert", "insert_only", "update_only"]
MODE = (
    "upsert: whether or not there is an item of the id. insert_only: only where there is none (409 "
    "item_exists). update_only: only where there is one (404 item_not_found)"
)


class ItemRequest(Content):
    """An item to write: a picture, a text, both as one document, or parts in an order of their own.

    With a ``vector`` nothing is embedded: the vector is taken as it is, and text and picture are only kept.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [given("text"), given("image"), given("content"), given("vector")],
            "not": {"allOf": [given("content"), any_of("text", "image")]},
        }
    )

    id: ItemId = Field(description="names it in its collection; an item of this id is replaced")
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="any JSON; scalars and lists of them can be filtered by"
    )
    vector: Vector | None = Field(None, description=VECTOR)
    embedding_space: EmbeddingSpace | None = Field(None, description=SPACE)
    modality: Literal["text", "image", "mixed"] | None = Field(
        None, description="of a vector without text and picture: what it was made of; image if absent"
    )
    version: str | None = Field(
        None,
        max_length=64,
        description="write only in the place of this version of the item, its ETag without quotes; another "
        "one is left alone (409 version_conflict)",
    )

    def _something(self) -> "Content":
        if (self.vector is None) != (self.embedding_space is None):
            raise ValueError("a vector comes with its embedding_space")
        contents = (self.text, self.image, self.content)
        if self.vector is None:
            if self.modality is not None:
                raise ValueError("modality is of a vector without text and picture")
            return super()._something()
        if self.modality is not None and any(one is not None for one in contents):
            raise ValueError("text and picture tell the modality themselves")
        return self if all(one is None for one in contents) else super()._something()


class ItemsRequest(Form):
    """Items to write. Each stands alone: a bad one fails without the others."""

    model_config = example(
        items=[{"id": "sku-77", "text": "brown suede boots", "metadata": {"price": 79.5, "tags": ["suede"]}}]
    )

    items: list[Any] = Field(min_length=1, description="each an ItemRequest")
    mode: Mode = Field("upsert", description=MODE)

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """One item: fields id, text and metadata (JSON), and one uploaded picture; and mode."""
        others = {name: value for name, value in fields.items() if name != "mode"}
        mode = {"mode": fields["mode"]} if "mode" in fields else {}
        return {"items": [_item_of_form(others, uploads)], **mode}


class ItemPatch(Form):
    """What to change of an item, in the manner of RFC 7396: null removes, and what is absent stays."""

    model_config = example(metadata={"price": 59.5, "sold_at": None})

    text: str | None = Field(None, description="in place of the text")
    image: Image | None = Field(None, description="in place of the picture: base64, a data: URI, an upload")
    content: list[ContentPart] | None = Field(
        None, min_length=1, max_length=64, description="in place of all content: parts in their order"
    )
    vector: Vector | None = Field(None, description=f"in place of the item's row: {VECTOR}")
    embedding_space: EmbeddingSpace | None = Field(None, description=SPACE)
    metadata: dict[str, Any] | None = Field(
        None, description="merged into the metadata: members of objects one by one, lists as a whole"
    )

    @model_validator(mode="after")
    def _whole(self) -> "ItemPatch":
        if (self.vector is None) != (self.embedding_space is None):
            raise ValueError("a vector comes with its embedding_space")
        if self.content is not None and (self.text is not None or self.image is not None):
            raise ValueError("give either content or text and image, not both")
        return self

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields text and metadata (JSON), and one uploaded picture."""
        return _item_of_form(fields, uploads)


def _item_of_form(fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
    item: dict[str, Any] = dict(fields)
    if "metadata" in item:
        item["metadata"] = parse_json(item["metadata"])
    if len(uploads) > 1:
        raise InvalidBody.of([{"pointer": "/image", "detail": "an item has one picture"}])
    if uploads:
        item["image"] = {"upload": uploads[0]}
    return item


class ItemStatus(BaseModel):
    """What became of one item."""

    id: str | None = Field(None, description="the item's, if it says one")
    status: Literal["created", "updated", "unchanged", "accepted", "failed"] = Field(
        description="accepted: the job will write it. failed: it was not written, and problem says why"
    )
    problem: Problem | None = Field(None, description="of an item that failed")


class ItemsReply(BaseModel):
    """What became of the items."""

    model_config = example(
        items=[{"id": "sku-77", "status": "created"}],
        errors=False,
        state="searchable",
        write_token="wt_00000004b1",
    )

    items: list[ItemStatus] = Field(description="in the order of the request")
    errors: bool = Field(description="whether one of them failed")
    state: Literal["accepted", "durable", "searchable"] = Field(
        "searchable", description="how far the writes have come; what the request waited for, or less"
    )
    write_token: str | None = Field(
        None, description="the log's position: what covers it has seen these writes; absent if accepted only"
    )
    job: str | None = Field(None, description="of writes that are accepted: the job that does them")


class DeleteReply(BaseModel):
    """An item is gone."""

    model_config = example(id="sku-77", status="deleted", write_token="wt_00000004b3")

    id: str = Field(description="the item's")
    status: Literal["deleted"] = Field(description="what became of it")
    write_token: str = Field(description="the log's position: what covers it has seen this write")


class PatchReply(BaseModel):
    """An item has been changed."""

    model_config = example(id="sku-77", status="updated", write_token="wt_00000004b2")

    id: str = Field(description="the item's")
    status: Literal["updated", "unchanged"] = Field(description="unchanged: it was so already")
    write_token: str = Field(description="the log's position: what covers it has seen this write")


class ImageReply(BaseModel):
    """An item's picture."""

    url: str = Field(description="where it is served, relative to the server")
    type: str = Field(description="its media type")


class PartReply(BaseModel):
    """One part of an item's content."""

    type: Literal["text", "image"] = Field(description="which of the members it has")
    text: str | None = Field(None, description="words")
    image: ImageReply | None = Field(None, description="a picture")


class ItemReply(BaseModel):
    """An item as it stands."""

    model_config = example(**ITEM)

    id: str = Field(description="names it in its collection")
    modality: Literal["text", "image", "mixed"] = Field(description="what it is made of; mixed: of both")
    text: str | None = Field(None, description="its words; of several texts a line for each")
    image: ImageReply | None = Field(None, description="its picture, the first if there are several")
    content: list[PartReply] | None = Field(
        None, description="its parts in their order, where it is more than a picture and a text"
    )
    version: str = Field(description="names it as it stands: its ETag without quotes")
    metadata: dict[str, Any] = Field(description="as it was sent")
    created_at: float = Field(description="seconds since the epoch")
    updated_at: float = Field(description="of its last change, seconds since the epoch")
