"""The REST surface around a computing fake: what goes in comes back, and bad items fail alone."""

import base64
import itertools
import json
import re
import sqlite3
import struct
import threading
import time
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.config import Settings
from service.schemas_found import SearchReply
from service.schemas_inference import EmbeddingsReply
from tests.fakes import DIM, FakeEncoder, square
from tests.problems import assert_problem

ITEMS = "/v1/collections/c/items"
SEARCH = "/v1/collections/c/search"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def put(client: TestClient, *items: dict[str, Any]) -> dict[str, Any]:
    reply = client.put(ITEMS, params={"wait": "searchable"}, json={"items": list(items)})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def found(client: TestClient, **search: Any) -> list[str]:
    reply = client.post(SEARCH, json=search)
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["results"]]


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """Three pictures, two texts, one of both."""
    put(
        client,
        {
            "id": "red.png",
            "image": b64(square("red")),
            "metadata": {"price": 5, "kind": "toy", "tags": ["a", "b"]},
        },
        {"id": "green.png", "image": b64(square("green")), "metadata": {"price": 7.5, "kind": "toy"}},
        {"id": "blue.png", "image": b64(square("blue")), "metadata": {"price": 5, "kind": "tool"}},
        {"id": "red words", "text": "red apple", "metadata": {"sold": True}},
        {"id": "other words", "text": "quick fox"},
        {"id": "both", "text": "green", "image": b64(square("red"))},
    )
    return client


def test_a_collection_is_made_once(client: TestClient) -> None:
    assert client.put("/v1/collections/new", json={"model": "fake"}).status_code == 201
    again = client.put("/v1/collections/new")
    assert again.status_code == 200
    assert again.json() == {
        "name": "new",
        "model": "fake",
        "encoder_id": "fake-000000000000",
        "dimensions": DIM,
        "metric": "cosine",
        "count": 0,
        "created_at": again.json()["created_at"],
        "index": {"type": None, "memory_budget_bytes": None, "target_recall": None},
        "schema": {},
        "limits": {"max_items": None},
    }
    listed = client.get("/v1/collections").json()
    assert [entry["name"] for entry in listed["collections"]] == ["c", "new"]
    assert listed["next_cursor"] is None


def test_a_collection_says_how_it_is_indexed(client: TestClient) -> None:
    wanted = {"type": "HNSW32,SQ8,RFlat", "target_recall": 0.9}
    made = client.put("/v1/collections/new", json={"index": wanted})
    assert (made.status_code, made.json()["index"]) == (201, {**wanted, "memory_budget_bytes": None})
    tag = client.get("/v1/collections/new").headers["ETag"]
    assert client.put("/v1/collections/new").json()["index"]["type"] == "HNSW32,SQ8,RFlat"
    assert client.get("/v1/collections/new").headers["ETag"] == tag
    assert client.put("/v1/collections/new", json={"index": {"memory_budget_bytes": 7}}).status_code == 200
    kept = client.get("/v1/collections/new")
    assert kept.json()["index"] == {"type": None, "memory_budget_bytes": 7, "target_recall": None}
    assert kept.headers["ETag"] != tag
    for wrong in (
        {"type": "HNSW"},
        {"type": "x"},
        {"target_recall": 2},
        {"memory_budget_bytes": 0},
        {"k": 1},
    ):
        assert_problem(client.put("/v1/collections/new", json={"index": wrong}), 422, "invalid_request")


