"""Requests and replies as JSON: the shapes that the OpenAPI document shows."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from service.json_schema import any_of, given, one_of, whole
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


def kind(value: object) -> str:
    """Which member of a union a value is meant to be: errors then speak of that member alone."""
    return "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else "<object>"


KINDS = "a string, an object or a list"
ByKind = Discriminator(kind, custom_error_type="kind", custom_error_message=KINDS)


def example(**members: Any) -> ConfigDict:
    """A model's configuration with an example of it for the OpenAPI document."""
    return ConfigDict(json_schema_extra={"examples": [members]})


class Strict(BaseModel):
    """A request body: unknown members are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class Form(Strict):
    """A request body that a plain HTML form or ``curl -F`` can send too."""

    @classmethod
    @abstractmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """The JSON that a form's fields and the names of its uploaded files stand for."""


Encoded = Annotated[str, Field(json_schema_extra={"format": "image"})]  # base64 or a data: URI
TimeoutMs = Annotated[
    Annotated[int, Field(ge=1, le=600_000), whole] | None,
    Field(
        description="milliseconds that the answer is worth waiting for: a request that would take longer is "
        "refused at once (429), and one that does take longer ends (504); what can be left out is, first",
    ),
]


class ImageRef(Strict):
    """Where a picture is: exactly one member."""

    model_config = ConfigDict(json_schema_extra=one_of("base64", "upload", "url"))

    base64: Encoded | None = Field(None, description="base64 or a data: URI")
    upload: str | None = Field(None, description="name of a part of this multipart request")
    url: str | None = Field(
        None, description="an address of http or https, if this server fetches from its host"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        names = type(self).model_fields
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"name the picture by exactly one of {', '.join(names)}")
        return self


Image = Annotated[Annotated[Encoded, Tag("<text>")] | Annotated[ImageRef, Tag("<object>")], ByKind]
_KINDS = ("text", "image_base64", "image_url")


class ContentPart(Strict):
    """One part of an interleaved document, in the manner of OpenAI's content lists."""

    model_config = ConfigDict(
        json_schema_extra={
            **one_of(*_KINDS),
            "anyOf": [{"properties": {"type": {"const": kind}}, "allOf": [given(kind)]} for kind in _KINDS],
        }
    )

    type: Literal["text", "image_base64", "image_url"] = Field(description="which of the members it has")
    text: str | None = Field(None, description="words")
    image_base64: Encoded | None = Field(None, description="a picture as base64 or a data: URI")
    image_url: str | dict[str, Any] | None = Field(
        None, description="a picture's address or data: URI, or {url: …} with one; fetched as image.url is"
    )

    @model_validator(mode="after")
    def _one(self) -> "ContentPart":
        if {name for name in _KINDS if getattr(self, name) is not None} != {self.type}:
            raise ValueError(f"a part of type {self.type} has exactly the member {self.type}")
        return self


class Content(Strict):
    """Something to embed: a text, a picture, both, or an interleaved list of parts."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [given("content"), any_of("text", "image")]})

    text: str | None = Field(None, description="words")
    image: Image | None = Field(None, description="base64, a data: URI, or a reference")
    content: list[ContentPart] | None = Field(
        None, min_length=1, max_length=64, description="instead of text and image: parts in their order"
    )

    @model_validator(mode="after")
    def _check(self) -> "Content":
        return self._something()

    def _something(self) -> "Content":
        if self.content is not None and (self.text is not None or self.image is not None):
            raise ValueError("give either content or text and image, not both")
        if self.content is None and self.text is None and self.image is None:
            raise ValueError("give a text, an image, or content")
        return self


Text = Annotated[str, Tag("<text>")]
Input = Annotated[Text | Annotated[Content, Tag("<object>")], ByKind]


ITEM: dict[str, Any] = {
    "id": "sku-77",
    "modality": "mixed",
    "text": "brown suede boots",
    "image": {"url": "/v1/collections/shop/images/sku-77", "type": "image/jpeg"},
    "metadata": {"price": 79.5, "tags": ["suede", "laces"]},
    "created_at": 1_790_812_800.0,
    "updated_at": 1_790_816_400.0,
}


class ItemRequest(Strict):
    """An item to write: a picture, a text, or both as one document."""

    model_config = ConfigDict(json_schema_extra=any_of("text", "image"))

    id: ItemId = Field(description="names it in its collection; an item of this id is replaced")
    text: str | None = Field(None, description="words")
    image: Image | None = Field(None, description="base64, a data: URI, or {upload: name of a part}")
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="any JSON; scalars and lists of them can be filtered by"
    )

    @model_validator(mode="after")
    def _something(self) -> "ItemRequest":
        if self.text is None and self.image is None:
            raise ValueError("an item has a text, an image, or both")
        return self


class ItemsRequest(Form):
    """Items to write. Each stands alone: a bad one fails without the others."""

    model_config = example(
        items=[{"id": "sku-77", "text": "brown suede boots", "metadata": {"price": 79.5, "tags": ["suede"]}}]
    )

    items: list[Any] = Field(min_length=1, description="each an ItemRequest")

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """One item: fields id, text and metadata (JSON), and one uploaded picture."""
        return {"items": [_item_of_form(fields, uploads)]}


class ItemPatch(Form):
    """What to change of an item, in the manner of RFC 7396: null removes, and what is absent stays."""

    model_config = example(metadata={"price": 59.5, "sold_at": None})

    text: str | None = Field(None, description="in place of the text")
    image: Image | None = Field(None, description="in place of the picture: base64, a data: URI, an upload")
    metadata: dict[str, Any] | None = Field(
        None, description="merged into the metadata: members of objects one by one, lists as a whole"
    )

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


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description="where this kind of problem is described")
    title: str = Field(description="the kind in words, the same at every occurrence")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what is wrong this time")
    code: str = Field(description="the kind, stable: for programs to go by")
    instance: str | None = Field(None, description="the path of the request")
    param: str | None = Field(None, description="the member of the body at fault, as a JSON pointer")
    request_id: str | None = Field(None, description="as in X-Request-Id and in the server's log")
    retry_after_seconds: int | None = Field(None, description="when to try again, as in Retry-After")
    errors: list[dict[str, str]] | None = Field(None, description="every finding: pointer and detail")


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


class ItemReply(BaseModel):
    """An item as it stands."""

    model_config = example(**ITEM)

    id: str = Field(description="names it in its collection")
    modality: Literal["text", "image", "mixed"] = Field(description="what it is made of; mixed: of both")
    text: str | None = Field(None, description="its words")
    image: ImageReply | None = Field(None, description="its picture")
    metadata: dict[str, Any] = Field(description="as it was sent")
    created_at: float = Field(description="seconds since the epoch")
    updated_at: float = Field(description="of its last change, seconds since the epoch")
