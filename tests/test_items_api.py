"""Changing items in part, and counting, telling apart and deleting those that pass a filter."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from index.catalog import Catalog, Upsert
from service.config import Settings
from tests.fakes import DIM, FakeEncoder, square
from tests.problems import assert_problem

C = "/v1/collections/c"
ITEMS = f"{C}/items"
X = f"{ITEMS}/x"
PRICES = {"must": [{"key": "price", "range": {"lt": 3}}]}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def put(client: TestClient, *items: dict[str, Any]) -> None:
    reply = client.put(ITEMS, json={"items": list(items)})
    assert reply.json()["errors"] is False, reply.text


def patched(client: TestClient, change: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Item "x" after a change that was made."""
    reply = client.patch(X, json=change, headers=headers)
    assert reply.status_code == 200, reply.text
    return {**reply.json(), **client.get(X).json()}


def found(client: TestClient, query: Any) -> str:
    """The id of the nearest item."""
    return str(client.post(f"{C}/search", json={"query": query, "limit": 1}).json()["results"][0]["id"])


# -- patches


def test_metadata_is_merged_and_nothing_is_embedded_again(
    client: TestClient, fake_encoder: FakeEncoder
) -> None:
    before = {"price": 5, "size": {"width": 1, "height": 2, "unit": "m"}, "tags": ["a", "b"]}
    put(client, {"id": "x", "text": "red", "image": b64(square("blue")), "metadata": before})
    embedded = len(fake_encoder.batches)
    change = {
        "price": None,
        "size": {"width": None, "height": {"max": 3, "min": None}},
        "tags": ["c"],
        "new": 0,
    }
    item = patched(client, {"metadata": change})
    assert item["metadata"] == {"size": {"height": {"max": 3}, "unit": "m"}, "tags": ["c"], "new": 0}
    assert (item["status"], item["text"], item["modality"]) == ("updated", "red", "mixed")
    assert client.get(item["image"]["url"]).content == square("blue")
    assert len(fake_encoder.batches) == embedded
    filter = {"must": [{"key": "new", "match": {"value": 0}}]}
    assert client.post(f"{ITEMS}/count", json={"filter": filter}).json()["count"] == 1
    assert patched(client, {"metadata": None})["metadata"] == {}
    unchanging: list[dict[str, object]] = [
        {},
        {"metadata": {}},
        {"text": "red"},
        {"metadata": {"missing": None}},
    ]
    for nothing in unchanging:
        assert patched(client, nothing)["status"] == "unchanged"
    assert len(fake_encoder.batches) == embedded


def test_new_content_is_embedded_and_found_and_the_rest_stays(client: TestClient) -> None:
    put(client, {"id": "x", "text": "red", "metadata": {"price": 5}}, {"id": "y", "text": "white"})
    created_at = client.get(X).json()["created_at"]
    item = patched(client, {"text": "green"})
    assert (item["text"], item["metadata"], item["created_at"]) == ("green", {"price": 5}, created_at)
    assert found(client, "green") == "x"
    item = patched(client, {"image": {"base64": b64(square("blue"))}})
    assert (item["modality"], item["text"]) == ("mixed", "green")
    item = patched(client, {"text": None})
    assert (item["modality"], item["text"], item["metadata"]) == ("image", None, {"price": 5})
    assert found(client, {"image": b64(square("blue"))}) == "x"
    item = patched(client, {"text": "black", "image": None})
    assert (item["modality"], item["image"], found(client, "black")) == ("text", None, "x")
    reply = client.patch(X, files={"file": ("a.png", square("red"))}, data={"metadata": '{"price": null}'})
    assert reply.json()["status"] == "updated"
    item = client.get(X).json()
    assert (item["modality"], item["metadata"]) == ("mixed", {})
    assert client.get(item["image"]["url"]).content == square("red")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"text": None}, 422, "item_invalid"),
        ({"text": " "}, 422, "text_empty"),
        ({"image": "AAAA"}, 422, "image_undecodable"),
        ({"image": {"id": "x"}}, 422, "invalid_request"),
        ({"image": {"url": "http://example.com/"}}, 422, "url_fetch_disabled"),
        ({"image": {"upload": "missing"}}, 422, "upload_missing"),
        ({"id": "y"}, 422, "invalid_request"),
        ({"metadata": []}, 422, "invalid_request"),
        ({"metadata": {"a": "x" * 1_000_000}}, 413, "metadata_too_large"),
        ({"metadata": {"a": 2**70}}, 422, "item_invalid"),
    ],
)
def test_a_change_that_cannot_be_leaves_the_item_as_it_was(
    client: TestClient, change: dict[str, Any], status: int, code: str
) -> None:
    put(client, {"id": "x", "text": "red", "metadata": {"price": 5}})
    before = client.get(X).json()
    assert_problem(client.patch(X, json=change), status, code)
    assert client.get(X).json() == before