def test_a_list_of_collections_is_paged(client: TestClient) -> None:
    for name in ("d", "e"):
        client.put(f"/v1/collections/{name}")
    first = client.get("/v1/collections", params={"limit": 2}).json()
    second = client.get("/v1/collections", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [entry["name"] for entry in first["collections"] + second["collections"]] == ["c", "d", "e"]


def test_a_collection_of_another_model_is_refused(client: TestClient) -> None:
    assert_problem(client.put("/v1/collections/new", json={"model": "clip"}), 404, "model_not_found")


def test_a_deleted_collection_is_gone_and_its_name_is_free(shop: TestClient) -> None:
    assert shop.delete("/v1/collections/c").status_code == 204
    assert_problem(shop.post(SEARCH, json={"query": "red"}), 404, "collection_not_found")
    assert shop.put("/v1/collections/c").status_code == 201
    assert found(shop, query="red") == []
    put(shop, {"id": "x", "text": "red"})
    assert found(shop, query="red") == ["x"]


def test_words_find_pictures_and_texts(shop: TestClient) -> None:
    assert found(shop, query="red", limit=3) == ["red.png", "red words", "both"]


def test_a_picture_finds_its_like(shop: TestClient) -> None:
    assert found(shop, query={"image": b64(square("blue"))}, limit=1) == ["blue.png"]
    assert found(
        shop, query={"image": {"base64": f"data:image/png;base64,{b64(square('blue'))}"}}, limit=1
    ) == ["blue.png"]


def test_a_picture_is_found_by_upload(shop: TestClient) -> None:
    reply = shop.post(SEARCH, files={"image": ("x.png", square("green"))}, data={"limit": "1"})
    assert [hit["id"] for hit in reply.json()["results"]] == ["green.png"]


def test_an_upload_may_come_with_the_whole_request_as_json(shop: TestClient) -> None:
    request = {
        "query": [{"image": {"upload": "one"}, "weight": 1}, {"text": "red", "weight": 0.2}],
        "limit": 2,
    }
    reply = shop.post(
        SEARCH, files={"one": ("x.png", square("green"))}, data={"request": json.dumps(request)}
    )
    assert [hit["id"] for hit in reply.json()["results"]] == ["green.png", "both"]


def test_weighted_terms_are_added_up(shop: TestClient) -> None:
    mixed = [{"image": b64(square("red"))}, {"text": "green", "weight": 1.0}]
    assert found(shop, query=mixed, limit=1) == ["both"]
    without = [{"text": "red"}, {"text": "apple", "weight": -0.5}]
    assert found(shop, query=without, limit=6).index("red words") > 1


def test_terms_that_cancel_out_are_refused(shop: TestClient) -> None:
    reply = shop.post(SEARCH, json={"query": [{"text": "red"}, {"text": "red", "weight": -1}]})
    assert_problem(reply, 422, "query_cancels_out")


def test_more_like_this_leaves_the_item_itself_out(shop: TestClient) -> None:
    ids = found(shop, query={"id": "red.png"}, limit=5)
    assert ids[0] in ("red words", "both")
    assert len(ids) == 5
    assert "red.png" not in ids
    assert found(shop, query={"image": {"id": "red.png"}}, limit=5) == ids
    assert_problem(shop.post(SEARCH, json={"query": {"id": "nobody"}}), 404, "item_not_found")


@pytest.mark.parametrize(
    ("target", "ids"),
    [
        ("image", {"red.png", "green.png", "blue.png", "both"}),
        ("text", {"red words", "other words", "both"}),
        ("any", {"red.png", "green.png", "blue.png", "both", "red words", "other words"}),
    ],
)
def test_a_target_chooses_items_by_what_they_have(shop: TestClient, target: str, ids: set[str]) -> None:
    assert set(found(shop, query="red", target=target)) == ids


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        ({"must": [{"key": "price", "match": {"value": 5}}]}, {"red.png", "blue.png"}),
        (
            {"must": [{"key": "price", "match": {"value": 5}}, {"key": "kind", "match": {"value": "toy"}}]},
            {"red.png"},
        ),
        ({"must": [{"key": "tags", "match": {"value": "b"}}]}, {"red.png"}),
        ({"must": [{"key": "sold", "match": {"value": True}}]}, {"red words"}),
        ({"must": [{"key": "kind", "match": {"any": ["tool", "none"]}}]}, {"blue.png"}),
        ({"must": [{"key": "price", "match": {"value": "5"}}]}, set()),
        (
            {"must_not": [{"key": "kind", "match": {"any": ["tool", "toy"]}}]},
            {"red words", "other words", "both"},
        ),
    ],
)
def test_a_filter_on_metadata_is_exact(shop: TestClient, conditions: dict[str, Any], ids: set[str]) -> None:
    assert set(found(shop, query="red", filter=conditions)) == ids


