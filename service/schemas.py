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


_Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[
    Annotated[
        list[Annotated[float, Field(allow_inf_nan=False)]],
        Field(min_length=1, max_length=8192),
        Tag("<list>"),
    ]
    | Annotated[str, Field(min_length=1, max_length=50_000), Tag("<text>")],
    ByKind,
]
VECTOR = "numbers, or base64 of their little-endian 32-bit floats, as /v1/embeddings gives them"
EmbeddingSpace = Annotated[str, Field(max_length=512, json_schema_extra={"format": "embedding-space"})]
SPACE = "the encoder_id that made the vector, as embedding_space of /v1/embeddings: of another it is refused"
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
