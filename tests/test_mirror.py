"""The mirror: whatever befalls deliveries, processes and the cluster, what is found is what was written."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from index.audit import audit
from index.catalog import Catalog, Collection, Delete, Upsert
from index.engines.cluster import Cluster, ClusterUnavailable, Codes, RowsMissing, now_ms
from index.engines.milvus import MilvusEngine, opened_with
from index.folders import store_in
from index.live import LiveIndex
from index.mirror import Mirror
from index.policy import Policy
from index.rebuild import Rebuilder
from index.snapshot import SnapshotStore
from index.vectors import Seqs, Vectors
from tests.clusters import KINDS, MemoryCluster, cluster_of
from tests.house import QUERIES, House, assert_is_the_catalog
from tests.indexing import DIM, ENCODER, filled, row_of, unit_rows, upsert

HOUR_S = 3600.0


class ClusteredHouse(House):
    """A house whose vectors stand in a cluster, from ``from_items`` items on."""

    def __init__(self, folder: Path, cluster: Cluster, from_items: int = 0) -> None:
        self.cluster = cluster
        self.from_items = from_items
        super().__init__(folder, Policy(keep=1, retry_s=0.0))

    def reopen(self) -> None:
        """See House."""
        self.catalog = Catalog(self.url)
        stores = store_in(self.root, opened_with(self.cluster))
        self.rebuilder = Rebuilder(self.catalog, stores, lambda _: QUERIES, self.policy, self.mirror_of)

    def mirror_of(self, collection: Collection, items: int) -> Mirror | None:
        """Where a collection's vectors stand."""
        return Mirror(self.cluster, collection) if items >= self.from_items else None

    @property
    def store(self) -> SnapshotStore:
        """See House."""
        return store_in(self.root, opened_with(self.cluster))(self.catalog.collection("c"))

    @property
    def place(self) -> str:
        """The name that the cluster has for collection "c"."""
        return Mirror(self.cluster, self.catalog.collection("c")).name

    def held(self) -> list[int]:
        """The seqs that the cluster has."""
        return sorted(np.concatenate([[], *self.cluster.seqs(self.place, now_ms())]).astype(int).tolist())


@pytest.fixture
def cluster() -> MemoryCluster:
    """A cluster in memory."""
    return MemoryCluster()


@pytest.fixture
def house(tmp_path: Path, cluster: MemoryCluster) -> ClusteredHouse:
    """A house with 40 items, all in the cluster."""
    house = ClusteredHouse(tmp_path, cluster)
    filled(house.catalog, "c", 40)
    house.rebuild()
    return house


def texts(count: int) -> Codes:
    """The modalities of so many texts."""
    return np.zeros(count, np.int8)


def check(house: ClusteredHouse) -> None:
    """What a process that starts now finds is what the catalog holds, and an audit agrees."""
    assert_is_the_catalog(house.live().view, house.catalog)
    found = audit(house.catalog, lambda _: house.store, "c")
    assert found.equal, found.problems


# -- deliveries


def test_a_rebuild_delivers_what_is_new_and_forgets_what_nothing_needs(
    house: ClusteredHouse, cluster: MemoryCluster
) -> None:
    assert cluster.delivered == house.held() == list(range(1, 41))
    house.catalog.commit("c", [Delete("item-0"), upsert("item-1", "new"), upsert("more")], ENCODER)
    check(house)  # the tail
    assert len(cluster.delivered) == 40
    house.rebuild()
    check(house)
    assert cluster.delivered[40:] == [42, 43]
    assert house.held() == [*range(1, 41), 42, 43]  # one generation may be gone back to
    house.rebuild()
    assert cluster.delivered[42:] == []
    assert house.held() == [*range(3, 41), 42, 43]


def test_a_delivery_that_comes_twice_changes_nothing(house: ClusteredHouse, cluster: MemoryCluster) -> None:
    rows = house.live().view.vectors(np.arange(1, 41))
    cluster.upsert(house.place, np.arange(1, 41), rows, texts(40))
    check(house)
    assert house.held() == list(range(1, 41))


