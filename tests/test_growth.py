"""Growth: a graph with the newer rows added finds what a new one would, until too many rows are dead."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.audit import audit
from index.catalog import Delete
from index.engines.faiss import FaissEngine
from index.policy import Policy
from index.rebuild import Report
from index.vectors import Vectors
from tests.house import House, assert_is_the_catalog
from tests.indexing import ENCODER, filled, upsert

POLICY = Policy(flat_limit=50, dead_share=0.4, keep=2)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with a graph of 100 items as its first generation."""
    house = House(tmp_path, POLICY)
    filled(house.catalog, "c", 100)
    assert rebuilt(house).how == "full"
    yield house
    house.catalog.close()


def rebuilt(house: House, *, anew: bool = False) -> Report:
    """What became of a rebuild."""
    return house.rebuilder.rebuild("c", "test", 0.0, anew=anew)


def assert_whole(house: House) -> None:
    """What serves is what the catalog holds, by search, filters, counts and digests."""
    live = house.live()
    assert (live.view.generation, live.last_error) == (house.store.current(), None)
    assert not len(live.view.tail.seqs)
    assert_is_the_catalog(live.view, house.catalog)
    assert audit(house.catalog, lambda _: house.store, "c").problems == ()


def test_newer_items_are_added_and_the_older_ones_stay(house: House) -> None:
    filled(house.catalog, "c", 40, prefix="more")
    report = rebuilt(house)
    assert (report.how, report.published, report.count) == ("grown", True, 140)
    manifest = house.store.manifest(2)
    assert (manifest.count, manifest.dead, manifest.factory) == (140, 0, "HNSW32,Flat")
    assert_whole(house)


def test_what_was_deleted_or_replaced_is_dead_and_never_found(house: House) -> None:
    for turn in range(3):  # what was dead stays dead
        house.catalog.commit(
            "c", [Delete(f"item-{turn}"), upsert(f"item-{50 + turn}", f"again {turn}")], ENCODER
        )
        report = rebuilt(house)
        assert (report.how, report.count) == ("grown", 99 - turn)
        manifest = house.store.manifest(turn + 2)
        assert (manifest.count, manifest.dead) == (101 + turn, 2 * (turn + 1))
        assert_whole(house)
    snapshot = house.live().view.snapshot
    assert snapshot is not None
    rows = snapshot.engine.vectors(np.array(sorted(snapshot.dead)))
    found = {hit.seq for hits in house.live().view.search(rows, 200) for hit in hits}
    assert found.isdisjoint(snapshot.ids[sorted(snapshot.dead)].tolist())
    assert len(found) == 97


def test_with_too_many_dead_rows_it_is_built_anew(house: House) -> None:
    house.catalog.commit("c", [Delete(f"item-{n}") for n in range(20)], ENCODER)
    assert rebuilt(house).how == "grown"
    house.catalog.commit("c", [Delete("item-20")], ENCODER)
    assert rebuilt(house).how == "full"
    assert (house.store.manifest(3).count, house.store.manifest(3).dead) == (79, 0)
    assert_whole(house)


def test_dead_rows_make_a_rebuild_due(house: House) -> None:
    policy = Policy(**(vars(POLICY) | {"min_changes": 10, "tail_share": 0.3, "max_age_s": 1e9}))
    house.policy = policy
    house.reopen()
    for turn in range(3):
        house.catalog.commit("c", [Delete(f"item-{13 * turn + n}") for n in range(13)], ENCODER)
        if turn < 2:
            assert house.rebuilder.step(0.0) == []
    [report] = house.rebuilder.step(0.0)
    assert report.reason == "39 changes are not in the snapshot"
    house.catalog.commit("c", [upsert(f"item-{40 + n}", f"other {n}") for n in range(12)], ENCODER)
    assert house.rebuilder.step(0.0) == []
    assert house.store.manifest(2).dead == 0


def test_a_small_collection_or_a_persons_wish_gives_a_new_index(house: House) -> None:
    filled(house.catalog, "c", 1, prefix="more")
    assert rebuilt(house, anew=True).how == "full"
    house.catalog.commit("c", [Delete(f"item-{n}") for n in range(60)], ENCODER)
    assert rebuilt(house).how == "full"
    assert house.store.manifest(3).factory == "Flat"
    filled(house.catalog, "c", 100, prefix="later")
    assert rebuilt(house).how == "full"
    assert house.store.manifest(4).factory == "HNSW32,Flat"
    assert_whole(house)


def test_a_grown_graph_that_finds_too_little_is_built_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(house.catalog, "c", 10, prefix="more")
    grown = FaissEngine.grown

    def turned_around(self: FaissEngine, folder: Path, rows: Vectors) -> FaissEngine:
        return grown(self, folder, np.concatenate((rows[: self.count], -rows[self.count :])))

    monkeypatch.setattr(FaissEngine, "grown", turned_around)
    assert rebuilt(house).how == "full"
    assert_whole(house)


def test_after_a_grown_graph_was_refused_a_new_one_is_built(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(house.catalog, "c", 10, prefix="more")
    grown = FaissEngine.grown

    def shuffled(self: FaissEngine, folder: Path, rows: Vectors) -> FaissEngine:
        return grown(self, folder, np.concatenate((rows[: self.count], rows[: self.count - 1 : -1])))

    with monkeypatch.context() as planted:
        planted.setattr(FaissEngine, "grown", shuffled)
        report = rebuilt(house)
        assert (report.published, report.cause) == (False, "digest")
        assert house.live().view.generation == 1
        assert rebuilt(house).how == "full"
    assert_whole(house)


def test_an_index_of_a_lost_future_is_not_grown(house: House) -> None:
    backup = house.back_up("backup.db")
    filled(house.catalog, "c", 20, prefix="lost")
    assert rebuilt(house).how == "grown"
    house.restore(backup)
    filled(house.catalog, "c", 30, prefix="other")
    assert rebuilt(house).how == "full"
    assert_whole(house)


@pytest.mark.parametrize("known_to_be_whole", [True, False])
def test_a_damaged_index_is_not_grown(house: House, known_to_be_whole: bool) -> None:
    house.damage(1)
    if not known_to_be_whole:
        house.reopen()
    filled(house.catalog, "c", 10, prefix="more")
    assert rebuilt(house).how == "full"
    assert_whole(house)


def test_nothing_of_the_rows_stays_on_disk(house: House) -> None:
    filled(house.catalog, "c", 10, prefix="more")
    rebuilt(house)
    names = {path.name for path in house.store.root.iterdir()}
    assert names == {"000001", "000002", "CURRENT", "CURRENT.lock", "LOCK"}


def test_a_rollback_holds_until_a_person_has_the_index_rebuilt(house: House) -> None:
    filled(house.catalog, "c", 40, prefix="more")
    rebuilt(house)
    house.store.roll_back(1)
    filled(house.catalog, "c", 400, prefix="later")
    assert house.rebuilder.step(1e12) == []
    assert house.live().view.generation == 1
    assert_is_the_catalog(house.live().view, house.catalog)
    assert (rebuilt(house).generation, house.store.is_held()) == (3, False)
    filled(house.catalog, "c", 400, prefix="then")
    assert [report.published for report in house.rebuilder.step(1e12)] == [True]


def test_a_held_snapshot_that_is_damaged_is_replaced(house: House) -> None:
    filled(house.catalog, "c", 40, prefix="more")
    rebuilt(house)
    house.store.roll_back(1)
    house.damage(1)
    house.reopen()
    assert [report.reason for report in house.rebuilder.step(0.0)] == ["no snapshot can serve"]
    assert_whole(house)
