"""Subsets: what passes a filter is counted and told apart exactly, in the snapshot and in the tail."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from index.catalog import Catalog, Delete
from index.filters import parse
from index.folders import store_in
from index.live import LiveIndex
from index.policy import Policy
from index.rebuild import Rebuilder
from index.subset import Subset
from index.terms import equals, value_of, values
from tests.house import QUERIES
from tests.indexing import DIM, ENCODER, upsert

COUNT = 1500  # enough for values that most items have to become bitmaps
LONG = ["x" * 200, "x" * 200 + "y"]
RARE: list[Any] = [
    *LONG,
    *(0, 1, 1.5, -3, -2.5, 2**53 + 1, 2**63 - 1, -(2**63), 1e300, 1e-300, 2.0),
    *(
        True,
        False,
        "",
        "1",
        "true",
        "é",
        None,
        {"a": "b"},
        [],
        ["red", 1, LONG[0], None],
        [[1]],
        ["red", "red"],
    ),
]
FILTERS: list[dict[str, Any]] = [
    {},
    {"must": [{"key": "number", "range": {"lt": 50}}]},
    {"must_not": [{"key": "colour", "match": {"value": "red"}}]},
    {"must": [{"key": "number", "range": {"gt": 10**9}}]},
]


def some_metadata(dice: random.Random) -> dict[str, Any]:
    colour = "red" if dice.random() < 0.9 else dice.choice(RARE)
    return {"colour": colour, "number": dice.randrange(100)} if dice.random() < 0.95 else {}


def passes(metadata: dict[str, Any], filter: dict[str, Any]) -> bool:
    """An oracle for the filters above."""
    if "must" in filter:
        (bounds,) = (condition["range"] for condition in filter["must"])
        number = metadata.get("number")
        return number is not None and bounds.get("gt", -1) < number < bounds.get("lt", 10**10)
    held = metadata.get("colour")
    return not filter or not (held == "red" or (isinstance(held, list) and "red" in held))


def scalars(value: Any) -> set[tuple[str, Any]]:
    """The different values of a member, true told from 1."""
    held = value if isinstance(value, list) else [value]
    return {
        ("boolean" if isinstance(one, bool) else "other", one)
        for one in held
        if isinstance(one, str | int | float)
    }


@pytest.fixture
def live(url: str, tmp_path: Path) -> Iterator[tuple[LiveIndex, Catalog]]:
    """Items in a snapshot, some of which were deleted or replaced since, and newer ones."""
    catalog, dice = Catalog(url), random.Random(3)
    catalog.create_collection("c", ENCODER, DIM)

    def write(first: int, last: int) -> None:
        written = [upsert(f"{n:05d}", metadata=some_metadata(dice)) for n in range(first, last)]
        catalog.commit("c", written, ENCODER)

    write(0, COUNT)
    rebuilder = Rebuilder(catalog, store_in(tmp_path), lambda _: QUERIES, Policy())
    assert rebuilder.rebuild("c", "the test wants it", time.time()).published
    catalog.commit("c", [Delete(f"{n:05d}") for n in range(0, 200, 3)], ENCODER)
    write(150, 250)
    write(COUNT - 30, COUNT + 100)
    catalog.commit("c", [Delete(f"{n:05d}") for n in range(COUNT, COUNT + 40, 3)], ENCODER)
    live = LiveIndex(catalog, store_in(tmp_path), "c")
    assert live.view.generation == 1
    assert len(live.view.tail.seqs) > 0
    yield live, catalog
    catalog.close()


def test_counts_and_facets_are_those_of_the_catalog(live: tuple[LiveIndex, Catalog]) -> None:
    index, catalog = live
    items = catalog.scroll("c", "", 10_000)
    for filter in FILTERS:
        passing = [item for item in items if passes(item.metadata, filter)]
        with index.reading() as (view, reading):
            subset = Subset.of(view, parse(filter))
            assert subset.count == len(passing)
            assert sorted(subset.seqs().tolist()) == sorted(item.seq for item in passing)
            for key in ("colour", "number", "nothing"):
                true = Counter(
                    pair for item in passing if key in item.metadata for pair in scalars(item.metadata[key])
                )
                facet = subset.facet(reading, key, 1000)
                found = {next(iter(scalars(value))): count for value, count in facet.values}
                assert found == dict(true)
                assert facet.distinct == len(true)
                counts = [count for _, count in facet.values]
                assert counts == sorted(counts, reverse=True)
                assert subset.facet(reading, key, 3).values == facet.values[:3]


def test_without_a_snapshot_and_without_items_there_is_nothing_to_count(url: str, tmp_path: Path) -> None:
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    index = LiveIndex(catalog, store_in(tmp_path), "c")
    with index.reading() as (view, reading):
        subset = Subset.of(view, parse({}))
        facet = subset.facet(reading, "colour", 10)
        assert (subset.count, subset.seqs().tolist(), facet.values, facet.distinct) == (0, [], [], 0)
    catalog.close()


def test_a_value_is_read_back_from_its_term_except_a_long_string() -> None:
    for value in (True, False, 0, -1, 1.5, -1e300, 2**53 + 1, 2**63 - 1, -(2**63), "", "red", "é" * 64):
        back = value_of("key", equals("key", value))
        assert (type(back), back) == (type(value), value)
    assert value_of("key", equals("key", "x" * 129)) is None
    assert value_of("key", equals("key", 1.0)) == 1


def test_the_ranges_of_a_keys_values_hold_its_values_alone() -> None:
    ranges = values("key")
    assert ranges == sorted(ranges)
    for value in (True, -1e300, 2**63 - 1, "", "\U0010ffff", "x" * 129):
        assert sum(first <= equals("key", value) < end for first, end in ranges) == 1
        assert not any(first <= equals("key2", value) < end for first, end in ranges)
