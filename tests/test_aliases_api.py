"""Aliases over HTTP: moved under load without an error, and no way around a key's limits."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.client import Client
from tests.fakes import square
from tests.guarded import Guarded, guarded
from tests.problems import assert_problem
from tests.served import serving

SEARCH = "/v1/collections/{}/search"


def moved(api: TestClient, *pairs: tuple[str, str]) -> None:
    actions = [{"create": {"alias": alias, "collection": collection}} for alias, collection in pairs]
    reply = api.post("/v1/aliases", json={"actions": actions})
    assert reply.status_code == 204, reply.text


def test_every_route_of_a_collection_takes_its_alias(client: TestClient) -> None:
    moved(client, ("x", "c"))
    put = client.put("/v1/collections/x/items", json={"items": [{"id": "a", "text": "red"}]})
    assert put.json()["items"][0]["status"] == "created"
    client.put("/v1/collections/x/items", data={"id": "b"}, files={"image": square("blue")})
    assert (
        client.post(SEARCH.format("x"), json={"query": "red", "limit": 1}).json()["results"][0]["id"] == "a"
    )
    assert client.get("/v1/collections/x/items/a").json() == client.get("/v1/collections/c/items/a").json()
    assert client.get("/v1/collections/x/images/b").content == square("blue")
    assert client.put("/v1/collections/x").status_code == 200
    assert client.get("/v1/collections/x").json()["name"] == "c"
    assert client.delete("/v1/collections/x/items/a").status_code == 200
    assert [item["id"] for item in client.post("/v1/collections/x/items/scroll").json()["items"]] == ["b"]
    labels = client.post("/v1/classify", json={"inputs": "blue", "label_set": "x", "multi_label": True})
    assert labels.json()["results"][0]["labels"][0]["label"] == "b"


def test_aliases_are_listed_page_by_page(client: TestClient) -> None:
    moved(client, ("y", "c"), ("x", "c"))
    first = client.get("/v1/aliases", params={"limit": 1}).json()
    assert first == {"aliases": [{"alias": "x", "collection": "c"}], "next_cursor": "x"}
    second = client.get("/v1/aliases", params={"cursor": "x"}).json()
    assert second == {"aliases": [{"alias": "y", "collection": "c"}], "next_cursor": None}


def test_refusals_change_nothing(client: TestClient) -> None:
    moved(client, ("x", "c"))
    create = {"create": {"alias": "y", "collection": "c"}}
    for last, status, code in (
        ({"delete": {"alias": "none"}}, 404, "alias_not_found"),
        ({"create": {"alias": "z", "collection": "none"}}, 404, "collection_not_found"),
        ({"create": {"alias": "c", "collection": "c"}}, 409, "alias_conflict"),
        ({**create, "delete": {"alias": "x"}}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ({"create": {"alias": "not a name", "collection": "c"}}, 422, "invalid_request"),
    ):
        assert_problem(client.post("/v1/aliases", json={"actions": [create, last]}), status, code)
    assert_problem(client.post("/v1/aliases", json={"actions": []}), 422, "invalid_request")
    assert_problem(client.delete("/v1/collections/x"), 409, "alias_conflict")
    assert len(client.get("/v1/aliases").json()["aliases"]) == 1


def test_a_cursor_does_not_follow_an_alias_to_another_collection(client: TestClient) -> None:
    client.put("/v1/collections/d")
    moved(client, ("x", "c"))
    items = {"items": [{"id": str(number), "text": "red"} for number in range(4)]}
    for collection in ("c", "d"):
        client.put(f"/v1/collections/{collection}/items", json=items)
    cursor = client.post(SEARCH.format("x"), json={"query": "red", "limit": 2}).json()["next_cursor"]
    moved(client, ("x", "d"))
    reply = client.post(SEARCH.format("x"), json={"query": "red", "cursor": cursor})
    assert_problem(reply, 409, "cursor_expired")
    assert client.post(SEARCH.format("c"), json={"query": "red", "cursor": cursor}).status_code == 200


def test_an_alias_moves_and_the_old_collection_goes_without_an_error_in_between(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as served:
        stop, failures, seen = threading.Event(), list[BaseException](), set[str]()

        def search() -> None:
            try:
                with Client(served.url) as client:
                    while not stop.is_set():
                        [hit] = client.search("live", "red").results
                        seen.add(hit.id)
            except BaseException as error:
                failures.append(error)

        searching = [threading.Thread(target=search) for _ in range(3)]
        with Client(served.url) as client:
            for turn in range(12):
                name = f"v{turn}"
                client.create_collection(name)
                client.put_items(name, [{"id": name, "text": "red"}])
                action = f'{{"actions": [{{"create": {{"alias": "live", "collection": "{name}"}}}}]}}'
                client.send("POST", "/v1/aliases", action.encode())
                assert client.search("live", "red").results[0].id == name
                if turn == 0:
                    for thread in searching:
                        thread.start()
                else:
                    client.delete_collection(f"v{turn - 1}")
            stop.set()
            for thread in searching:
                thread.join()
    assert failures == []
    assert len(seen) > 1


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Guarded]:
    """A server with collections "c" and "secret", and a key that is limited to "c" and "d"."""
    with guarded(tmp_path) as locked:
        admin = locked.headers("admin")
        locked.api.put("/v1/collections/secret", headers=admin)
        items = {"items": [{"id": "hidden", "text": "red"}]}
        locked.api.put("/v1/collections/secret/items", json=items, headers=admin)
        yield locked


def test_a_limited_key_reaches_by_an_alias_what_it_may_and_nothing_else(locked: Guarded) -> None:
    own, admin = locked.headers("own"), locked.headers("admin")
    pairs = [("mine", "c"), ("theirs", "secret"), ("d", "secret")]
    actions = [{"create": {"alias": alias, "collection": name}} for alias, name in pairs]
    assert locked.api.post("/v1/aliases", json={"actions": actions}, headers=admin).status_code == 204
    for name, status in (("c", 200), ("mine", 200), ("theirs", 403), ("d", 403), ("secret", 403)):
        reply = locked.api.post(SEARCH.format(name), json={"query": "red"}, headers=own)
        assert reply.status_code == status, name
        assert locked.api.get(f"/v1/collections/{name}", headers=own).status_code == status
        assert locked.api.put(f"/v1/collections/{name}", headers=own).status_code == status
        labels = {"inputs": "red", "label_set": name, "multi_label": True}
        reply = locked.api.post("/v1/classify", json=labels, headers=own)
        assert reply.status_code == (422 if status == 200 else 403)  # it is empty
    assert_problem(
        locked.api.post("/v1/aliases", json={"actions": []}, headers=own), 403, "collection_forbidden"
    )
    assert_problem(locked.api.get("/v1/aliases", headers=own), 403, "collection_forbidden")


def test_a_job_belongs_to_the_collection_and_not_to_the_alias_it_came_by(locked: Guarded) -> None:
    own, admin = locked.headers("own"), locked.headers("admin")
    actions = [{"create": {"alias": "d", "collection": "secret"}}]
    locked.api.post("/v1/aliases", json={"actions": actions}, headers=admin)
    line = b'{"op": "upsert", "item": {"id": "x", "text": "red"}}\n'
    headers = {**admin, "Content-Type": "application/x-ndjson"}
    job = locked.api.post("/v1/collections/d/bulk", content=line, headers=headers)
    assert job.status_code == 202, job.text
    assert job.json()["collection"] == "secret"
    assert locked.api.get("/v1/jobs", headers=own).json()["jobs"] == []
