"""Items of several parts, and writes that depend on what stands in their place."""

import base64
import json
from typing import Any, cast

from fastapi.testclient import TestClient

from tests.fakes import FakeEncoder, square
from tests.problems import assert_problem

C = "/v1/collections/c"
ITEMS = f"{C}/items"
Json = dict[str, Any]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(colour: str) -> Json:
    return {"type": "image_base64", "image_base64": b64(square(colour))}


def text(words: str) -> Json:
    return {"type": "text", "text": words}


def put(client: TestClient, *items: Json, **more: Any) -> list[Json]:
    reply = client.put(ITEMS, json={"items": list(items), **more})
    assert reply.status_code in (200, 202), reply.text
    return cast(list[Json], reply.json()["items"])


def codes(entries: list[Json]) -> list[str]:
    return [entry.get("problem", {}).get("code", entry["status"]) for entry in entries]


def best(client: TestClient, query: Any) -> str:
    return str(client.post(f"{C}/search", json={"query": query, "limit": 1}).json()["results"][0]["id"])


# -- contents


def test_an_item_of_parts_is_embedded_as_one_and_shown_as_it_was(client: TestClient) -> None:
    page = {"id": "page", "content": [text("green"), image("red"), text("white"), image("blue")]}
    assert codes(put(client, page, {"id": "other", "text": "black"})) == ["created", "created"]
    shown = client.get(f"{ITEMS}/page").json()
    assert (shown["modality"], shown["text"]) == ("mixed", "green\nwhite")
    assert [part["type"] for part in shown["content"]] == ["text", "image", "text", "image"]
    assert client.get(shown["content"][3]["image"]["url"]).content == square("blue")
    assert client.get(shown["image"]["url"]).content == square("red")
    for query in ("green", "red", "white", "blue"):
        assert best(client, query) == "page"
    assert_problem(client.get(f"{C}/images/page?part=0"), 404, "image_not_found")
    assert_problem(client.get(f"{C}/images/page?part=9"), 404, "image_not_found")
    assert codes(put(client, page)) == ["unchanged"]


def test_a_picture_and_a_text_after_it_are_the_same_however_they_are_told(client: TestClient) -> None:
    put(client, {"id": "x", "image": b64(square("red")), "text": "blue"})
    assert codes(put(client, {"id": "x", "content": [image("red"), text("blue")]})) == ["unchanged"]
    assert client.get(f"{ITEMS}/x").json()["content"] is None
    assert codes(put(client, {"id": "x", "content": [text("blue"), image("red")]})) == ["updated"]


def test_reranking_and_explaining_read_all_parts(client: TestClient, fake_encoder: FakeEncoder) -> None:
    put(client, {"id": "page", "content": [text("green"), text("white"), image("blue")]})
    body = {"query": "green white blue", "rerank": {"top_n": 1}}
    (hit,) = client.post(f"{C}/search", json=body).json()["results"]
    assert hit["rerank_score"] == 1.0
    asked = {"query": "white", "stored": {"collection": "c", "id": "page"}, "grid": 2}
    assert client.post("/v1/explain", json=asked).json()["grid"] is not None


def test_a_patch_replaces_parts_as_a_whole(client: TestClient) -> None:
    put(client, {"id": "page", "content": [text("green"), text("white")], "metadata": {"n": 1}})
    item = f"{ITEMS}/page"
    assert_problem(client.patch(item, json={"text": "red"}), 422, "item_invalid")
    assert client.patch(item, json={"metadata": {"n": 2}}).json()["status"] == "updated"
    assert client.get(item).json()["metadata"] == {"n": 2}
    client.patch(item, json={"content": [text("red"), text("blue")]})
    shown = client.get(item).json()
    assert (shown["text"], shown["metadata"]) == ("red\nblue", {"n": 2})
    client.patch(item, json={"content": None, "text": "black"})
    assert client.get(item).json()["content"] is None
    assert_problem(client.patch(item, json={"content": None, "text": None}), 422, "item_invalid")


def test_pictures_of_parts_are_kept_as_long_as_their_item(client: TestClient) -> None:
    put(
        client,
        {"id": "page", "content": [image("red"), image("blue")]},
        {"id": "y", "image": b64(square("red"))},
    )
    catalog = cast(Any, client.app).state.health._catalog
    assert len(catalog.images()) == 2
    client.delete(f"{ITEMS}/page")
    assert len(catalog.images()) == 1


