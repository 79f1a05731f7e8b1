"""Embeddings, reranking and models as JSON, in the shapes that other services have made known."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, Tag

from service.schemas import ByKind, Content, Form, Input, Problem, Text

_Inputs = Annotated[list[Input], Field(min_length=1), Tag("<list>")]
_InputOrInputs = Annotated[Text | Annotated[Content, Tag("<object>")] | _Inputs, ByKind]


class EmbeddingsRequest(Form):
    """OpenAI's shape, with pictures and mixed documents as inputs."""

    input: _InputOrInputs
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


class RerankRequest(Form):
    """Cohere's and Jina's shape, with pictures and mixed documents beside texts."""

    query: Input
    documents: list[Input] = Field(min_length=1)
    model: str | None = None
    top_n: int | None = Field(None, ge=1, description="how many results; all if absent")
    return_documents: bool = False

    @classmethod
    def from_form(cls, fields: Mapping[str, str], uploads: Sequence[str]) -> dict[str, Any]:
        """Fields query, model, top_n and return_documents, and uploaded pictures, each a document."""
        return {**fields, "documents": [{"image": {"upload": upload}} for upload in uploads]}


class RerankResult(BaseModel):
    index: int = Field(description="of the document in the request")
    relevance_score: float = Field(description="probability that the document matches the query")
    document: dict[str, Any] | None = None


class RerankReply(BaseModel):
    """Results, best first."""

    results: list[RerankResult]
    model: str
    usage: Usage


class ModelLimits(BaseModel):
    """What one request may hold."""

    max_items: int = Field(description="texts and pictures")
    max_pictures: int = Field(description="of one document")
    max_text_chars: int
    max_image_bytes: int
    max_image_pixels: int


class ModelReply(BaseModel):
    """The encoder that runs."""

    id: str
    object: Literal["model"] = "model"
    owned_by: Literal["momoseek"] = "momoseek"
    encoder_id: str
    dimensions: int
    modalities: list[str]
    capabilities: list[Literal["embed", "rerank"]]
    fusion: str = Field(description="of a document's parts: mean of their vectors, or joint in one sequence")
    provider: str
    precision: str
    limits: ModelLimits


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelReply]
