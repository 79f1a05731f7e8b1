"""Conditional requests: what is known is not sent again, and what changed meanwhile is not overwritten."""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from fastapi.testclient import TestClient

from index.catalog import Catalog, ConditionFailed, Delete, Upsert
from index.records import Condition
from tests.fakes import square
from tests.indexing import DIM, ENCODER, upsert
from tests.problems import assert_problem

C = "/v1/collections/c"
ITEMS = f"{C}/items"
X = f"{ITEMS}/x"


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog with an empty collection "c"."""
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    yield catalog
    catalog.close()


def put(client: TestClient, text: str, **headers: str) -> Any:
    """Write item "x"."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(ITEMS, json={"items": [{"id": "x", "text": text}]}, headers=sent)


def tag(client: TestClient, path: str = X) -> str:
    """The entity tag of what stands there now."""
    return str(client.get(path).headers["etag"])


# -- reading


def test_a_client_that_has_the_current_item_is_told_so_and_nothing_more(client: TestClient) -> None:
    put(client, "red")
    first = client.get(X)
    etag = first.headers["etag"]
    assert etag == f'"{etag[1:-1]}"'
    assert first.json()["text"] == "red"
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get(X, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), known
    for unknown in ('"other"', etag[1:-1], f'"{etag[2:]}', ""):
        assert client.get(X, headers={"If-None-Match": unknown}).json() == first.json()


def test_an_items_tag_changes_with_every_change_of_it_and_with_nothing_else(client: TestClient) -> None:
    seen: list[str] = []
    for text in ("red", "green", "red"):
        put(client, text)
        put(client, text)  # which changes nothing
        client.put(ITEMS, json={"items": [{"id": "y", "text": text}]})
        seen += {tag(client) for _ in range(2)}
    client.delete(X)
    put(client, "red")
    assert len({*seen, tag(client)}) == len(seen) + 1 == 4


def test_a_collections_tag_changes_with_its_items(client: TestClient) -> None:
    empty = tag(client, C)
    assert client.get(C, headers={"If-None-Match": empty}).status_code == 304
    put(client, "red")
    full = client.get(C, headers={"If-None-Match": empty})
    assert (full.status_code, full.json()["count"]) == (200, 1)
    assert tag(client, C) == full.headers["etag"] != empty


@pytest.mark.parametrize("query", ["", "?size=64"])
def test_pictures_and_thumbnails_are_tagged_by_their_bytes(client: TestClient, query: str) -> None:
    red, blue = (base64.b64encode(square(colour, side=600)).decode() for colour in ("red", "blue"))
    pictures = {"x": red, "y": red, "z": blue}
    items = [{"id": item_id, "image": image} for item_id, image in pictures.items()]
    client.put(ITEMS, json={"items": items})
    tags = {item_id: tag(client, f"{C}/images/{item_id}{query}") for item_id in pictures}
    assert tags["x"] == tags["y"] != tags["z"]
    again = client.get(f"{C}/images/x{query}", headers={"If-None-Match": f'"a", W/{tags["x"]}'})
    assert (again.status_code, again.content) == (304, b"")


# -- writing


def test_a_write_goes_ahead_only_while_the_item_is_as_its_writer_saw_it(client: TestClient) -> None:
    assert put(client, "red", If_None_Match="*").json()["items"][0]["status"] == "created"
    seen = tag(client)
    assert_problem(put(client, "green", If_None_Match="*"), 412, "precondition_failed")
    assert put(client, "blue", If_Match=f'"older", {seen}').json()["items"][0]["status"] == "updated"
    for stale in (seen, f"W/{tag(client)}", '"none"'):
        assert_problem(put(client, "green", If_Match=stale), 412, "precondition_failed")
        assert_problem(client.delete(X, headers={"If-Match": stale}), 412, "precondition_failed")
    assert_problem(put(client, "green", If_None_Match=f"W/{tag(client)}"), 412, "precondition_failed")
    assert client.get(X).json()["text"] == "blue"
    assert put(client, "white", If_Match="*").status_code == 200
    assert client.delete(X, headers={"If-Match": tag(client)}).status_code == 200
    assert_problem(put(client, "green", If_Match="*"), 412, "precondition_failed")
    assert_problem(client.delete(X, headers={"If-Match": "*"}), 412, "precondition_failed")
    assert_problem(client.get(X), 404, "item_not_found")


def test_a_condition_is_about_one_item_and_must_be_one(client: TestClient) -> None:
    items = [{"id": name, "text": "red"} for name in "xy"]
    several = client.put(ITEMS, json={"items": items}, headers={"If-Match": "*"})
    assert_problem(several, 422, "precondition_needs_one_item")
    for malformed in ("", "abc", '"a" "b"', '"a', '*, "a"'):
        assert_problem(put(client, "red", If_Match=malformed), 422, "invalid_request")
    assert_problem(client.get(X), 404, "item_not_found")


