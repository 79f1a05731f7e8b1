"""Where an index is searched: every decision with a card that computes, and a real one where there is one."""

import os
import runpy
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index.engines import Engine, Params, Rows, Scores
from index.engines.faiss import FaissEngine
from index.engines.gpu import CudaCard, Device, ExactSearch, GpuEngine, Lane, opening, placed
from index.fields import marked
from index.recall import exact_top_k
from index.vectors import Vectors
from tests.conftest import ROOT
from tests.indexing import unit_rows

ROWS = unit_rows(3000, 32)
QUERIES = unit_rows(40, 32, seed=1)
HIDDEN = np.random.default_rng(3).permutation(3000)


@dataclass
class FakeCard:
    """A card that computes on the CPU, in as many threads as it is asked in, and counts."""

    free: int = 1 << 40
    calls: list[int] = field(default_factory=list)  # queries in each
    asked: list[int] = field(default_factory=list)  # rows wanted of each
    threads: set[int] = field(default_factory=set)
    broken: bool = False
    pause_s: float = 0.0
    noise: float = 0.0

    def free_bytes(self) -> int:
        return self.free

    def hold(self, rows: Vectors) -> ExactSearch:
        if self.broken:
            raise RuntimeError("CUDA error 2: out of memory")

        def find(queries: Vectors, top_k: int) -> tuple[Scores, Rows]:
            if self.broken:
                raise RuntimeError("CUDA error 700: an illegal memory access was encountered")
            self.calls.append(len(queries))
            self.asked.append(top_k)
            self.threads.add(threading.get_ident())
            time.sleep(self.pause_s)
            assert top_k <= 2048
            scores, found = exact_top_k(rows, queries, top_k)
            return scores + np.float32(self.noise), found

        return find


def on(card: FakeCard | None, device: Device = "auto", factory: str = "HNSW32,Flat") -> tuple[Engine, str]:
    """An engine where it is placed, and why there."""
    noted: list[str] = []
    engine = placed(FaissEngine.build(ROWS, factory), device, card, lambda *why: noted.append(" ".join(why)))
    [reason] = noted
    return engine, reason


# -- where to


@pytest.mark.parametrize(
    ("device", "card", "expected", "warns"),
    [
        ("auto", None, "cpu no_gpu", False),
        ("cuda", None, "cpu no_gpu", True),
        ("cpu", FakeCard(), "cpu asked", False),
        ("auto", FakeCard(), "cuda fits", False),
        ("cuda", FakeCard(), "cuda fits", False),
        ("auto", FakeCard(free=ROWS.nbytes), "cpu too_large", False),
        ("cuda", FakeCard(free=ROWS.nbytes), "cpu too_large", True),
        ("auto", FakeCard(broken=True), "cpu failed", True),
        ("auto", FakeCard(noise=0.01), "cpu wrong", True),
    ],
)
def test_an_index_goes_to_the_gpu_if_it_can_and_says_why_if_not(
    device: Device, card: FakeCard | None, expected: str, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    engine, reason = on(card, device)
    assert reason == expected
    assert isinstance(engine, GpuEngine) is expected.startswith("cuda")
    assert any(record.levelname == "WARNING" for record in caplog.records) is warns
    scores, rows = engine.search(QUERIES, 10, params=Params(exact=True))
    np.testing.assert_array_equal(rows, exact_top_k(ROWS, QUERIES, 10)[1])
    np.testing.assert_allclose(scores, exact_top_k(ROWS, QUERIES, 10)[0], atol=1e-5)


def test_the_budget_is_all_vectors_scratch_space_and_a_tenth_to_spare() -> None:
    need = (ROWS.nbytes + (1 << 28)) / 0.9
    assert on(FakeCard(free=int(need) + 1))[1] == "cuda fits"
    assert on(FakeCard(free=int(need) - 1))[1] == "cpu too_large"


def test_a_saved_index_opens_on_the_gpu_and_its_files_are_those_of_the_cpu(tmp_path: Path) -> None:
    engine = FaissEngine.build(ROWS, "HNSW32,Flat")
    written = engine.save(tmp_path)
    noted: list[tuple[str, str]] = []
    opened = opening("auto", FakeCard(), lambda *why: noted.append(why))(
        tmp_path, engine.factory, engine.tuning
    )
    assert noted == [("cuda", "fits")]
    (tmp_path / "again").mkdir()
    assert opened.save(tmp_path / "again") == written
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes() for name in written)


def test_without_vectors_there_is_nothing_to_search() -> None:
    engine = placed(FaissEngine.build(ROWS[:0]), "auto", FakeCard(), lambda *why: None)
    assert engine.search(QUERIES, 5)[1].max() == -1


# -- what is searched where


@pytest.mark.parametrize("hidden", [0, 1, 500, 2030, 2500, 2995, 3000])
def test_hidden_rows_never_cost_answers(hidden: int) -> None:
    """A card knows no filters: it is asked for more, and what is hidden is left out; many are the CPU's."""
    card = FakeCard()
    engine, _ = on(card, factory="Flat")
    card.calls.clear()
    mask = np.ones(3000, np.bool_)
    mask[HIDDEN[:hidden]] = False
    scores, rows = engine.search(QUERIES, 10, marked(mask))
    expected = exact_top_k(ROWS[mask], QUERIES, 10)
    found = rows >= 0
    assert np.all(found.sum(axis=1) == min(10, 3000 - hidden))
    np.testing.assert_array_equal(rows[found], np.append(np.flatnonzero(mask), -1)[expected[1]][found])
    np.testing.assert_allclose(scores[found], expected[0][found], atol=1e-5)
    assert np.all(scores[~found] < -1.01)
    assert bool(card.calls) is (hidden <= 2030)


