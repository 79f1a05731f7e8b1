"""Damage, rollback, restore: answers stay right when snapshots do not."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.catalog import CatalogError, CollectionNotFound
from index.snapshot import SnapshotStore
from tests.house import House, assert_is_the_catalog
from tests.indexing import DIM, ENCODER, filled


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An empty house."""
    house = House(tmp_path)
    yield house
    house.catalog.close()


@pytest.mark.parametrize("name", ["vectors.faiss", "ids.npy", "fields.bin", "manifest.json"])
def test_a_damaged_current_snapshot_falls_back_to_the_one_before(house: House, name: str) -> None:
    for turn in range(2):
        filled(house.catalog, "c", 20, prefix=f"turn-{turn}")
        house.rebuild()
    house.damage(2, name)
    live = house.live()
    assert live.view.generation == 1
    assert "000002" in str(live.last_error)
    assert_is_the_catalog(live.view, house.catalog)
    filled(house.catalog, "c", 20, prefix="later")
    assert live.refresh().generation == 1
    house.rebuild()
    assert live.refresh().generation == 3
    assert live.last_error is None
    assert_is_the_catalog(live.view, house.catalog)


def test_a_damaged_new_snapshot_leaves_the_one_that_serves(house: House) -> None:
    filled(house.catalog, "c", 20)
    house.rebuild()
    live = house.live()
    snapshot = live.view.snapshot
    for generation in (2, 3):
        house.rebuild()
        house.damage(generation)
        assert live.refresh().snapshot is snapshot  # which is not even on the disk any more in the end
        assert f"{generation:06d}" in str(live.last_error)
    assert house.store.generations() == [2, 3]


def test_a_damaged_snapshot_that_is_mended_serves(house: House) -> None:
    filled(house.catalog, "c", 20)
    house.rebuild()
    shutil.copytree(house.root, house.root.parent / "backup")
    house.damage(1)
    live = house.live()
    assert live.view.generation == 0
    assert live.refresh().generation == 0
    shutil.rmtree(house.root)
    shutil.copytree(house.root.parent / "backup", house.root)
    assert live.refresh().generation == 1
    assert live.last_error is None


def test_without_any_snapshot_the_log_is_enough(house: House) -> None:
    filled(house.catalog, "c", 20)
    house.rebuild()
    live = house.live()
    shutil.rmtree(house.root)
    assert live.refresh().generation == 1
    assert house.live().view.generation == 0
    assert_is_the_catalog(house.live().view, house.catalog)
    assert house.rebuild() == 1


def test_a_snapshot_pruned_while_it_is_opened_is_no_damage(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(house.catalog, "c", 20)
    house.rebuild()
    load = SnapshotStore.load
    published: list[bool] = []

    def load_late(self: SnapshotStore, generation: int, collection_uid: str, encoder_id: str) -> object:
        if not published:
            published.append(True)
            for _ in range(3):  # keeping one: the first two are gone
                house.rebuild()
        return load(self, generation, collection_uid, encoder_id)

    monkeypatch.setattr(SnapshotStore, "load", load_late)
    live = house.live()
    assert (live.view.generation, live.last_error) == (4, None)


def test_a_rollback_serves_the_older_snapshot_and_all_that_came_after(house: House) -> None:
    for turn in range(2):
        filled(house.catalog, "c", 20, prefix=f"turn-{turn}")
        house.rebuild()
    live = house.live()
    house.store.roll_back(1)
    assert (live.refresh().generation, len(live.view.tail.seqs)) == (1, 20)
    assert_is_the_catalog(live.view, house.catalog)


def test_a_collection_made_anew_has_nothing_of_the_old_one(house: House) -> None:
    filled(house.catalog, "c", 20)
    house.rebuild()
    live = house.live()
    before = live.view
    house.catalog.delete_collection("c")
    with pytest.raises(CollectionNotFound):
        live.refresh()
    house.catalog.create_collection("c", ENCODER, DIM)
    filled(house.catalog, "c", 5, prefix="new")
    assert (live.refresh().generation, live.last_error) == (0, None)
    assert_is_the_catalog(live.view, house.catalog)
    assert live.collection == house.catalog.collection("c")
    assert before.collection.uid != live.collection.uid  # so that old hits are not looked up among new items
    assert house.live().last_error is None
    house.rebuild()
    assert live.refresh().generation == 2
    assert_is_the_catalog(live.view, house.catalog)


@pytest.mark.parametrize("written_on", [0, 5, 15, 40])
def test_a_restored_catalog_takes_no_answer_from_snapshots_of_its_lost_future(
    house: House, written_on: int
) -> None:
    """Backup at seq 20, snapshots at 10 and 30; restored, it writes other changes under the same seqs."""
    filled(house.catalog, "c", 10, prefix="first")
    house.rebuild()
    filled(house.catalog, "c", 10, prefix="second")
    backup = house.back_up("backup.db")
    filled(house.catalog, "c", 10, prefix="lost")
    house.rebuild()
    live = house.live()
    assert live.view.generation == 2
    house.restore(backup)
    filled(house.catalog, "c", written_on, prefix="other")
    assert house.live().view.generation == 1
    assert_is_the_catalog(house.live().view, house.catalog)
    live._catalog = house.catalog  # a process that did not notice
    live.refresh()
    assert_is_the_catalog(live.refresh(), house.catalog)
    assert live.view.generation == 1
    assert house.rebuild() == 3
    assert live.refresh().generation == 3
    assert_is_the_catalog(live.view, house.catalog)


def test_a_restore_that_is_taken_back_brings_its_snapshots_back(house: House) -> None:
    filled(house.catalog, "c", 10)
    older = house.back_up("older.db")
    filled(house.catalog, "c", 10, prefix="more")
    newer = house.back_up("newer.db")
    house.rebuild()
    live = house.live()
    for backup, generation in ((older, 0), (newer, 1)):
        house.restore(backup)
        live._catalog = house.catalog
        live.refresh()
        assert live.refresh().generation == generation
        assert_is_the_catalog(live.view, house.catalog)


def test_a_log_with_its_end_torn_off_is_named(house: House) -> None:
    filled(house.catalog, "c", 5)
    live = house.live()
    filled(house.catalog, "c", 5, prefix="more")
    with house.catalog._writing() as connection:
        connection.exec_driver_sql("DELETE FROM changes WHERE seq > 8")
    with pytest.raises(CatalogError, match="ends too early"):
        live.refresh()
    assert live.view.watermark == 5