@pytest.mark.parametrize(
    "conditions",
    [
        {"any": []},
        {"must": {}},
        {"must": [{"key": "a"}]},
        {"must": [{"key": "a", "match": {"value": {}}}]},
        {"must": [{"key": "a", "match": {"value": 2**64}}]},
        {"must": [{"key": 1, "match": {"value": 1}}]},
    ],
)
def test_a_filter_outside_the_grammar_is_refused(shop: TestClient, conditions: dict[str, Any]) -> None:
    assert_problem(shop.post(SEARCH, json={"query": "red", "filter": conditions}), 422, "filter_invalid")


def test_a_reply_says_what_it_covers_and_how_long_it_took(shop: TestClient) -> None:
    token = put(shop, {"id": "new", "text": "violet"})["write_token"]
    reply = shop.post(SEARCH, json={"query": "violet", "limit": 1}).json()
    assert reply["results"][0]["id"] == "new"
    assert reply["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert reply["index"] == {"generation": 0, "covers_token": token}
    assert set(reply["timing_ms"]) == {"encode", "search", "metadata"}


def test_an_item_comes_back_as_it_was_written(shop: TestClient) -> None:
    item = shop.get(f"{ITEMS}/both").json()
    assert (item["id"], item["modality"], item["text"], item["metadata"]) == ("both", "mixed", "green", {})
    assert item["image"] == {"url": "/v1/collections/c/images/both", "type": "image/png"}
    assert shop.get(item["image"]["url"]).content == square("red")


def test_ids_may_hold_slashes_and_any_printable_character(client: TestClient) -> None:
    ids = ["a/b/c.png", "ü ñ 日本", "50%/x?y#z", "a//b"]
    put(client, *({"id": item_id, "image": b64(square("red"))} for item_id in ids))
    for hit in client.post(SEARCH, json={"query": "red"}).json()["results"]:
        assert client.get(hit["image"]["url"]).content == square("red")
        url = hit["image"]["url"].replace("/images/", "/items/")
        assert client.get(url).json()["id"] == hit["id"]
        assert client.delete(url).status_code == 200
    assert found(client, query="red") == []


def test_a_thumbnail_is_small_cached_and_never_sniffed(client: TestClient) -> None:
    put(client, {"id": "big", "image": b64(square("red", side=600))})
    reply = client.get("/v1/collections/c/images/big", params={"size": 128})
    assert reply.headers["content-type"] == "image/webp"
    assert reply.headers["x-content-type-options"] == "nosniff"
    again = client.get(
        "/v1/collections/c/images/big", params={"size": 128}, headers={"If-None-Match": reply.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_items_are_created_updated_unchanged_and_deleted(client: TestClient) -> None:
    item = {"id": "x", "text": "red", "metadata": {"n": 1}}
    assert put(client, item)["items"] == [{"id": "x", "status": "created"}]
    assert put(client, item)["items"] == [{"id": "x", "status": "unchanged"}]
    assert put(client, item | {"metadata": {"n": True}})["items"] == [{"id": "x", "status": "updated"}]
    assert put(client, item | {"text": "blue"})["items"] == [{"id": "x", "status": "updated"}]
    assert client.post(SEARCH, json={"query": "blue"}).json()["results"][0]["score"] == pytest.approx(
        1, abs=1e-5
    )
    deleted = client.delete(f"{ITEMS}/x").json()
    assert (deleted["id"], deleted["status"]) == ("x", "deleted")
    assert found(client, query="blue") == []
    assert_problem(client.delete(f"{ITEMS}/x"), 404, "item_not_found")


def test_equal_content_is_encoded_once(client: TestClient, fake_encoder: FakeEncoder) -> None:
    put(client, {"id": "one", "image": b64(square("red"))})
    before = sum(fake_encoder.batches)
    put(
        client,
        {"id": "two", "image": b64(square("red"))},
        {"id": "one", "image": b64(square("red")), "metadata": {"a": 1}},
    )
    assert sum(fake_encoder.batches) == before
    assert set(found(client, query="red")) == {"one", "two"}


def test_one_bad_item_fails_alone_with_its_own_problem(client: TestClient) -> None:
    reply = put(
        client,
        {"id": "good", "text": "red"},
        {"id": "corrupt", "image": b64(b"\x89PNG\r\n\x1a\n broken")},
        {"id": "empty", "text": "   "},
        {"id": "poisoned", "text": "poison"},
        {"id": "elsewhere", "image": {"url": "http://127.0.0.1/x.png"}},
        {"id": "nowhere", "image": {"upload": "missing"}},
        {"id": "nothing"},
        {"id": "", "text": "x"},
        {"id": "a/../b", "text": "x"},
        {"id": "typo", "text": "x", "metdata": {}},
        {"id": "heavy", "text": "x", "metadata": {"blob": "y" * 70_000}},
        {"id": "huge", "text": "x", "metadata": {"n": 2**63}},
        {"id": "deep", "image": b64(square("green")), "metadata": {"n": nested(100)}},
        {"id": "also good", "image": b64(square("blue"))},
    )
    assert reply["errors"] is True
    codes = [entry.get("problem", {}).get("code") or entry["status"] for entry in reply["items"]]
    assert codes == [
        "created",
        "image_undecodable",
        "text_empty",
        "encoding_failed",
        "url_fetch_disabled",
        "upload_missing",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "metadata_too_large",
        "item_invalid",
        "item_invalid",
        "created",
    ]
    assert set(found(client, query="red blue")) == {"good", "also good"}


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    "metadata", ['{"a":NaN}', '{"a":1e999}', '{"a":"\\ud800"}', '{"a":"\\u0000"}', "[" * 10_000, "x"]
)
def test_json_in_a_form_is_as_strict_as_a_body(client: TestClient, metadata: str) -> None:
    reply = client.put(
        ITEMS, data={"id": "f", "text": "x", "metadata": metadata}, files={"unused": ("", b"")}
    )
    assert reply.status_code in (400, 422), reply.text


@pytest.mark.parametrize(
    ("fields", "files"),
    [
        ([("id", "x"), ("text", "a"), ("text", "b")], 0),
        ([("id", "x")], 2),
        ([("request", '{"items":[{"id":"x","text":"a"}]}'), ("id", "y")], 0),
        ([("id", "x"), ("text", "a"), ("colour", "red")], 0),
    ],
)
def test_a_form_with_more_than_is_used_is_refused(
    client: TestClient, fields: list[tuple[str, str]], files: int
) -> None:
    parts: list[Any] = [(name, (None, value)) for name, value in fields]
    parts += [("image", (f"{i}.png", square("red"))) for i in range(files)]
    reply = client.put(ITEMS, files=parts)
    assert reply.status_code in (200, 422), reply.text
    status = reply.json()["items"][0]["status"] if reply.status_code == 200 else "refused"
    assert status in ("refused", "failed")


def test_a_form_may_send_its_request_as_a_file_and_its_words_as_query(shop: TestClient) -> None:
    whole = shop.post(SEARCH, files={"request": ("r.json", b'{"query":"red","limit":1}')})
    words = shop.post(SEARCH, files=[("query", (None, "red")), ("limit", (None, "1"))])
    assert (
        [hit["id"] for hit in whole.json()["results"]]
        == [hit["id"] for hit in words.json()["results"]]
        == ["red.png"]
    )


def test_hundreds_of_parts_of_one_name_are_told_apart(client: TestClient) -> None:
    reply = client.post("/v1/embeddings", files=[("file", ("a.png", square("red")))] * 512)
    assert_problem(reply, 413, "too_many_items")


def test_too_many_items_are_refused_whole(client: TestClient) -> None:
    items = [{"id": str(i), "text": "x"} for i in range(257)]
    assert_problem(client.put(ITEMS, json={"items": items}), 413, "too_many_items")
    assert found(client, query="x") == []


def test_an_item_can_be_written_by_a_form(client: TestClient) -> None:
    reply = client.put(
        ITEMS,
        files={"image": ("x.png", square("red"))},
        data={"id": "form", "text": "sofa", "metadata": '{"n": 3}'},
    )
    assert reply.json()["items"] == [{"id": "form", "status": "created"}]
    item = client.get(f"{ITEMS}/form").json()
    assert (item["modality"], item["text"], item["metadata"]) == ("mixed", "sofa", {"n": 3})


def test_scrolling_gives_every_item_once_in_order_of_id(shop: TestClient) -> None:
    ids: list[str] = []
    cursor = None
    while True:
        page = shop.post(f"{ITEMS}/scroll", json={"limit": 4, "cursor": cursor}).json()
        ids += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert ids == sorted(["red.png", "green.png", "blue.png", "red words", "other words", "both"])


def test_embeddings_have_openais_shape(client: TestClient) -> None:
    reply = client.post("/v1/embeddings", json={"model": "fake", "input": ["red apple", "blue"]}).json()
    assert (reply["object"], reply["model"], reply["embedding_space"]) == (
        "list",
        "fake",
        "fake-000000000000",
    )
    assert [(entry["object"], entry["index"]) for entry in reply["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    assert len(reply["data"][0]["embedding"]) == DIM
    assert reply["usage"] == {"prompt_tokens": 3, "total_tokens": 3, "image_count": 0, "image_pixels": 0}


def test_embeddings_in_base64_are_the_same_numbers(client: TestClient) -> None:
    plain = client.post("/v1/embeddings", json={"input": "red"}).json()["data"][0]["embedding"]
    packed = client.post("/v1/embeddings", json={"input": "red", "encoding_format": "base64"}).json()["data"][
        0
    ]["embedding"]
    assert list(struct.unpack(f"<{DIM}f", base64.b64decode(packed))) == plain


def test_embeddings_in_fewer_bytes_point_the_same_way(client: TestClient) -> None:
    def embedded(**options: str) -> Any:
        body = {"input": "red blue shiny shiny", **options}
        return client.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]

    plain, small = np.array(embedded()), embedded(embedding_type="int8")
    assert all(isinstance(number, int) for number in small)
    assert (max(small), plain @ small / np.linalg.norm(small)) == (127, pytest.approx(1.0, abs=1e-3))
    bits = embedded(embedding_type="ubinary")
    assert np.unpackbits(np.array(bits, np.uint8))[:DIM].tolist() == (plain > 0).astype(int).tolist()
    packed = base64.b64decode(embedded(embedding_type="int8", encoding_format="base64"))
    assert np.frombuffer(packed, np.int8).tolist() == small


def test_embeddings_are_normal_and_nothing_else(client: TestClient) -> None:
    assert client.post("/v1/embeddings", json={"input": "red", "normalize": True}).status_code == 200
    refused = client.post("/v1/embeddings", json={"input": "red", "normalize": False})
    assert_problem(refused, 422, "invalid_request")


@pytest.mark.parametrize("fusion", ["mean", "joint"])
def test_a_text_that_is_not_read_whole_is_refused_where_nothing_is_to_be_cut(
    client: TestClient, fake_encoder: FakeEncoder, fusion: str
) -> None:
    fake_encoder.fusion = fusion
    most, uri = fake_encoder.preprocessor.max_tokens, f"data:image/png;base64,{b64(square('red'))}"
    fits, long = "red " * most, "red " * (most + 1)
    parts = [{"type": "text", "text": text} for text in (fits, "blue blue")]  # of joint fusion: one sequence
    inputs = [fits, long, {"text": long, "image": uri}, {"image": uri}, {"content": parts}, " ", "x" * 70_000]
    codes = ["", "text_too_long_for_model", "text_too_long_for_model", "", "", "text_empty", "text_too_long"]
    if fusion == "joint":
        codes[4] = codes[1]

    def told(truncate: bool | None) -> list[str]:
        body = {"input": inputs, "on_error": "partial"} | ({} if truncate is None else {"truncate": truncate})
        entries = client.post("/v1/embeddings", json=body).json()["data"]
        return [entry["problem"]["code"] if "problem" in entry else "" for entry in entries]

    assert told(False) == codes
    assert told(True) == told(None) == ["", "", "", "", "", "text_empty", "text_too_long"]
    refused = client.post("/v1/embeddings", json={"input": ["red", long], "truncate": False})
    assert_problem(refused, 422, "text_too_long_for_model")
    assert f"has {most + 1} tokens; the encoder reads {most}" in refused.json()["detail"]
    assert client.post("/v1/embeddings", json={"input": [fits], "truncate": False}).status_code == 200
    form = client.post(
        "/v1/embeddings", data={"input": long, "truncate": "false"}, files={"file": square("red")}
    )
    assert_problem(form, 422, "text_too_long_for_model")


def test_embeddings_mix_texts_pictures_and_documents(client: TestClient) -> None:
    uri = f"data:image/png;base64,{b64(square('red'))}"
    inputs = [
        "red",
        {"text": "red"},
        {"image": uri},
        {"content": [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "red"}]},
    ]
    data = client.post("/v1/embeddings", json={"input": inputs}).json()["data"]
    assert [entry["modality"] for entry in data] == ["text", "text", "image", "mixed"]
    assert len({tuple(entry["embedding"]) for entry in data}) == 1


def test_pictures_can_be_embedded_by_upload(client: TestClient) -> None:
    files = [("file", ("a.png", square("red"))), ("file", ("b.png", square("blue")))]
    data = client.post("/v1/embeddings", files=files).json()["data"]
    assert [entry["embedding"].index(1.0) for entry in data] == [0, 2]


def test_one_bad_input_fails_the_request_or_alone_as_asked(client: TestClient) -> None:
    inputs = ["red", " ", {"image": "AAAA"}]
    assert_problem(client.post("/v1/embeddings", json={"input": inputs}), 422, "text_empty")
    data = client.post("/v1/embeddings", json={"input": inputs, "on_error": "partial"}).json()["data"]
    assert [entry["object"] for entry in data] == ["embedding", "error", "error"]
    assert [entry["problem"]["code"] for entry in data[1:]] == ["text_empty", "image_undecodable"]


@pytest.mark.parametrize("kind", ["float", "int8", "ubinary"])
@pytest.mark.parametrize("format", ["float", "base64"])
def test_replies_of_embeddings_are_what_the_document_says(client: TestClient, kind: str, format: str) -> None:
    body = {"input": ["red", " ", {"image": b64(square("red"))}], "on_error": "partial"}
    reply = client.post("/v1/embeddings", json=body | {"embedding_type": kind, "encoding_format": format})
    assert reply.headers["content-type"] == "application/json"
    said = EmbeddingsReply.model_validate_json(reply.content, strict=True, extra="forbid")
    assert json.loads(said.model_dump_json(exclude_none=True)) == reply.json()


@pytest.mark.parametrize(
    "body", [{}, {"input": []}, {"input": [1, 2]}, {"input": "x", "dimensions": 0}, {"inputs": "x"}]
)
def test_a_wrong_embeddings_request_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    assert_problem(client.post("/v1/embeddings", json=body), 422, "invalid_request")


def test_vectors_cannot_be_shortened(client: TestClient) -> None:
    shorter = {"input": "x", "dimensions": DIM - 1}
    assert_problem(client.post("/v1/embeddings", json=shorter), 422, "dimensions_unsupported")


def test_a_body_over_the_limit_is_refused(client: TestClient) -> None:
    assert_problem(client.post(SEARCH, content=b" " * 32_000_001), 413, "body_too_large")


def test_a_form_without_a_query_and_a_wrong_media_type_are_refused(client: TestClient) -> None:
    assert_problem(
        client.post(SEARCH, files={"unused": ("", b"")}, data={"limit": "1"}), 422, "invalid_request"
    )
    assert_problem(
        client.post(SEARCH, content="query=x", headers={"Content-Type": "text/plain"}),
        415,
        "unsupported_media_type",
    )


@pytest.mark.parametrize(
    "text", ["😀", "日本語のりんご", "\x01 red \x02", "a" * 60_000, "\u202ered\u0627\u062d"]
)
def test_unusual_texts_are_fine(client: TestClient, text: str) -> None:
    assert put(client, {"id": "x", "text": text})["errors"] is False
    assert found(client, query=text, limit=1) == ["x"]


def test_a_megabyte_of_text_is_refused_clearly(client: TestClient) -> None:
    assert_problem(client.post(SEARCH, json={"query": "a" * 1_000_000}), 413, "text_too_long")


def test_search_replies_are_what_the_document_shows(shop: TestClient) -> None:
    extreme = {"n": -(2**63), "x": 1e-300, "nested": {"list": [1.5, None, "é"]}}
    parts = [{"type": "text", "text": "red"}, {"type": "image_base64", "image_base64": b64(square("red"))}]
    assert put(shop, {"id": "parts", "content": parts, "metadata": extreme})["errors"] is False
    reply = shop.post(SEARCH, json={"query": "red", "limit": 7, "with_vectors": True, "explain": True})
    assert reply.status_code == 200, reply.text
    said = SearchReply.model_validate_json(reply.content, strict=True, extra="forbid")
    assert said.model_dump(mode="json") == reply.json()
    assert {hit["id"]: hit["metadata"] for hit in reply.json()["results"]}["parts"] == extreme


def test_overload_is_refused_with_retry_after(client: TestClient) -> None:
    with client.app.state.retriever.embedder.admission.permit(2048, 0.0, "interactive"):  # type: ignore[attr-defined]
        reply = client.post(SEARCH, json={"query": "red"})
        assert_problem(reply, 429, "queue_full")
        assert int(reply.headers["retry-after"]) == reply.json()["retry_after_seconds"] >= 1
        assert_problem(client.put(ITEMS, json={"items": [{"id": "x", "text": "red"}]}), 429, "queue_full")
    assert found(client, query="red") == []


def test_pictures_of_one_request_share_the_pixels_that_there_are(
    settings: Settings, fake_encoder: FakeEncoder
) -> None:
    picture = {"image": base64.b64encode(square("red", side=20)).decode()}
    tight = settings.model_copy(update={"max_request_pixels": 1000})
    with TestClient(create_app(tight, cast(Any, fake_encoder))) as client:
        assert client.post("/v1/embeddings", json={"input": [picture] * 2}).status_code == 200
        assert_problem(client.post("/v1/embeddings", json={"input": [picture] * 3}), 413, "too_many_pixels")
        many = {"query": "red", "documents": [picture] * 3}
        assert_problem(client.post("/v1/rerank", json=many), 413, "too_many_pixels")


def test_an_answer_that_does_not_come_in_time_is_not_waited_for(
    client: TestClient, fake_encoder: FakeEncoder
) -> None:
    embed = fake_encoder.embed

    def slow(documents: Any) -> Any:
        time.sleep(0.2)
        return embed(documents)

    fake_encoder.embed = slow  # type: ignore[method-assign]
    for path, body in (("/v1/embeddings", {"input": "red"}), (SEARCH, {"query": "red"})):
        assert_problem(client.post(path, json={**body, "timeout_ms": 30}), 504, "deadline_passed")
        assert client.post(path, json={**body, "timeout_ms": 20_000}).status_code == 200
    assert_problem(
        client.post("/v1/embeddings", json={"input": "x", "timeout_ms": 0}), 422, "invalid_request"
    )


def test_an_encoder_that_is_broken_is_not_blamed_on_the_input(
    client: TestClient, fake_encoder: FakeEncoder
) -> None:
    def broken(documents: Any) -> Any:
        raise MemoryError

    fake_encoder.embed = broken  # type: ignore[method-assign]
    reply = client.post("/v1/embeddings", json={"input": "red"})
    assert_problem(reply, 503, "encoder_broken")
    assert int(reply.headers["retry-after"]) >= 1


def test_a_collection_of_another_encoder_is_a_conflict_and_never_searched(
    shop: TestClient, fake_encoder: FakeEncoder
) -> None:
    fake_encoder.id = "fake-111111111111"
    for reply in (
        shop.post(SEARCH, json={"query": "red"}),
        shop.put(ITEMS, json={"items": [{"id": "x", "text": "red"}]}),
        shop.delete(f"{ITEMS}/both"),
        shop.put("/v1/collections/c"),
    ):
        assert_problem(reply, 409, "encoder_mismatch")


def test_the_openapi_document_describes_bodies_and_every_reference_resolves(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name
    search = document["paths"]["/v1/collections/{collection}/search"]["post"]
    assert set(search["requestBody"]["content"]) == {"application/json", "multipart/form-data"}


def test_the_docs_page_needs_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http://" not in page.replace("http://testserver", "")
    assert "https://" not in page
    for asset in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert client.get(asset).status_code == 200, asset


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/healthz", "/metrics", "/docs", "/v1/collections/c"]
)
def test_what_load_balancers_probe_answers_head(client: TestClient, path: str) -> None:
    reply = client.head(path)
    assert reply.status_code == 200


def test_an_update_is_never_a_temporary_delete(client: TestClient) -> None:
    items = [{"id": str(i), "text": f"w{i}", "metadata": {"kind": "kept"}} for i in range(20)]
    put(client, *items)
    stop = threading.Event()

    def rewrite() -> None:
        for turn in itertools.count():
            put(client, *(item | {"metadata": {"kind": "kept", "turn": turn}} for item in items))
            if stop.is_set():
                return

    writer = threading.Thread(target=rewrite)
    writer.start()
    kept = {"must": [{"key": "kind", "match": {"value": "kept"}}]}
    try:
        for _ in range(40):
            assert len(found(client, query="w1", filter=kept, limit=20)) == 20
            assert len(found(client, query="w1", limit=100)) == 20
    finally:
        stop.set()
        writer.join()


def test_searches_go_on_while_writers_wait_for_the_database(shop: TestClient, settings: Settings) -> None:
    held = sqlite3.connect(settings.data_dir / "catalog.db", isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    writers = [
        threading.Thread(target=put, args=(shop, {"id": f"late{i}", "text": "late"}), daemon=True)
        for i in range(12)
    ]
    for writer in writers:
        writer.start()
    time.sleep(0.3)
    started = time.monotonic()
    assert found(shop, query="red", limit=1) == ["red.png"]
    assert shop.get("/readyz").status_code == 200
    assert time.monotonic() - started < 2
    held.execute("ROLLBACK")
    held.close()
    for writer in writers:
        writer.join(20)
    assert len(found(shop, query="late", limit=12)) == 12


@pytest.mark.parametrize("fake_encoder", [FakeEncoder(workers=1)], ids=["one worker"])
def test_one_large_request_does_not_keep_a_small_one_waiting(
    client: TestClient, fake_encoder: FakeEncoder
) -> None:
    embed = fake_encoder.embed
    started: list[int] = []

    def slow(documents: Any) -> Any:
        started.append(len(documents))
        time.sleep(0.1)
        return embed(documents)

    client.app.state.retriever.embedder.batcher._embed = slow  # type: ignore[attr-defined]
    inputs = [f"w{i}" for i in range(256)]
    large = threading.Thread(target=client.post, args=("/v1/embeddings",), kwargs={"json": {"input": inputs}})
    large.start()
    time.sleep(0.15)
    found(client, query="red")
    behind = len(started)
    large.join()
    assert behind < len(started) == 9


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"query": []}, "/query"),
        ({"query": 5}, "/query"),
        ({"query": {}}, "/query"),
        ({"query": ["x", {"text": "y", "weight": "heavy"}]}, "/query/1/weight"),
        ({"query": {"image": {"base64": "A", "id": "x"}}}, "/query/image"),
        ({"query": "x", "limit": 10_000}, "/limit"),
    ],
)
def test_a_wrong_search_points_at_what_is_wrong(
    client: TestClient, body: dict[str, Any], pointer: str
) -> None:
    reply = client.post(SEARCH, json=body)
    assert_problem(reply, 422, "invalid_request")
    assert [finding["pointer"] for finding in reply.json()["errors"]] == [pointer]


