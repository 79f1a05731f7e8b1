"""The contract of every engine, with exact search as the oracle, on rows and on scores."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from index.engines import Engine, Mask, Params, Rows, Scores
from index.engines.faiss import FaissEngine
from index.fields import marked
from index.recall import exact_top_k, recall_at_k
from tests.indexing import unit_rows

COUNT, TOP_K = 3000, 10
FACTORIES = (
    "Flat",
    "HNSW32,Flat",
    "HNSW16,SQ8,RFlat",
    "IVF16,Flat",
    "IVF16,SQ8,RFlat",
    "IVF16,RaBitQfs4,RFlat",
    "IVF16,RaBitQfs3,RFlat",
)
ROWS = unit_rows(COUNT, 32)
QUERIES = unit_rows(40, 32, seed=1)
SAMPLES = [
    (queries, exact_top_k(ROWS, queries, TOP_K)[0]) for queries in (ROWS[:64], unit_rows(64, 32, seed=2))
]


def floor(engine: Engine) -> float:
    """The recall@10 that it must reach."""
    return 1.0 if engine.factory == "Flat" else 0.95


@pytest.fixture(scope="module", params=FACTORIES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """An engine over ROWS, tuned for queries from among them and from elsewhere."""
    built = FaissEngine.build(ROWS, request.param).tuned(SAMPLES, 0.97)
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
    assert recall(engine) >= floor(engine)


@pytest.mark.usefixtures("walking")
@pytest.mark.parametrize("share", [1.0, 0.5, 0.2, 0.09, 0.01, 0.0])
def test_a_mask_never_costs_answers(engine: Engine, share: float) -> None:
    allowed = np.random.default_rng(3).random(COUNT) < share
    assert recall(engine, allowed) >= floor(engine)


@pytest.mark.usefixtures("walking")
@pytest.mark.parametrize("share", [0.5, 0.15, 0.02])
def test_a_mask_of_the_rows_far_from_the_queries_never_costs_answers(engine: Engine, share: float) -> None:
    """The hard case for a graph: all that it meets near the query is not allowed."""
    towards = ROWS @ QUERIES.mean(axis=0)
    assert recall(engine, towards < np.quantile(towards, share)) >= floor(engine)


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


def reopened(engine: Engine, folder: Path) -> FaissEngine:
    """The engine as another process finds it in a folder."""
    written = engine.save(folder)
    assert {path.name for path in folder.iterdir()} == set(written)
    return FaissEngine.load(folder, engine.factory, engine.tuning)


def test_saved_and_loaded_it_answers_the_same(engine: Engine, tmp_path: Path) -> None:
    loaded = reopened(engine, tmp_path)
    assert (loaded.factory, loaded.count, loaded.dim) == (engine.factory, engine.count, engine.dim)
    assert loaded.tuning == engine.tuning
    np.testing.assert_array_equal(loaded.vectors(np.arange(COUNT)), ROWS)
    for mask in (None, marked(np.arange(COUNT) % 3 == 0), marked(np.arange(COUNT) % 50 == 0)):
        for ours, theirs in zip(
            loaded.search(QUERIES, TOP_K, mask), engine.search(QUERIES, TOP_K, mask), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_it_outlives_the_files_it_was_loaded_from(engine: Engine, tmp_path: Path) -> None:
    loaded = reopened(engine, tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    np.testing.assert_array_equal(loaded.search(QUERIES, TOP_K)[1], engine.search(QUERIES, TOP_K)[1])


def mapped_from(folder: Path) -> list[str]:
    """The files of a folder that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[-1] for line in lines if str(folder) in line]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
def test_who_lets_it_go_has_nothing_of_it_left(engine: Engine, tmp_path: Path) -> None:
    loaded = reopened(engine, tmp_path)
    loaded.search(QUERIES, TOP_K)
    assert mapped_from(tmp_path)
    del loaded
    gc.collect()
    assert mapped_from(tmp_path) == []


def test_its_rows_outlive_it(engine: Engine, tmp_path: Path) -> None:
    rows = reopened(engine, tmp_path).rows
    gc.collect()
    np.testing.assert_array_equal(rows, ROWS)
    assert not rows.flags.writeable


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("count", [0, 1, 9])
def test_few_rows_are_enough(factory: str, count: int, tmp_path: Path) -> None:
    built = FaissEngine.build(ROWS[:count], factory)
    for engine in (built, reopened(built, tmp_path)):
        scores, rows = engine.search(QUERIES, TOP_K)
        check_answers(scores, rows)
        assert np.all((rows >= 0).sum(axis=1) == count)
        assert engine.search(QUERIES, TOP_K, marked(np.zeros(count, np.bool_)))[1].max() == -1
        assert engine.vectors(np.arange(count)).shape == (count, 32)


