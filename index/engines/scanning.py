"""Exact search of some rows: no index, no copies."""

from typing import Any

import faiss
import numpy as np

from index.engines import Mask, Rows, Scores
from index.fields import RowSet, numbers
from index.vectors import Vectors

_faiss: Any = faiss  # its stubs do not know arrays where pointers are meant

# FAISS 1.15 never uses BLAS for batches of exact searches unless told. With 20,000 x 384 rows on two cores it
# lost up to 8 queries and won from 16 on: 1.7-fold there, 2.4-fold at 32 (`python -m bench.faiss_threshold`).
_faiss.cvar.distance_compute_blas_threshold = 16

NO_SCORE = np.finfo(np.float32).min  # what FAISS pads with


def use_one_core() -> None:
    """Let searches of the calling thread keep to one core; those of others go on as before."""
    _faiss.omp_set_num_threads(1)


def scan(vectors: Vectors, queries: Vectors, top_k: int, rows: Rows) -> tuple[Scores, Rows]:
    """The true ``top_k`` of each query among these rows of (n, dim) ``vectors``, none of which is copied.

    Like an engine's answer: padded with rows of -1 whose scores are below any cosine.
    """
    queries = np.ascontiguousarray(queries)
    scores, found = np.empty((len(queries), top_k), np.float32), np.empty((len(queries), top_k), np.int64)
    if not len(rows) or not len(queries):
        scores[:], found[:] = NO_SCORE, -1
        return scores, found
    pointers = (_faiss.swig_ptr(array) for array in (queries, vectors, rows))
    shape = (vectors.shape[1], len(queries), len(vectors), len(rows), top_k)
    same_rows = 0  # for each query: how far its rows are from those of the one before
    _faiss.knn_inner_products_by_idx(
        *pointers, *shape, _faiss.swig_ptr(scores), _faiss.swig_ptr(found), same_rows
    )
    return scores, found


def mask_of(rows: RowSet, count: int) -> Mask:
    """The set as one boolean for each of ``count`` rows, made from those in it or from the others."""
    if 2 * len(rows) <= count:
        mask = np.zeros(count, np.bool_)
        mask[numbers(rows)] = True
    else:
        mask = np.ones(count, np.bool_)
        mask[numbers(rows.flip(0, count))] = False
    return mask