def test_a_patch_that_is_nested_too_deep_is_refused(client: TestClient) -> None:
    put(client, {"id": "x", "text": "red"})
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep}
    assert_problem(client.patch(X, json={"metadata": deep}), 422, "item_invalid")


def test_a_change_is_made_under_conditions_and_of_what_exists(client: TestClient) -> None:
    assert_problem(client.patch(X, json={"text": "red"}), 404, "item_not_found")
    any_version = {"If-Match": "*"}
    assert_problem(client.patch(X, json={"text": "red"}, headers=any_version), 412, "precondition_failed")
    assert_problem(client.patch("/v1/collections/d/items/x", json={}), 404, "collection_not_found")
    put(client, {"id": "x", "text": "red"})
    seen = client.get(X).headers["etag"]
    patched(client, {"text": "blue"}, **{"If-Match": seen})
    for condition in ({"If-Match": seen}, {"If-None-Match": "*"}):
        refused = client.patch(X, json={"metadata": {"a": 1}}, headers=condition)
        assert_problem(refused, 412, "precondition_failed")
    assert patched(client, {"metadata": {"a": 1}}, **any_version)["metadata"] == {"a": 1}


def test_changes_of_many_clients_at_once_are_all_kept(client: TestClient) -> None:
    put(client, {"id": "x", "text": "red"})
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: patched(client, {"metadata": {f"member {n}": n}}), range(24)))
    assert client.get(X).json()["metadata"] == {f"member {n}": n for n in range(24)}


# -- another process writes in between


def before_the_next_commit(
    client: TestClient, settings: Settings, encoder: FakeEncoder, patch: pytest.MonkeyPatch, *texts: str
) -> None:
    """Let another process replace the items of these ids, each once, just before this one commits."""
    catalog = cast(Any, client.app).state.retriever._catalog
    commit: Callable[..., Any] = catalog.commit
    row = np.eye(DIM, dtype=np.float32)[0]
    waiting = [Upsert(item_id, "elsewhere", row, "text", "red elsewhere") for item_id in texts]

    def late(*arguments: Any) -> Any:
        if waiting:
            other = Catalog(f"sqlite:///{settings.data_dir}/catalog.db")
            other.commit("c", [waiting.pop()], encoder.id)
            other.close()
        return commit(*arguments)

    patch.setattr(catalog, "commit", late)


def test_a_change_goes_onto_what_another_process_wrote_meanwhile(
    client: TestClient, settings: Settings, fake_encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, {"id": "x", "text": "red", "metadata": {"old": 1}})
    seen = client.get(X).headers["etag"]
    before_the_next_commit(client, settings, fake_encoder, monkeypatch, "x")
    item = patched(client, {"metadata": {"new": 2}})
    assert (item["text"], item["metadata"]) == ("red elsewhere", {"new": 2})
    put(client, {"id": "x", "text": "red", "metadata": {"old": 1}})
    seen = client.get(X).headers["etag"]
    before_the_next_commit(client, settings, fake_encoder, monkeypatch, "x")
    refused = client.patch(X, json={"metadata": {"new": 2}}, headers={"If-Match": seen})
    assert_problem(refused, 412, "precondition_failed")
    assert client.get(X).json()["text"] == "red elsewhere"


