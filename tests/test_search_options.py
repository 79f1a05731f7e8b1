"""What a search can be asked for through the API: which results, how many, from where, and by examples."""

import json
import time
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from index.engines import Params
from index.engines.faiss import FaissEngine
from index.folders import store_in
from index.rebuild import Rebuilder
from models.preprocess import Document
from service.config import Settings
from tests.fakes import FakeEncoder
from tests.problems import assert_problem

SEARCH = "/v1/collections/c/search"
RECOMMEND = "/v1/collections/c/recommend"
TEXTS = {
    "red-1": ("red", {"product": "shirt", "size": 1}),
    "red-2": ("red", {"product": "shirt", "size": 2}),
    "mostly": ("red red green", {"product": "shirt", "tags": ["x", "y"]}),
    "half": ("red green", {"product": "sock"}),
    "third": ("red blue black", {"product": None, "tags": ["x", "y"]}),
    "green": ("green", {"tags": []}),
    "white": ("white", {}),
}
NEAREST = ["red-1", "red-2", "mostly", "half", "third"]  # to "red"; the others are at right angles to it


@pytest.fixture
def rebuild(settings: Settings, client: TestClient) -> Any:
    """Publishes the next generation of "c" and takes it over."""

    def rebuild() -> None:
        retriever: Any = client.app.state.retriever  # type: ignore[attr-defined]
        rebuilder = Rebuilder(retriever._catalog, store_in(settings.snapshots_dir), lambda encoder_id: None)
        assert rebuilder.rebuild("c", "the test asks", time.time()).published
        retriever.index("c").refresh()

    return rebuild


@pytest.fixture(params=["tail", "snapshot and tail"])
def shop(client: TestClient, rebuild: Any, request: pytest.FixtureRequest) -> TestClient:
    """The texts, the first four perhaps in a snapshot."""
    items = [{"id": id, "text": text, "metadata": meta} for id, (text, meta) in TEXTS.items()]
    for part in (items[:4], items[4:]):
        reply = client.put("/v1/collections/c/items", json={"items": part})
        assert not reply.json()["errors"]
        if part == items[:4] and request.param != "tail":
            rebuild()
    return client


def found(api: TestClient, path: str = SEARCH, **wanted: Any) -> list[str]:
    reply = api.post(path, json={"query": "red", **wanted} if path == SEARCH else wanted)
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["results"]]


def test_a_score_threshold_ends_the_results(shop: TestClient) -> None:
    assert set(found(shop, score_threshold=0.8)) == {"red-1", "red-2", "mostly"}
    assert found(shop, score_threshold=1.1) == []
    assert len(found(shop, score_threshold=-2)) == len(TEXTS)


def test_near_identical_results_count_once(shop: TestClient) -> None:
    assert found(shop, dedup={"threshold": 0.99}, limit=4)[1:] == ["mostly", "half", "third"]
    assert len(found(shop, dedup={})) == len(TEXTS) - 1
    assert found(shop, dedup={"threshold": 0.5}, limit=2)[0].startswith("red")


def test_a_group_gives_its_best_and_who_has_none_stands_alone(shop: TestClient) -> None:
    grouped = found(shop, group_by="product")
    assert (grouped[0][:3], grouped[1:3]) == ("red", ["half", "third"])
    assert set(grouped[3:]) == {"green", "white"}
    assert len(found(shop, group_by="product", group_size=2)) == len(TEXTS) - 1
    assert len(found(shop, group_by="tags")) == len(TEXTS) - 1
    assert len(found(shop, group_by="nothing has it")) == len(TEXTS)


def test_diversity_puts_what_is_unlike_the_first_before_its_copies(shop: TestClient) -> None:
    assert found(shop, diversity={"lambda": 1}) == found(shop) == [*NEAREST, "green", "white"]
    varied = found(shop, diversity={"lambda": 0.3})
    assert varied[0].startswith("red")
    assert {*varied[1:3]} == {"green", "white"}
    assert sorted(varied) == sorted(TEXTS)
    assert found(shop, diversity={"lambda": 0.0, "candidates": 2})[2:5] == NEAREST[2:5]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"dedup": {"threshold": 0.99}},
        {"group_by": "product"},
        {"diversity": {"lambda": 0.3}},
        {"rerank": {"top_n": 5}},
        {"query": {"id": "half"}},
        {"filter": {"must": [{"key": "product", "match": {"value": "shirt"}}]}},
    ],
)
def test_pages_by_cursor_and_by_offset_are_the_whole_in_its_order(
    shop: TestClient, wanted: dict[str, Any]
) -> None:
    whole = found(shop, **wanted)
    pages, cursor = list[str](), None
    for _ in range(10):
        place: dict[str, str] = {} if cursor is None else {"cursor": cursor}
        reply = shop.post(SEARCH, json={"query": "red", "limit": 2, **wanted, **place}).json()
        pages += [hit["id"] for hit in reply["results"]]
        cursor = reply["next_cursor"]
        if cursor is None:
            break
    assert pages == whole
    assert found(shop, **wanted, offset=2, limit=2) == whole[2:4]
    assert found(shop, **wanted, offset=100) == []


