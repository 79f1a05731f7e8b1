"""What a search looks for, as JSON: words, a document, an item, or weighted terms of these."""

from typing import Annotated

from pydantic import ConfigDict, Discriminator, Field, Tag
from pydantic.config import JsonDict, JsonValue

from service.json_schema import any_of, given, one_of
from service.schemas import (
    KINDS,
    SPACE,
    VECTOR,
    ByKind,
    Content,
    EmbeddingSpace,
    Encoded,
    ImageRef,
    ItemId,
    Strict,
    Text,
    Vector,
    kind,
)

Weight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


class QueryImageRef(ImageRef):
    """Where a picture to look for is: exactly one member."""

    model_config = ConfigDict(json_schema_extra=one_of("base64", "upload", "url", "id"))

    id: ItemId | None = Field(None, description="an item of this collection to resemble")


_Image = Annotated[Annotated[Encoded, Tag("<text>")] | Annotated[QueryImageRef, Tag("<object>")], ByKind]
_ITEM_AS_IMAGE: JsonDict = {"required": ["image"], "properties": {"image": {"type": "object", **given("id")}}}


_PAIR: list[JsonValue] = [given("vector"), given("embedding_space")]


class QueryTerm(Content):
    """One term of a query. Weights may be negative: "like this picture, less of that word"."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [given("id"), given("content"), given("vector"), any_of("text", "image")],
            "not": {"allOf": [given("text"), _ITEM_AS_IMAGE]},
            "allOf": [{"anyOf": [{"allOf": _PAIR}, {"not": {"anyOf": _PAIR}}]}],
        }
    )

    image: _Image | None = Field(None, description="base64, a data: URI, or a reference")
    id: ItemId | None = Field(None, description="an item to resemble")
    vector: Vector | None = Field(None, description=f"a ready row instead of a content: {VECTOR}")
    embedding_space: EmbeddingSpace | None = Field(None, description=SPACE)
    weight: Weight = Field(1.0, description="how much it counts; negative: keep away from it")

    def _something(self) -> "Content":
        if (self.vector is None) != (self.embedding_space is None):
            raise ValueError("a vector comes with its embedding_space")
        if self.vector is not None:
            if any(one is not None for one in (self.id, self.text, self.image, self.content)):
                raise ValueError("a vector stands alone in its term: give the rest in terms of their own")
            return self
        named = self.id is not None or (isinstance(self.image, QueryImageRef) and self.image.id is not None)
        content = (self.text, self.content, self.image if self.id is not None else None)
        if named and any(part is not None for part in content):
            raise ValueError("an item stands alone in its term: give the rest in terms of their own")
        return self if named else super()._something()


class Compose(Strict):
    """A picture, and how what is wanted differs from it."""

    anchor: _Image = Field(description="the picture to begin with: base64, a data: URI, or a reference")
    modify: str = Field(min_length=1, description="what should be different", examples=["but in suede"])
    exclude: str | None = Field(None, min_length=1, description="what to keep away from")


class ComposedQuery(Strict):
    """A query by picture and wish. Both are read as one document; an item that is the anchor is left out."""

    compose: Compose = Field(description="a picture, and how what is wanted differs from it")


def _kind_of(value: object) -> str:
    composed = isinstance(value, ComposedQuery) or (isinstance(value, dict) and "compose" in value)
    return "<composed>" if composed else kind(value)


_Term = Annotated[Text | Annotated[QueryTerm, Tag("<object>")], ByKind]
_Terms = Annotated[list[_Term], Field(min_length=1, max_length=32), Tag("<list>")]
Query = Annotated[
    Text | Annotated[QueryTerm, Tag("<object>")] | Annotated[ComposedQuery, Tag("<composed>")] | _Terms,
    Discriminator(_kind_of, custom_error_type="kind", custom_error_message=KINDS),
]
