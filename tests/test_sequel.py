"""A search goes on in the thread that embedded its query, where that can be, and finds the same."""

import asyncio
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.config import Settings
from service.finder import Finder, Finding, Ranking
from service.sequel import Sequel
from service.tokens import write_token
from tests.fakes import FakeEncoder, square
from tests.test_relevance import CURVES

SHOP = "/v1/collections/shop"
COLOURS = ("red", "green", "blue", "red green", "green blue", "red red blue")


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of thread on which searches looked for items, in order."""
    seen: list[str] = []
    find = Finder.find

    def watched(self: Finder, ranking: Ranking) -> Finding:
        seen.append("encoder" if threading.current_thread().name.startswith("encoder_") else "other")
        return find(self, ranking)

    monkeypatch.setattr(Finder, "find", watched)
    return seen


@pytest.fixture
def shops(settings: Settings) -> Iterator[list[TestClient]]:
    """One shop as it is served by two workers, and by one, which has no time for more than rows."""
    with (
        TestClient(create_app(settings, cast(Any, FakeEncoder(workers=2, relevance=CURVES)))) as two,
        TestClient(create_app(settings, cast(Any, FakeEncoder(workers=1, relevance=CURVES)))) as one,
    ):
        two.put(SHOP, json={}).raise_for_status()
        items = [{"id": name.replace(" ", "-"), "text": name} for name in COLOURS]
        two.put(f"{SHOP}/items", json={"items": items}).raise_for_status()
        yield [two, one]


def answers(shops: list[TestClient], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    found = [shop.post(f"{SHOP}/search", json=wanted) for shop in shops]
    assert len({reply.status_code for reply in found}) == 1
    own = ("timing_ms", "request_id")
    return [{name: it for name, it in reply.json().items() if name not in own} for reply in found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit": 2, "offset": 1},
        {"with_vectors": True, "explain": True},
        {"rerank": {"top_n": 4}, "limit": 3},
        {"hybrid": {"alpha": 0.5}},
        {"score_threshold": 0.5},
        {"min_relevance": 0.6},
        {"diversity": {"lambda": 0.3}},
    ],
)
def test_one_query_is_gone_on_with_and_finds_the_same(
    shops: list[TestClient], threads: list[str], options: dict[str, Any]
) -> None:
    two, one = answers(shops, {"query": "red green", **options})
    assert two == one
    assert two["results"]
    assert threads == ["encoder", "other"]


def test_a_picture_is_gone_on_with(shops: list[TestClient], threads: list[str]) -> None:
    image = {"base64": b64encode(square("red")).decode()}
    two, one = answers(shops, {"query": [{"image": image}]})
    assert two == one
    assert two["results"][0]["id"] == "red"
    assert threads == ["encoder", "other"]


@pytest.mark.parametrize(
    "query",
    [
        [{"text": "red"}, {"text": "green"}],
        [{"text": "red", "weight": -1}],
        [{"text": "red", "weight": 0.5}, {"id": "blue"}],
        [{"id": "blue"}],
    ],
)
def test_the_row_of_one_term_is_not_taken_for_the_query(
    shops: list[TestClient], threads: list[str], query: Any
) -> None:
    two, one = answers(shops, {"query": query})
    assert two == one
    assert threads == ["other", "other"]


def test_a_search_that_could_not_go_on_is_told_as_ever(shops: list[TestClient], threads: list[str]) -> None:
    consistency = {"write_token": write_token(99), "timeout_ms": 0}
    two, one = answers(shops, {"query": "red", "consistency": consistency})
    assert two == one
    assert two["code"] == "write_not_covered"
    assert threads == ["encoder", "other"]  # once each


def test_the_work_is_done_in_the_name_of_its_request() -> None:
    name = ContextVar("name", default="nobody")

    async def request() -> str:
        name.set("somebody")
        sequel = Sequel(lambda row, tell: name.get())
        sequel.begin(np.ones(3, np.float32))
        await asyncio.to_thread(worker_s.run, sequel.run, lambda: None)
        return await sequel.result()

    worker_s = copy_context()
    assert asyncio.run(request()) == "somebody"


def test_the_time_of_the_search_is_not_counted_as_the_encoder_s(
    shops: list[TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Finder.find

    def slow(self: Finder, ranking: Ranking) -> Finding:
        time.sleep(0.4)
        return find(self, ranking)

    monkeypatch.setattr(Finder, "find", slow)
    for shop in shops:
        reply = shop.post(f"{SHOP}/search", json={"query": "red"})
        timing = reply.json()["timing_ms"]
        assert timing["encode"] < 250 < 350 < timing["search"]
        stages = dict(stage.split(";dur=") for stage in reply.headers["server-timing"].split(", "))
        assert float(stages["encode"]) < 250 < 350 < float(stages["search"])
