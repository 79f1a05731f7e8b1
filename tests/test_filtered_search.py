"""Filtered searches: as many hits as there are, and the right ones, whatever share of the items matches."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.catalog import Catalog, Delete, Upsert
from index.filters import parse
from index.folders import store_in
from index.live import LiveIndex
from index.policy import Policy
from index.rebuild import Rebuilder
from tests.indexing import DIM, ENCODER, assert_nearest, unit_rows, upsert

COUNT, LIMIT = 20_000, 10
SHARES = (0.5, 0.1, 0.01, 0.001, 0.0001)
ROWS = unit_rows(COUNT)
CHANCES = np.random.default_rng(5).random(COUNT)
QUERIES = unit_rows(8, seed=9)


def item(number: int, **metadata: Any) -> Upsert:
    """Item ``number`` with its own row and price."""
    price = float(CHANCES[number])
    return upsert(f"item-{number}", vector=ROWS[number], metadata={"price": price} | metadata)


@pytest.fixture(scope="module", params=["Flat", "HNSW32,Flat"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveIndex]:
    """Nine tenths of the items in a snapshot; since then some were deleted, half replaced, and more added."""
    folder = tmp_path_factory.mktemp("filtered")
    catalog = Catalog(f"sqlite:///{folder}/catalog.db")
    catalog.create_collection("c", ENCODER, DIM)
    catalog.commit("c", [item(number) for number in range(COUNT * 9 // 10)], ENCODER)
    policy = Policy(flat_limit=10**9 if request.param == "Flat" else 0)
    rebuilder = Rebuilder(catalog, store_in(folder), lambda _: QUERIES, policy)
    assert rebuilder.rebuild("c", "the test wants it", time.time()).published
    index = LiveIndex(catalog, store_in(folder), "c")
    assert index.view.snapshot is not None
    assert index.view.snapshot.engine.factory == request.param
    catalog.commit("c", [Delete(f"item-{number}") for number in range(0, COUNT // 2, 7)], ENCODER)
    catalog.commit("c", [item(number, new=True) for number in range(COUNT // 2, COUNT)], ENCODER)
    index.refresh()
    yield index
    catalog.close()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("walking", ["as it pays", "always"])
def test_as_many_hits_come_back_as_there_are(
    live: LiveIndex, share: float, walking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if walking == "always":
        monkeypatch.setattr("index.engines.faiss._ROWS_PER_STEP", 0)
    cheap = [n for n in range(COUNT) if CHANCES[n] < share and (n >= COUNT // 2 or n % 7)]
    with live.reading() as (view, reading):
        found = view.search(QUERIES, LIMIT, parse({"must": [{"key": "price", "range": {"lt": share}}]}))
        items = reading.items_at([hit.seq for hits in found for hit in hits])
    recalled = 0
    for query, hits in zip(QUERIES, found, strict=True):
        assert len(hits) == min(LIMIT, len(cheap))
        scores = np.sort(ROWS[cheap] @ query)[::-1][:LIMIT]
        for hit in hits:
            number = int(items[hit.seq].id.removeprefix("item-"))
            assert number in cheap
            assert hit.score == pytest.approx(ROWS[number] @ query, abs=1e-5)
        recalled += sum(hit.score >= scores[-1] - 1e-5 for hit in hits)
    assert recalled >= 0.99 * len(QUERIES) * min(LIMIT, len(cheap))


def test_a_filter_sees_what_was_written_since_and_not_what_it_replaced(live: LiveIndex) -> None:
    new = parse({"must": [{"key": "new", "match": {"value": True}}]})
    old = parse({"must": [{"key": "new", "is_empty": True}]})
    seen = [
        {hit.seq for hit in live.view.search(QUERIES[:1], COUNT, wanted)[0]}
        for wanted in (new, old, parse({}))
    ]
    assert len(seen[0]) == COUNT // 2
    assert len(seen[1]) == COUNT // 2 - len(range(0, COUNT // 2, 7))
    assert seen[2] == seen[0] | seen[1]


def test_filters_follow_every_write_through_rebuilds_on_both_databases(url: str, tmp_path: Path) -> None:
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    rebuilder = Rebuilder(catalog, store_in(tmp_path), lambda _: QUERIES, Policy())
    index = LiveIndex(catalog, store_in(tmp_path), "c")
    colours: dict[str, str | None] = {}
    dice = np.random.default_rng(3)
    for turn in range(12):
        writes: list[Upsert | Delete] = []
        for number in dice.integers(0, 40, 15).tolist():
            name, colour = f"item-{number}", str(dice.choice(["red", "green", "blue", "gone"]))
            colours[name] = None if colour == "gone" else colour
            writes.append(Delete(name) if colour == "gone" else upsert(name, metadata={"colour": colour}))
        catalog.commit("c", writes, ENCODER)
        if turn % 5 == 3:
            assert rebuilder.rebuild("c", "the test wants it", time.time()).published
            index.refresh()
        for colour in ("red", "green", "blue"):
            wanted = parse({"must": [{"key": "colour", "match": {"value": colour}}]})
            with index.reading() as (view, reading):
                hits = view.search(QUERIES[:1], 100, wanted)[0]
                items = reading.items_at([hit.seq for hit in hits])
            assert {item.id for item in items.values()} == {
                name for name, now in colours.items() if now == colour
            }
    assert index.view.generation == 2
    catalog.close()


def test_hits_are_the_nearest_with_their_scores(live: LiveIndex) -> None:
    wanted = parse({"must": [{"has_id": [f"item-{number}" for number in range(COUNT - 50, COUNT)]}]})
    seqs = [hit.seq for hit in live.view.search(QUERIES[:1], 100, wanted)[0]]
    with live.reading() as (_, reading):
        numbers = {seq: int(item.id.removeprefix("item-")) for seq, item in reading.items_at(seqs).items()}
    ascending = np.array(sorted(numbers), np.int64)
    rows = ROWS[[numbers[seq] for seq in ascending.tolist()]]
    for query, hits in zip(QUERIES, live.view.search(QUERIES, 7, wanted), strict=True):
        assert_nearest(hits, ascending, rows, query, 7)
