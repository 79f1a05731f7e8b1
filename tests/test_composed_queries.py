"""Queries by a picture and a wish: both are one document, and what is excluded is kept away from."""

import base64
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.fakes import square
from tests.problems import assert_problem

SEARCH = "/v1/collections/c/search"
RED = base64.b64encode(square("red")).decode()


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    texts = {"red": "red", "blue": "blue", "both": "red blue", "all": "red blue green"}
    items = [{"id": id, "text": text} for id, text in texts.items()] + [{"id": "picture", "image": RED}]
    assert client.put("/v1/collections/c/items", json={"items": items}).json()["errors"] is False
    return client


def found(client: TestClient, compose: Any, **options: Any) -> list[str]:
    reply = client.post(SEARCH, json={"query": {"compose": compose}, **options})
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["results"]]


@pytest.mark.parametrize("anchor", [RED, {"base64": RED}, f"data:image/png;base64,{RED}"])
def test_what_is_near_to_both_comes_first(shop: TestClient, anchor: Any) -> None:
    assert found(shop, {"anchor": anchor, "modify": "blue"})[:2] == ["both", "all"]


def test_an_item_is_left_out_where_it_is_the_anchor(shop: TestClient) -> None:
    assert "picture" in found(shop, {"anchor": RED, "modify": "blue"})
    assert "picture" not in found(shop, {"anchor": {"id": "picture"}, "modify": "blue"})
    assert found(shop, {"anchor": {"id": "picture"}, "modify": "blue"})[0] == "both"


def test_what_is_excluded_is_kept_away_from(shop: TestClient) -> None:
    plain = found(shop, {"anchor": RED, "modify": "green blue"})
    without = found(shop, {"anchor": RED, "modify": "green blue", "exclude": "blue"})
    assert without.index("blue") > plain.index("blue")


def test_a_composed_query_is_one_document_to_rerank(shop: TestClient) -> None:
    assert found(shop, {"anchor": RED, "modify": "blue"}, rerank={"top_n": 3})[0] == "both"
    body = {
        "query": {"compose": {"anchor": RED, "modify": "blue", "exclude": "green"}},
        "rerank": {"top_n": 3},
    }
    assert_problem(shop.post(SEARCH, json=body), 422, "rerank_needs_one_document")


def test_a_picture_can_be_uploaded_as_the_anchor(shop: TestClient) -> None:
    query = '{"query": {"compose": {"anchor": {"upload": "shot"}, "modify": "blue"}}}'
    reply = shop.post(SEARCH, files={"request": (None, query), "shot": square("red")})
    assert reply.json()["results"][0]["id"] == "both"


@pytest.mark.parametrize(
    ("compose", "status", "code"),
    [
        ({"anchor": {"id": "nobody"}, "modify": "blue"}, 404, "item_not_found"),
        ({"anchor": RED}, 422, "invalid_request"),
        ({"anchor": RED, "modify": ""}, 422, "invalid_request"),
        ({"anchor": RED, "modify": "blue", "extra": 1}, 422, "invalid_request"),
        ({"anchor": "%%%", "modify": "blue"}, 422, "image_base64_invalid"),
        ("red", 422, "invalid_request"),
    ],
)
def test_a_wrong_composition_is_refused(shop: TestClient, compose: Any, status: int, code: str) -> None:
    assert_problem(shop.post(SEARCH, json={"query": {"compose": compose}}), status, code)
