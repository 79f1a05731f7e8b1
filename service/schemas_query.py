"""What a search looks for, as JSON: words, a document, an item, or weighted terms of these."""

from typing import Annotated

from pydantic import ConfigDict, Field, Tag
from pydantic.config import JsonDict

from service.json_schema import any_of, given, one_of
from service.schemas import ByKind, Content, Encoded, ImageRef, ItemId, Text

Weight = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


class QueryImageRef(ImageRef):
    """Where a picture to look for is: exactly one member."""

    model_config = ConfigDict(json_schema_extra=one_of("base64", "upload", "url", "id"))

    id: ItemId | None = Field(None, description="an item of this collection to resemble")


_Image = Annotated[Annotated[Encoded, Tag("<text>")] | Annotated[QueryImageRef, Tag("<object>")], ByKind]
_ITEM_AS_IMAGE: JsonDict = {"required": ["image"], "properties": {"image": {"type": "object", **given("id")}}}


class QueryTerm(Content):
    """One term of a query. Weights may be negative: "like this picture, less of that word"."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [given("id"), given("content"), any_of("text", "image")],
            "not": {"allOf": [given("text"), _ITEM_AS_IMAGE]},
        }
    )

    image: _Image | None = Field(None, description="base64, a data: URI, or a reference")
    id: ItemId | None = Field(None, description="an item to resemble")
    weight: Weight = Field(1.0, description="how much it counts; negative: keep away from it")

    def _something(self) -> "Content":
        named = self.id is not None or (isinstance(self.image, QueryImageRef) and self.image.id is not None)
        content = (self.text, self.content, self.image if self.id is not None else None)
        if named and any(part is not None for part in content):
            raise ValueError("an item stands alone in its term: give the rest in terms of their own")
        return self if named else super()._something()


_Term = Annotated[Text | Annotated[QueryTerm, Tag("<object>")], ByKind]
_Terms = Annotated[list[_Term], Field(min_length=1, max_length=32), Tag("<list>")]
Query = Annotated[Text | Annotated[QueryTerm, Tag("<object>")] | _Terms, ByKind]
