"""Reranking in search: the match decides the order, and what cannot be matched spoils nothing."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.config import Settings
from service.reranker import order
from tests.fakes import FakeEncoder, square, striped
from tests.joint_bundle import build
from tests.problems import assert_problem

ITEMS = "/v1/collections/c/items"
SEARCH = "/v1/collections/c/search"
RERANK = "/v1/rerank"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def search(client: TestClient, query: Any, **options: Any) -> dict[str, Any]:
    reply = client.post(SEARCH, json={"query": query, **options})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def ids(reply: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in reply["results"]]


def damage(settings: Settings) -> None:
    """Delete every picture that is kept."""
    for blob in (settings.data_dir / "blobs").glob("*/*"):
        blob.unlink()


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """Texts whose order by embedding is not their order by match, and a picture of two colours."""
    items = [
        {"id": "a third word", "text": "red red green green blue"},
        {"id": "uneven", "text": "red red red red red green"},
        {"id": "half", "text": "red blue"},
        {"id": "stripes", "image": b64(striped("red", "red", "green"))},
        {"id": "other", "text": "white"},
    ]
    reply = client.put(ITEMS, json={"items": items}).json()
    assert not reply["errors"], reply
    return client


def test_the_first_results_are_put_in_order_of_their_match(shop: TestClient) -> None:
    plain = search(shop, "red green", limit=5)
    assert ids(plain) == ["a third word", "uneven", "stripes", "half", "other"]
    reranked = search(shop, "red green", limit=5, rerank={"top_n": 4})
    assert ids(reranked) == ["uneven", "stripes", "a third word", "half", "other"]
    scores = [hit["rerank_score"] for hit in reranked["results"]]
    assert scores[:4] == pytest.approx([1, 1, 2 / 3, 1 / 3], abs=1e-5)
    assert scores[4] is None
    assert [hit["rerank_score"] for hit in plain["results"]] == [None] * 5
    assert {hit["id"]: hit["score"] for hit in reranked["results"]} == {
        hit["id"]: hit["score"] for hit in plain["results"]
    }


def test_what_stands_outside_top_n_keeps_its_order(shop: TestClient) -> None:
    assert ids(search(shop, "red green", limit=5, rerank={"top_n": 2})) == [
        "uneven",
        "a third word",
        "stripes",
        "half",
        "other",
    ]


def test_more_is_reranked_than_returned(shop: TestClient, fake_encoder: FakeEncoder) -> None:
    assert ids(search(shop, "red green", limit=1, rerank={"top_n": 2})) == ["uneven"]
    assert sum(fake_encoder.matched) == 2


def test_more_may_be_asked_for_than_there_is(shop: TestClient) -> None:
    assert len(search(shop, "red green", limit=100, rerank={"top_n": 100})["results"]) == 5
    none = search(
        shop, "red green", filter={"must": [{"key": "x", "match": {"value": 1}}]}, rerank={"top_n": 9}
    )
    assert (none["results"], none["degraded"]) == ([], [])


def test_a_reranked_reply_says_how_long_that_took(shop: TestClient) -> None:
    reply = shop.post(SEARCH, json={"query": "red", "rerank": {"top_n": 3}})
    assert set(reply.json()["timing_ms"]) == {"encode", "search", "metadata", "rerank"}
    told = {part.split(";")[0] for part in reply.headers["server-timing"].split(", ")}
    assert told >= {"encode", "search", "rerank"}
    assert 'momoseek_stage_duration_seconds_count{stage="rerank"} 1.0' in shop.get("/metrics").text
    assert 'modality="match"' in shop.get("/metrics").text


def test_a_picture_with_words_is_one_query(shop: TestClient) -> None:
    content = [
        {"type": "image_base64", "image_base64": b64(square("red"))},
        {"type": "text", "text": "green"},
    ]
    reply = search(shop, {"content": content}, limit=2, rerank={"top_n": 5})
    assert ids(reply) == ["uneven", "stripes"]
    assert search(shop, {"text": "green", "image": b64(square("red"))}, limit=2, rerank={"top_n": 5}) == (
        reply | {"timing_ms": pytest.approx(reply["timing_ms"], rel=1e3)}
    )


def test_an_item_is_a_query_by_what_it_holds(shop: TestClient) -> None:
    reply = search(shop, {"id": "stripes"}, limit=4, rerank={"top_n": 4})
    assert ids(reply)[0] == "uneven"
    assert "stripes" not in ids(reply)
    assert reply["degraded"] == []


def test_a_form_can_ask_for_reranking(shop: TestClient) -> None:
    fields = {"query": "red green", "limit": "1", "rerank": '{"top_n": 5}'}
    reply = shop.post(SEARCH, files=[(name, (None, value)) for name, value in fields.items()])
    assert ids(reply.json()) == ["uneven"]


@pytest.mark.parametrize(
    "query", [["red", "green"], [{"text": "red", "weight": 2}, {"id": "half"}], {"text": "red", "weight": -1}]
)
def test_weighted_terms_are_no_document_to_compare_with(shop: TestClient, query: Any) -> None:
    reply = shop.post(SEARCH, json={"query": query, "rerank": {"top_n": 5}})
    assert_problem(reply, 422, "rerank_needs_one_document")


@pytest.mark.parametrize("rerank", [{"top_n": 0}, {"top_n": 101}, {}, {"top_n": 5, "model": "x"}, 5])
def test_a_wrong_rerank_is_refused_and_pointed_at(client: TestClient, rerank: Any) -> None:
    reply = client.post(SEARCH, json={"query": "red", "rerank": rerank})
    assert_problem(reply, 422, "invalid_request")
    assert reply.json()["param"].startswith("/rerank")


def test_an_item_whose_picture_is_gone_keeps_its_place(shop: TestClient, settings: Settings) -> None:
    damage(settings)
    reply = search(shop, "red green", limit=5, rerank={"top_n": 4})
    assert ids(reply) == ["uneven", "a third word", "stripes", "half", "other"]
    assert reply["degraded"] == ["rerank_incomplete"]
    assert reply["results"][2]["rerank_score"] is None


def test_an_item_that_the_encoder_chokes_on_keeps_its_place(
    shop: TestClient, fake_encoder: FakeEncoder
) -> None:
    fake_encoder.poison = "blue"
    reply = search(shop, "red green", limit=3, rerank={"top_n": 3})
    assert ids(reply) == ["a third word", "uneven", "stripes"]
    assert reply["degraded"] == ["rerank_incomplete"]


def test_a_query_item_whose_picture_is_gone_is_still_answered(shop: TestClient, settings: Settings) -> None:
    plain = search(shop, {"id": "stripes"}, limit=4)
    damage(settings)
    reply = search(shop, {"id": "stripes"}, limit=4, rerank={"top_n": 4})
    assert ids(reply) == ids(plain)
    assert reply["degraded"] == ["rerank_skipped"]


def test_a_full_queue_costs_the_reranking_and_not_the_answer(shop: TestClient, settings: Settings) -> None:
    admission = shop.app.state.retriever.embedder.admission  # type: ignore[attr-defined]
    with admission.permit(settings.max_queue - 2, 0.0, "interactive"):
        reply = search(shop, "red green", limit=5, rerank={"top_n": 4})
    assert ids(reply) == ids(search(shop, "red green", limit=5))
    assert reply["degraded"] == ["rerank_skipped"]
    assert {hit["rerank_score"] for hit in reply["results"]} == {None}


def test_what_there_is_no_time_for_is_not_reranked(shop: TestClient, fake_encoder: FakeEncoder) -> None:
    match = fake_encoder.match

    def slow(query: Any, candidates: Any) -> Any:
        time.sleep(0.8)
        return match(query, candidates)

    fake_encoder.match = slow  # type: ignore[method-assign]
    reply = search(shop, "red green", limit=5, rerank={"top_n": 5}, timeout_ms=1500)
    assert reply["degraded"] == ["rerank_incomplete"]  # the first four took all the time there was
    assert [hit["rerank_score"] is None for hit in reply["results"]].count(True) == 1
    reply = search(shop, "red green", limit=5, rerank={"top_n": 5}, timeout_ms=200)
    assert reply["degraded"] == ["rerank_skipped"]
    assert ids(reply) == ids(search(shop, "red green", limit=5))


def test_an_encoder_that_cannot_match_says_so_before_any_work(
    shop: TestClient, fake_encoder: FakeEncoder
) -> None:
    fake_encoder.matches = False
    before = len(fake_encoder.batches)
    body = {"query": "red", "documents": ["red"]}
    for reply in (
        shop.post(SEARCH, json={"query": "red", "rerank": {"top_n": 5}}),
        shop.post(RERANK, json=body),
    ):
        assert_problem(reply, 422, "rerank_unsupported")
    assert len(fake_encoder.batches) == before


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], []),
        ([0.1, 0.9], [1, 0]),
        ([0.5, 0.5, 0.7], [2, 0, 1]),
        ([0.1, None, 0.9], [2, 1, 0]),
        ([None, 0.0, None, 0.3], [0, 3, 2, 1]),
        ([None, None], [0, 1]),
    ],
)
def test_order_sorts_what_is_scored_around_what_is_not(
    scores: list[float | None], expected: list[int]
) -> None:
    assert order(scores) == expected


@pytest.fixture(scope="module")
def joint_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A real API around a small real bundle that reads documents jointly."""
    folder = build(tmp_path_factory.mktemp("joint")).path
    settings = Settings(
        bundle=str(folder), data_dir=tmp_path_factory.mktemp("data"), worker=False, device="cpu", refresh_s=60
    )
    with TestClient(create_app(settings), base_url="http://localhost") as api:
        assert api.put("/v1/collections/c").status_code == 201
        yield api


