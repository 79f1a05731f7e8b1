"""The Milvus engine: the contract of engines, and what only a cluster can do wrong."""
# ruff: noqa: F401 — the contract's tests run here with this module's engine

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from index.engines import Engine, Params, Rows, Scores
from index.engines.cluster import Cluster, ClusterUnavailable, RowsMissing, now_ms
from index.engines.milvus import FACTORY, MODALITIES, MilvusEngine, opened_with
from index.fields import Fields, marked
from index.mirror import Mirror
from index.recall import exact_top_k, recall_at_k
from index.records import Collection
from index.terms import of_modality
from index.vectors import Seqs, Vectors
from tests.clusters import KINDS, TOKEN, MemoryCluster, Server, cluster_of, needs_lite, needs_server
from tests.indexing import unit_rows
from tests.test_engines import (
    COUNT,
    QUERIES,
    ROWS,
    SAMPLES,
    TOP_K,
    check_answers,
    recall,
    test_a_batch_equals_its_singles,
    test_a_mask_never_costs_answers,
    test_a_mask_of_the_rows_far_from_the_queries_never_costs_answers,
    test_exact_is_exact_whatever_the_index,
    test_it_finds_what_exact_search_finds,
    test_it_gives_its_rows_back_bit_for_bit,
    test_no_queries_get_no_answers,
)

SEQS: Seqs = np.arange(7, 7 + 3 * COUNT, 3)


def mirror_in(cluster: Cluster, uid: str = "0" * 32, dim: int = 32) -> Mirror:
    """The mirror of some collection."""
    return Mirror(cluster, Collection("c", uid, "e-1", dim, 0, 0.0))


def brought(mirror: Mirror, seqs: Seqs, rows: Vectors) -> MilvusEngine:
    """An engine of these rows, every third of which is of one modality."""
    codes = np.arange(len(seqs)) % 3
    return mirror.brought(seqs, rows, tuple(marked(codes == code) for code in range(3)))


