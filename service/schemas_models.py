"""Models as JSON, in OpenAI's shape with what it leaves out."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.schemas import example


class ModelLimits(BaseModel):
    """What one request may hold."""

    max_items: int = Field(description="texts and pictures")
    max_pictures: int = Field(description="of one document")
    max_text_chars: int = Field(description="of one text")
    max_image_bytes: int = Field(description="of one picture as it is sent")
    max_image_pixels: int = Field(description="of one picture")


_MODEL: dict[str, Any] = {
    "id": "momo-mini",
    "object": "model",
    "owned_by": "momoseek",
    "encoder_id": "momo-mini-3f9a1c0b77de",
    "dimensions": 384,
    "modalities": ["text", "image", "mixed"],
    "capabilities": ["embed", "rerank"],
    "fusion": "joint",
    "provider": "CPUExecutionProvider",
    "precision": "int8",
    "adapters": ["ada_019aac3d1f5e8c0d6f2b7a91"],
    "limits": {
        "max_items": 256,
        "max_pictures": 8,
        "max_text_chars": 100_000,
        "max_image_bytes": 20_000_000,
        "max_image_pixels": 50_000_000,
    },
}


class ModelReply(BaseModel):
    """The encoder that runs."""

    model_config = example(**_MODEL)

    id: str = Field(description="its name")
    object: Literal["model"] = Field("model", description="as OpenAI has it")
    owned_by: Literal["momoseek"] = Field("momoseek", description="as OpenAI has it")
    encoder_id: str = Field(description="the very encoder: weights, tokenizer and preprocessing")
    dimensions: int = Field(description="of its vectors")
    modalities: list[str] = Field(description="what it reads")
    capabilities: list[Literal["embed", "rerank"]] = Field(description="what it does")
    fusion: str = Field(description="of a document's parts: mean of their vectors, or joint in one sequence")
    provider: str = Field(description="what runs it: ONNX Runtime's execution provider")
    precision: str = Field(description="of its weights")
    adapters: list[str] = Field(description="those that serve, of the collections that the caller may see")
    limits: ModelLimits = Field(description="what one request may hold")


class ModelList(BaseModel):
    """The models that run: one."""

    model_config = example(object="list", data=[_MODEL])

    object: Literal["list"] = Field("list", description="as OpenAI has it")
    data: list[ModelReply] = Field(description="the one encoder")
