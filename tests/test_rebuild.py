"""Rebuilds: when they are due, what the gate refuses, and that what serves goes on serving."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.catalog import Catalog, Collection, Delete
from index.folders import store_in
from index.live import LiveIndex
from index.manifest import Manifest
from index.policy import Policy
from index.rebuild import Rebuilder, Report
from index.snapshot import SnapshotStore
from tests.indexing import DIM, ENCODER, filled, unit_rows
from tests.test_gate import Planted

QUERIES = unit_rows(20, seed=42)
POLICY = Policy(min_changes=10, tail_share=0.1, max_age_s=60.0, retry_s=300.0)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with an empty collection "c"."""
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    catalog.create_collection("c", ENCODER, DIM)
    yield catalog
    catalog.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where snapshots go."""
    return tmp_path / "snapshots"


def rebuilder_of(catalog: Catalog, root: Path, **policy: Any) -> Rebuilder:
    """A rebuilder as a new worker process would have."""
    return Rebuilder(catalog, store_in(root), lambda _: QUERIES, Policy(**(vars(POLICY) | policy)))


@pytest.fixture
def rebuilder(catalog: Catalog, root: Path) -> Rebuilder:
    """A rebuilder with POLICY."""
    return rebuilder_of(catalog, root)


@pytest.fixture
def store(catalog: Catalog, root: Path) -> SnapshotStore:
    """The snapshots of collection "c"."""
    return store_in(root)(catalog.collection("c"))


def reasons(reports: list[Report]) -> list[str]:
    """Why each rebuild was made, or refused."""
    return [report.reason for report in reports]


# -- when it is due


def test_the_first_change_makes_a_first_snapshot_due(rebuilder: Rebuilder, catalog: Catalog) -> None:
    assert rebuilder.step(time.time()) == []
    filled(catalog, "c", 1)
    [report] = rebuilder.step(time.time())
    assert (report.collection, report.generation, report.published) == ("c", 1, True)
    assert (report.reason, report.count, report.watermark) == ("no snapshot can serve", 1, 1)
    assert report.recall_at_10 == {"text": 1.0}
    assert 0 < report.seconds < 10
    assert rebuilder.step(time.time()) == []


def test_many_changes_make_a_rebuild_due(rebuilder: Rebuilder, catalog: Catalog) -> None:
    filled(catalog, "c", 50)
    rebuilder.step(time.time())
    filled(catalog, "c", 9, prefix="more")
    assert rebuilder.step(time.time()) == []
    catalog.commit("c", [Delete("item-0")], ENCODER)  # removals count as additions do
    assert reasons(rebuilder.step(time.time())) == ["10 changes are not in the snapshot"]


def test_a_large_snapshot_waits_for_a_share_of_its_size(rebuilder: Rebuilder, catalog: Catalog) -> None:
    filled(catalog, "c", 300)
    rebuilder.step(time.time())
    catalog.commit("c", [Delete(f"item-{n}") for n in range(29)], ENCODER)
    assert rebuilder.step(time.time()) == []
    filled(catalog, "c", 1, prefix="one")
    assert len(rebuilder.step(time.time())) == 1


def test_few_changes_wait_for_their_age(rebuilder: Rebuilder, catalog: Catalog) -> None:
    filled(catalog, "c", 50)
    rebuilder.step(time.time())
    before = time.time()
    filled(catalog, "c", 2, prefix="more")
    assert rebuilder.step(before + 59) == []
    assert reasons(rebuilder.step(before + 61)) == ["the oldest of 2 changes is older than 60 s"]
    assert rebuilder.step(before + 1e6) == []


def test_a_slow_build_is_not_repeated_for_age_alone(
    rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore
) -> None:
    filled(catalog, "c", 50)
    rebuilder.step(time.time())
    replace(store.manifest(1), seconds=10.0).write(store.root / "000001" / "manifest.json")
    before = time.time()
    filled(catalog, "c", 2, prefix="more")
    assert rebuilder.step(before + 199) == []
    assert reasons(rebuilder.step(before + 201)) == ["the oldest of 2 changes is older than 200 s"]


def test_the_clock_of_a_step_does_not_change_how_long_a_build_took(
    rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore
) -> None:
    filled(catalog, "c", 5)
    rebuilder.step(now=12345.0)
    assert 0 < store.manifest(1).seconds < 10
    assert store.manifest(1).built_at == 12345.0


@pytest.mark.parametrize(
    "damage",
    ["CURRENT", "000001/manifest.json", "000001/vectors.faiss", "000001/ids.npy", "000001/fields.bin"],
)
def test_a_snapshot_that_cannot_serve_is_replaced_at_once(
    rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore, root: Path, damage: str
) -> None:
    filled(catalog, "c", 20)
    rebuilder.step(time.time())
    path = store.root / damage
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-9])
    # A worker looks at every file when it starts; of what it published itself it knows that it was whole.
    assert reasons(rebuilder_of(catalog, root).step(time.time())) == ["no snapshot can serve"]
    assert LiveIndex(catalog, lambda _: store, "c").view.generation == 2


def test_a_collection_made_anew_is_rebuilt(
    rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore
) -> None:
    filled(catalog, "c", 20)
    rebuilder.step(time.time())
    catalog.delete_collection("c")
    assert rebuilder.step(time.time()) == []
    catalog.create_collection("c", ENCODER, DIM)
    assert rebuilder.step(time.time()) == []
    filled(catalog, "c", 20)  # the same seqs as before
    [report] = rebuilder.step(time.time())
    assert (report.generation, report.reason) == (2, "no snapshot can serve")


def test_every_collection_has_its_turn(
    rebuilder: Rebuilder, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"c{number:02d}" for number in range(7)]
    for name in names:
        filled(catalog, name, 3)
    pages = catalog.collections
    monkeypatch.setattr(catalog, "collections", lambda after="": pages(after, limit=3))
    assert [report.collection for report in rebuilder.step(time.time())] == names


def test_pruning_follows_the_policy(rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore) -> None:
    for turn in range(5):
        filled(catalog, "c", 20, prefix=f"turn-{turn}")
        rebuilder.step(time.time())
    assert store.generations() == [3, 4, 5]


# -- after a refusal


def test_a_refusal_waits_before_the_next_try(
    rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(catalog, "c", 30)
    filled(catalog, "other", 30)
    now = time.time()
    with monkeypatch.context() as planted:
        Planted(planted).low_recall()
        assert [report.published for report in rebuilder.step(now)] == [False, False]
        assert rebuilder.step(now + 299) == []
        assert [report.generation for report in rebuilder.step(now + 300)] == [2, 2]
    assert rebuilder.step(now + 301) == []
    assert [report.published for report in rebuilder.step(now + 600)] == [True, True]
    filled(catalog, "c", 30, prefix="more")
    assert [report.published for report in rebuilder.step(now + 601)] == [True]
    assert store.generations() == [3, 4]  # the refused ones are gone


def test_a_refusal_is_forgotten_when_a_person_has_it_rebuilt(
    rebuilder: Rebuilder, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(catalog, "c", 30)
    with monkeypatch.context() as planted:
        Planted(planted).low_recall()
        rebuilder.step(time.time())
    assert rebuilder.rebuild("c", "by hand", time.time()).published
    filled(catalog, "c", 30, prefix="more")
    assert [report.published for report in rebuilder.step(time.time())] == [True]


def test_items_without_an_embedding_are_named(rebuilder: Rebuilder, catalog: Catalog) -> None:
    filled(catalog, "c", 5)
    with catalog._writing() as connection:
        connection.exec_driver_sql("DELETE FROM embeddings WHERE content = 'item-3'")
    assert reasons(rebuilder.step(time.time())) == ["1 of 5 items have no embedding"]


# -- several at once


def test_a_second_publisher_finds_nothing_left_to_do(
    catalog: Catalog, root: Path, store: SnapshotStore
) -> None:
    filled(catalog, "c", 200)
    reports: list[Report] = []
    workers = [
        threading.Thread(target=lambda: reports.extend(rebuilder_of(catalog, root).step(time.time())))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [report.generation for report in reports] == [1]
    assert store.generations() == [1]


def test_a_collection_deleted_during_its_rebuild_stops_no_other(
    rebuilder: Rebuilder, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(catalog, "a", 20)
    filled(catalog, "b", 20)
    contents = Rebuilder._contents

    def deleting(self: Rebuilder, collection: Collection, ahead: int | None) -> Any:
        if collection.name == "a":
            catalog.delete_collection("a")
            catalog.create_collection("a", ENCODER, DIM)
        return contents(self, collection, ahead)

    monkeypatch.setattr(Rebuilder, "_contents", deleting)
    assert [report.collection for report in rebuilder.step(time.time())] == ["b"]


def test_a_running_rebuilder_survives_a_failed_step(
    rebuilder: Rebuilder, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    filled(catalog, "c", 5)
    step, turns = Rebuilder.step, []

    def failing(self: Rebuilder, now: float) -> list[Report]:
        turns.append(now)
        if len(turns) == 1:
            raise RuntimeError("planted")
        return step(self, now)

    monkeypatch.setattr(Rebuilder, "step", failing)
    stop, reports = threading.Event(), list[Report]()

    def on_report(report: Report) -> None:
        reports.append(report)
        stop.set()

    with caplog.at_level(logging.ERROR):
        rebuilder.run(stop, 0.01, on_report)
    assert [report.generation for report in reports] == [1]
    assert "it will be tried again" in caplog.text


# -- where snapshots stand


def test_collections_have_folders_of_their_own(root: Path) -> None:
    names = ["gallery", "..", ".", "a/b", "a%2Fb", "../../etc", "é", ".hidden", "%2E", "a b", "A", "~"]
    folders = {name: store_in(root)(Collection(name, "u", "e-1", 8, 0, 0.0)).root for name in names}
    assert folders["gallery"] == root / "gallery" / "e-1"
    assert len(set(folders.values())) == len(names)
    assert all(folder.resolve().parent.parent == root.resolve() for folder in folders.values())


def test_a_collection_is_indexed_as_it_says_itself(catalog: Catalog, tmp_path: Path) -> None:
    wanted: dict[str, dict[str, Any] | None] = {
        "named": {"type": "HNSW16,SQ8,RFlat", "target_recall": 0.5},
        "small": {"memory_budget_bytes": 1},
        "plain": None,
    }
    for name, index in wanted.items():
        catalog.create_collection(name, ENCODER, DIM, index=index)
        filled(catalog, name, 300, prefix=name)
    rebuilder = rebuilder_of(catalog, tmp_path, flat_limit=100, min_changes=1)
    assert all(report.published for report in rebuilder.step(time.time()))
    made = {name: manifest_of(catalog.collection(name), tmp_path) for name in wanted}
    assert made["named"].factory == "HNSW16,SQ8,RFlat"
    assert made["small"].factory == "IVF64,RaBitQfs1,RFlat"
    assert made["plain"].factory == "HNSW32,Flat"
    assert made["named"].tuning["ef"] <= made["plain"].tuning["ef"]
    catalog.create_collection("plain", ENCODER, DIM, index={"type": "Flat"})
    rebuilder.rebuild("plain", "the test wants it", time.time())
    assert manifest_of(catalog.collection("plain"), tmp_path).factory == "Flat"


def manifest_of(collection: Collection, root: Path) -> Manifest:
    """The manifest of what serves."""
    store = store_in(root)(collection)
    return store.manifest(store.current() or 0)
