"""A write that is sent again under its Idempotency-Key is done once, and answered as the first time."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from index.catalog import StorageFull
from service.app import create_app
from service.config import Settings
from tests.fakes import FakeEncoder, square
from tests.guarded import Guarded, guarded
from tests.problems import assert_problem

C = "/v1/collections/c"
ITEMS = f"{C}/items"


def put(client: TestClient, key: str | None, *texts: str, **headers: str) -> Any:
    """Write texts under their own names."""
    items = [{"id": text, "text": text} for text in texts]
    sent = headers if key is None else {"Idempotency-Key": key, **headers}
    return client.put(ITEMS, json={"items": items}, headers=sent)


def kept(client: TestClient) -> int:
    """How many replies the server keeps."""
    return len(cast(Any, client.app).state.replies)


def test_a_repeat_gets_the_first_reply_and_changes_nothing(client: TestClient) -> None:
    first = put(client, "k-1", "red")
    assert first.json()["items"] == [{"id": "red", "status": "created"}]
    client.delete(f"{ITEMS}/red")
    again = put(client, "k-1", "red")
    assert (again.status_code, again.content) == (200, first.content)
    assert (again.headers["idempotent-replayed"], first.headers.get("idempotent-replayed")) == ("true", None)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert client.get(f"{ITEMS}/red").status_code == 404
    assert put(client, "k-2", "red").json()["items"] == [{"id": "red", "status": "created"}]
    assert put(client, None, "red").json()["items"] == [{"id": "red", "status": "unchanged"}]


def test_collections_are_made_and_deleted_once(client: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    new = "/v1/collections/new"
    for _ in range(2):
        assert client.put(new, headers=key).status_code == 201
    for _ in range(2):
        gone = client.delete(new, headers=key)
        assert (gone.status_code, gone.content) == (204, b"")
    assert client.put(new).status_code == 201
    assert client.delete(new, headers=key).headers["idempotent-replayed"] == "true"
    assert client.get(new).status_code == 200
    put(client, None, "red")
    deleted = [client.delete(f"{ITEMS}/red", headers=key).json() for _ in range(2)]
    assert deleted[0] == deleted[1]


def test_a_key_names_one_request_only(client: TestClient) -> None:
    put(client, "k", "red")
    assert_problem(put(client, "k", "green"), 422, "idempotency_key_reused")
    sent = {"Idempotency-Key": "k"}
    body = {"items": [{"id": "red", "text": "red"}]}
    elsewhere = client.put("/v1/collections/d/items", json=body, headers=sent)
    assert_problem(elsewhere, 422, "idempotency_key_reused")
    otherwise = client.put(ITEMS, params={"wait": "durable"}, json=body, headers=sent)
    assert_problem(otherwise, 422, "idempotency_key_reused")
    assert [item["id"] for item in client.post(f"{ITEMS}/scroll").json()["items"]] == ["red"]


def test_a_form_sent_again_with_another_boundary_is_the_same_request(client: TestClient) -> None:
    def send(colour: str) -> Any:
        files = {"image": ("x.png", square(colour))}
        return client.put(ITEMS, files=files, data={"id": "x"}, headers={"Idempotency-Key": "form"})

    first, again = send("red"), send("red")
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert first.json()["items"][0]["status"] == "created"
    assert again.content == first.content
    assert_problem(send("blue"), 422, "idempotency_key_reused")


def test_what_was_refused_is_tried_afresh(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"Idempotency-Key": "k"}
    assert_problem(client.delete(f"{ITEMS}/red", headers=key), 404, "item_not_found")
    assert_problem(client.put(ITEMS, content=b"{", headers=key), 400, "invalid_json")
    assert kept(client) == 0
    retriever = cast(Any, client.app).state.retriever
    with monkeypatch.context() as broken:
        broken.setattr(retriever, "write", None)
        assert_problem(put(client, "k", "red"), 500, "internal_error")
    assert put(client, "k", "red").json()["items"][0]["status"] == "created"
    assert client.delete(f"{ITEMS}/red", headers=key).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_a_key_that_is_none_is_refused(client: TestClient, key: str) -> None:
    reply = client.put(ITEMS, json={}, headers={b"Idempotency-Key": key.encode()})
    assert_problem(reply, 422, "invalid_request")


def test_while_the_first_still_runs_others_are_told_to_wait(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = cast(Any, client.app).state.retriever
    catalog = retriever._catalog
    commit, entered, go = catalog.commit, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        entered.set()
        assert go.wait(20)
        return commit(*arguments)

    monkeypatch.setattr(catalog, "commit", slow)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(put, client, "k", "red")
        assert entered.wait(20)
        waiting = put(client, "k", "red")
        other = put(client, "k", "green")
        go.set()
        done = first.result(20)
    assert_problem(waiting, 409, "idempotency_key_in_use")
    assert int(waiting.headers["retry-after"]) == waiting.json()["retry_after_seconds"] == 1
    assert_problem(other, 422, "idempotency_key_reused")
    assert done.json()["items"][0]["status"] == "created"
    assert put(client, "k", "red").content == done.content


def test_a_reply_outlives_the_server_that_gave_it(settings: Settings) -> None:
    contents = []
    for _ in range(2):
        with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
            api.put(C)
            contents.append(put(api, "k", "red").content)
    assert contents[0] == contents[1]


def test_a_reply_that_cannot_be_kept_is_given_all_the_same(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("planted")

    monkeypatch.setattr(cast(Any, client.app).state.replies, "keep", full)
    assert put(client, "k", "red").json()["items"][0]["status"] == "created"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Guarded]:
    """A server that asks for keys."""
    with guarded(tmp_path) as locked:
        yield locked


def test_a_key_is_its_callers_own_and_only_for_those_who_may(locked: Guarded) -> None:
    as_own, as_write = locked.headers("own"), locked.headers("write")
    assert put(locked.api, "k", "red", **as_own).json()["items"][0]["status"] == "created"
    assert put(locked.api, "k", "red", **as_write).json()["items"][0]["status"] == "unchanged"
    for caller, status in (("read", 403), ("other", 403), ("revoked", 401), ("nobody", 401)):
        assert put(locked.api, "k", "red", **locked.headers(caller)).status_code == status
    assert put(locked.api, "k", "red", **as_own).json()["items"][0]["status"] == "created"


def test_an_api_key_is_made_once_and_its_secret_is_not_kept_for_a_repeat(
    locked: Guarded, tmp_path: Path
) -> None:
    headers = {**locked.headers("admin"), "Idempotency-Key": "k"}
    wanted = {"name": "new", "scope": "read"}
    made = locked.api.post("/v1/keys", json=wanted, headers=headers)
    assert made.status_code == 201
    again = locked.api.post("/v1/keys", json=wanted, headers=headers)
    assert_problem(again, 409, "idempotency_reply_not_kept")
    listed = locked.api.get("/v1/keys", headers=locked.headers("admin")).json()["keys"]
    assert [key["name"] for key in listed].count("new") == 1
    secret = made.json()["key"].encode()[-64:]
    assert all(secret not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    revoking = f"/v1/keys/{made.json()['about']['prefix']}"
    assert [locked.api.delete(revoking, headers=headers).status_code for _ in range(2)] == [204, 204]


def test_the_openapi_document_names_the_header_on_writes_alone(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    named = {
        f"{method.upper()} {path}"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if any(entry.get("name") == "Idempotency-Key" for entry in operation["parameters"])
    }
    assert named == {
        "PUT /v1/collections/{collection}",
        "PATCH /v1/collections/{collection}",
        "DELETE /v1/collections/{collection}",
        "PUT /v1/collections/{collection}/items",
        "POST /v1/collections/{collection}/items/delete",
        "PATCH /v1/collections/{collection}/items/{item_id}",
        "POST /v1/collections/{collection}/bulk",
        "DELETE /v1/collections/{collection}/items/{item_id}",
        "POST /v1/aliases",
        "POST /v1/adapters",
        "DELETE /v1/adapters/{adapter}",
        "POST /v1/adapters/{adapter}/promote",
        "POST /v1/adapters/{adapter}/rollback",
        "PUT /v1/adapters/{adapter}/traffic",
        "POST /v1/collections/{collection}/duplicates",
        "POST /v1/collections/{collection}/reembed",
        "POST /v1/collections/{collection}/index/evaluate",
        "POST /v1/collections/{collection}/index/rebuild",
        "POST /v1/collections/{collection}/index/rollback",
        "POST /v1/collections/{collection}/snapshots",
        "POST /v1/collections/{collection}/snapshots/{snapshot}/restore",
        "DELETE /v1/collections/{collection}/snapshots/{snapshot}",
        "POST /v1/keys",
        "DELETE /v1/keys/{prefix}",
    }