def test_an_item_that_another_process_replaces_meanwhile_is_not_deleted(
    client: TestClient, settings: Settings, fake_encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.subsets._AT_ONCE", 3)
    put(client, *({"id": name, "text": f"red {name}"} for name in "abcdefgh"))
    before_the_next_commit(client, settings, fake_encoder, monkeypatch, "h", "a", "b")
    reply = client.post(f"{ITEMS}/delete", json={"filter": {}}).json()
    assert (reply["matched"], reply["deleted"]) == (8, 5)
    left = client.post(f"{ITEMS}/scroll", json={}).json()["items"]
    assert [(item["id"], item["text"]) for item in left] == [(name, "red elsewhere") for name in "abh"]


# -- subsets


def test_items_are_counted_told_apart_and_deleted_by_a_filter(client: TestClient) -> None:
    items = [
        {"id": str(n), "text": f"red {n}", "metadata": {"price": n, "tags": ["all", f"mod {n % 3}"]}}
        for n in range(10)
    ]
    put(client, *items)
    everything = client.post(f"{ITEMS}/count").json()
    assert everything["count"] == 10
    assert client.post(f"{ITEMS}/count", json={"filter": PRICES}).json()["count"] == 3
    facet = client.post(f"{ITEMS}/facet", json={"key": "tags", "limit": 2}).json()
    assert facet.pop("values") == [{"value": "all", "count": 10}, {"value": "mod 0", "count": 4}]
    assert facet == {"distinct": 4, "count": 10, "covers_token": everything["covers_token"]}
    prices = client.post(f"{ITEMS}/facet", json={"key": "price", "filter": PRICES}).json()["values"]
    assert prices == [{"value": n, "count": 1} for n in range(3)]

    def deleted(**request: Any) -> tuple[int, int]:
        reply = client.post(f"{ITEMS}/delete", json=request).json()
        assert reply["dry_run"] is request.get("dry_run", False)
        return reply["matched"], reply["deleted"]

    assert deleted(filter=PRICES, dry_run=True) == (3, 0)
    assert client.post(f"{ITEMS}/count").json() == everything
    assert deleted(filter=PRICES) == (3, 3)
    assert deleted(filter=PRICES) == (0, 0)
    assert client.get(f"{ITEMS}/1").status_code == 404
    assert deleted(ids=["5", "6", "5", "never there"]) == (2, 2)
    left = client.post(f"{ITEMS}/count").json()
    assert left["count"] == 5
    assert left["covers_token"] > everything["covers_token"]
    search = client.post(f"{C}/search", json={"query": "red", "limit": 20}).json()
    assert {hit["id"] for hit in search["results"]} == {"3", "4", "7", "8", "9"}
    assert deleted(filter={}) == (5, 5)


@pytest.mark.parametrize(
    ("path", "request_", "code"),
    [
        ("count", {"filter": {"must": [{"key": "a"}]}}, "filter_invalid"),
        ("count", {"filters": {}}, "invalid_request"),
        ("facet", {}, "invalid_request"),
        ("facet", {"key": "a", "limit": 0}, "invalid_request"),
        ("facet", {"key": "a\0b"}, "invalid_request"),
        ("delete", {}, "invalid_request"),
        ("delete", {"filter": {}, "ids": ["x"]}, "invalid_request"),
        ("delete", {"ids": []}, "invalid_request"),
        ("delete", {"filter": {"all": True}}, "filter_invalid"),
    ],
)
def test_a_request_that_makes_no_sense_changes_nothing(
    client: TestClient, path: str, request_: dict[str, Any], code: str
) -> None:
    put(client, {"id": "x", "text": "red"})
    assert_problem(client.post(f"{ITEMS}/{path}", json=request_), 422, code)
    assert client.get(X).status_code == 200


@pytest.mark.parametrize(
    ("path", "request_"),
    [("count", {}), ("facet", {"key": "a"}), ("delete", {"filter": {}, "dry_run": True})],
)
def test_what_does_not_exist_has_no_items(client: TestClient, path: str, request_: dict[str, Any]) -> None:
    reply = client.post(f"/v1/collections/d/items/{path}", json=request_)
    assert_problem(reply, 404, "collection_not_found")


# -- lists


def scrolled(client: TestClient, **body: Any) -> Any:
    reply = client.post(f"{ITEMS}/scroll", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_what_passes_a_filter_is_listed_page_by_page(client: TestClient) -> None:
    put(client, *({"id": f"i{n}", "text": "red", "metadata": {"price": n, "sold": False}} for n in range(5)))
    first = scrolled(client, filter=PRICES, limit=2, fields=["price"])
    assert [(item["id"], item["metadata"]) for item in first["items"]] == [
        ("i0", {"price": 0}),
        ("i1", {"price": 1}),
    ]
    second = scrolled(client, filter=PRICES, limit=2, cursor=first["next_cursor"])
    assert ([item["id"] for item in second["items"]], second["next_cursor"]) == (["i2"], None)


def test_an_item_written_between_two_pages_comes_once_more_and_none_is_missed(client: TestClient) -> None:
    put(client, *({"id": f"i{n}", "text": "red", "metadata": {"price": n}} for n in range(3)))
    first = scrolled(client, filter={}, limit=1)
    put(client, {"id": "i0", "text": "blue", "metadata": {"price": 0}})
    rest = scrolled(client, filter={}, cursor=first["next_cursor"])["items"]
    assert [item["id"] for item in rest] == ["i1", "i2", "i0"]


def test_items_are_listed_with_their_rows(client: TestClient) -> None:
    put(client, {"id": "b", "text": "red"}, {"id": "a", "text": "blue"})
    listed = scrolled(client, with_vectors=True)["items"]
    assert [(item["id"], item["vector"].index(1.0)) for item in listed] == [("b", 0), ("a", 2)]
    assert {item["vector"] for item in scrolled(client)["items"]} == {None}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"filter": {}, "cursor": "i1"}, "cursor_invalid"),
        ({"filter": {}, "cursor": "s_"}, "cursor_invalid"),
        ({"filter": {"must": 1}}, "filter_invalid"),
    ],
)
def test_a_wrong_list_is_refused(client: TestClient, body: dict[str, Any], code: str) -> None:
    assert_problem(client.post(f"{ITEMS}/scroll", json=body), 422, code)
