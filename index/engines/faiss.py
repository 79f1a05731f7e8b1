"""The FAISS engine: exact while small, an HNSW graph beyond."""

import math
import os
from pathlib import Path
from typing import Any

# FAISS's OpenMP threads must sleep between searches, not spin on the cores that the encoder needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import faiss
import numpy as np

from index.engines import Mask, Rows, Scores
from index.fields import RowSet, numbers
from index.recall import exact_top_k, recall_at_k
from index.vectors import Vectors

_faiss: Any = faiss  # its stubs know neither the search parameters nor arrays where pointers are meant

# FAISS 1.15 never uses BLAS for batches of exact searches unless told. With 20,000 x 384 rows on two cores it
# lost up to 8 queries and won from 16 on: 1.7-fold there, 2.4-fold at 32 (`python -m bench.faiss_threshold`).
_faiss.cvar.distance_compute_blas_threshold = 16

FLAT_LIMIT = 20_000  # rows; below it an exact search takes less than about 4 ms on two cores
_HNSW_LINKS = 32
_HNSW_EF_CONSTRUCTION = 80
_NO_SCORE = np.finfo(np.float32).min  # what FAISS pads with
_EF_SEARCH_STEPS = (32, 64, 128, 256, 512)
_ROWS_PER_STEP = 40  # scanned in the time of one step of a walk (`python -m bench.filters`)
_WIDENING = 8  # of a walk, times the share not allowed: the nearest that are lie further out than the nearest
_NEARLY_ALL = 0.9  # of the rows; with so many allowed a walk meets enough of them anywhere