@pytest.fixture(scope="module", params=KINDS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of each kind."""
    cluster = cluster_of(request, tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Engine:
    """An engine over ROWS, with as many rows of other generations in the same place."""
    mirror = mirror_in(cluster)
    brought(mirror, SEQS + 1, unit_rows(COUNT, 32, seed=9))
    return brought(mirror, SEQS, ROWS).tuned(SAMPLES, 0.97)


@pytest.fixture
def walking() -> None:
    """FAISS's choice; a cluster has its own."""


def opened(engine: MilvusEngine, cluster: Cluster | None, folder: Path) -> Engine:
    """The engine as another process finds it in a snapshot's folder."""
    assert engine.save(folder) == ["cluster.json"]
    np.save(folder / "ids.npy", SEQS)
    Fields.of({of_modality(MODALITIES[row % 3])} for row in range(COUNT)).save(folder / "fields.bin")
    return opened_with(cluster)(folder, FACTORY, engine.tuning)


def test_it_pads_when_there_are_too_few_rows(engine: Engine) -> None:
    few = marked(np.arange(COUNT) < 7)
    for allowed, count in ((None, COUNT), (few, 7)):
        scores, rows = engine.search(QUERIES[:2], COUNT + 5, allowed)
        check_answers(scores, rows)
        assert np.all((rows >= 0).sum(axis=1) == count)


def test_saved_and_loaded_it_answers_the_same(engine: MilvusEngine, cluster: Cluster, tmp_path: Path) -> None:
    loaded = opened(engine, cluster, tmp_path)
    assert (loaded.factory, loaded.count, loaded.dim) == (FACTORY, COUNT, 32)
    assert loaded.tuning == engine.tuning
    np.testing.assert_array_equal(loaded.search(QUERIES, TOP_K)[1], engine.search(QUERIES, TOP_K)[1])


def test_more_effort_never_finds_less(engine: Engine) -> None:
    truth = exact_top_k(ROWS, QUERIES, TOP_K)[0]
    efforts = [Params(ef=1), Params("low"), Params("auto"), Params("high"), Params("low", ef=1024)]
    found = [recall_at_k(truth, engine.search(QUERIES, TOP_K, params=params)[0]) for params in efforts]
    assert all(more >= less - 0.01 for less, more in pairwise(found))  # a cluster's graphs come and go
    assert found[-1] >= 0.99


def test_tuning_takes_the_least_effort_that_every_direction_reaches() -> None:
    class Lazy(MemoryCluster):
        """Finds what is asked for only with some effort, and in one direction more than in the other."""

        def search(
            self, name: str, queries: Vectors, top_k: int, condition: str, ef: int, as_of_ms: int
        ) -> tuple[Scores, Seqs]:
            scores, seqs = super().search(name, queries, top_k, condition, ef, as_of_ms)
            if ef < (512 if np.array_equal(queries, SAMPLES[1][0]) else 64):
                scores -= 0.5
            return scores, seqs

    engine = brought(mirror_in(Lazy()), SEQS, ROWS)
    truth = [(queries, exact_top_k(ROWS, queries, TOP_K)[0]) for queries, _ in SAMPLES]
    assert engine.tuned(truth[:1], 0.9).tuning == {"ef": 64}
    assert engine.tuned(truth, 0.9).tuning == {"ef": 512}
    assert engine.tuned(truth, 2.0).tuning == {"ef": 1024}
    assert engine.tuned([(QUERIES[:0], QUERIES[:0])], 1.0) is engine


# -- what a cluster leaves out


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    """A cluster that gives 60 hits at most, and whose engine names 50 seqs at most."""
    monkeypatch.setattr("index.engines.milvus.MOST_HITS", 60)
    monkeypatch.setattr("index.engines.milvus._LISTED", 50)
    cluster = MemoryCluster()
    cluster.most = 60
    return cluster


def assert_exact(engine: Engine, top_k: int, rows: Rows) -> None:
    """The engine finds the nearest of these rows, and no others."""
    scores, found = engine.search(QUERIES[:3], top_k, marked(np.isin(np.arange(COUNT), rows)))
    truth, places = exact_top_k(ROWS[rows], QUERIES[:3], top_k)
    np.testing.assert_array_equal(found, np.append(rows, -1)[places])
    np.testing.assert_allclose(scores, truth, atol=1e-5)


@pytest.mark.parametrize("top_k", [60, 61, 500, COUNT + 1])
def test_more_hits_than_a_cluster_gives_at_once_come_part_by_part(memory: MemoryCluster, top_k: int) -> None:
    engine = brought(mirror_in(memory), SEQS, ROWS)
    assert_exact(engine, top_k, np.arange(COUNT))
    if top_k == 500:  # three queries, each of parts that give 60 and need not give all they have
        assert len(memory.searches) < 3 * 70


@pytest.mark.parametrize("share", [0.9, 0.3, 0.02])
def test_the_far_ones_of_many_rows_are_found(memory: MemoryCluster, share: float) -> None:
    engine, towards = brought(mirror_in(memory), SEQS, ROWS), ROWS @ QUERIES[:3].mean(axis=0)
    assert_exact(engine, TOP_K, np.flatnonzero(towards < np.quantile(towards, share)))


@pytest.mark.parametrize("modalities", [[0], [1, 2], [0, 2]])
def test_rows_of_other_modalities_are_not_in_the_way(memory: MemoryCluster, modalities: list[int]) -> None:
    """Texts lie nearer to a text than any picture does."""
    codes = np.arange(COUNT) % 3
    rows = np.where((codes == modalities[0])[:, None], ROWS, ROWS + 9 * QUERIES[:3].mean(axis=0))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    engine, wanted = brought(mirror_in(memory), SEQS, rows), np.flatnonzero(np.isin(codes, modalities))
    found = engine.search(QUERIES[:3], TOP_K, marked(np.isin(codes, modalities)))[1]
    np.testing.assert_array_equal(found, wanted[exact_top_k(rows[wanted], QUERIES[:3], TOP_K)[1]])
    assert [condition.partition(" and m")[2] for condition in memory.searches] == [f"odality in {modalities}"]


def test_more_hits_are_asked_for_before_the_rows_are_halved(memory: MemoryCluster) -> None:
    engine = brought(mirror_in(memory), SEQS, ROWS)
    most = np.argsort(ROWS @ QUERIES[0])[:-20]  # all but those that come first
    found = engine.search(QUERIES[:1], TOP_K, marked(np.isin(np.arange(COUNT), most)))[1]
    np.testing.assert_array_equal(found[0], np.argsort(-ROWS @ QUERIES[0], kind="stable")[20 : 20 + TOP_K])
    assert len(memory.searches) == 2


def test_rows_of_others_in_the_same_place_are_no_answers(memory: MemoryCluster) -> None:
    mirror = mirror_in(memory)
    brought(mirror, SEQS + 1, ROWS[:, ::-1].copy())
    crowd = QUERIES[:3].repeat(700, axis=0)  # nearer than all of ours
    brought(mirror, np.arange(20_000, 20_000 + len(crowd)), crowd)
    brought(mirror, SEQS[:700] + 2, crowd[:700])
    assert_exact(brought(mirror, SEQS, ROWS), TOP_K, np.arange(COUNT))


def test_rows_that_no_walk_meets_are_found_by_their_vectors(memory: MemoryCluster) -> None:
    engine = brought(mirror_in(memory), SEQS, ROWS)
    some = np.arange(0, COUNT, 50)
    memory.unreachable = set(SEQS[some[::2]].tolist())
    assert_exact(engine, len(some), some)


def test_rows_that_the_cluster_has_lost_are_an_error_and_no_answer(memory: MemoryCluster) -> None:
    mirror = mirror_in(memory)
    engine = brought(mirror, SEQS, ROWS)
    memory.lose(mirror.name, SEQS[[3, 5]])
    with pytest.raises(RowsMissing, match="lacks 1 of 2 rows"):
        engine.vectors(np.array([4, 5]))
    with pytest.raises(RowsMissing, match="lacks 2 of 9 rows"):
        engine.search(QUERIES[:1], TOP_K, marked(np.arange(COUNT) < 9))
    memory.drop(mirror.name)
    with pytest.raises(RowsMissing):
        engine.search(QUERIES, TOP_K)


def test_a_cluster_that_is_away_is_an_error_and_not_found_empty(
    memory: MemoryCluster, tmp_path: Path
) -> None:
    delivered = brought(mirror_in(memory), SEQS, ROWS)
    memory.down = True
    engine = opened(delivered, memory, tmp_path)  # a process may start meanwhile
    with pytest.raises(ClusterUnavailable):
        engine.search(QUERIES, TOP_K)
    memory.down = False
    assert_exact(engine, TOP_K, np.arange(COUNT))


def test_files_that_name_no_place_are_refused(memory: MemoryCluster, tmp_path: Path) -> None:
    engine = brought(mirror_in(memory), SEQS, ROWS)
    with pytest.raises(RuntimeError, match="no address"):
        opened(engine, None, tmp_path)
    for content in ("", "[]", "{}", '{"collection": "c", "dim": 1, "as_of_ms": 1, "more": 1}'):
        (tmp_path / "cluster.json").write_text(content)
        with pytest.raises(RuntimeError, match="names no place"):
            opened_with(memory)(tmp_path, FACTORY, {})


@needs_lite
def test_a_cluster_that_cannot_be_reached_is_not_tried_by_all_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pymilvus

    tries = []

    def refuse(url: str, **_: object) -> None:
        tries.append(url)
        time.sleep(0.2)
        raise pymilvus.MilvusException(2, "nobody is there")

    monkeypatch.setattr(pymilvus, "MilvusClient", refuse)
    cluster = Cluster("http://127.0.0.1:9")

    def refused(_: int) -> bool:
        with pytest.raises(ClusterUnavailable):
            cluster.names()
        return True

    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(refused, range(20)))
    assert len(tries) < 5