def test_a_joint_bundle_serves_and_reranks(joint_api: TestClient) -> None:
    items = [
        {"id": "red", "image": b64(square("red"))},
        {"id": "both", "image": b64(square("blue")), "text": "a blue square"},
        {"id": "words", "text": "a red square"},
    ]
    assert not joint_api.put(ITEMS, json={"items": items}).json()["errors"]
    assert joint_api.get("/readyz").status_code == 200
    assert joint_api.get("/v1/models/tiny-joint").json()["fusion"] == "joint"
    content = [
        {"type": "image_base64", "image_base64": b64(square("red"))},
        {"type": "text", "text": "but blue"},
    ]
    reply = search(joint_api, {"content": content}, rerank={"top_n": 3})
    scores = [hit["rerank_score"] for hit in reply["results"]]
    assert scores == sorted(scores, reverse=True)
    documents = [{key: item[key] for key in ("image", "text") if key in item} for item in items]
    alone = joint_api.post(RERANK, json={"query": {"content": content}, "documents": documents}).json()
    assert [items[result["index"]]["id"] for result in alone["results"]] == ids(reply)
    assert [result["relevance_score"] for result in alone["results"]] == pytest.approx(scores, abs=1e-5)


def test_a_joint_bundle_embeds_the_parts_of_a_document_in_their_order(joint_api: TestClient) -> None:
    parts = [
        {"type": "text", "text": "first"},
        {"type": "image_base64", "image_base64": b64(square("red"))},
        {"type": "image_base64", "image_base64": b64(square("blue"))},
    ]
    inputs = [{"content": parts}, {"content": parts[::-1]}, {"content": [parts[0], parts[2], parts[1]]}]
    data = joint_api.post("/v1/embeddings", json={"input": inputs}).json()["data"]
    assert len({json.dumps(entry["embedding"]) for entry in data}) == 3
