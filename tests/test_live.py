"""The live index: at every watermark the view is the catalog, whatever happened to snapshots in between."""

import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from index.catalog import Catalog, CatalogError, CollectionNotFound, Delete, Upsert
from index.live import Hit, LiveIndex, View
from index.reading import Reading
from index.rebuild import Policy, Rebuilder, store_in
from index.snapshot import SnapshotStore
from tests.indexing import DIM, ENCODER, assert_nearest, contents, filled, row_of, unit_rows, upsert

QUERIES = unit_rows(3, seed=42)


class House:
    """A catalog, its snapshots and a rebuilder in one folder, with a collection "c"."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/catalog.db"
        self.root = folder / "snapshots"
        self.reopen()
        self.catalog.create_collection("c", ENCODER, DIM)

    def reopen(self) -> None:
        """Everything that a process holds, anew."""
        self.catalog = Catalog(self.url)
        self.rebuilder = Rebuilder(self.catalog, store_in(self.root), lambda _: QUERIES, Policy(keep=1))

    @property
    def store(self) -> SnapshotStore:
        """The snapshots of collection "c"."""
        return store_in(self.root)(self.catalog.collection("c"))

    def live(self) -> LiveIndex:
        """What a process that starts now would search."""
        return LiveIndex(self.catalog, self.store, "c")

    def rebuild(self) -> int:
        """Publish a generation; its number."""
        report = self.rebuilder.rebuild("c", "the test wants it", time.time())
        assert report.published, report.reason
        return report.generation

    def back_up(self, name: str) -> Path:
        """A copy of the catalog as it stands."""
        copy = self.root.parent / name
        with sqlite3.connect(self.url.removeprefix("sqlite:///")) as connection:
            connection.execute(f"VACUUM INTO '{copy}'")
        connection.close()
        return copy

    def restore(self, copy: Path) -> None:
        """Put a copy in the catalog's place, and open it."""
        self.catalog.close()
        for path in self.root.parent.glob("catalog.db*"):
            path.unlink()
        shutil.copy(copy, self.url.removeprefix("sqlite:///"))
        self.reopen()

    def damage(self, generation: int, name: str = "index.faiss") -> None:
        """Flip a bit of a file. It is replaced: the file itself may be mapped."""
        path = self.store.root / f"{generation:06d}" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.unlink()
        path.write_bytes(data)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An empty house."""
    house = House(tmp_path)
    yield house
    house.catalog.close()


def assert_is_the_catalog(view: View, catalog: Catalog) -> None:
    """The view holds and finds exactly what the catalog holds now."""
    seqs, rows = contents(catalog, "c")
    assert view.watermark == catalog.collection("c").last_seq
    assert view.count == len(seqs)
    for top_k in (1, 10, len(seqs) + 1):
        for query, hits in zip(QUERIES, view.search(QUERIES, top_k), strict=True):
            assert_nearest(hits, seqs, rows, query, top_k)
    if len(seqs):
        allowed = np.sort(seqs)[:: max(1, len(seqs) // 7)]
        chosen = np.isin(seqs, allowed)
        for query, hits in zip(QUERIES, view.search(QUERIES, 5, np.append(allowed, 10**9)), strict=True):
            assert_nearest(hits, seqs[chosen], rows[chosen], query, 5)


# -- the whole life of an index


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_view_is_the_catalog(house: House, seed: int) -> None:
    """Random writes, rebuilds, rollbacks, damage and restarts, against a plain dictionary."""
    dice = random.Random(seed)
    life = Life(house, dice)
    steps = [life.write] * 12 + [life.rebuild] * 3
    steps += [life.restart, life.roll_back, life.damage, life.lose_pointer, life.start_over]
    for _ in range(120):
        dice.choice(steps)()
        life.check()


class Life:
    """What can happen to an index, and a dictionary of what must be found after it."""

    def __init__(self, house: House, dice: random.Random) -> None:
        self.house = house
        self.dice = dice
        self.said: dict[str, str] = {}
        self.live = house.live()
        self.older: list[tuple[View, list[list[Hit]]]] = []

    def write(self) -> None:
        """A batch of upserts and deletes, some of one id."""
        ids = [f"i{self.dice.randrange(60)}" for _ in range(self.dice.choice([0, 1, 1, 2, 5, 30]))]
        writes: list[Upsert | Delete] = []
        for item_id in ids:
            if self.dice.random() < 0.3:
                writes.append(Delete(item_id))
                self.said.pop(item_id, None)
            else:
                self.said[item_id] = f"words {self.dice.randrange(50)}"
                writes.append(upsert(item_id, self.said[item_id]))
        self.house.catalog.commit("c", writes, ENCODER)

    def rebuild(self) -> None:
        """A new generation."""
        self.house.rebuild()

    def restart(self) -> None:
        """A new process."""
        self.house.catalog.close()
        self.house.reopen()
        self.live = self.house.live()

    def roll_back(self) -> None:
        """The pointer names some generation."""
        store = self.house.store
        if generations := list(store.servable()):
            with store.publishing():
                store.set_current(self.dice.choice(generations))

    def damage(self) -> None:
        """A bit flips in some generation."""
        store = self.house.store
        if generations := [number for number in store.generations() if store._is_finished(number)]:
            name = self.dice.choice(["index.faiss", "ids.npy", "manifest.json"])
            self.house.damage(self.dice.choice(generations), name)

    def lose_pointer(self) -> None:
        """CURRENT becomes garbage."""
        if self.house.store.root.exists():
            (self.house.store.root / "CURRENT").write_bytes(self.dice.choice([b"", b"\xff\xfe", b"999999"]))

    def start_over(self) -> None:
        """The collection is deleted and made anew under its name."""
        self.house.catalog.delete_collection("c")
        self.house.catalog.create_collection("c", ENCODER, DIM)
        self.said.clear()

    def check(self) -> None:
        """The view is the catalog, the catalog is the dictionary, and older views have not changed."""
        view = self.live.refresh()
        assert_is_the_catalog(view, self.house.catalog)
        assert {item.id: item.content for item in self.house.catalog.scroll("c", "", 1000)} == self.said
        self.older.append((view, view.search(QUERIES, 10)))
        chosen, answers = self.dice.choice(self.older)
        assert chosen.search(QUERIES, 10) == answers


# -- refresh


def test_a_refresh_reads_only_what_is_new(house: House) -> None:
    filled(house.catalog, "c", 200)
    house.rebuild()
    live = house.live()
    filled(house.catalog, "c", 3, prefix="new")
    read: list[int] = []
    sa.event.listen(house.catalog._engine, "after_cursor_execute", lambda *_: read.append(1))
    assert live.refresh().tail.seqs.tolist() == [201, 202, 203]
    assert len(read) == 4  # BEGIN, the collection, whether the log is the same one, its new changes
    read.clear()
    live.refresh()
    assert len(read) == 3


def test_a_view_taken_before_a_swap_answers_as_before(house: House) -> None:
    ids = filled(house.catalog, "c", 50)
    house.rebuild()
    live = house.live()
    before = live.view
    answers = before.search(QUERIES, 50)
    house.catalog.commit("c", [*(Delete(item_id) for item_id in ids[::2]), upsert("new")], ENCODER)
    house.rebuild()
    house.rebuild()
    house.rebuild()  # and the first is pruned
    assert (live.refresh().generation, live.view.count) == (4, 26)
    assert not (house.store.root / "000001").exists()
    assert (before.generation, before.watermark, before.count) == (1, 50, 50)
    assert before.search(QUERIES, 50) == answers


def test_a_log_longer_than_one_page_is_read_whole(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for turn in range(5):
        filled(house.catalog, "c", 30, prefix=f"turn-{turn}")
        house.catalog.commit("c", [upsert("again", f"words {turn}"), Delete("turn-0-3")], ENCODER)
    changes = Reading.changes
    monkeypatch.setattr(Reading, "changes", lambda self, after: changes(self, after, limit=7))
    assert_is_the_catalog(house.live().view, house.catalog)


def test_hidden_and_replaced_items_are_not_found(house: House) -> None:
    ids = filled(house.catalog, "c", 30)
    house.rebuild()
    live = house.live()
    assert (live.view.hidden_count, live.view.visible) == (0, None)
    house.catalog.commit("c", [Delete(ids[0]), upsert(ids[1], "other"), upsert(ids[2])], ENCODER)
    view = live.refresh()
    assert (view.hidden_count, view.count, view.tail.seqs.tolist()) == (2, 29, [32])
    found = {hit.seq for hit in view.search(row_of(ids[0])[None], 100)[0]}
    assert found == {*range(3, 31), 32}


def test_an_index_of_nothing_finds_nothing(house: House) -> None:
    live = house.live()
    assert live.view.search(QUERIES, 5) == [[], [], []]
    filled(house.catalog, "c", 3)
    house.catalog.commit("c", [Delete(f"item-{n}") for n in range(3)], ENCODER)
    house.rebuild()
    assert live.refresh().search(QUERIES, 5) == [[], [], []]
    assert (live.view.generation, live.view.count) == (1, 0)
    assert house.live().view.search(QUERIES, 5, np.array([1, 2])) == [[], [], []]


def test_many_threads_write_refresh_and_search_while_snapshots_swap(house: House) -> None:
    """Every thread finds its own write at once, and no view ever goes back."""
    filled(house.catalog, "c", 20)
    live = house.live()
    stop, failures = threading.Event(), list[BaseException]()

    def write(me: int) -> None:
        watermark = 0
        for number in range(25):
            row = unit_rows(1, seed=1000 * me + number + 500)
            write = upsert(f"{me}-{number}", vector=row[0])
            [outcome] = house.catalog.commit("c", [write], ENCODER)
            view = live.refresh()
            assert view.watermark >= max(outcome.seq, watermark)
            watermark = view.watermark
            [hit] = view.search(row, 1)[0]
            assert (hit.seq, round(hit.score, 4)) == (outcome.seq, 1.0)

    def keep_rebuilding() -> None:
        while not stop.is_set():
            house.rebuild()

    def watched(work: Callable[..., None], *args: int) -> None:
        try:
            work(*args)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=watched, args=(write, me)) for me in range(4)]
    rebuilding = threading.Thread(target=watched, args=(keep_rebuilding,))
    for thread in (*writers, rebuilding):
        thread.start()
    for writer in writers:
        writer.join()
    stop.set()
    rebuilding.join()
    assert failures == []
    assert live.refresh().generation > 1
    seqs = [item.seq for item in house.catalog.scroll("c", "", 1000)]
    assert live.view.watermark == 120
    assert sorted(hit.seq for hit in live.view.search(QUERIES[:1], 1000)[0]) == sorted(seqs)


def test_a_slow_snapshot_does_not_keep_others_from_refreshing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(house.catalog, "c", 20)
    live = house.live()
    house.rebuild()
    loading, go_on = threading.Event(), threading.Event()
    load = SnapshotStore.load

    def slow(self: SnapshotStore, generation: int, collection_uid: str, encoder_id: str) -> object:
        loading.set()
        assert go_on.wait(10)
        return load(self, generation, collection_uid, encoder_id)

    monkeypatch.setattr(SnapshotStore, "load", slow)
    opener = threading.Thread(target=live.refresh)
    opener.start()
    assert loading.wait(10)
    filled(house.catalog, "c", 5, prefix="meanwhile")
    assert (live.refresh().generation, live.view.count) == (0, 25)
    go_on.set()
    opener.join()
    assert (live.view.generation, live.view.count) == (1, 25)
    assert_is_the_catalog(live.view, house.catalog)


# -- a view and a reading of one moment


def test_what_a_search_finds_stands_in_the_catalog_at_the_same_moment(house: House) -> None:
    ids = filled(house.catalog, "c", 100)
    house.rebuild()
    live, stop = house.live(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            writes: list[Upsert | Delete] = [Delete(ids[number % 100])]
            writes.append(upsert(ids[(number + 50) % 100], f"words {number}"))
            house.catalog.commit("c", writes, ENCODER)

    writer = threading.Thread(target=write)
    writer.start()
    watermarks = []
    for _ in range(100):
        with live.reading() as (view, reading):
            assert view.watermark == reading.watermark
            found = [hit.seq for hit in view.search(QUERIES[:1], 200)[0]]
            assert sorted(reading.items_at(found)) == sorted(found)
            assert len(found) == reading.count()
            watermarks.append(view.watermark)
    stop.set()
    writer.join()
    assert watermarks == sorted(watermarks)
    assert watermarks[-1] > watermarks[0]


def test_what_one_search_has_read_of_the_log_the_next_need_not_read(house: House) -> None:
    filled(house.catalog, "c", 10)
    live = house.live()
    filled(house.catalog, "c", 10, prefix="more")
    with live.reading() as (view, _):
        assert live.view is view
        assert view.watermark == 20
    filled(house.catalog, "c", 1, prefix="one")
    with live.reading() as (longer, _):
        assert np.shares_memory(view.tail.vectors, longer.tail.vectors)


def test_a_search_after_a_collection_was_made_anew_sees_the_new_one(house: House) -> None:
    filled(house.catalog, "c", 10)
    live = house.live()
    house.catalog.delete_collection("c")
    house.catalog.create_collection("c", ENCODER, DIM)
    filled(house.catalog, "c", 12, prefix="new")
    with live.reading() as (view, reading):
        assert view.collection.uid == reading.collection.uid
        assert_is_the_catalog(view, house.catalog)
    assert_is_the_catalog(live.refresh(), house.catalog)


# -- damage, rollback, restore


@pytest.mark.parametrize("name", ["index.faiss", "ids.npy", "manifest.json"])
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
    with house.store.publishing():
        house.store.set_current(1)
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
