"""A short run of what `make fuzz` does at length: pictures gone wrong, and requests beside the schema."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.mutants import FORMATS, uploads
from tests.problems import assert_problem

ITEMS = "/v1/collections/c/items"


def test_no_mutated_picture_breaks_the_server_or_its_neighbours(client: TestClient) -> None:
    statuses: dict[str, set[str]] = {format.lower(): set() for format in FORMATS}
    for upload in uploads(7, 320):
        reply = client.put(
            ITEMS,
            data={"id": f"picture-{upload.number}"},
            files={"file": (upload.name, upload.content)},
        )
        assert reply.status_code == 200, upload
        [item] = reply.json()["items"]
        assert item["status"] == "created" or 400 <= item["problem"]["status"] < 500, (upload, item)
        statuses[upload.name.rpartition(".")[2]].add(item["status"])
    # Of each format some were still pictures and some were none: the changes are neither idle nor too coarse.
    assert set(map(frozenset, statuses.values())) == {frozenset({"created", "failed"})}
    assert client.get("/readyz").json()["status"] == "ready"
    client.put(ITEMS, json={"items": [{"id": "word", "text": "red"}]})
    [hit] = client.post(f"{ITEMS[:-6]}/search", json={"query": "red", "limit": 1, "target": "text"}).json()[
        "results"
    ]
    assert hit["id"] == "word"


def test_the_same_seed_makes_the_same_files() -> None:
    assert list(uploads(3, 16)) == list(uploads(3, 16)) != list(uploads(4, 16))


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/collections/c", "DELETE, GET, HEAD, PATCH, PUT"),
        (f"{ITEMS}/sku-1", "DELETE, GET, HEAD, PATCH"),
        (f"{ITEMS}/count", "POST"),
        ("/v1/keys", "GET, HEAD, POST"),
        ("/livez", "GET, HEAD"),
    ],
)
def test_a_refused_method_is_told_all_that_are_allowed(client: TestClient, path: str, allowed: str) -> None:
    reply = client.request("TRACE", path)
    assert_problem(reply, 405, "method_not_allowed")
    assert reply.headers["allow"] == allowed


@pytest.mark.parametrize(
    "body",
    [
        {"query": "red", "limit": "5"},
        {"query": "red", "limit": True},
        {"query": "red", "limit": 5.5},
        {"query": "red", "with_vectors": "true"},
        {"query": "red", "with_vectors": 1},
        {"query": [{"text": "red", "weight": "1"}]},
        {"query": "red", "fields": "price"},
    ],
)
def test_json_is_taken_by_its_types(client: TestClient, body: dict[str, Any]) -> None:
    assert_problem(client.post("/v1/collections/c/search", json=body), 422, "invalid_request")


def test_a_number_without_a_fraction_is_an_integer_and_a_form_has_only_text(client: TestClient) -> None:
    search = "/v1/collections/c/search"
    assert client.post(search, content='{"query": "red", "limit": 5.0}').status_code == 200
    form = {"query": "red", "limit": "5", "with_vectors": "true"}
    reply = client.post(search, data=form, files={"file": b""})
    assert reply.json()["code"] in ("image_undecodable", "query_cancels_out")  # the fields were read


def test_a_repeat_with_another_condition_is_another_request(client: TestClient) -> None:
    body = {"items": [{"id": "sku-1", "text": "red"}]}
    once = {"Idempotency-Key": "a"}
    assert client.put(ITEMS, json=body, headers=once).status_code == 200
    assert client.put(ITEMS, json=body, headers=once).headers["Idempotent-Replayed"] == "true"
    repeated = client.put(ITEMS, json=body, headers={**once, "If-None-Match": "*"})
    assert_problem(repeated, 422, "idempotency_key_reused")
