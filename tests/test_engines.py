"""The contract of every engine, with exact search as the oracle, on rows and on scores."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index.engines import Engine, Mask, Rows, Scores
from index.engines.faiss import FaissEngine
from index.fields import marked
from index.recall import exact_top_k, recall_at_k
from index.vectors import Vectors
from tests.indexing import unit_rows

COUNT, TOP_K = 3000, 10
BUILD: dict[str, Callable[[Vectors], FaissEngine]] = {
    "Flat": lambda rows: FaissEngine.build(rows),
    "HNSW32,Flat": lambda rows: FaissEngine.build(rows, flat_limit=0),
}
FLOOR = {"Flat": 1.0, "HNSW32,Flat": 0.95}  # of recall@10

ROWS = unit_rows(COUNT, 32)
QUERIES = unit_rows(40, 32, seed=1)


@pytest.fixture(scope="module", params=BUILD)
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine over ROWS."""
    built: Engine = BUILD[request.param](ROWS)
    assert built.factory == request.param
    return built


@pytest.fixture(params=["as it pays", "always"])
def walking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among some rows a graph is walked where that pays, which it hardly does in one so small, or always."""
    if request.param == "always":
        monkeypatch.setattr(FaissEngine, "_walking_pays", lambda *_: True)


def recall(engine: Engine, mask: Mask | None = None) -> float:
    """recall@10 over QUERIES among the allowed rows, after checking that all that was found is right."""
    scores, rows = engine.search(QUERIES, TOP_K, None if mask is None else marked(mask))
    check_answers(scores, rows)
    numbers = np.arange(COUNT) if mask is None else np.flatnonzero(mask)
    assert set(rows[rows >= 0].tolist()) <= set(numbers.tolist())
    assert np.all((rows >= 0).sum(axis=1) == min(TOP_K, len(numbers)))
    return recall_at_k(exact_top_k(ROWS[numbers], QUERIES, TOP_K)[0], scores)


def check_answers(scores: Scores, rows: Rows) -> None:
    """Scores are the true inner products, best first; no row comes twice; padding is last and below all."""
    for query, line_scores, line_rows in zip(QUERIES, scores, rows, strict=False):
        found = line_rows >= 0
        assert np.all(np.diff(found.astype(int)) <= 0)
        assert np.all(line_scores[:-1] >= line_scores[1:])
        assert np.all(line_scores[~found] < -1.01)
        np.testing.assert_allclose(line_scores[found], ROWS[line_rows[found]] @ query, atol=1e-5)
        assert len(set(line_rows[found].tolist())) == found.sum()


def test_it_finds_what_exact_search_finds(engine: Engine) -> None:
    assert recall(engine) >= FLOOR[engine.factory]


@pytest.mark.usefixtures("walking")
@pytest.mark.parametrize("share", [1.0, 0.5, 0.2, 0.11, 0.09, 0.05, 0.01, 0.001, 0.0])
def test_a_mask_never_costs_answers(engine: Engine, share: float) -> None:
    allowed = np.random.default_rng(3).random(COUNT) < share
    assert recall(engine, allowed) >= FLOOR[engine.factory]


@pytest.mark.usefixtures("walking")
@pytest.mark.parametrize("share", [0.5, 0.15, 0.02])
def test_a_mask_of_the_rows_far_from_the_queries_never_costs_answers(engine: Engine, share: float) -> None:
    """The hard case for a graph: all that it meets near the query is not allowed."""
    towards = ROWS @ QUERIES.mean(axis=0)
    assert recall(engine, towards < np.quantile(towards, share)) >= FLOOR[engine.factory]


def test_it_pads_when_there_are_too_few_rows(engine: Engine) -> None:
    scores, rows = engine.search(QUERIES, COUNT + 5)
    check_answers(scores, rows)
    assert np.all((rows >= 0).sum(axis=1) == COUNT)


def test_a_batch_equals_its_singles(engine: Engine) -> None:
    scores, rows = engine.search(QUERIES, TOP_K)
    for number, query in enumerate(QUERIES):
        single_scores, single_rows = engine.search(query[None], TOP_K)
        np.testing.assert_allclose(single_scores[0], scores[number], atol=1e-5)
        assert set(single_rows[0].tolist()) == set(rows[number].tolist())


def test_no_queries_get_no_answers(engine: Engine) -> None:
    scores, rows = engine.search(QUERIES[:0], TOP_K, marked(np.ones(COUNT, np.bool_)))
    assert scores.shape == rows.shape == (0, TOP_K)


def test_searches_at_once_do_not_disturb_each_other(engine: Engine) -> None:
    masks = [None, *(marked(np.random.default_rng(seed).random(COUNT) < 0.3) for seed in range(3))]
    expected = [engine.search(QUERIES, TOP_K, mask) for mask in masks]

    def search(turn: int) -> bool:
        scores, rows = engine.search(QUERIES, TOP_K, masks[turn % 4])
        return bool(np.array_equal(rows, expected[turn % 4][1])) and np.allclose(
            scores, expected[turn % 4][0]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(search, range(64)))


def test_it_gives_its_rows_back_bit_for_bit(engine: Engine) -> None:
    rows = np.array([5, 0, COUNT - 1, 5])
    np.testing.assert_array_equal(engine.vectors(rows), ROWS[rows])
    engine.vectors(rows)[:] = 0  # a copy
    np.testing.assert_array_equal(engine.vectors(np.arange(COUNT)), ROWS)
    assert (engine.count, engine.dim) == ROWS.shape


def test_saved_and_loaded_it_answers_the_same(engine: Engine, tmp_path: Path) -> None:
    engine.save(tmp_path / "index.faiss")
    loaded = FaissEngine.load(tmp_path / "index.faiss", engine.ef_search)
    assert (loaded.factory, loaded.count, loaded.dim) == (engine.factory, engine.count, engine.dim)
    np.testing.assert_array_equal(loaded.vectors(np.arange(COUNT)), ROWS)
    for mask in (None, marked(np.arange(COUNT) % 3 == 0), marked(np.arange(COUNT) % 50 == 0)):
        for ours, theirs in zip(
            loaded.search(QUERIES, TOP_K, mask), engine.search(QUERIES, TOP_K, mask), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_it_outlives_the_file_it_was_loaded_from(engine: Engine, tmp_path: Path) -> None:
    engine.save(tmp_path / "index.faiss")
    loaded = FaissEngine.load(tmp_path / "index.faiss", engine.ef_search)
    (tmp_path / "index.faiss").unlink()
    np.testing.assert_array_equal(loaded.search(QUERIES, TOP_K)[1], engine.search(QUERIES, TOP_K)[1])


@pytest.mark.parametrize("factory", BUILD)
@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_rows_are_enough(factory: str, count: int, tmp_path: Path) -> None:
    built = BUILD[factory](ROWS[:count])
    built.save(tmp_path / "index.faiss")
    loaded = FaissEngine.load(tmp_path / "index.faiss", built.ef_search)
    for engine in (built, loaded):
        scores, rows = engine.search(QUERIES, TOP_K)
        check_answers(scores, rows)
        assert np.all((rows >= 0).sum(axis=1) == count)
        assert engine.search(QUERIES, TOP_K, marked(np.zeros(count, np.bool_)))[1].max() == -1
        assert engine.vectors(np.arange(count)).shape == (count, 32)


@pytest.mark.parametrize("factory", BUILD)
def test_many_equal_rows_hide_nothing(factory: str) -> None:
    """Equal rows link to each other only, and cut a graph into islands."""
    rows = np.vstack((np.repeat(ROWS[:3], 400, axis=0), ROWS[3:20]))
    engine = BUILD[factory](rows)
    for top_k in (1, 10, 500, 1217):
        scores, found = engine.search(QUERIES[:5], top_k)
        assert np.all((found >= 0).sum(axis=1) == top_k)
        assert all(len(set(line.tolist())) == top_k for line in found)
    np.testing.assert_allclose(scores, exact_top_k(rows, QUERIES[:5], 1217)[0], atol=1e-5)


def test_search_effort_is_tuned_to_what_recall_needs() -> None:
    engine = BUILD["HNSW32,Flat"](ROWS)
    truth = exact_top_k(ROWS, QUERIES, TOP_K)[0]
    efforts = [engine.tuned(QUERIES, truth, target).ef_search for target in (0.1, 0.9, 0.999, 2.0)]
    assert efforts == sorted(efforts)
    assert efforts[0] == 32 < efforts[-1] == 512
    assert recall(engine.tuned(QUERIES, truth, 0.999)) >= 0.999
    assert engine.tuned(QUERIES[:0], truth[:0], 1.0) is engine


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.faiss").write_bytes(b"IxFI but not really" * 10)
    with pytest.raises(RuntimeError):
        FaissEngine.load(tmp_path / "index.faiss", 32)
    with pytest.raises(RuntimeError):
        FaissEngine.load(tmp_path / "nothing.faiss", 32)
