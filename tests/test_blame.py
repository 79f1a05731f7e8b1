"""A refusal names the member of the body that it is about, whatever the route."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.fakes import FakeEncoder
from tests.problems import assert_problem

BROKEN = {"image": "AAAA"}  # no picture
EMBEDDINGS, RERANK, EXPLAIN = "/v1/embeddings", "/v1/rerank", "/v1/explain"
SEARCH, RECOMMEND = "/v1/collections/shop/search", "/v1/collections/shop/recommend"
COUNT, DELETE = "/v1/collections/shop/items/count", "/v1/collections/shop/items/delete"


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    client.put("/v1/collections/shop", json={})
    client.put("/v1/collections/shop/items", json={"items": [{"id": "a", "text": "red"}]})
    return client


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "pointer"),
    [
        (EMBEDDINGS, {"input": ["ok", BROKEN]}, 422, "image_undecodable", "/input/1"),
        (EMBEDDINGS, {"input": BROKEN}, 422, "image_undecodable", "/input"),
        (EMBEDDINGS, {"input": ["ok", {"image": "%"}]}, 422, "image_base64_invalid", "/input/1"),
        (EMBEDDINGS, {"input": ["ok", ""]}, 422, "text_empty", "/input/1"),
        (SEARCH, {"query": ""}, 422, "text_empty", "/query"),
        (SEARCH, {"query": ["red", BROKEN]}, 422, "image_undecodable", "/query/1"),
        (SEARCH, {"query": ["red", {"image": "%"}]}, 422, "image_base64_invalid", "/query/1"),
        (SEARCH, {"query": ["red", {"id": "gone"}]}, 404, "item_not_found", "/query/1"),
        (
            SEARCH,
            {"query": ["red", {"vector": [0.0], "embedding_space": "fake-000000000000"}]},
            422,
            "vector_invalid",
            "/query/1",
        ),
        (
            SEARCH,
            {"query": {"compose": {"anchor": {"id": "gone"}, "modify": "blue"}}},
            404,
            "item_not_found",
            "/query/compose/anchor",
        ),
        (SEARCH, {"query": "red", "filter": {"mist": []}}, 422, "filter_invalid", "/filter"),
        (RECOMMEND, {"positive": ["a", "gone"]}, 404, "item_not_found", "/positive/1"),
        (RECOMMEND, {"positive": ["a"], "negative": ["gone"]}, 404, "item_not_found", "/negative/0"),
        (COUNT, {"filter": {"must": 1}}, 422, "filter_invalid", "/filter"),
        (DELETE, {"filter": {"must": 1}}, 422, "filter_invalid", "/filter"),
        (RERANK, {"query": "", "documents": ["red"]}, 422, "text_empty", "/query"),
        (RERANK, {"query": "red", "documents": ["red", ""]}, 422, "text_empty", "/documents/1"),
        (EXPLAIN, {"query": "red", "item": BROKEN}, 422, "image_undecodable", "/item"),
        (EXPLAIN, {"query": BROKEN, "item": "red"}, 422, "image_undecodable", "/query"),
    ],
)
def test_what_is_wrong_is_pointed_at(
    shop: TestClient, path: str, body: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    reply = shop.post(path, json=body)
    assert_problem(reply, status, code)
    assert reply.json()["param"] == pointer
    assert reply.json()["errors"][0]["pointer"] == pointer
    if path == EMBEDDINGS:
        assert reply.json()["error"]["param"] == pointer


def test_a_search_of_many_points_within_itself(shop: TestClient) -> None:
    searches = [{"query": "red"}, {"query": ["red", BROKEN]}]
    good, bad = shop.post(f"{SEARCH}/batch", json={"searches": searches}).json()["results"]
    assert good["reply"]["results"]
    assert bad["problem"]["param"] == "/query/1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"input": ["red"], "timeout_ms": 1}),
        ("/v1/classify", {"inputs": ["red"], "labels": ["red", "blue"], "timeout_ms": 1}),
        ("/v1/similarity", {"source": "red", "targets": ["red"], "timeout_ms": 1}),
        (EXPLAIN, {"query": "red", "item": "red blue", "timeout_ms": 1}),
        (RERANK, {"query": "red", "documents": ["red"] * 8, "timeout_ms": 1}),
    ],
)
def test_nothing_is_to_blame_for_a_server_that_has_no_time(
    shop: TestClient, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ("embed", "match"):
        monkeypatch.setattr(FakeEncoder, call, _slow(getattr(FakeEncoder, call)))
    reply = shop.post(path, json=body)
    assert_problem(reply, 504, "deadline_passed")
    assert "param" not in reply.json()
    if path == EMBEDDINGS:
        assert reply.json()["error"]["type"] == "server_error"


def _slow(call: Callable[..., Any]) -> Callable[..., Any]:
    def slowly(*given: Any) -> Any:
        time.sleep(0.05)
        return call(*given)

    return slowly
