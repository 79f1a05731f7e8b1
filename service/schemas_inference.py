"""Embeddings and reranking as JSON, in shapes that other services have made known."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag, model_validator

from service.json_schema import whole
from service.schemas import (
    ByKind,
    Content,
    Form,
    Input,
    Problem,
    Text,
    TimeoutMs,
    example,
)

ON_ERROR = "a bad input: fail the request, or put its problem in its place"
OnError = Literal["fail", "partial"]
_USAGE = {"prompt_tokens": 5, "total_tokens": 5, "image_count": 1, "image_pixels": 50_176}
_Inputs = Annotated[list[Input], Field(min_length=1), Tag("<list>")]
InputOrInputs = Annotated[Text | Annotated[Content, Tag("<object>")] | _Inputs, ByKind]


class EmbeddingsRequest(Form):
    """OpenAI's shape, with pictures and mixed documents as inputs."""

    model_config = example(
        input=["a red boot", {"text": "lookbook page", "image": "data:image/png;base64,…"}],
        on_error="partial",
    )

    input: InputOrInputs = Field(description="what to embed: a text, a document, or a list of them")
    model: str | None = Field(None, description="the encoder; the server's own if absent")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="of vectors: numbers, or in base64 their bytes, little-endian 32-bit if float"
    )
    dimensions: Annotated[int, Field(ge=1), whole] | None = Field(
        None, description="the encoder's own; it cannot be shortened"
    )
    embedding_type: Literal["float", "int8", "ubinary"] = Field(
        "float",
        description="of the numbers: int8 has each vector stretched to -127…127, ubinary a bit for each "
        "number above zero, eight to a byte. base64 has the bytes of just these",
    )
    normalize: Literal[True] = Field(True, description="vectors have length one; there are no others")
    truncate: bool = Field(
        True,
        description="of a long text the beginning is read; false: an input that is too long is a bad one",
    )
    input_type: Literal["query", "document"] | None = Field(
        None, description="accepted and ignored: queries and documents are embedded alike"
    )
    modality: Literal["text", "image"] = Field(
        "text",
        description="of inputs that are strings, as infinity has it: image takes them for pictures, in "
        "base64, as data: URIs, or by URL",
    )
    on_error: OnError = Field("fail", description=ON_ERROR)
    user: str | None = Field(None, description="accepted for OpenAI's clients and ignored")
    timeout_ms: TimeoutMs = None

    @model_validator(mode="after")
    def _pictures(self) -> "EmbeddingsRequest":
        if self.modality == "image":
            inputs = self.input if isinstance(self.input, list) else [self.input]
            self.input = [Content(image=one) if isinstance(one, str) else one for one in inputs]
        return self

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """A field input with a text, and uploaded pictures, each an input."""
        texts = [fields["input"]] if "input" in fields else []
        return {**fields, "input": [*texts, *({"image": {"upload": upload}} for upload in uploads)]}


class EmbeddingEntry(BaseModel):
    """What became of one input."""

    object: Literal["embedding", "error"] = Field(description="error: problem says why there is no vector")
    index: int = Field(description="of the input in the request")
    modality: Literal["text", "image", "mixed"] | None = Field(None, description="what the input is made of")
    embedding: list[float] | list[int] | str | None = Field(
        None, description="the vector, as embedding_type and encoding_format say"
    )
    problem: Problem | None = Field(None, description="of an input that failed")


class Usage(BaseModel):
    """What was read."""

    prompt_tokens: int = Field(description="of all texts")
    total_tokens: int = Field(description="the same: nothing is generated")
    image_count: int = Field(description="pictures")
    image_pixels: int = Field(description="of all pictures, as they were sent")


class EmbeddingsReply(BaseModel):
    """Vectors in the order of the inputs."""

    model_config = example(
        object="list",
        data=[{"object": "embedding", "index": 0, "modality": "text", "embedding": [0.031, -0.027, 0.118]}],
        model="momo-mini",
        embedding_space="momo-mini-3f9a1c0b77de",
        usage=_USAGE,
    )

    object: Literal["list"] = Field("list", description="as OpenAI has it")
    data: list[EmbeddingEntry] = Field(description="one entry for each input")
    model: str = Field(description="the encoder's name")
    embedding_space: str = Field(description="the encoder_id: only vectors of the same can be compared")
    usage: Usage = Field(description="of the inputs that were embedded")


_IGNORED = "accepted for Cohere's clients and ignored: a document is read as far as the encoder reads"


class RerankRequest(Form):
    """Cohere's and Jina's shape, with pictures and mixed documents beside texts."""

    model_config = example(
        query="a red apple", documents=["a ripe apple on a table", "a tree in winter"], top_n=1
    )

    query: Input = Field(description="what the documents should match")
    documents: list[Input] = Field(min_length=1, description="texts and documents with pictures")
    model: str | None = Field(None, description="the encoder; the server's own if absent")
    top_n: Annotated[int, Field(ge=1), whole] | None = Field(
        None, description="how many results; all if absent"
    )
    return_documents: bool = Field(False, description="whether results show their documents")
    max_tokens_per_doc: int | None = Field(None, description=_IGNORED)
    max_chunks_per_doc: int | None = Field(None, description=_IGNORED)
    priority: int | None = Field(None, description=_IGNORED)
    timeout_ms: TimeoutMs = None

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields query, model, top_n and return_documents, and uploaded pictures, each a document."""
        return {**fields, "documents": [{"image": {"upload": upload}} for upload in uploads]}


class RerankResult(BaseModel):
    index: int = Field(description="of the document in the request")
    relevance_score: float = Field(description="probability that the document matches the query")
    document: dict[str, Any] | None = Field(None, description="as it was sent, if return_documents")


class RerankReply(BaseModel):
    """Results, best first."""

    model_config = example(
        results=[{"index": 0, "relevance_score": 0.94}],
        model="momo-mini",
        usage={"prompt_tokens": 17, "total_tokens": 17, "image_count": 0, "image_pixels": 0},
    )

    results: list[RerankResult] = Field(description="best first, at most top_n")
    model: str = Field(description="the encoder's name")
    usage: Usage = Field(description="of the query and all documents")