def test_members_that_are_null_count_as_absent(shop: TestClient) -> None:
    image = {"id": "red.png", "base64": None, "upload": None, "url": None}
    assert found(shop, query={"image": image, "text": None}) == found(shop, query={"id": "red.png"})


def test_parts_are_counted_not_documents(client: TestClient) -> None:
    content = [{"type": "text", "text": "x"}] * 60
    reply = client.post("/v1/embeddings", json={"input": [{"content": content}] * 5})
    assert_problem(reply, 413, "too_many_items")


@pytest.mark.parametrize("query", [{"id": "red.png", "text": "x"}, {"image": {"id": "red.png"}, "text": "x"}])
def test_words_beside_an_item_are_not_dropped_silently(shop: TestClient, query: dict[str, Any]) -> None:
    assert_problem(shop.post(SEARCH, json={"query": query}), 422, "invalid_request")


def test_a_conflict_is_told_before_any_work(shop: TestClient, settings: Settings) -> None:
    """A collection of another encoder: its vectors are not those of a query."""
    other = FakeEncoder(id="fake-111111111111")
    with TestClient(create_app(settings, cast(Any, other))) as api:
        before = len(other.batches)
        query = [{"id": "red.png"}, {"text": "x"}]
        assert_problem(api.post(SEARCH, json={"query": query}), 409, "encoder_mismatch")
        assert len(other.batches) == before