def test_what_the_card_cannot_do_the_cpu_does() -> None:
    card = FakeCard()
    engine, _ = on(card, factory="Flat")
    card.calls.clear()
    for top_k in (2049, 3000, 3005):
        assert np.all((engine.search(QUERIES, top_k)[1] >= 0).sum(axis=1) == min(top_k, 3000))
    assert engine.search(QUERIES[:0], 5)[1].shape == (0, 5)
    assert card.calls == []
    np.testing.assert_array_equal(engine.vectors(np.array([5, 0])), ROWS[[5, 0]])


def test_a_card_that_fails_later_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    card = FakeCard()
    engine, _ = on(card, factory="Flat")
    card.broken = True
    truth = exact_top_k(ROWS, QUERIES, 10)[1]
    np.testing.assert_array_equal(engine.search(QUERIES, 10)[1], truth)
    card.broken = False
    card.calls.clear()
    np.testing.assert_array_equal(engine.search(QUERIES, 10)[1], truth)
    assert card.calls == []  # after such an error nothing of it can be trusted
    assert sum("the GPU failed" in record.message for record in caplog.records) == 1


# -- one thread


def test_searches_of_many_threads_share_calls_of_one() -> None:
    card = FakeCard(pause_s=0.02)
    lane = Lane(card.hold(ROWS))
    wanted = [(QUERIES[start : start + size], top_k) for start, size, top_k in _requests()]
    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = list(pool.map(lambda want: lane.search(*want), wanted))
    for (queries, top_k), (scores, rows) in zip(wanted, answers, strict=True):
        expected = exact_top_k(ROWS, queries, top_k)
        np.testing.assert_array_equal(rows, expected[1])
        np.testing.assert_allclose(scores, expected[0], atol=1e-5)
    assert len(card.threads) == 1
    assert len(card.calls) < len(wanted) / 2
    assert sum(card.calls) == sum(len(queries) for queries, _ in wanted)


def _requests() -> list[tuple[int, int, int]]:
    dice = np.random.default_rng(0)
    return [(int(dice.integers(30)), int(dice.integers(1, 10)), int(dice.integers(1, 30))) for _ in range(24)]


def test_a_call_takes_no_more_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.engines.gpu._BATCH", 10)
    card = FakeCard(pause_s=0.02)
    lane = Lane(card.hold(ROWS))
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda size: lane.search(QUERIES[:size], 3), [4] * 19 + [40]))
    assert sum(card.calls) == 19 * 4 + 40
    assert all(size <= 10 or size == 40 for size in card.calls)


def test_all_who_share_a_failed_call_hear_of_it_and_the_next_goes_on() -> None:
    card = FakeCard(pause_s=0.02)
    lane = Lane(card.hold(ROWS))
    card.broken = True
    with ThreadPoolExecutor(8) as pool:
        for waiting in [pool.submit(lane.search, QUERIES, 3) for _ in range(8)]:
            with pytest.raises(RuntimeError, match="illegal memory access"):
                waiting.result()
    card.broken = False
    assert lane.search(QUERIES, 3)[1].shape == (40, 3)


def test_the_thread_ends_with_the_engine() -> None:
    engine, _ = on(FakeCard(), factory="Flat")
    engine.search(QUERIES, 3)

    def lanes() -> int:
        return sum(thread.name.startswith("gpu") for thread in threading.enumerate())

    before = lanes()
    del engine
    until = time.monotonic() + 10
    while lanes() >= before and time.monotonic() < until:
        time.sleep(0.01)
    assert lanes() < before


# -- the check of a host


@pytest.fixture
def check() -> Any:
    """The script."""
    return runpy.run_path(str(ROOT / "deploy" / "gpu-check"))


def test_the_check_of_a_host_compares_the_gpu_with_the_cpu(check: Any) -> None:
    parity, names = check["parity"], check["parity"].__globals__
    names.update(card=FakeCard, SEARCHES=64, DIM=32)
    assert parity(2000).startswith("recall@10 1.0000 at ")
    names["card"] = lambda: FakeCard(noise=0.01)
    with pytest.raises(RuntimeError, match="cpu wrong"):
        parity(2000)
    whole, half = (FaissEngine.build(ROWS[:count]) for count in (2000, 1000))
    with pytest.raises(RuntimeError, match="scores are off"):
        check["compared"](half, whole, None)


@pytest.mark.skipif(CudaCard.find() is not None, reason="there is a CUDA device")
def test_the_check_of_a_host_without_a_gpu_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "deploy/gpu-check"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("FAIL ") for line in lines)


# -- a real one


def test_without_cuda_no_card_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    assert CudaCard.find() is None
    monkeypatch.delattr(faiss, "get_num_gpus")
    assert CudaCard.find() is None


@pytest.mark.gpu
@pytest.mark.skipif(CudaCard.find() is None, reason="there is no CUDA device")
@pytest.mark.parametrize("factory", ["Flat", "HNSW32,Flat", "IVF16,RaBitQfs4,RFlat"])
def test_a_real_gpu_finds_what_exact_search_finds(factory: str) -> None:
    card = CudaCard.find()
    assert card is not None
    assert card.free_bytes() > 1 << 28
    noted: list[tuple[str, str]] = []
    engine = placed(FaissEngine.build(ROWS, factory), "cuda", card, lambda *why: noted.append(why))
    assert noted == [("cuda", "fits")]

    def search(turn: int) -> tuple[Scores, Rows]:
        return engine.search(QUERIES, 10 + turn % 3)

    with ThreadPoolExecutor(8) as pool:
        for turn, (scores, _) in enumerate(pool.map(search, range(64))):
            np.testing.assert_allclose(scores, exact_top_k(ROWS, QUERIES, 10 + turn % 3)[0], atol=1e-3)
