"""The official clients of OpenAI and Cohere, pointed at a running server."""

import asyncio
import base64
from collections.abc import Iterator

import cohere
import httpx2
import numpy as np
import openai
import pytest

from service.client import Client
from tests.conftest import ROOT, Server
from tests.fakes import square

MODEL = "momo-mini"
TEXTS = ["a red apple", "the moon at night", "a bowl of soup"]


@pytest.fixture
def ai(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def rows(server: Server) -> list[list[float]]:
    """What the API itself says of TEXTS."""
    reply = httpx2.post(f"{server.url}/v1/embeddings", json={"input": TEXTS}).json()
    return [entry["embedding"] for entry in reply["data"]]


def test_openais_client_embeds_texts_as_numbers_and_as_base64(
    ai: openai.OpenAI, rows: list[list[float]]
) -> None:
    packed = ai.embeddings.create(model=MODEL, input=TEXTS)  # it asks for base64 by itself
    plain = ai.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float", user="u-1")
    for reply in (packed, plain):
        assert np.allclose([entry.embedding for entry in reply.data], rows, atol=1e-6)
        assert [entry.index for entry in reply.data] == [0, 1, 2]
        assert (reply.object, reply.model) == ("list", MODEL)
        assert reply.usage.prompt_tokens == reply.usage.total_tokens > 10
    assert len(ai.embeddings.create(model=MODEL, input=TEXTS[0], dimensions=384).data) == 1


def test_openais_client_takes_pictures_as_extra_input(ai: openai.OpenAI) -> None:
    picture = f"data:image/png;base64,{base64.b64encode(square('red')).decode()}"
    extra = {"input": [{"image": picture}, "red"]}
    reply = ai.embeddings.create(model=MODEL, input=[], extra_body=extra)
    first, second = (np.array(entry.embedding) for entry in reply.data)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-4)
    assert first @ second < 0.999


def test_openais_client_raises_its_own_errors(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ai.embeddings.create(model="text-embedding-3-small", input="x")
    assert (missing.value.code, missing.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.UnprocessableEntityError) as wrong:
        ai.embeddings.create(model=MODEL, input="x", dimensions=7)
    assert wrong.value.code == "dimensions_unsupported"


def test_openais_client_lists_the_model(ai: openai.OpenAI) -> None:
    assert [model.id for model in ai.models.list()] == [MODEL]
    assert ai.models.retrieve(MODEL).owned_by == "momoseek"


def test_openais_async_client_embeds_too(server: Server, rows: list[list[float]]) -> None:
    async def embed() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as ai:
            asked = (ai.embeddings.create(model=MODEL, input=text) for text in TEXTS)
            return [reply.data[0].embedding for reply in await asyncio.gather(*asked)]

    found = np.array(asyncio.run(embed()))
    assert np.allclose(np.sum(found * np.array(rows), axis=1), 1, atol=0.02)


def test_coheres_client_reranks(server: Server) -> None:
    documents = ["the moon at night", "a red apple on a table", "soup"]
    with cohere.ClientV2(api_key="none", base_url=server.url) as client:
        reply = client.rerank(model=MODEL, query="a red apple", documents=documents)
        assert sorted(result.index for result in reply.results) == [0, 1, 2]
        assert reply.results[0].index == 1
        scores = [result.relevance_score for result in reply.results]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        best = client.rerank(model=MODEL, query="a red apple", documents=documents, top_n=1).results
        assert [(result.index, result.relevance_score) for result in best] == [
            (1, pytest.approx(scores[0], abs=0.02))
        ]


def test_coheres_older_client_gets_the_documents_back(server: Server) -> None:
    with cohere.Client(api_key="none", base_url=server.url) as client:
        reply = client.rerank(
            model=MODEL,
            query="a red apple",
            documents=["the moon", {"text": "a red apple"}],
            return_documents=True,
        )
        assert reply.results[0].document is not None
        assert reply.results[0].document.text == "a red apple"


def test_coheres_client_raises_its_own_errors(server: Server) -> None:
    with cohere.ClientV2(api_key="none", base_url=server.url) as client:
        with pytest.raises(cohere.NotFoundError) as missing:
            client.rerank(model="rerank-v3.5", query="x", documents=["y"])
        assert missing.value.body["code"] == "model_not_found"
        with pytest.raises(cohere.UnprocessableEntityError):
            client.rerank(model=MODEL, query="x", documents=[])


def test_our_own_client_names_pictures_of_the_gallery(server: Server) -> None:
    with Client(server.url) as client:
        items = client.scroll("gallery", limit=1000).items
        assert len(items) > 300
        names = ["emoji-3d-red-apple", "drawing-elephant", "drawing-acoustic-guitar"]
        pictures = [{"image": ROOT / f"service/gallery/images/{name}.webp"} for name in names]
        reply = client.classify(
            pictures, ["guitar", "elephant", "apple"], templates=["{}", "a picture of a {}"]
        )
        best = [result.labels[0] for result in reply.results if result.labels]
        assert [label.label for label in best] == ["apple", "elephant", "guitar"]
        assert all(1 / 3 < label.score <= 1 for label in best)