@pytest.mark.parametrize("kept", [0, 1, 39])
def test_what_a_cluster_lost_or_changed_is_delivered_again(
    house: ClusteredHouse, cluster: MemoryCluster, kept: int
) -> None:
    cluster.lose(house.place, np.arange(kept + 1, 41))
    if kept:
        cluster.upsert(house.place, np.array([1]), unit_rows(1, seed=5), texts(1))
    del cluster.delivered[:]
    house.rebuild()
    assert cluster.delivered == [*([1] if kept else []), *range(kept + 1, 41)]
    check(house)


def test_a_delivery_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    class Frail(MemoryCluster):
        """Breaks down in the middle of its first delivery."""

        def upsert(self, name: str, seqs: Seqs, vectors: Vectors, modalities: Codes) -> None:
            first = not self.delivered
            here = slice(15) if first else slice(None)
            super().upsert(name, seqs[here], vectors[here], modalities[here])
            if first:
                raise ClusterUnavailable("it broke down")

    frail = Frail()
    house = ClusteredHouse(tmp_path, frail)
    filled(house.catalog, "c", 40)
    (report,) = house.rebuilder.step(time.time() + HOUR_S)
    assert (report.published, report.cause) == (False, "cluster")
    check(house)  # all of it is tail
    (report,) = house.rebuilder.step(time.time() + HOUR_S)
    assert report.published
    assert frail.delivered == list(range(1, 41))
    check(house)


def test_a_delivery_that_was_swallowed_is_not_published(tmp_path: Path) -> None:
    class Liar(MemoryCluster):
        """Accepts a row and does not keep it."""

        def upsert(self, name: str, seqs: Seqs, vectors: Vectors, modalities: Codes) -> None:
            super().upsert(name, seqs, vectors, modalities)
            self.lose(name, seqs[7:8])

    house = ClusteredHouse(tmp_path, Liar())
    filled(house.catalog, "c", 40)
    report = house.rebuilder.rebuild("c", "test", time.time())
    assert not report.published
    assert "lacks 1 of 40 rows" in report.reason
    check(house)


# -- losses after the fact


def test_the_worker_sees_that_a_cluster_has_lost_everything_and_brings_it_again(
    house: ClusteredHouse, cluster: MemoryCluster
) -> None:
    now = time.time()
    assert house.rebuilder.step(now) == []
    cluster.drop(house.place)
    assert house.rebuilder.step(now + 10) == []  # it has just looked
    with pytest.raises(RowsMissing):
        house.live().view.search(QUERIES, 10)
    (report,) = house.rebuilder.step(now + 70)
    assert report.published
    check(house)
    assert house.rebuilder.step(now + 80) == []


def test_an_hourly_proof_sees_one_wrong_row(house: ClusteredHouse, cluster: MemoryCluster) -> None:
    now = time.time()
    house.rebuilder.step(now)
    cluster.upsert(house.place, np.array([7]), unit_rows(1, seed=5), texts(1))
    assert house.rebuilder.step(now + HOUR_S / 2) == []
    (report,) = house.rebuilder.step(now + HOUR_S + 1)
    assert (report.published, report.reason) == (True, "the cluster's rows are not those of the catalog")
    check(house)
    assert house.rebuilder.step(now + 2 * HOUR_S + 2) == []


def test_a_cluster_that_is_away_makes_no_rebuild_due(house: ClusteredHouse, cluster: MemoryCluster) -> None:
    cluster.down = True
    assert house.rebuilder.step(time.time() + 2 * HOUR_S) == []
    cluster.down = False
    check(house)


# -- generations


def test_rolled_back_it_serves_the_older_rows(house: ClusteredHouse) -> None:
    house.catalog.commit("c", [Delete(f"item-{number}") for number in range(20)], ENCODER)
    house.rebuild()
    house.store.roll_back(1)
    view = house.live().view
    assert view.generation == 1
    check(house)


def test_a_collection_moves_to_the_cluster_when_it_has_grown_and_back(
    tmp_path: Path, cluster: MemoryCluster
) -> None:
    house = ClusteredHouse(tmp_path, cluster, from_items=50)
    kinds = []
    for count in (40, 60):
        filled(house.catalog, "c", count)
        house.rebuild()
        live = house.live()
        assert live.view.snapshot is not None
        kinds.append(type(live.view.snapshot.engine))
        check(house)
    house.catalog.commit("c", [Delete(f"item-{number}") for number in range(30)], ENCODER)
    house.rebuild()
    check(house)
    assert kinds[1:] == [MilvusEngine]
    assert house.live().view.snapshot.engine.factory == "Flat"  # type: ignore[union-attr]


