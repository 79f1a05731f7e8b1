"""Exact search is the oracle, so it is checked against plain sorting; recall against counts made by hand."""

import numpy as np
import pytest

from index import recall
from index.recall import best, exact_top_k, recall_at_k, sure_recall
from tests.indexing import unit_rows


@pytest.mark.parametrize("block_bytes", [1, 4 * 37 * 8, 1 << 24])
@pytest.mark.parametrize("top_k", [1, 10, 99, 100, 250])
def test_exact_search_sorts_all_scores(top_k: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "_BLOCK_BYTES", block_bytes)
    vectors, queries = unit_rows(100), unit_rows(5, seed=1)
    scores, rows = exact_top_k(vectors, queries, top_k)
    assert scores.shape == rows.shape == (5, top_k)
    kept = min(top_k, 100)
    true = queries @ vectors.T
    np.testing.assert_array_equal(rows[:, :kept], np.argsort(-true, axis=1)[:, :kept])
    np.testing.assert_allclose(scores[:, :kept], -np.sort(-true, axis=1)[:, :kept], atol=1e-6)
    assert np.all(rows[:, kept:] == -1)
    assert np.all(scores[:, kept:] == -np.inf)


def test_exact_search_among_nothing_finds_nothing() -> None:
    scores, rows = exact_top_k(unit_rows(0), unit_rows(2), 3)
    assert np.all(rows == -1)
    assert np.all(scores == -np.inf)
    assert exact_top_k(unit_rows(4), unit_rows(0), 3)[1].shape == (0, 3)


def test_the_best_of_each_line_come_first() -> None:
    scores, rows = best(
        np.array([[1, 3, 2], [9, 7, 8]], np.float32), np.array([[10, 11, 12], [20, 21, 22]]), 2
    )
    assert scores.tolist() == [[3, 2], [9, 8]]
    assert rows.tolist() == [[11, 12], [20, 22]]


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        ([[0.9, 0.8, 0.7]], [[0.9, 0.8, 0.7]], 1.0),
        ([[0.9, 0.8, 0.7]], [[0.9, 0.7, 0.6]], 2 / 3),
        ([[0.9, 0.8, 0.7]], [[0.6, 0.5, 0.4]], 0.0),
        ([[0.9, 0.8], [0.9, 0.8]], [[0.9, 0.8], [0.1, 0.0]], 0.5),
        # Three rows tie for the second place: whichever is found counts.
        ([[0.9, 0.5]], [[0.9, 0.5]], 1.0),
        # Rounding differs between kernels, a rank does not.
        ([[0.9, 0.8]], [[0.9, 0.8 - 5e-6]], 1.0),
        ([[0.9, 0.8]], [[0.9, 0.8 - 5e-5]], 0.5),
        # Fewer rows than were asked for: only those there are count.
        ([[0.9, -np.inf]], [[0.9, -3.4e38]], 1.0),
        ([[0.9, -np.inf]], [[-3.4e38, -3.4e38]], 0.0),
        ([[-np.inf, -np.inf]], [[-3.4e38, -3.4e38]], 1.0),
        # More hits above the threshold than there are true neighbours cannot make up for a missing one.
        ([[0.9, -np.inf], [0.9, 0.8]], [[0.95, 0.9], [0.9, 0.1]], 2 / 3),
    ],
)
def test_recall_counts_the_true_neighbours_found(
    truth: list[list[float]], found: list[list[float]], expected: float
) -> None:
    assert recall_at_k(np.array(truth, np.float32), np.array(found, np.float32)) == pytest.approx(expected)


def test_no_queries_have_full_recall() -> None:
    nothing = np.empty((0, 10), np.float32)
    assert recall_at_k(nothing, nothing) == 1.0


def test_recall_is_sure_of_what_other_queries_will_reach() -> None:
    """Of samples of one kind nearly all promise no more than the whole kind keeps."""
    dice = np.random.default_rng(0)
    truth = np.tile(np.arange(10, 0, -1, dtype=np.float32), (20_000, 1))
    astray = dice.random(20_000) < 0.1
    found = np.where(astray[:, None] & (dice.random(truth.shape) < 0.8), 0, truth)
    found = -np.sort(-found, axis=1)
    kept = recall_at_k(truth, found)
    samples = [dice.choice(20_000, 256, replace=False) for _ in range(200)]
    promised = [sure_recall(truth[sample], found[sample]) for sample in samples]
    assert np.mean(np.array(promised) <= kept) > 0.95
    assert np.mean(promised) > kept - 0.05
    assert sure_recall(truth, truth) == 1.0
    assert sure_recall(truth[:0], truth[:0]) == 1.0
