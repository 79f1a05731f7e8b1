"""The recall meter: a sample of real searches answered again, exactly, without anybody waiting for it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from fastapi.testclient import TestClient

from index.engines import Params
from index.engines.faiss import FaissEngine
from index.engines.scanning import use_one_core
from index.filters import parse
from index.policy import Policy
from service.app import create_app
from service.config import Settings
from service.recall_meter import Estimate, RecallMeter, Sample, selectivity
from tests.fakes import FakeEncoder
from tests.house import QUERIES, House
from tests.indexing import filled


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with a snapshot of 200 items as a graph, and a tail of 20."""
    house = House(tmp_path, Policy(flat_limit=100))
    filled(house.catalog, "c", 200)
    house.rebuild()
    filled(house.catalog, "c", 20, prefix="tail")
    yield house
    house.catalog.close()


class Told(list[Estimate]):
    """What a meter said."""


def sample(house: House, **members: Any) -> Sample:
    """A search that was answered."""
    return Sample(house.live().view, QUERIES[:1], "text", "any", members.pop("filter", None), **members)


def test_a_good_index_has_all_of_the_nearest(house: House) -> None:
    told = Told()
    meter = RecallMeter(1.0, told.append)
    for _ in range(3):
        meter.measure(sample(house))
    assert told[-1] == Estimate("c", "text", "any", "all", 1.0, 3)
    assert meter.estimates("c") == [told[-1]]
    assert meter.estimates("d") == []
    meter.forget("c")
    assert meter.estimates("c") == []


def test_what_a_search_misses_lowers_the_mean(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that loses the five nearest of its rows unless it is asked to be exact."""
    search = FaissEngine.search

    def missing(self: Any, queries: Any, top_k: int, allowed: Any = None, params: Params = Params()) -> Any:  # noqa: B008
        if params.exact:
            return search(self, queries, top_k, allowed, params)
        return tuple(part[:, 5:] for part in search(self, queries, top_k + 5, allowed, params))

    told = Told()
    meter = RecallMeter(1.0, told.append)
    meter.measure(sample(house))
    monkeypatch.setattr(FaissEngine, "search", missing)
    meter.measure(sample(house))
    assert 0.7 <= told[-1].recall < 0.85
    assert told[-1].samples == 2


def test_each_kind_of_search_has_a_mean_of_its_own(house: House) -> None:
    told = Told()
    meter = RecallMeter(1.0, told.append)
    meter.measure(sample(house))
    meter.measure(sample(house, filter=parse({"must": [{"has_id": [f"item-{n}" for n in range(4)]}]})))
    meter.measure(sample(house, filter=parse({"must": [{"has_id": ["nothing"]}]})))  # nothing to be found
    assert [(entry.selectivity, entry.recall) for entry in told] == [("all", 1.0), ("0.01", 1.0)]
    assert [entry.selectivity for entry in meter.estimates("c")] == ["0.01", "all"]


@pytest.mark.parametrize(
    ("share", "label"),
    [(None, "all"), (1.0, "0.5"), (0.5, "0.5"), (0.49, "0.1"), (0.05, "0.01"), (1e-3, "0.001"), (0.0, "0.0")],
)
def test_shares_have_few_labels(share: float | None, label: str) -> None:
    assert selectivity(share) == label


def test_a_share_is_taken_and_nobody_waits(house: House) -> None:
    told = Told()
    meter = RecallMeter(0.5, told.append)
    one = sample(house)
    started = time.monotonic()
    for _ in range(10_000):
        meter.offer(one)
    assert time.monotonic() - started < 1.0
    assert meter._waiting.qsize() == 4  # what finds no room is dropped
    never = RecallMeter(0.0, told.append)
    never.offer(one)
    assert never._waiting.empty()
    never.start()
    never.close()


def test_its_thread_measures_what_is_offered_and_survives_a_failure(house: House) -> None:
    told = Told()
    meter = RecallMeter(1.0, told.append)
    meter.offer(Sample(house.live().view, np.zeros((1, 3), np.float32), "text", "any", None))  # another dim
    meter.offer(sample(house))
    meter.start()
    for _ in range(1000):
        if told:
            break
        time.sleep(0.01)
    meter.close()
    assert [entry.recall for entry in told] == [1.0]
    assert not meter._thread.is_alive()


def test_other_threads_keep_their_cores() -> None:
    before = faiss.omp_get_max_threads()
    seen: list[int] = []

    def alone() -> None:
        use_one_core()
        seen.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=alone)
    thread.start()
    thread.join()
    assert seen == [1]
    assert faiss.omp_get_max_threads() == before


def test_searches_of_every_kind_are_sampled_and_metered(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, worker=False, refresh_s=60, allowed_hosts="testserver", recall_sample_share=1.0
    )
    with TestClient(create_app(settings, FakeEncoder())) as api:  # type: ignore[arg-type]
        api.put("/v1/collections/c")
        items = [{"id": word, "text": word} for word in ("red", "green", "blue", "white")]
        api.put("/v1/collections/c/items", json={"items": items})
        queries: list[Any] = ["red", {"id": "red"}, [{"text": "red"}, {"id": "blue"}]]
        wanted = {
            f'momoseek_recall_at_k{{collection="c",k="10",query="{kind}",selectivity="all",target="any"}} 1.0'
            for kind in ("text", "item", "mixed")
        }
        seen: set[str] = set()
        for _ in range(200):
            for query in queries:
                assert api.post("/v1/collections/c/search", json={"query": query}).status_code == 200
            seen = set(api.get("/metrics").text.splitlines())
            if wanted <= seen:
                break
            time.sleep(0.05)
        assert wanted <= seen
        kinds = {entry["query"]: entry for entry in api.get("/v1/collections/c/index").json()["recall"]}
        assert kinds.keys() == {"text", "item", "mixed"}
        assert all(entry["recall"] == 1.0 and entry["samples"] > 0 for entry in kinds.values())