def test_a_collection_made_anew_under_its_name_takes_the_old_ones_place(
    house: ClusteredHouse, cluster: MemoryCluster
) -> None:
    before = house.place
    house.catalog.delete_collection("c")
    filled(house.catalog, "c", 30)
    house.rebuild()
    check(house)
    assert cluster.names() == [house.place] != [before]


def test_an_emptied_collection_leaves_nothing_in_the_cluster(house: ClusteredHouse) -> None:
    house.catalog.commit("c", [Delete(f"item-{number}") for number in range(40)], ENCODER)
    for _ in range(2):
        house.rebuild()
        check(house)
    house.rebuild()
    assert house.held() == []


def test_without_the_clusters_address_all_is_tail_and_right(house: ClusteredHouse) -> None:
    live = LiveIndex(house.catalog, store_in(house.root), "c")
    assert live.view.generation == 0
    assert live.last_error is not None
    assert_is_the_catalog(live.view, house.catalog)


# -- everything at once


class Life:
    """A collection that is written, rebuilt, rolled back and restarted, and a cluster that fails."""

    def __init__(self, house: ClusteredHouse, seed: int) -> None:
        self.house = house
        self.dice = random.Random(seed)
        self.now = time.time()
        self.live = house.live()

    def write(self) -> None:
        """Upserts and deletes, some of one id."""
        some = [f"i{self.dice.randrange(40)}" for _ in range(self.dice.choice([1, 2, 5, 30]))]
        writes: list[Upsert | Delete] = [
            Delete(item_id) if self.dice.random() < 0.3 else upsert(item_id, f"{self.dice.randrange(50)}")
            for item_id in some
        ]
        self.house.catalog.commit("c", writes, ENCODER)

    def work(self) -> None:
        """The worker's steps of two hours, which mend whatever was lost."""
        for _ in range(2):
            self.now += HOUR_S
            self.house.rebuilder.step(self.now)

    def restart(self) -> None:
        """New processes."""
        self.house.catalog.close()
        self.house.reopen()
        self.live = self.house.live()

    def double(self) -> None:
        """Something is delivered again."""
        seqs = self._some()
        if seqs is not None:
            items = {item.seq: item for item in self.house.catalog.scroll("c", "", 1000)}
            again = [seq for seq in seqs.tolist() if seq in items]
            rows = np.array([row_of(items[seq].content) for seq in again], np.float32).reshape(-1, DIM)
            self.house.cluster.upsert(self.house.place, np.array(again, np.int64), rows, texts(len(again)))

    def lose(self) -> None:
        """Rows are lost; the worker will see."""
        seqs = self._some()
        if seqs is not None:
            self.house.cluster.delete(self.house.place, seqs)
            self.work()

    def _some(self) -> Seqs | None:
        held = self.house.held() if self.house.place in self.house.cluster.names() else []
        return np.array(self.dice.sample(held, len(held) // 3), np.int64) if held else None


def live_through(life: Life, steps: int) -> None:
    """Do things in any order; after each the view is the catalog."""
    deeds: list[Callable[[], None]] = [
        life.write,
        life.write,
        life.work,
        life.restart,
        life.double,
        life.lose,
    ]
    for _ in range(steps):
        life.dice.choice([life.write, *deeds])()
        assert_is_the_catalog(life.live.refresh(), life.house.catalog)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_what_is_found_is_the_catalog(
    tmp_path: Path, cluster: MemoryCluster, seed: int
) -> None:
    live_through(Life(ClusteredHouse(tmp_path, cluster), seed), 30)


@pytest.mark.parametrize("real", KINDS[1:], indirect=True)
def test_so_it_is_on_milvus(tmp_path: Path, real: Cluster) -> None:
    live_through(Life(ClusteredHouse(tmp_path, real), 0), 12)


@pytest.fixture
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that is Milvus."""
    cluster = cluster_of(request, tmp_path)
    yield cluster
    cluster.close()