def test_bad_parts_fail_alone(client: TestClient) -> None:
    entries = put(
        client,
        {"id": "a", "content": []},
        {"id": "b", "content": [text("red")], "text": "red"},
        {"id": "c", "content": [{"type": "text"}]},
        {"id": "d", "content": [{"type": "image_base64", "image_base64": b64(b"no picture")}]},
        {"id": "e", "content": [text("red"), text("blue")]},
    )
    assert codes(entries) == ["invalid_request"] * 3 + ["image_undecodable", "created"]


# -- modes and versions


def test_a_mode_says_where_items_are_written_and_the_others_fail_alone(client: TestClient) -> None:
    put(client, {"id": "a", "text": "red"})
    both = [{"id": "a", "text": "blue"}, {"id": "b", "text": "green"}]
    assert codes(put(client, *both, mode="update_only")) == ["updated", "item_not_found"]
    assert codes(put(client, *both, mode="insert_only")) == ["item_exists", "created"]
    assert client.get(f"{ITEMS}/a").json()["text"] == "blue"
    twice = [{"id": "n", "text": "red"}, {"id": "n", "text": "blue"}]
    assert codes(put(client, *twice, mode="insert_only")) == ["created", "item_exists"]
    assert_problem(client.put(ITEMS, json={"items": both, "mode": "replace"}), 422, "invalid_request")


def test_a_version_is_written_over_once(client: TestClient) -> None:
    put(client, {"id": "a", "text": "red"}, {"id": "b", "text": "red"})
    read = client.get(f"{ITEMS}/a")
    version = read.json()["version"]
    assert read.headers["etag"] == f'"{version}"'
    first = put(client, {"id": "a", "text": "blue", "version": version}, {"id": "b", "text": "green"})
    assert codes(first) == ["updated", "updated"]
    late = put(client, {"id": "a", "text": "white", "version": version}, {"id": "b", "text": "white"})
    assert codes(late) == ["version_conflict", "updated"]
    gone = put(client, {"id": "none", "text": "white", "version": version})
    assert codes(gone) == ["item_not_found"]
    assert client.get(f"{ITEMS}/a").json()["text"] == "blue"


def test_results_and_pages_tell_versions(client: TestClient) -> None:
    put(client, {"id": "a", "text": "red"})
    version = client.get(f"{ITEMS}/a").json()["version"]
    (hit,) = client.post(f"{C}/search", json={"query": "red"}).json()["results"]
    (listed,) = client.post(f"{ITEMS}/scroll").json()["items"]
    assert hit["version"] == listed["version"] == version


def ended(client: TestClient, job: str) -> Json:
    while (state := client.get(f"/v1/jobs/{job}").json())["state"] in ("queued", "running"):
        pass
    return cast(Json, state)


def test_jobs_keep_to_modes_and_versions_line_by_line(client: TestClient) -> None:
    put(client, {"id": "a", "text": "red"})
    version = client.get(f"{ITEMS}/a").json()["version"]
    lines: list[Json] = [
        {"custom_id": "1", "mode": "insert_only", "item": {"id": "a", "text": "blue"}},
        {"custom_id": "2", "mode": "insert_only", "item": {"id": "b", "text": "blue"}},
        {"custom_id": "3", "item": {"id": "a", "text": "green", "version": version}},
        {"custom_id": "4", "item": {"id": "a", "text": "white", "version": version}},
        {"custom_id": "5", "mode": "update_only", "item": {"id": "n", "text": "white"}},
        {"custom_id": "6", "item": {"id": "p", "content": [text("red"), image("blue")]}},
    ]
    body = "\n".join(map(json.dumps, lines))
    sent = client.post(f"{C}/bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
    job = ended(client, sent.json()["id"])
    assert job["counts"] == {"total": 6, "done": 3, "failed": 3, "skipped": 0}
    failures = [json.loads(line) for line in client.get(job["errors_url"]).text.splitlines()]
    told = [(failure["custom_id"], failure["line"], failure["problem"]["code"]) for failure in failures]
    assert told == [("1", 1, "item_exists"), ("4", 4, "version_conflict"), ("5", 5, "item_not_found")]
    assert client.get(f"{ITEMS}/a").json()["text"] == "green"


def test_what_is_accepted_only_is_written_as_it_was_meant(client: TestClient) -> None:
    put(client, {"id": "a", "text": "red"})
    page = {"id": "page", "content": [text("red"), image("blue"), text("green")]}
    reply = client.put(
        f"{ITEMS}?wait=accepted",
        json={"items": [{"id": "a", "text": "blue"}, page], "mode": "insert_only"},
    )
    job = ended(client, reply.json()["job"])
    assert (job["counts"]["done"], job["counts"]["failed"]) == (1, 1)
    assert client.get(f"{ITEMS}/a").json()["text"] == "red"
    assert len(client.get(f"{ITEMS}/page").json()["content"]) == 3