def test_collections_are_made_and_removed_under_conditions(client: TestClient) -> None:
    new = "/v1/collections/new"
    assert_problem(client.put(new, headers={"If-Match": "*"}), 412, "precondition_failed")
    assert_problem(client.get(new), 404, "collection_not_found")
    assert client.put(new, headers={"If-None-Match": "*"}).status_code == 201
    assert_problem(client.put(new, headers={"If-None-Match": "*"}), 412, "precondition_failed")
    seen = tag(client, C)
    put(client, "red")
    assert_problem(client.delete(C, headers={"If-Match": seen}), 412, "precondition_failed")
    assert client.get(X).status_code == 200
    assert client.delete(C, headers={"If-Match": tag(client, C)}).status_code == 204


def test_of_many_clients_that_saw_the_same_item_one_writes(client: TestClient) -> None:
    put(client, "red")
    seen = tag(client)
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda number: put(client, f"red {number}", If_Match=seen), range(16)))
    written = [number for number, reply in enumerate(replies) if reply.status_code == 200]
    assert [reply.status_code for reply in replies].count(412) == 15
    assert client.get(X).json()["text"] == f"red {written[0]}"


# -- the catalog, where the condition is asked


def is_version(wanted: str | None) -> Condition:
    return lambda version: version == wanted


@pytest.mark.parametrize("exists", [True, False])
def test_of_many_writers_with_connections_of_their_own_one_wins(
    catalog: Catalog, url: str, exists: bool
) -> None:
    turns, writers = 5, 6
    others = [Catalog(url) for _ in range(writers)]
    start = Barrier(writers)

    def write(number: int, turn: int, seen: str | None) -> bool:
        start.wait(20)
        mine = upsert("x", f"{turn} {number}", condition=is_version(seen))
        try:
            others[number].commit("c", [mine], ENCODER)
        except ConditionFailed:
            return False
        return True

    with ThreadPoolExecutor(writers) as threads:
        for turn in range(turns):
            catalog.commit("c", [upsert("x", f"{turn}") if exists else Delete("x")], ENCODER)
            before = catalog.collection("c").last_seq
            seen = catalog.item("c", "x").version if exists else None
            won = list(threads.map(write, range(writers), [turn] * writers, [seen] * writers))
            assert won.count(True) == 1
            assert catalog.item("c", "x").text == f"{turn} {won.index(True)}"
            assert catalog.collection("c").last_seq == before + 1
    for other in others:
        other.close()


@pytest.mark.parametrize("write", [lambda c: upsert("x", "new", condition=c), lambda c: Delete("x", c)])
def test_a_condition_that_does_not_hold_undoes_the_whole_commit(
    catalog: Catalog, write: Callable[[Condition], Upsert | Delete]
) -> None:
    catalog.commit("c", [upsert("x")], ENCODER)
    item = catalog.item("c", "x")
    with pytest.raises(ConditionFailed):
        catalog.commit("c", [upsert("y"), write(is_version(None))], ENCODER)
    assert catalog.scroll("c", "", 10) == [item]
    assert catalog.collection("c").last_seq == item.seq
    catalog.commit("c", [upsert("y"), write(is_version(item.version))], ENCODER)
    assert catalog.collection("c").last_seq == item.seq + 2


def test_the_openapi_document_tells_of_conditions(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    def headers(operation: dict[str, Any]) -> set[str]:
        return {entry["name"] for entry in operation["parameters"] if entry.get("in") == "header"}

    one = "/v1/collections/{collection}"
    for path in (one, f"{one}/items/{{item_id}}", f"{one}/images/{{item_id}}"):
        read = paths[path]["get"]
        assert "If-None-Match" in headers(read)
        assert "304" in read["responses"]
        assert "ETag" in read["responses"]["200"]["headers"]
    for path, method in ((one, "put"), (one, "delete"), (f"{one}/items", "put")):
        write = paths[path][method]
        assert {"If-Match", "If-None-Match", "Idempotency-Key"} <= headers(write)
        assert "application/problem+json" in write["responses"]["412"]["content"]


def test_a_change_of_an_item_says_what_the_next_may_name(client: TestClient) -> None:
    put(client, "red")
    for colour in ("green", "blue", "blue"):
        named = {"If-Match": tag(client)}
        changed = client.patch(X, json={"text": colour}, headers=named)
        assert changed.headers["etag"] == tag(client)
        assert (changed.headers["etag"] == named["If-Match"]) == (changed.json()["status"] == "unchanged")
