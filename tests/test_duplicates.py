"""Duplicates: each item that has an older one like it, once, however many there are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.catalog import Delete
from index.duplicates import duplicates
from index.filters import parse
from index.jobs import StepRefused
from index.live import View
from index.policy import Policy
from tests.house import House
from tests.indexing import ENCODER, contents, filled, row_of, upsert


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with a graph and a tail, and 600 items: 30 kinds, each twenty times. Some are deleted."""
    house = House(tmp_path, Policy(flat_limit=100))
    house.catalog.commit("c", [upsert(f"i{n}", f"kind {n % 30}") for n in range(500)], ENCODER)
    house.rebuild()
    house.catalog.commit("c", [Delete(f"i{n}") for n in range(0, 30, 3)], ENCODER)
    house.catalog.commit("c", [upsert(f"i{n}", f"kind {n % 30}") for n in range(500, 600)], ENCODER)
    yield house
    house.catalog.close()


def found(view: View, threshold: float = 0.999, after: int = 0) -> dict[int, int]:
    """Each duplicate's seq with that of the older one."""
    parts = list(duplicates(view, after, threshold))
    assert sum(part.items for part in parts) == int(np.count_nonzero(view.seqs() > after))
    return {one.seq: one.older for part in parts for one in part.found}


def test_all_but_the_oldest_of_each_kind_are_found(house: House) -> None:
    seqs, _ = contents(house.catalog, "c")
    items = {item.seq: item.content for item in house.catalog.scroll("c", "", 1000)}
    oldest: dict[str, int] = {}
    for seq in sorted(seqs.tolist()):
        oldest.setdefault(items[seq], seq)
    pairs = found(house.live().view)
    assert pairs.keys() == set(seqs.tolist()) - set(oldest.values())
    assert all(items[seq] == items[older] and older < seq for seq, older in pairs.items())


def test_one_behind_many_newer_duplicates_is_found(house: House) -> None:
    house.catalog.commit("c", [upsert(f"same-{n}", "the same") for n in range(300)], ENCODER)
    items = {item.seq: item.id for item in house.catalog.scroll("c", "", 1000)}
    pairs = {items[seq]: items[older] for seq, older in found(house.live().view).items()}
    assert {f"same-{n}" for n in range(1, 300)} <= pairs.keys()
    assert "same-0" not in pairs


def test_it_goes_on_behind_a_seq(house: House) -> None:
    view = house.live().view
    whole = found(view)
    middle = int(view.seqs()[300])
    assert found(view, after=middle) == {seq: older for seq, older in whole.items() if seq > middle}


def test_a_filter_leaves_out_both_sides(house: House) -> None:
    filled(house.catalog, "c", 3, prefix="other")
    some = parse({"must": [{"has_id": ["i1", "i2", "i31", "i32", "i62"]}]})
    items = {item.seq: item.id for item in house.catalog.scroll("c", "", 1000)}
    parts = list(duplicates(house.live().view, 0, 0.999, some))
    pairs = [(items[one.seq], items[one.older]) for part in parts for one in part.found]
    assert [pair[0] for pair in pairs] == ["i31", "i32", "i62"]
    assert pairs[:2] == [("i31", "i1"), ("i32", "i2")]


def test_what_is_alike_is_found_by_its_cosine(house: House) -> None:
    row, other = row_of("kind 1"), row_of("something else")
    mixed = row + np.float32(0.3) * other
    mixed /= np.linalg.norm(mixed)
    cosine = float(row @ mixed)
    house.catalog.commit("c", [upsert("alike", vector=mixed)], ENCODER)
    [seq] = [item.seq for item in house.catalog.scroll("c", "alike"[:-1], 1)]
    view = house.live().view
    assert seq in found(view, cosine - 1e-4)
    assert seq not in found(view, cosine + 1e-4)


def test_a_task_goes_on_from_its_checkpoint_and_no_other_way(house: House) -> None:
    tasks = house.catalog.tasks
    collection = house.catalog.collection("c")
    first = tasks.create("job_1", "duplicates", collection.uid, "c", {"threshold": 0.9}, 10)
    assert tasks.next() is not None
    second = tasks.advance(first, at=5, steps=3, found=[{"a": 1}, {"b": 2}])
    assert (second.at_byte, second.at_line, second.done) == (5, 3, 3)
    with pytest.raises(StepRefused):
        tasks.advance(first, at=5, steps=3, found=[{"c": 3}])
    tasks.advance(second, at=9, steps=7, found=[{"c": 3}])
    assert tasks.results("job_1", 0, 2) == [(1, {"a": 1}), (2, {"b": 2})]
    assert tasks.results("job_1", 2, 9) == [(3, {"c": 3})]
    house.catalog.jobs.wish("job_1", "cancel")
    assert tasks.next() is None
    with pytest.raises(StepRefused):
        tasks.advance(second, at=12, steps=1, found=[])
    house.catalog.jobs.prune(1e12)
    assert tasks.results("job_1", 0, 9) == []
