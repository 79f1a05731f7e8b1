"""The live index: what a refresh sees, and what a search finds while others write and publish."""

import gc
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from index.catalog import Delete, Upsert
from index.filters import parse
from index.policy import Policy
from index.reading import Reading
from index.snapshot import SnapshotStore
from tests.house import QUERIES, House, assert_is_the_catalog
from tests.indexing import DIM, ENCODER, filled, row_of, unit_rows, upsert

MAPS = Path("/proc/self/maps")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An empty house."""
    house = House(tmp_path)
    yield house
    house.catalog.close()


def test_a_refresh_reads_only_what_is_new(house: House) -> None:
    filled(house.catalog, "c", 200)
    house.rebuild()
    live = house.live()
    filled(house.catalog, "c", 3, prefix="new")
    read: list[int] = []

    def watch(connection: sqlite3.Connection, *_: object) -> None:
        connection.set_trace_callback(lambda sql: read.append(1) if sql.startswith("SELECT") else None)

    sa.event.listen(house.catalog._engine, "checkout", watch)
    assert live.refresh().tail.seqs.tolist() == [201, 202, 203]
    assert len(read) == 3  # the collection, whether the log is the same one, its new changes
    read.clear()
    live.refresh()
    assert len(read) == 2


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


@pytest.mark.skipif(not MAPS.exists(), reason="the system does not tell what is mapped")
@pytest.mark.parametrize("kind", ["Flat", "HNSW32,Flat"])
def test_nothing_of_a_generation_is_held_after_its_last_search(tmp_path: Path, kind: str) -> None:
    house = House(tmp_path, Policy(keep=1, index_type=kind))
    filled(house.catalog, "c", 50)
    house.rebuild()
    live = house.live()
    for generation in (2, 3):
        filled(house.catalog, "c", 50, prefix=f"{generation}-")
        house.rebuild()
        live.refresh()
        live.view.search(QUERIES, 5)
    gc.collect()
    folders = set(re.findall(r"/(\d{6})/vectors\.faiss", MAPS.read_text()))
    house.catalog.close()
    assert folders == {"000003"}


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
    assert live.view.hidden_count == 0
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
    assert house.live().view.search(QUERIES, 5, parse({})) == [[], [], []]


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


def test_rows_of_hits_come_back_from_snapshot_and_tail(house: House) -> None:
    ids = filled(house.catalog, "c", 20)
    assert house.live().view.vectors(np.array([3, 17])).tolist() == [
        row_of(ids[2]).tolist(),
        row_of(ids[16]).tolist(),
    ]
    house.rebuild()
    filled(house.catalog, "c", 5, prefix="more")
    view = house.live().view
    assert (view.snapshot is not None, len(view.tail.seqs)) == (True, 5)
    expected = [row_of(item_id) for item_id in ("more-1", ids[0], "more-4", ids[19])]
    np.testing.assert_allclose(view.vectors(np.array([22, 1, 25, 20])), expected, atol=1e-6)
    assert view.vectors(np.array([], np.int64)).shape == (0, DIM)
