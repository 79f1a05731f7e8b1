"""Filters through the API: all of the grammar, what a search aims at, and refusals that name the part."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.problems import assert_problem

SEARCH = "/v1/collections/c/search"
ITEMS: list[dict[str, Any]] = [
    {
        "id": "boot",
        "text": "red boot",
        "metadata": {"price": 40, "tags": ["wool", "new"], "title": "Red Boot"},
    },
    {"id": "shoe", "text": "red shoe", "metadata": {"price": 79.5, "tags": ["new"], "title": "A shoe, red"}},
    {"id": "sock", "text": "red sock", "metadata": {"price": 5, "tags": [], "sold_at": None}},
    {"id": "hat", "text": "red hat", "metadata": {"price": 20, "tags": "wool"}},
]


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """Four texts with metadata."""
    reply = client.put("/v1/collections/c/items", params={"wait": "searchable"}, json={"items": ITEMS})
    assert reply.status_code == 200, reply.text
    return client


@pytest.mark.parametrize(
    ("tree", "ids"),
    [
        ({"must": [{"key": "price", "range": {"gte": 20, "lt": 79.5}}]}, {"boot", "hat"}),
        ({"must": [{"key": "tags", "match": {"except": ["new"]}}]}, {"boot", "hat"}),
        ({"must": [{"key": "title", "match": {"text": "red"}}]}, {"boot", "shoe"}),
        ({"should": [{"has_id": ["hat"]}, {"key": "price", "range": {"lte": 5}}]}, {"hat", "sock"}),
        ({"must": [{"key": "tags", "is_empty": True}]}, {"sock"}),
        ({"must": [{"key": "sold_at", "is_null": True}]}, {"sock"}),
        (
            {
                "min_should": {
                    "conditions": [
                        {"key": "tags", "match": {"any": ["wool", "new"]}},
                        {"key": "price", "range": {"gt": 30}},
                        {"must_not": [{"key": "title", "is_empty": True}]},
                    ],
                    "min_count": 3,
                }
            },
            {"boot", "shoe"},
        ),
        ({}, {"boot", "shoe", "sock", "hat"}),
    ],
)
def test_a_search_finds_what_passes_its_filter(shop: TestClient, tree: dict[str, Any], ids: set[str]) -> None:
    reply = shop.post(SEARCH, json={"query": "red", "filter": tree, "target": "text"}).json()
    assert {hit["id"] for hit in reply["results"]} == ids
    assert shop.post(SEARCH, json={"query": "red", "filter": tree, "target": "image"}).json()["results"] == []


def test_a_refusal_names_the_part_at_fault(shop: TestClient) -> None:
    tree = {"must": [{"should": [{"key": "price", "range": {"above": 3}}]}]}
    reply = shop.post(SEARCH, json={"query": "red", "filter": tree})
    assert_problem(reply, 422, "filter_invalid")
    assert "must[0].should[0].range has the unknown member 'above'" in reply.json()["detail"]