def test_a_cursor_is_refused_when_another_generation_serves(shop: TestClient, rebuild: Any) -> None:
    cursor = shop.post(SEARCH, json={"query": "red", "limit": 2}).json()["next_cursor"]
    shop.put("/v1/collections/c/items", json={"items": [{"id": "new", "text": "blue"}]})
    assert found(shop, cursor=cursor, limit=1) == ["mostly"]
    rebuild()
    assert_problem(shop.post(SEARCH, json={"query": "red", "cursor": cursor}), 409, "cursor_expired")


@pytest.mark.parametrize("cursor", ["", "x", "c_1_2_3", f"c_{'0' * 32}_0_ffffff"])
def test_what_is_no_cursor_is_refused(client: TestClient, cursor: str) -> None:
    assert_problem(client.post(SEARCH, json={"query": "red", "cursor": cursor}), 422, "cursor_invalid")


@pytest.mark.parametrize(
    "wanted",
    [
        {"offset": 10_001},
        {"offset": 1, "cursor": f"c_{'0' * 32}_0_1"},
        {"diversity": {"weight": 0.5}},
        {"diversity": {"lambda": 1.5}},
        {"dedup": {"threshold": 2}},
        {"group_by": ""},
        {"group_size": 0},
        {"fields": "title"},
    ],
)
def test_options_that_make_no_sense_are_refused(client: TestClient, wanted: dict[str, Any]) -> None:
    assert_problem(client.post(SEARCH, json={"query": "red", **wanted}), 422, "invalid_request")


def test_results_come_with_the_fields_and_vectors_asked_for(shop: TestClient) -> None:
    wanted = {"query": "red", "fields": ["size"], "with_vectors": True}
    hits = shop.post(SEARCH, json=wanted).json()["results"]
    assert {hit["id"]: hit["metadata"] for hit in hits if hit["metadata"]} == {
        "red-1": {"size": 1},
        "red-2": {"size": 2},
    }
    encoder = FakeEncoder()
    for hit in hits:
        [row] = encoder.embed([Document((hit["text"],))])
        np.testing.assert_allclose(hit["vector"], row, atol=1e-6)
    plain = shop.post(SEARCH, json={"query": "red", "fields": []}).json()["results"]
    assert all(hit["metadata"] == {} and hit["vector"] is None for hit in plain)


def test_a_form_can_ask_for_all_of_it(shop: TestClient) -> None:
    fields = {"dedup": '{"threshold": 0.99}', "fields": "[]", "offset": "1", "limit": "2", "query": "red"}
    files = {name: (None, value) for name, value in fields.items()}
    reply = shop.post(SEARCH, files=files)
    assert [hit["id"] for hit in reply.json()["results"]] == ["mostly", "half"]


def test_in_a_batch_each_search_succeeds_or_fails_alone(shop: TestClient) -> None:
    searches: list[Any] = [
        {"query": "red", "limit": 1, "score_threshold": 0.9},
        {"query": "red", "limit": 0},
        {"query": {"id": "never there"}},
        "red",
        {"query": "poison"},
        {"query": "green", "filter": {"must": [{"key": "tags", "match": {}}]}},
        {"query": "green", "limit": 1},
    ]
    reply = shop.post(f"{SEARCH}/batch", json={"searches": searches})
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    codes = [result["problem"] and result["problem"]["code"] for result in results]
    assert codes == [
        None,
        "invalid_request",
        "item_not_found",
        "invalid_request",
        "encoding_failed",
        "filter_invalid",
        None,
    ]
    assert results[0]["reply"]["results"][0]["id"].startswith("red")
    assert results[6]["reply"]["results"][0]["id"] == "green"
    assert all((result["reply"] is None) != (result["problem"] is None) for result in results)


def test_a_batch_as_a_whole_has_its_limits(client: TestClient) -> None:
    batch = f"{SEARCH}/batch"
    hundred = {"searches": [{"query": "red"}] * 100}
    assert len(client.post(batch, json=hundred).json()["results"]) == 100
    assert_problem(client.post(batch, json={"searches": [{}] * 101}), 422, "invalid_request")
    assert_problem(client.post(batch, json={"searches": []}), 422, "invalid_request")
    missing = client.post("/v1/collections/none/search/batch", json=hundred)
    assert_problem(missing, 404, "collection_not_found")


