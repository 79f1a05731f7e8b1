"""Settings of collections: changed after they were made, and kept to by what is written."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.config import Settings
from tests.fakes import DIM, FakeEncoder
from tests.problems import assert_problem

C = "/v1/collections/c"
Json = dict[str, Any]


def patched(client: TestClient, change: Json, **headers: str) -> Json:
    """The collection after a change that was made, which is what a reading says of it."""
    reply = client.patch(C, json=change, headers=headers)
    assert reply.status_code == 200, reply.text
    read = client.get(C)
    assert (read.json(), read.headers["etag"]) == (reply.json(), reply.headers["etag"])
    return cast(Json, reply.json())


def put(client: TestClient, *items: Json) -> Json:
    return cast(Json, client.put(f"{C}/items", json={"items": list(items)}).json())


def test_settings_are_merged_and_null_removes(client: TestClient) -> None:
    first = patched(client, {"index": {"target_recall": 0.99}, "schema": {"price": "number"}})
    assert first["index"] == {"type": None, "memory_budget_bytes": None, "target_recall": 0.99}
    assert (first["schema"], first["limits"]) == ({"price": "number"}, {"max_items": None})
    second = patched(client, {"index": {"type": "Flat"}, "schema": {"sold": "boolean", "price": None}})
    assert (second["index"]["type"], second["index"]["target_recall"]) == ("Flat", 0.99)
    assert second["schema"] == {"sold": "boolean"}
    third = patched(client, {"index": None, "limits": {"max_items": 3}})
    assert third["index"] == {"type": None, "memory_budget_bytes": None, "target_recall": None}
    assert (third["schema"], third["limits"]) == ({"sold": "boolean"}, {"max_items": 3})
    assert patched(client, {"limits": {"max_items": None}, "schema": None})["schema"] == {}


def test_a_change_goes_onto_the_version_that_it_names_or_is_not_made(client: TestClient) -> None:
    tag = client.get(C).headers["etag"]
    changed = patched(client, {"limits": {"max_items": 3}}, **{"If-Match": tag})
    late = client.patch(C, json={"limits": None}, headers={"If-Match": tag})
    assert_problem(late, 412, "precondition_failed")
    assert client.get(C).json() == changed
    assert_problem(client.patch("/v1/collections/none", json={}), 404, "collection_not_found")


@pytest.mark.parametrize(
    "change",
    [
        {"index": {"type": "IVF"}},
        {"schema": {"price": "money"}},
        {"limits": {"max_items": 0}},
        {"model": "other"},
        {"index": {"target_recall": 2}},
    ],
)
def test_what_is_no_setting_is_refused(client: TestClient, change: Json) -> None:
    before = client.get(C).json()
    assert_problem(client.patch(C, json=change), 422, "invalid_request")
    assert client.get(C).json() == before


def test_a_collection_is_made_with_its_settings_and_a_tag(client: TestClient) -> None:
    settings = {"dimensions": DIM, "schema": {"tags": "string"}, "limits": {"max_items": 2}}
    made = client.put("/v1/collections/new", json=settings)
    assert (made.status_code, made.json()["schema"]) == (201, {"tags": "string"})
    assert made.headers["etag"] == client.get("/v1/collections/new").headers["etag"]
    same = client.put("/v1/collections/new", json={"index": {"type": "Flat"}})
    assert (same.status_code, same.json()["limits"]) == (200, {"max_items": 2})
    assert_problem(
        client.put("/v1/collections/x", json={"dimensions": DIM + 1}), 422, "dimensions_unsupported"
    )
    assert client.get("/v1/collections/x").status_code == 404


def test_metadata_keeps_to_the_types_that_are_fixed(client: TestClient) -> None:
    patched(client, {"schema": {"price": "number", "tags": "string", "sold": "boolean"}})
    good: list[Json] = [
        {"price": 1, "tags": ["a", "b"], "sold": False, "else": {"any": 1}},
        {"price": None, "tags": [], "sold": [True]},
        {},
    ]
    bad: list[Json] = [{"price": "1"}, {"price": True}, {"tags": ["a", 1]}, {"sold": 1}, {"tags": {"a": 1}}]
    items = [{"id": f"i{n}", "text": "red", "metadata": metadata} for n, metadata in enumerate(good + bad)]
    statuses = put(client, *items)["items"]
    assert [entry["status"] for entry in statuses] == ["created"] * 3 + ["failed"] * 5
    assert {entry["problem"]["code"] for entry in statuses[3:]} == {"metadata_type_mismatch"}
    late = client.patch(f"{C}/items/i0", json={"metadata": {"price": "much"}})
    assert_problem(late, 422, "metadata_type_mismatch")
    assert client.get(f"{C}/items/i0").json()["metadata"] == good[0]


def test_a_full_collection_takes_no_more_items_but_changes_of_those_it_has(client: TestClient) -> None:
    patched(client, {"limits": {"max_items": 2}})
    put(client, {"id": "a", "text": "red"}, {"id": "b", "text": "green"})
    refused = client.put(f"{C}/items", json={"items": [{"id": "c", "text": "blue"}]})
    assert_problem(refused, 409, "collection_full")
    assert client.get(f"{C}/items/c").status_code == 404
    assert put(client, {"id": "a", "text": "blue"})["items"][0]["status"] == "updated"
    assert client.delete(f"{C}/items/b").status_code == 200
    assert put(client, {"id": "c", "text": "blue"})["items"][0]["status"] == "created"


@pytest.fixture
def reopened(settings: Settings, fake_encoder: FakeEncoder) -> Iterator[TestClient]:
    """A service that was stopped and started again after a change."""
    with TestClient(create_app(settings, cast(Any, fake_encoder))) as api:
        api.put(C)
        patched(api, {"schema": {"price": "number"}, "limits": {"max_items": 1}})
    with TestClient(create_app(settings, cast(Any, fake_encoder))) as api:
        yield api


def test_settings_outlive_the_process(reopened: TestClient) -> None:
    found = reopened.get(C).json()
    assert (found["schema"], found["limits"]) == ({"price": "number"}, {"max_items": 1})
