"""Exact search as the oracle, and recall measured against it."""

import numpy as np

from index.engines import Rows, Scores
from index.vectors import Vectors

_TIE = 1e-5  # float32 inner products of the same two unit rows differ by less than this between kernels
_BLOCK_BYTES = 1 << 24  # of vectors scored at once, and of their scores: bounds memory whatever their number
_NO_SCORE = np.float32(-np.inf)


def exact_top_k(vectors: Vectors, queries: Vectors, top_k: int) -> tuple[Scores, Rows]:
    """The true ``top_k`` of each query: (n, top_k) scores and rows, padded with -inf and -1."""
    scores = np.full((len(queries), top_k), _NO_SCORE)
    rows = np.full((len(queries), top_k), -1, dtype=np.int64)
    block = max(1, _BLOCK_BYTES // (4 * max(1, len(queries), vectors.shape[1])))
    for start in range(0, len(vectors), block):
        found = queries @ vectors[start : start + block].T
        numbers = np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)
        nearest = best(found, numbers, top_k)
        scores, rows = best(np.hstack((scores, nearest[0])), np.hstack((rows, nearest[1])), top_k)
    return scores, rows


def best(scores: Scores, rows: Rows, top_k: int) -> tuple[Scores, Rows]:
    """The ``top_k`` highest of each line (all of a shorter one) with their rows, highest first."""
    if top_k < scores.shape[1]:
        chosen = np.argpartition(scores, -top_k, axis=1)[:, -top_k:]
        scores, rows = np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(rows, chosen, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def recall_at_k(truth: Scores, found: Scores) -> float:
    """The share of true neighbours found, counted by score so that ties do not lie; both (n, k), best first.

    A found neighbour counts when it scores at least as much as the k-th true one (ann-benchmarks counts by
    distance threshold in the same way).
    """
    hits, present = _hits(truth, found)
    return float(hits.sum() / present.sum()) if present.any() else 1.0


def sure_recall(truth: Scores, found: Scores) -> float:
    """``recall_at_k`` less two standard errors: what other queries of the same kind may be expected to reach.

    A query is what varies: a search that goes astray misses most of its neighbours at once.
    """
    hits, present = _hits(truth, found)
    shares = hits[present > 0] / present[present > 0]
    return float(shares.mean() - 2 * shares.std() / np.sqrt(len(shares))) if len(shares) else 1.0


def _hits(truth: Scores, found: Scores) -> tuple[Rows, Rows]:
    """How many true neighbours of each query were found, of how many that there are."""
    present = np.isfinite(truth)
    threshold = np.where(present, truth, np.inf).min(axis=1, initial=np.inf, keepdims=True) - _TIE
    there = present.sum(axis=1)
    return np.minimum((found >= threshold).sum(axis=1), there), there
