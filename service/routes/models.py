"""Models: what the encoder that runs can do, in OpenAI's shape with what it leaves out."""

from typing import Annotated

from fastapi import Path

from service.embedder import model_name
from service.reading import MAX_PICTURES
from service.retriever import Retriever
from service.routes import RetrieverDep, WithinDep, guarded
from service.routes.collections import check_model
from service.schemas_models import ModelLimits, ModelList, ModelReply

router = guarded("models", "/v1/models")


@router.get("")
async def list_models(retriever: RetrieverDep, within: WithinDep) -> ModelList:
    """The one encoder that runs."""
    return ModelList(data=[_reply(retriever, within)])


@router.get("/{model}")
async def get_model(
    model: Annotated[str, Path(description="its name, or its encoder_id", examples=["momo-mini"])],
    retriever: RetrieverDep,
    within: WithinDep,
) -> ModelReply:
    """The encoder that runs, by its name or its encoder_id."""
    check_model(model, retriever)
    return _reply(retriever, within)


def _reply(retriever: Retriever, within: tuple[str, ...] | None) -> ModelReply:
    encoder, limits = retriever.encoder, retriever.limits
    return ModelReply(
        id=model_name(encoder.id),
        encoder_id=encoder.id,
        dimensions=encoder.dim,
        modalities=list(encoder.modalities),
        capabilities=["embed", "rerank"] if encoder.matches else ["embed"],
        fusion=encoder.fusion,
        provider=encoder.providers[0],
        precision=encoder.precision,
        adapters=retriever.adapters.ids(within),
        limits=ModelLimits(
            max_items=limits.max_items,
            max_pictures=MAX_PICTURES,
            max_text_chars=limits.max_text_chars,
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
        ),
    )
