"""Searching by words and nearness together, and what speaks for a result."""

from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from index.filters import parse
from index.lexical import Matched, matching
from service.hybrid import Hybrid
from tests.problems import assert_problem

C = "/v1/collections/c"
Json = dict[str, Any]


def put(client: TestClient, **texts: str) -> None:
    items = [
        {"id": name, "text": text, "metadata": {"title": f"{name} boots"}} for name, text in texts.items()
    ]
    assert not client.put(f"{C}/items", json={"items": items}).json()["errors"]


def search(client: TestClient, query: Any, **more: Any) -> Json:
    reply = client.post(f"{C}/search", json={"query": query, **more})
    assert reply.status_code == 200, reply.text
    return cast(Json, reply.json())


def ids(reply: Json) -> list[str]:
    return [hit["id"] for hit in reply["results"]]


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """Texts whose colours are what is near, and whose numbers are words that only words can tell."""
    put(client, near="red red red", named="blue x4711", both="red x4711", neither="green")
    return client


def test_the_word_that_only_one_has_brings_it_forward(shop: TestClient) -> None:
    assert ids(search(shop, "red"))[:2] == ["near", "both"]
    fused = search(shop, "red", hybrid={"text": "X4711"})
    assert ids(fused)[0] == "both"
    assert 0.9 < fused["results"][0]["hybrid_score"] <= 1
    plain = {hit["id"]: hit["score"] for hit in search(shop, "red")["results"]}
    assert {hit["id"]: hit["score"] for hit in fused["results"]} == pytest.approx(plain)


def test_alpha_goes_from_words_alone_to_nearness_alone(shop: TestClient) -> None:
    near = search(shop, "red", hybrid={"text": "x4711", "alpha": 1})
    assert ids(near) == ids(search(shop, "red"))
    words = search(shop, "green", hybrid={"text": "x4711", "alpha": 0})
    assert set(ids(words)[:2]) == {"named", "both"}
    assert [hit["hybrid_score"] for hit in words["results"]] == [1, 1, 0, 0]


def test_the_words_of_the_query_are_looked_for_unless_others_are_given(shop: TestClient) -> None:
    reply = search(shop, [{"text": "x4711"}, {"text": "red", "weight": -0.5}], hybrid={}, explain=True)
    assert {hit["id"]: hit["explain"]["words"] for hit in reply["results"]} == {
        "near": [],
        "named": ["x4711"],
        "both": ["x4711"],
        "neither": [],
    }


def test_metadata_counts_where_its_keys_are_named(shop: TestClient) -> None:
    assert [
        hit["hybrid_score"] for hit in search(shop, "red", hybrid={"text": "named", "alpha": 0})["results"]
    ] == [0] * 4
    titled = search(shop, "red", hybrid={"text": "named", "alpha": 0, "keys": ["title"]}, explain=True)
    assert ids(titled)[0] == "named"
    assert titled["results"][0]["explain"]["words"] == ["named"]


def test_a_query_without_words_says_so(shop: TestClient) -> None:
    reply = search(shop, {"id": "near"}, hybrid={})
    assert reply["degraded"] == ["hybrid_without_words"]
    assert ids(reply) == ids(search(shop, {"id": "near"}))


def test_filters_thresholds_and_pages_hold_as_ever(shop: TestClient) -> None:
    only = {"must": [{"has_id": ["named", "neither"]}]}
    assert set(ids(search(shop, "red", hybrid={"text": "x4711"}, filter=only))) == {"named", "neither"}
    for hit in search(shop, "red", hybrid={"text": "x4711"}, score_threshold=0.5)["results"]:
        assert hit["score"] >= 0.5
    whole = ids(search(shop, "red", hybrid={"text": "x4711"}))
    first = search(shop, "red", hybrid={"text": "x4711"}, limit=2)
    second = search(shop, "red", hybrid={"text": "x4711"}, limit=2, cursor=first["next_cursor"])
    assert ids(first) + ids(second) == whole
    few = search(shop, "red", hybrid={"text": "x4711", "candidates": 1})
    assert set(ids(few)) == {"near", "both"}  # the nearest of all, and of those with the word
    assert few["next_cursor"] is None


def test_deleted_and_replaced_items_are_not_found_by_their_words(shop: TestClient) -> None:
    shop.delete(f"{C}/items/named")
    put(shop, both="red")
    words = search(shop, "red", hybrid={"text": "x4711", "alpha": 0})
    assert {hit["hybrid_score"] for hit in words["results"]} == {0}


def test_what_is_no_hybrid_is_refused(shop: TestClient) -> None:
    for hybrid in ({"alpha": 2}, {"fusion": "sum"}, {"k": 0}, {"candidates": 5000}, {"words": "x"}):
        reply = shop.post(f"{C}/search", json={"query": "red", "hybrid": hybrid})
        assert_problem(reply, 422, "invalid_request")


def test_a_result_tells_how_near_it_is_to_each_term(shop: TestClient) -> None:
    reply = search(shop, [{"text": "red"}, {"text": "blue", "weight": -0.5}], explain=True)
    told = {hit["id"]: hit["explain"]["terms"] for hit in reply["results"]}
    assert told["near"] == pytest.approx([1, 0], abs=1e-4)
    assert told["named"][0] == pytest.approx(0, abs=1e-4)
    assert all(hit["vector"] is None for hit in reply["results"])
    assert all(hit["explain"] is None for hit in search(shop, "red")["results"])


# -- words in the index


def test_words_are_found_alike_in_a_snapshot_and_beside_it(client: TestClient) -> None:
    put(client, a="red apple", b="red pear")
    house_index = cast(Any, client.app).state.retriever.index("c")
    view = house_index.refresh()
    found = matching(view, None, ["apple", "red"], [])
    assert found.seqs.tolist() == [1, 2]
    assert found.scores[0] > found.scores[1] > 0
    assert matching(view, parse({"must": [{"has_id": ["b"]}]}), ["red"], []).seqs.tolist() == [2]
    assert matching(view, None, [], []).seqs.tolist() == []


def test_of_those_that_words_tell_alike_the_nearest_come_first() -> None:
    matched = Matched(np.arange(6), np.array([2, 1, 1, 1, 1, 3], np.float32))
    nearness = {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.2}
    first = matched.first(4, lambda seqs: np.array([nearness[int(seq)] for seq in seqs], np.float32))
    assert sorted(first.tolist()) == [0, 2, 3, 5]
    assert matched.ranks_of(np.array([5, 0, 3, 9])).tolist() == [1, 2, 3, np.inf]
    assert matched.first(6, lambda seqs: np.zeros(len(seqs), np.float32)).tolist() == list(range(6))


def test_so_many_words_are_looked_for_the_first_ones() -> None:
    assert Hybrid("The red, RED boot").words == ["the", "red", "boot"]
    assert len(Hybrid(" ".join(f"w{n}x" for n in range(100))).words) == 64
