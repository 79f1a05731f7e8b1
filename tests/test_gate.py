"""The gate: what is not what the catalog holds, or not found as exact search finds it, never serves."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.catalog import Catalog
from index.engines.faiss import FaissEngine
from index.folders import store_in
from index.gate import GateRefused, Probe, check
from index.live import LiveIndex
from index.policy import Policy
from index.rebuild import Rebuilder
from index.snapshot import SnapshotStore
from index.vectors import Vectors
from tests.indexing import DIM, ENCODER, filled, unit_rows, upsert

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


class Planted:
    """Faults in what a build makes or saves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def shuffled_ids(self) -> None:
        """Each vector under another item's seq."""
        save = np.save
        self._monkeypatch.setattr(np, "save", lambda path, ids: save(path, np.roll(ids, 1)))

    def shifted_ids(self) -> None:
        """Each vector under the seq before its own."""
        save = np.save
        self._monkeypatch.setattr(np, "save", lambda path, ids: save(path, ids - 1))

    def swapped_vectors(self) -> None:
        """Two vectors in each other's place."""
        build = FaissEngine.build

        def swapped(vectors: Vectors, factory: str) -> FaissEngine:
            order = np.arange(len(vectors))
            order[[0, 1]] = [1, 0]
            return build(vectors[order], factory)

        self._monkeypatch.setattr(FaissEngine, "build", swapped)

    def one_wrong_bit(self) -> None:
        """A vector that is off by the least possible."""
        build = FaissEngine.build

        def wrong(vectors: Vectors, factory: str) -> FaissEngine:
            vectors = vectors.copy()
            vectors.view(np.uint32)[3, 3] ^= 1
            return build(vectors, factory)

        self._monkeypatch.setattr(FaissEngine, "build", wrong)

    def wrong_encoder(self) -> None:
        """Vectors of another encoder: as good as the right ones among themselves, but others."""
        build = FaissEngine.build
        turn = np.linalg.qr(np.random.default_rng(7).normal(size=(DIM, DIM)))[0].astype(np.float32)
        self._monkeypatch.setattr(FaissEngine, "build", lambda vectors, *rest: build(vectors @ turn, *rest))

    def missing_vector(self) -> None:
        """One vector less than there are items."""
        build = FaissEngine.build
        self._monkeypatch.setattr(FaissEngine, "build", lambda vectors, factory: build(vectors[:-1], factory))

    def low_recall(self) -> None:
        """Every search misses the nearest rows, but for a vector's search for itself."""
        search = FaissEngine.search

        def missing(self: FaissEngine, queries: Vectors, top_k: int, *how: Any) -> Any:
            if top_k == 1:
                return search(self, queries, top_k, *how)
            return tuple(part[:, 5:] for part in search(self, queries, top_k + 5, *how))

        self._monkeypatch.setattr(FaissEngine, "search", missing)

    def lost_selves(self) -> None:
        """A search that is right for strangers, but finds no vector by itself."""
        search = FaissEngine.search

        def missing(self: FaissEngine, queries: Vectors, top_k: int, *how: Any) -> Any:
            scores, rows = search(self, queries, top_k + 1, *how)
            return (scores[:, 1:], rows[:, 1:]) if top_k == 1 else (scores[:, :-1], rows[:, :-1])

        self._monkeypatch.setattr(FaissEngine, "search", missing)

    def full_disk(self) -> None:
        """No room for the index."""

        def fail(self: FaissEngine, path: Path) -> None:
            raise RuntimeError("No space left on device")

        self._monkeypatch.setattr(FaissEngine, "save", fail)

    def no_memory(self) -> None:
        """No memory for the index."""

        def fail(vectors: Vectors, factory: str) -> FaissEngine:
            raise MemoryError("out of memory")

        self._monkeypatch.setattr(FaissEngine, "build", fail)