@pytest.mark.parametrize("strategy", ["average", "best_score"])
def test_recommended_is_what_resembles_the_examples_and_not_the_others(
    shop: TestClient, strategy: str
) -> None:
    def like(**wanted: Any) -> list[str]:
        return found(shop, RECOMMEND, strategy=strategy, **wanted)

    assert like(positive=["red-1"])[:2] == ["red-2", "mostly"]
    assert like(positive=["red-1"], exclude_inputs=False, limit=2)[0].startswith("red")
    away = like(positive=["mostly"], negative=["half"])
    assert away[0].startswith("red")
    assert away.index("third") < away.index("green")
    assert like(positive=["red-1"], limit=2, offset=1)[0] == "mostly"
    assert like(positive=["red-1"], group_by="product", filter={"must_not": [{"has_id": ["red-2"]}]})[0] == (
        "mostly"
    )


def test_a_weight_makes_an_example_count_more(shop: TestClient) -> None:
    for weight, first in ((10.0, "red-2"), (0.1, "white")):
        examples = [{"id": "red-1", "weight": weight}, "white"]
        assert (
            found(shop, RECOMMEND, positive=examples, exclude_inputs=False, strategy="best_score")[0][:3]
            == (first[:3])
        )


def test_the_best_score_finds_what_is_near_to_either_example(shop: TestClient) -> None:
    wanted = {"positive": ["red-1", "white"], "exclude_inputs": False, "limit": 3}
    assert {*found(shop, RECOMMEND, strategy="best_score", **wanted)} == {"red-1", "red-2", "white"}
    hits = shop.post(RECOMMEND, json={**wanted, "negative": ["half"], "strategy": "best_score", "limit": 9})
    scores = {hit["id"]: hit["score"] for hit in hits.json()["results"]}
    assert scores["white"] == pytest.approx(1.0)
    nearest, negative = 2 / 5**0.5, 3 / 10**0.5
    assert scores["mostly"] == pytest.approx(nearest - (negative - nearest), abs=1e-5)


def test_examples_are_items_that_are_there(shop: TestClient) -> None:
    assert_problem(shop.post(RECOMMEND, json={"positive": ["never there"]}), 404, "item_not_found")
    refused: list[dict[str, Any]] = [{}, {"positive": []}, {"positive": [{"id": "half", "weight": -1}]}]
    for wanted in refused:
        assert_problem(shop.post(RECOMMEND, json=wanted), 422, "invalid_request")
    both: dict[str, Any] = {"positive": ["green"], "negative": [{"id": "green"}]}
    assert set(found(shop, RECOMMEND, **both)) == set(TEXTS) - {"green"}


# -- effort


def test_params_reach_the_index(shop: TestClient, rebuild: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rebuild()
    asked: list[Params] = []
    search = FaissEngine.search

    def noting(self: FaissEngine, *wanted: Any) -> Any:
        asked.append(wanted[3])
        return search(self, *wanted)

    monkeypatch.setattr(FaissEngine, "search", noting)
    params = {"effort": "high", "ef": 99, "nprobe": 7, "exact": True, "rescore": False}
    assert found(shop) == found(shop, params=params)
    for strategy in ("average", "best_score"):
        found(shop, RECOMMEND, positive=["green"], strategy=strategy, params=params)
    assert asked == [Params(), *[Params("high", 99, 7, True, False)] * 3]


@pytest.mark.parametrize("params", [{"effort": "most"}, {"ef": 0}, {"nprobe": -1}, {"exact": 3}, {"k": 1}])
def test_params_that_there_are_not_are_refused(shop: TestClient, params: dict[str, Any]) -> None:
    reply = shop.post(SEARCH, json={"query": "red", "params": params})
    assert_problem(reply, 422, "invalid_request")


def test_the_description_shows_what_can_be_asked(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    search = {"diversity", "dedup", "group_by", "group_size", "score_threshold", "offset", "cursor", "fields"}
    search |= {"params"}
    for name in ("SearchRequest", "RecommendRequest"):
        assert search | {"with_vectors"} <= set(schemas[name]["properties"])
    assert "lambda" in schemas["Diversity"]["properties"]
    for name in ("SearchRequest", "RecommendRequest", "SearchBatch"):
        [example] = schemas[name]["examples"]
        reply = client.post(SEARCH if name == "SearchRequest" else RECOMMEND, json=example)
        if name != "SearchBatch":
            assert_problem(reply, 404, "item_not_found")
            assert json.dumps(example)