class FaissEngine:
    """An ``Engine`` on faiss.IndexFlatIP or faiss.IndexHNSWFlat."""

    def __init__(self, index: Any, ef_search: int) -> None:
        self._index = index
        self._ef_search = ef_search
        self._count = int(index.ntotal)
        self._is_graph = isinstance(index, _faiss.IndexHNSW)
        storage = _faiss.downcast_index(index.storage) if self._is_graph else index
        self._rows: Vectors = np.empty((0, index.d), np.float32)
        if self._count:  # a view into the index's own memory
            self._rows = _faiss.rev_swig_ptr(storage.get_xb(), self._count * index.d).reshape(-1, index.d)
        self._rows.flags.writeable = False  # a mapped file is read-only: writing would kill the process

    @staticmethod
    def build(vectors: Vectors, flat_limit: int = FLAT_LIMIT) -> "FaissEngine":
        """An engine over (n, dim) unit rows: exact up to ``flat_limit`` rows, HNSW beyond."""
        dim = vectors.shape[1]
        index = _faiss.IndexFlatIP(dim)
        if len(vectors) > flat_limit:
            index = _faiss.IndexHNSWFlat(dim, _HNSW_LINKS, _faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _HNSW_EF_CONSTRUCTION
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return FaissEngine(index, _EF_SEARCH_STEPS[0])

    @staticmethod
    def grown(path: Path, vectors: Vectors) -> "FaissEngine":
        """A saved graph with (n, dim) unit rows added behind its own. Raises RuntimeError."""
        index = _faiss.read_index(str(path))  # in memory: what is mapped cannot grow
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        return FaissEngine(index, _EF_SEARCH_STEPS[0])

    @staticmethod
    def load(path: Path, ef_search: int) -> "FaissEngine":
        """Map a saved index into memory. Raises RuntimeError when FAISS cannot read it."""
        return FaissEngine(_faiss.read_index(str(path), _faiss.IO_FLAG_MMAP_IFC), ef_search)

    def tuned(
        self, queries: Vectors, truth: Scores, target_recall: float, allowed: RowSet | None = None
    ) -> "FaissEngine":
        """The same index with the least search effort that reaches ``target_recall``, or the most there is.

        ``truth`` holds the (n, k) scores of the true neighbours of the (n, dim) ``queries``, all ``allowed``.
        """
        if not self._is_graph or not len(queries):
            return self
        for ef_search in _EF_SEARCH_STEPS:
            candidate = FaissEngine(self._index, ef_search)
            if recall_at_k(truth, candidate.search(queries, truth.shape[1], allowed)[0]) >= target_recall:
                break
        return candidate

    @property
    def count(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        return int(self._index.d)

    @property
    def can_grow(self) -> bool:
        return self._is_graph

    @property
    def factory(self) -> str:
        return f"HNSW{_HNSW_LINKS},Flat" if self._is_graph else "Flat"

    @property
    def ef_search(self) -> int:
        return self._ef_search

    def search(self, queries: Vectors, top_k: int, allowed: RowSet | None = None) -> tuple[Scores, Rows]:
        walk = (self._ef_search, None) if allowed is None else self._walk_among(queries, allowed)
        if walk is None:
            return self._scan(queries, top_k, allowed)
        scores, rows = self._walk(queries, top_k, *walk)
        permitted = self._count if allowed is None else len(allowed)
        short = (rows >= 0).sum(axis=1) < min(top_k, permitted)
        if short.any():  # the graph had no path to enough of them, as with many equal rows
            scores[short], rows[short] = self._scan(queries[short], top_k, allowed)
        return scores, rows

    def vectors(self, rows: Rows) -> Vectors:
        return self._rows[rows]

    def save(self, path: Path) -> None:
        _faiss.write_index(self._index, str(path))

    def _walk_among(self, queries: Vectors, allowed: RowSet) -> tuple[int, object] | None:
        """The breadth and the selector of a walk that finds allowed rows; None when a scan is faster."""
        rows = len(allowed)
        if not self._is_graph or not rows or not self._walking_pays(rows / self._count, rows):
            return None
        share, mask = rows / self._count, _mask(allowed, self._count)
        if share < _NEARLY_ALL:
            share = min(share, self._share_nearby(queries, mask))
            if not self._walking_pays(share, rows):
                return None
        return self._breadth(share), _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def _walking_pays(self, share: float, rows: int) -> bool:
        return rows > _ROWS_PER_STEP * self._breadth(share)

    def _breadth(self, share: float) -> int:
        """How broad a walk is where this share of the rows is allowed: the others take places in it too."""
        return math.ceil(self._ef_search * (1 + _WIDENING * (1 - share)) / share)

    def _share_nearby(self, queries: Vectors, mask: Mask) -> float:
        """The least share of allowed rows among those nearest to a query.

        A filter may have to do with what is looked for: then it is not the share among all rows.
        """
        rows = self._walk(queries, self._ef_search, self._ef_search, None)[1]
        allowed = mask[rows] & (rows >= 0)
        least = int(allowed.sum(axis=1).min(initial=self._ef_search))
        return (least + 1) / (self._ef_search + 1)

    def _walk(self, queries: Vectors, top_k: int, ef_search: int, selector: object) -> tuple[Scores, Rows]:
        if self._is_graph:
            effort = _faiss.SearchParametersHNSW(efSearch=max(ef_search, top_k), sel=selector)
        else:
            effort = _faiss.SearchParameters(sel=selector)
        scores, rows = self._index.search(queries, top_k, params=effort)
        return scores, rows

    def _scan(self, queries: Vectors, top_k: int, allowed: RowSet | None) -> tuple[Scores, Rows]:
        if allowed is None:
            return exact_top_k(self._rows, queries, top_k)
        return scan(self._rows, queries, top_k, numbers(allowed))


def scan(vectors: Vectors, queries: Vectors, top_k: int, rows: Rows) -> tuple[Scores, Rows]:
    """The true ``top_k`` of each query among these rows of (n, dim) ``vectors``, none of which is copied.

    Like an engine's answer: padded with rows of -1 whose scores are below any cosine.
    """
    queries = np.ascontiguousarray(queries)
    scores, found = np.empty((len(queries), top_k), np.float32), np.empty((len(queries), top_k), np.int64)
    if not len(rows) or not len(queries):
        scores[:], found[:] = _NO_SCORE, -1
        return scores, found
    pointers = (_faiss.swig_ptr(array) for array in (queries, vectors, rows))
    shape = (vectors.shape[1], len(queries), len(vectors), len(rows), top_k)
    same_rows = 0  # for each query: how far its rows are from those of the one before
    _faiss.knn_inner_products_by_idx(
        *pointers, *shape, _faiss.swig_ptr(scores), _faiss.swig_ptr(found), same_rows
    )
    return scores, found


def _mask(rows: RowSet, count: int) -> Mask:
    """The set as one boolean for each of ``count`` rows, made from those in it or from the others."""
    if 2 * len(rows) <= count:
        mask = np.zeros(count, np.bool_)
        mask[numbers(rows)] = True
    else:
        mask = np.ones(count, np.bool_)
        mask[numbers(rows.flip(0, count))] = False
    return mask
