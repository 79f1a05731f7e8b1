"""POST /v1/rerank, and what /v1/models says about it."""

import base64
import threading
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.fakes import FakeEncoder, square, striped
from tests.problems import assert_problem

RERANK = "/v1/rerank"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("fake_encoder", [FakeEncoder(workers=1)], ids=["one worker"])
def test_a_long_reranking_lets_others_have_their_turn(client: TestClient, fake_encoder: FakeEncoder) -> None:
    match = fake_encoder.match
    seen: list[int] = []

    def slow(query: Any, candidates: Any) -> Any:
        seen.append(len(candidates))
        time.sleep(0.05)
        return match(query, candidates)

    fake_encoder.match = slow  # type: ignore[method-assign]
    body = {"query": "red", "documents": [f"w{i}" for i in range(80)]}
    long = threading.Thread(target=client.post, args=(RERANK,), kwargs={"json": body})
    long.start()
    time.sleep(0.12)
    assert client.post("/v1/collections/c/search", json={"query": "red"}).status_code == 200
    meanwhile = len(seen)
    long.join()
    assert meanwhile < len(seen) == 20
    assert set(seen) == {4}


def test_pairs_of_different_queries_never_share_a_call(client: TestClient, fake_encoder: FakeEncoder) -> None:
    match = fake_encoder.match
    colours = ("red", "blue", "green", "black", "white")
    bodies = [{"query": colour, "documents": ["red", "blue"]} for colour in colours]
    replies: dict[str, Any] = {}

    def slow(query: Any, candidates: Any) -> Any:
        time.sleep(0.1)
        return match(query, candidates)

    def ask(body: dict[str, Any]) -> None:
        replies[body["query"]] = client.post(RERANK, json=body).json()

    fake_encoder.match = slow  # type: ignore[method-assign]
    threads = [threading.Thread(target=ask, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for colour, reply in replies.items():
        for result in reply["results"]:
            document = ["red", "blue"][result["index"]]
            assert result["relevance_score"] == float(document == colour)


def test_rerank_has_coheres_shape(client: TestClient) -> None:
    body = {"model": "fake", "query": "red apple", "documents": ["green", "red apple", {"text": "red"}]}
    reply = client.post(RERANK, json=body).json()
    assert reply == {
        "results": [
            {"index": 1, "relevance_score": 1.0},
            {"index": 2, "relevance_score": 0.5},
            {"index": 0, "relevance_score": 0.0},
        ],
        "model": "fake",
        "usage": {"prompt_tokens": 6, "total_tokens": 6, "image_count": 0, "image_pixels": 0},
    }
    assert client.post("/v2/rerank", json=body).json() == reply


def test_equal_documents_keep_their_order_and_the_first_are_kept(client: TestClient) -> None:
    body = {"query": "red", "documents": ["red", "blue", "red", "red"], "top_n": 3, "return_documents": True}
    results = client.post(RERANK, json=body).json()["results"]
    assert [result["index"] for result in results] == [0, 2, 3]
    assert [result["document"] for result in results] == [{"text": "red"}] * 3


def test_pictures_and_mixed_documents_are_reranked(client: TestClient) -> None:
    uri = f"data:image/png;base64,{b64(square('blue'))}"
    documents = [
        {"image": {"base64": uri}},
        {"content": [{"type": "image_url", "image_url": uri}, {"type": "text", "text": "red"}]},
        {"image": b64(striped("blue", "red", "green"))},
    ]
    body = {"query": {"image": b64(striped("red", "blue"))}, "documents": documents, "return_documents": True}
    reply = client.post(RERANK, json=body).json()
    assert [result["index"] for result in reply["results"]] == [1, 2, 0]
    assert reply["results"][0]["document"] == documents[1]
    assert reply["usage"] == {"prompt_tokens": 1, "total_tokens": 1, "image_count": 4, "image_pixels": 1024}


def test_uploaded_pictures_are_documents(client: TestClient) -> None:
    files = [("file", ("a.png", square("red"))), ("file", ("b.png", square("blue")))]
    reply = client.post(RERANK, data={"query": "blue", "top_n": "1"}, files=files).json()
    assert [result["index"] for result in reply["results"]] == [1]


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"image": b64(b"\x89PNG\r\n\x1a\n broken")}, 422, "image_undecodable"),
        ({"image": "%%%"}, 422, "image_base64_invalid"),
        ({"image": {"url": "http://127.0.0.1/x.png"}}, 422, "url_fetch_disabled"),
        ("  ", 422, "text_empty"),
        ("poison", 422, "encoding_failed"),
        ("a" * 70_000, 413, "text_too_long"),
    ],
)
def test_a_bad_document_is_pointed_at(client: TestClient, document: Any, status: int, code: str) -> None:
    reply = client.post(RERANK, json={"query": "red", "documents": ["red", document, "blue"]})
    assert_problem(reply, status, code)
    assert reply.json()["param"] == "/documents/1"
    assert [finding["pointer"] for finding in reply.json()["errors"]] == ["/documents/1"]


@pytest.mark.parametrize(
    ("query", "code"),
    [(" ", "text_empty"), ({"image": "AAAA"}, "image_undecodable"), ({}, "invalid_request")],
)
def test_a_bad_query_is_refused(client: TestClient, query: Any, code: str) -> None:
    assert_problem(client.post(RERANK, json={"query": query, "documents": ["red"]}), 422, code)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"documents": []}, "/documents"),
        ({"documents": "red"}, "/documents"),
        ({"top_n": 0}, "/top_n"),
        ({"query": ["red"]}, "/query"),
        ({"rank_fields": ["title"]}, "/rank_fields"),
    ],
)
def test_a_wrong_rerank_request_is_refused(client: TestClient, change: dict[str, Any], pointer: str) -> None:
    reply = client.post(RERANK, json={"query": "red", "documents": ["red"]} | change)
    assert_problem(reply, 422, "invalid_request")
    assert reply.json()["param"] == pointer


def test_rerank_has_the_limits_of_embeddings(client: TestClient) -> None:
    assert_problem(
        client.post(RERANK, json={"query": "red", "documents": ["red"] * 256}), 413, "too_many_items"
    )
    assert_problem(
        client.post(RERANK, json={"query": "red", "documents": ["red"], "model": "rerank-v3.5"}),
        404,
        "model_not_found",
    )
    with client.app.state.retriever.embedder.admission.permit(2048, 0.0, "interactive"):  # type: ignore[attr-defined]
        assert_problem(client.post(RERANK, json={"query": "red", "documents": ["red"]}), 429, "queue_full")


def test_more_pictures_than_a_document_may_have_are_refused(client: TestClient) -> None:
    parts = [{"type": "image_base64", "image_base64": b64(square("red"))}] * 9
    reply = client.post("/v1/embeddings", json={"input": [{"content": parts}]})
    assert_problem(reply, 413, "too_many_pictures")
    assert client.post("/v1/embeddings", json={"input": [{"content": parts[1:]}]}).status_code == 200


def test_models_tell_what_the_encoder_can_do(client: TestClient, fake_encoder: FakeEncoder) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["encoder_id"]) == ("fake", "model", "fake-000000000000")
    assert (model["modalities"], model["fusion"]) == (["text", "image", "mixed"], "mean")
    assert model["capabilities"] == ["embed", "rerank"]
    assert model["limits"]["max_pictures"] == 8
    assert client.get("/v1/models/fake").json() == client.get("/v1/models/fake-000000000000").json() == model
    assert_problem(client.get("/v1/models/clip"), 404, "model_not_found")
    fake_encoder.matches = False
    assert client.get("/v1/models/fake").json()["capabilities"] == ["embed"]