FAULTS = {
    "shuffled_ids": "ids do not ascend",
    "shifted_ids": "vectors are not those of the catalog",
    "swapped_vectors": "vectors are not those of the catalog",
    "one_wrong_bit": "vectors are not those of the catalog",
    "wrong_encoder": "vectors are not those of the catalog",
    "missing_vector": "vectors of shape",
    "low_recall": r"recall@10 of text queries is 0\.\d+ < 0.950",
    "lost_selves": "only 0.0% of its vectors find themselves",
    "full_disk": "No space left",
    "no_memory": "out of memory",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_snapshot_is_refused_and_the_old_one_serves(
    rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    filled(catalog, "c", 30)
    rebuilder.step(time.time())
    live = LiveIndex(catalog, lambda _: store, "c")
    filled(catalog, "c", 30, prefix="more")
    with monkeypatch.context() as planted:
        getattr(Planted(planted), fault)()
        [report] = rebuilder.step(time.time())
    assert not report.published
    assert re.search(FAULTS[fault], report.reason)
    assert (store.current(), live.refresh().generation, live.view.count) == (1, 1, 60)
    assert list(store.servable()) == [1]


def test_recall_is_measured_per_direction(catalog: Catalog, root: Path) -> None:
    directions = {"words": {"text"}, "picture": {"text", "image"}, "both": {"text", "image"}}
    for item_id, modality in (("words", "text"), ("picture", "image"), ("both", "mixed")):
        catalog.create_collection(item_id, ENCODER, DIM)
        catalog.commit(item_id, [upsert(item_id, modality=modality)], ENCODER)
        report = rebuilder_of(catalog, root).rebuild(item_id, "test", time.time())
        assert report.recall_at_10 == dict.fromkeys(directions[item_id], 1.0)
    silent = Rebuilder(catalog, store_in(root), lambda _: None, POLICY)
    assert silent.rebuild("both", "test", time.time()).recall_at_10 == {"image": 1.0}


def test_a_graph_is_tuned_and_measured_as_it_was_read_back(
    catalog: Catalog, root: Path, store: SnapshotStore
) -> None:
    catalog.create_collection("c", ENCODER, DIM)
    rows = unit_rows(1500)
    catalog.commit(
        "c", [upsert(f"i{n}", vector=row, modality="image") for n, row in enumerate(rows)], ENCODER
    )
    [report] = rebuilder_of(catalog, root, flat_limit=1000, target_recall=0.99).step(time.time())
    assert report.published
    manifest = store.manifest(1)
    assert manifest.factory == "HNSW32,Flat"
    assert min(manifest.recall_at_10.values()) >= 0.98
    snapshot = store.load(1, manifest.collection_uid, ENCODER)
    assert snapshot.engine.tuning == manifest.tuning
    probe = Probe.of(QUERIES, rows)
    assert check(snapshot, {"text": probe}, 0.95) == {"text": manifest.recall_at_10["text"]}
    with pytest.raises(GateRefused, match="recall@10 of text"):
        check(snapshot, {"text": Probe(QUERIES, probe.truth + np.float32(0.1))}, 0.95)


def test_an_index_under_another_encoders_name_never_serves(
    rebuilder: Rebuilder, catalog: Catalog, store: SnapshotStore
) -> None:
    filled(catalog, "c", 30)
    rebuilder.step(time.time())
    manifest = store.manifest(1)
    replace(manifest, encoder_id="other-0123456789ab").write(store.folder(1) / "manifest.json")
    live = LiveIndex(catalog, lambda _: store, "c")
    assert (live.view.generation, live.view.count) == (0, 30)
    assert "other-0123456789ab" in str(live.last_error)


@pytest.mark.parametrize("trained_on", ["both", "pictures"])
def test_lists_that_were_trained_on_pictures_alone_are_refused(
    catalog: Catalog, root: Path, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, trained_on: str
) -> None:
    """Pictures lie in clumps, a picture's neighbours in its own. What texts look at differs within clumps, so
    that a text's neighbours are in any: no list is nearer to it than the others."""
    pictures = np.hstack((np.repeat(unit_rows(300, DIM - 2, seed=3), 10, axis=0), 0.3 * unit_rows(3000, 2)))
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    texts = np.hstack((np.zeros((20, DIM - 2), np.float32), unit_rows(20, 2, seed=5)))
    items = [upsert(f"i{n}", vector=row, modality="image") for n, row in enumerate(pictures)]
    catalog.commit("c", items, ENCODER)
    policy = replace(POLICY, index_type="IVF256,Flat")
    if trained_on == "pictures":
        tuned = FaissEngine.tuned
        monkeypatch.setattr(
            FaissEngine, "tuned", lambda self, samples, *rest: tuned(self, samples[1:], *rest)
        )
    report = Rebuilder(catalog, store_in(root), lambda _: texts, policy).rebuild("c", "test", time.time())
    assert report.published is (trained_on == "both")
    if report.published:
        assert min(report.recall_at_10.values()) >= 0.97
    else:
        assert report.cause == "recall"
        assert re.fullmatch(r"recall@10 of text queries is 0\.\d+ < 0.950", report.reason)
        assert (store.current(), LiveIndex(catalog, lambda _: store, "c").view.count) == (None, 3000)
