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
Weight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


def _kind(value: object) -> str:
    """Which member of a union a value is meant to be: errors then speak of that member alone."""
    return "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else "<object>"


_ByKind = Discriminator(_kind, custom_error_type="kind", custom_error_message="a string, an object or a list")


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


Image = Annotated[Annotated[str, Tag("<text>")] | Annotated[ImageRef, Tag("<object>")], _ByKind]


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


_Text = Annotated[str, Tag("<text>")]
_Term = Annotated[_Text | Annotated[QueryTerm, Tag("<object>")], _ByKind]
_Terms = Annotated[list[_Term], Field(min_length=1, max_length=32), Tag("<list>")]
Query = Annotated[_Text | Annotated[QueryTerm, Tag("<object>")] | _Terms, _ByKind]
_Input = Annotated[_Text | Annotated[Content, Tag("<object>")], _ByKind]
_Inputs = Annotated[list[_Input], Field(min_length=1), Tag("<list>")]
Input = Annotated[_Text | Annotated[Content, Tag("<object>")] | _Inputs, _ByKind]


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

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields query or text, limit, target, filter (JSON), and uploaded pictures: terms are added up."""
        request: dict[str, Any] = dict(fields)
        words = [{"text": request.pop(name)} for name in ("query", "text") if name in request]
        request["query"] = [*words, *({"image": {"upload": upload}} for upload in uploads)]
        if "filter" in request:
            request["filter"] = parse_json(request["filter"])
        return request


class SearchHit(ItemReply):
    score: float = Field(description="cosine, higher is nearer")


class IndexState(BaseModel):
    generation: int = Field(description="of the snapshot searched; 0 before the first")
    covers_token: str = Field(description="every write up to this token was searched")


class SearchReply(BaseModel):
    results: list[SearchHit]
    next_cursor: str | None = None
    index: IndexState
    degraded: list[str]
    timing_ms: dict[str, float]


class EmbeddingsRequest(Form):
    """OpenAI's shape, with pictures and mixed documents as inputs."""

    input: Input
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    input_type: Literal["query", "document"] | None = None
    on_error: Literal["fail", "partial"] = "fail"
    user: str | None = Field(None, description="accepted for OpenAI's clients and ignored")

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """A field input with a text, and uploaded pictures, each an input."""
        texts = [fields["input"]] if "input" in fields else []
        return {**fields, "input": [*texts, *({"image": {"upload": upload}} for upload in uploads)]}


class EmbeddingEntry(BaseModel):
    object: Literal["embedding", "error"]
    index: int
    modality: Literal["text", "image", "mixed"] | None = None
    embedding: list[float] | str | None = None
    problem: Problem | None = None


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    image_count: int


class EmbeddingsReply(BaseModel):
    object: Literal["list"] = "list"
    data: list[EmbeddingEntry]
    model: str
    embedding_space: str
    usage: Usage


class Check(BaseModel):
    ok: bool
    reason: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class Readiness(BaseModel):
    status: Literal["ready", "not_ready"]
    checks: dict[str, Check]
