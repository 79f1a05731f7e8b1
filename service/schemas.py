"""Requests and replies as JSON: the shapes that the OpenAPI document shows."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from service.parsing import InvalidBody, parse_json

MAX_LIMIT = 1000


def _clean_id(value: str) -> str:
    if not value.isprintable():
        raise ValueError("an id holds printable characters only")
    if {".", ".."} & set(value.split("/")):
        raise ValueError("an id has no . or .. between slashes: clients would resolve it away")
    return value


ItemId = Annotated[str, Field(min_length=1, max_length=512, examples=["sku-77"]), AfterValidator(_clean_id)]
COLLECTION_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"


def _kind(value: object) -> str:
    """Which member of a union a value is meant to be: errors then speak of that member alone."""
    return "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else "<object>"


ByKind = Discriminator(_kind, custom_error_type="kind", custom_error_message="a string, an object or a list")


class Strict(BaseModel):
    """A request body: unknown members are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Form(Strict):
    """A request body that a plain HTML form or ``curl -F`` can send too."""

    @classmethod
    @abstractmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """The JSON that a form's fields and the names of its uploaded files stand for."""


class ImageRef(Strict):
    """Where a picture is: exactly one member."""

    base64: str | None = Field(None, description="base64 or a data: URI")
    upload: str | None = Field(None, description="name of a part of this multipart request")
    id: ItemId | None = Field(None, description="an item of this collection (in queries)")
    url: str | None = Field(None, description="refused: this server does not fetch")

    @model_validator(mode="after")
    def _one(self) -> "ImageRef":
        if sum(value is not None for value in (self.base64, self.upload, self.id, self.url)) != 1:
            raise ValueError("name the picture by exactly one of base64, upload, id, url")
        return self


Image = Annotated[Annotated[str, Tag("<text>")] | Annotated[ImageRef, Tag("<object>")], ByKind]


class ContentPart(Strict):
    """One part of an interleaved document, in the manner of OpenAI's content lists."""

    type: Literal["text", "image_base64", "image_url"]
    text: str | None = None
    image_base64: str | None = None
    image_url: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one(self) -> "ContentPart":
        given = {name for name in ("text", "image_base64", "image_url") if getattr(self, name) is not None}
        if given != {self.type}:
            raise ValueError(f"a part of type {self.type} has exactly the member {self.type}")
        return self


class Content(Strict):
    """Something to embed: a text, a picture, both, or an interleaved list of parts."""

    text: str | None = None
    image: Image | None = Field(None, description="base64, a data: URI, or a reference")
    content: list[ContentPart] | None = Field(None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _check(self) -> "Content":
        return self._something()

    def _something(self) -> "Content":
        if self.content is not None and (self.text is not None or self.image is not None):
            raise ValueError("give either content or text and image, not both")
        if (
            self.content is None
            and self.text is None
            and self.image is None
            and not getattr(self, "id", None)
        ):
            raise ValueError("give a text, an image, or content")
        return self


Text = Annotated[str, Tag("<text>")]
Input = Annotated[Text | Annotated[Content, Tag("<object>")], ByKind]


class CollectionRequest(Strict):
    """Settings of a collection."""

    model: str | None = Field(None, description="the encoder; the server's own if absent")
    metric: Literal["cosine"] = "cosine"


class CollectionReply(BaseModel):
    """A collection as it stands."""

    name: str
    model: str
    encoder_id: str
    dimensions: int
    metric: str = "cosine"
    count: int
    created_at: float = Field(description="seconds since the epoch")


class CollectionList(BaseModel):
    collections: list[CollectionReply]
    next_cursor: str | None


class ItemRequest(Strict):
    """An item to write: a picture, a text, or both as one document."""

    id: ItemId
    text: str | None = None
    image: Image | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _something(self) -> "ItemRequest":
        if self.text is None and self.image is None:
            raise ValueError("an item has a text, an image, or both")
        return self


class ItemsRequest(Form):
    """Items to write. Each stands alone: a bad one fails without the others."""

    items: list[Any] = Field(min_length=1, description="each an ItemRequest")

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """One item: fields id, text and metadata (JSON), and one uploaded picture."""
        item: dict[str, Any] = dict(fields)
        if "metadata" in item:
            item["metadata"] = parse_json(item["metadata"])
        if len(uploads) > 1:
            raise InvalidBody.of([{"pointer": "/image", "detail": "an item has one picture"}])
        if uploads:
            item["image"] = {"upload": uploads[0]}
        return {"items": [item]}


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    param: str | None = None
    request_id: str | None = None
    retry_after_seconds: int | None = None
    errors: list[dict[str, str]] | None = None


class ItemStatus(BaseModel):
    """What became of one item."""

    id: str | None = None
    status: Literal["created", "updated", "unchanged", "deleted", "not_found", "failed"]
    problem: Problem | None = None
    custom_id: str | None = None


class BulkLine(Strict):
    """One line of a bulk stream."""

    op: Literal["upsert", "delete"] = "upsert"
    custom_id: str | None = Field(None, max_length=512)
    item: dict[str, Any] | None = Field(None, description="of an upsert: an ItemRequest")
    id: ItemId | None = Field(None, description="of a delete")

    @model_validator(mode="after")
    def _matching(self) -> "BulkLine":
        if self.op == "upsert" and (self.item is None or self.id is not None):
            raise ValueError("an upsert has an item and no id of its own")
        if self.op == "delete" and (self.id is None or self.item is not None):
            raise ValueError("a delete has an id and no item")
        return self


class ItemsReply(BaseModel):
    items: list[ItemStatus]
    errors: bool
    write_token: str


class DeleteReply(BaseModel):
    id: str
    status: Literal["deleted"]
    write_token: str


class ImageReply(BaseModel):
    url: str
    type: str


class ItemReply(BaseModel):
    """An item as it stands."""

    id: str
    modality: Literal["text", "image", "mixed"]
    text: str | None = None
    image: ImageReply | None = None
    metadata: dict[str, Any]
    created_at: float
    updated_at: float


class ScrollRequest(Strict):
    limit: int = Field(60, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(None, max_length=2048)


class ScrollReply(BaseModel):
    items: list[ItemReply]
    next_cursor: str | None


class Check(BaseModel):
    ok: bool
    reason: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class Readiness(BaseModel):
    status: Literal["ready", "not_ready"]
    checks: dict[str, Check]
