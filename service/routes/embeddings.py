"""Embeddings in OpenAI's shape, for texts, pictures and documents that mix both."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response

from index.vectors import Vectors
from service.blame import Blamed
from service.bodies import Uploads, content_parts, read
from service.caller import within
from service.embedder import TooManyItems, model_name
from service.encoding import quantized
from service.errors import problem_of
from service.images import pixels_of
from service.parsing import json_of
from service.reading import Part
from service.retriever import Retriever
from service.routes import body, guarded, retriever_of
from service.routes.collections import check_dimensions, check_model
from service.schemas import Content
from service.schemas_inference import EmbeddingsReply, EmbeddingsRequest, Usage

router = guarded("embeddings", "/v1")


@router.post("/embeddings", openapi_extra=body(EmbeddingsRequest, form=True), response_model=EmbeddingsReply)
async def embeddings(request: Request) -> Response:
    """A unit vector for each input. With ``on_error: partial`` a bad input fails alone."""
    retriever = retriever_of(request)
    wanted, uploads = await read(request, EmbeddingsRequest)
    check_model(wanted.model, retriever)
    check_dimensions(wanted.dimensions, retriever)
    inputs = wanted.input if isinstance(wanted.input, list) else [wanted.input]
    if len(inputs) > retriever.limits.max_items:
        raise TooManyItems(f"{len(inputs)} inputs; at most {retriever.limits.max_items} are allowed.")
    contents = [content_of(value, uploads, retriever) for value in inputs]
    if not wanted.truncate:
        contents = await _whole(contents, retriever)
    good = [content for content in contents if not isinstance(content, Exception)]
    async with within(wanted.timeout_ms):
        rows = iter(await retriever.embedder.embed(good))
    results = [content if isinstance(content, Exception) else next(rows) for content in contents]
    for index, result in enumerate(results):
        if isinstance(result, Exception) and wanted.on_error == "fail":
            raise Blamed(result, f"/input/{index}" if isinstance(wanted.input, list) else "/input")
    entries = [
        _entry(index, content, result, wanted)
        for index, (content, result) in enumerate(zip(contents, results, strict=True))
    ]
    pairs = zip(contents, results, strict=True)
    embedded = [c for c, r in pairs if not (isinstance(c, Exception) or isinstance(r, Exception))]
    # An EmbeddingsReply, but none is made: to check thousands of numbers takes as long as to write them.
    written = {
        "object": "list",
        "data": entries,
        "model": model_name(retriever.encoder.id),
        "embedding_space": retriever.encoder.id,
        "usage": (await usage_of(embedded, retriever)).model_dump(),
    }
    return Response(json_of(written), media_type="application/json")


def content_of(value: str | Content, uploads: Uploads, retriever: Retriever) -> tuple[Part, ...] | Exception:
    """What is to be embedded of an input, or what is wrong with it."""
    if isinstance(value, str):
        return (value,)
    try:
        return content_parts(value, uploads, retriever.limits.max_image_bytes)
    except ValueError as error:
        return error


async def _whole(
    contents: Sequence[tuple[Part, ...] | Exception], retriever: Retriever
) -> list[tuple[Part, ...] | Exception]:
    good = [content for content in contents if not isinstance(content, Exception)]
    looked_at = iter(await retriever.embedder.whole(good))
    return [content if isinstance(content, Exception) else next(looked_at) for content in contents]


def _entry(
    index: int,
    content: tuple[Part, ...] | Exception,
    result: Vectors | Exception,
    wanted: EmbeddingsRequest,
) -> dict[str, Any]:
    if isinstance(result, Exception) or isinstance(content, Exception):
        failure = result if isinstance(result, Exception) else content
        assert isinstance(failure, Exception)
        problem = problem_of(failure).model_dump(exclude_none=True)
        return {"object": "error", "index": index, "problem": problem}
    numbers = quantized(result, wanted.embedding_type)
    row = base64.b64encode(numbers.tobytes()).decode() if wanted.encoding_format == "base64" else numbers
    kinds = {type(part) for part in content}
    modality = "mixed" if len(kinds) > 1 else "text" if str in kinds else "image"
    return {"object": "embedding", "index": index, "modality": modality, "embedding": row}


async def usage_of(contents: Sequence[tuple[Part, ...]], retriever: Retriever) -> Usage:
    """What was read: tokens and pictures."""
    parts = [part for content in contents for part in content]
    tokens = await retriever.embedder.count_tokens([part for part in parts if isinstance(part, str)])
    pictures = [part for part in parts if isinstance(part, bytes)]
    few = len(pictures) < 2  # a header is read sooner than a thread is changed
    pixels = pixels_of(pictures) if few else await asyncio.to_thread(pixels_of, pictures)
    return Usage(prompt_tokens=tokens, total_tokens=tokens, image_count=len(pictures), image_pixels=pixels)