@needs_lite
def test_an_address_where_nobody_is_is_an_error() -> None:
    with pytest.raises(ClusterUnavailable, match="cannot be used"):
        Cluster("http://127.0.0.1:9", timeout_s=0.5).names()


# -- a real server


@needs_server
def test_a_bad_token_is_refused_and_never_shown(milvus: Server) -> None:
    for token in ("root:not-it", "", "an-api-key"):
        with pytest.raises(ClusterUnavailable) as refusal:
            Cluster(milvus.url, token, timeout_s=3).names()
        assert token not in str(refusal.value) or not token


@needs_server
def test_rows_that_stand_there_twice_are_found_once(milvus: Server) -> None:
    """What an upsert cannot do, others may: a row inserted again under its seq."""
    from pymilvus import MilvusClient

    mirror = mirror_in(Cluster(milvus.url, TOKEN), "2" * 32)
    engine = brought(mirror, SEQS, ROWS)
    client = MilvusClient(milvus.url, token=TOKEN)
    again = zip(SEQS[:500].tolist(), ROWS[:500], strict=True)
    client.insert(mirror.name, [{"seq": seq, "modality": 0, "vector": vector} for seq, vector in again])
    client.close()
    for doubled in (engine, brought(mirror, SEQS, ROWS)):
        scores, rows = doubled.search(QUERIES, 40)
        check_answers(scores, rows)
        assert np.all(rows >= 0)
        np.testing.assert_array_equal(doubled.vectors(np.arange(COUNT)), ROWS)


@needs_server
def test_a_search_sees_what_was_delivered_a_moment_ago(milvus: Server) -> None:
    """By itself Milvus may answer from some seconds ago."""
    mirror = mirror_in(Cluster(milvus.url, TOKEN), "3" * 32)
    for count in range(1, 5):
        engine = brought(mirror, SEQS[:count], ROWS[:count])
        assert set(engine.search(QUERIES, count)[1].ravel().tolist()) == set(range(count))


@needs_server
def test_a_server_that_was_killed_answers_as_before_when_it_is_back(milvus: Server) -> None:
    cluster = Cluster(milvus.url, TOKEN, timeout_s=3)
    engine = brought(mirror_in(cluster, "4" * 32), SEQS, ROWS).tuned(SAMPLES, 0.97)
    assert recall(engine) >= 0.95
    milvus.kill()
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(ClusterUnavailable):
            engine.search(QUERIES, TOP_K)
        assert time.monotonic() - started < 10
    milvus.start()
    until, found = time.monotonic() + 120, 0.0
    while found < 0.95 and time.monotonic() < until:
        try:
            found = recall(engine)
        except ClusterUnavailable:  # it has yet to load the collection
            time.sleep(0.5)
    assert found >= 0.95
    np.testing.assert_array_equal(engine.vectors(np.arange(COUNT)), ROWS)