@pytest.mark.parametrize("factory", FACTORIES)
def test_many_equal_rows_hide_nothing(factory: str) -> None:
    """Equal rows link to each other only, and cut a graph into islands; or they all have one list."""
    rows = np.vstack((np.repeat(ROWS[:3], 400, axis=0), ROWS[3:20]))
    engine = FaissEngine.build(rows, factory)
    for top_k in (1, 10, 500, 1217):
        scores, found = engine.search(QUERIES[:5], top_k)
        assert np.all((found >= 0).sum(axis=1) == top_k)
        assert all(len(set(line.tolist())) == top_k for line in found)
    np.testing.assert_allclose(scores, exact_top_k(rows, QUERIES[:5], 1217)[0], atol=1e-5)


# -- effort


def test_exact_is_exact_whatever_the_index(engine: Engine) -> None:
    truth = exact_top_k(ROWS, QUERIES, TOP_K)
    for params in (Params(exact=True), Params(exact=True, effort="low", ef=1, nprobe=1, rescore=False)):
        scores, rows = engine.search(QUERIES, TOP_K, params=params)
        np.testing.assert_array_equal(rows, truth[1])
        np.testing.assert_allclose(scores, truth[0], atol=1e-5)


def test_more_effort_never_finds_less(engine: Engine) -> None:
    truth = exact_top_k(ROWS, QUERIES, TOP_K)[0]

    def recall(params: Params) -> float:
        return recall_at_k(truth, engine.search(QUERIES, TOP_K, params=params)[0])

    low, auto, high = (recall(Params(effort)) for effort in ("low", "auto", "high"))
    assert low <= auto <= high
    assert high >= 0.99
    if engine.factory != "Flat":
        assert recall(Params(ef=1, nprobe=1)) < low
        assert recall(Params("high", ef=512, nprobe=16)) >= high - 0.005


def test_without_rescoring_scores_are_those_of_codes(engine: Engine) -> None:
    scores, rows = engine.search(QUERIES, TOP_K, params=Params(rescore=False))
    true = np.einsum("qd,qkd->qk", QUERIES, ROWS[rows])
    has_codes = engine.factory.endswith("RFlat")
    assert np.allclose(scores, true, atol=1e-5) is not has_codes
    assert np.abs(scores - true).mean() < 0.1


@pytest.mark.parametrize("factory", FACTORIES[1:])
def test_effort_is_tuned_to_what_recall_needs(factory: str) -> None:
    engine = FaissEngine.build(ROWS, factory)
    tunings = [engine.tuned(SAMPLES, target).tuning for target in (0.1, 0.9, 0.99, 2.0)]
    efforts = [tuning.get("ef") or tuning["nprobe"] for tuning in tunings]
    assert efforts == sorted(efforts)
    assert efforts[0] == 16
    assert efforts[-1] == 512
    assert recall(engine.tuned(SAMPLES, 0.99)) >= 0.98
    assert engine.tuned([(QUERIES[:0], QUERIES[:0])], 1.0) is engine


def test_the_harder_direction_of_queries_decides_the_effort() -> None:
    engine = FaissEngine.build(ROWS, "HNSW32,Flat")
    easy, hard = (engine.tuned([sample], 0.97).tuning["ef"] for sample in SAMPLES)
    assert easy < hard == engine.tuned(SAMPLES, 0.97).tuning["ef"]


# -- files that are none


def test_files_that_are_no_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        FaissEngine.load(tmp_path, "Flat", {})
    (tmp_path / "vectors.faiss").write_bytes(b"IxFI but not really" * 10)
    with pytest.raises(RuntimeError):
        FaissEngine.load(tmp_path, "Flat", {})


def test_an_index_beside_the_vectors_of_another_is_refused(tmp_path: Path) -> None:
    engine = FaissEngine.build(ROWS, "HNSW32,Flat")
    engine.save(tmp_path)
    FaissEngine.build(ROWS[1:], "Flat").save(tmp_path)
    with pytest.raises(RuntimeError, match="other vectors"):
        FaissEngine.load(tmp_path, engine.factory, engine.tuning)
    (tmp_path / "vectors.faiss").write_bytes((tmp_path / "index.faiss").read_bytes())
    with pytest.raises(RuntimeError):
        FaissEngine.load(tmp_path, "Flat", {})
