"""The FAISS engine: exact while small, an HNSW graph beyond."""

import os
from pathlib import Path
from typing import Any

# FAISS's OpenMP threads must sleep between searches, not spin on the cores that the encoder needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import faiss
import numpy as np

from index.engines import Mask, Rows, Scores
from index.recall import exact_top_k, recall_at_k
from index.vectors import Vectors

_faiss: Any = faiss  # its stubs know neither the search parameters nor arrays where pointers are meant

# FAISS 1.15 never uses BLAS for batches of exact searches unless told. With 20,000 x 384 rows on two cores it
# lost up to 8 queries and won from 16 on: 1.7-fold there, 2.4-fold at 32 (`python -m bench.faiss_threshold`).
_faiss.cvar.distance_compute_blas_threshold = 16

FLAT_LIMIT = 20_000  # rows; below it an exact search takes less than about 4 ms on two cores
_HNSW_LINKS = 32
_HNSW_EF_CONSTRUCTION = 80
_EF_SEARCH_STEPS = (32, 64, 128, 256, 512)
_SCAN_SHARE = 0.1  # with fewer rows allowed than this share, a scan of them beats walking the graph


class FaissEngine:
    """An ``Engine`` on faiss.IndexFlatIP or faiss.IndexHNSWFlat."""

    def __init__(self, index: Any, ef_search: int) -> None:
        self._index = index
        self._ef_search = ef_search
        storage = _faiss.downcast_index(index.storage) if self._is_graph else index
        self._rows: Vectors = np.empty((0, index.d), np.float32)
        if index.ntotal:  # a view into the index's own memory
            self._rows = _faiss.rev_swig_ptr(storage.get_xb(), index.ntotal * index.d).reshape(-1, index.d)
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
    def load(path: Path, ef_search: int) -> "FaissEngine":
        """Map a saved index into memory. Raises RuntimeError when FAISS cannot read it."""
        return FaissEngine(_faiss.read_index(str(path), _faiss.IO_FLAG_MMAP_IFC), ef_search)

    def tuned(self, queries: Vectors, truth: Scores, target_recall: float) -> "FaissEngine":
        """The same index with the least search effort that reaches ``target_recall``, or the most there is.

        ``truth`` holds the (n, k) scores of the true neighbours of the (n, dim) ``queries``.
        """
        if not self._is_graph or not len(queries):
            return self
        for ef_search in _EF_SEARCH_STEPS:
            candidate = FaissEngine(self._index, ef_search)
            if recall_at_k(truth, candidate.search(queries, truth.shape[1])[0]) >= target_recall:
                break
        return candidate

    @property
    def _is_graph(self) -> bool:
        return isinstance(self._index, _faiss.IndexHNSW)

    @property
    def count(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    @property
    def factory(self) -> str:
        return f"HNSW{_HNSW_LINKS},Flat" if self._is_graph else "Flat"

    @property
    def ef_search(self) -> int:
        return self._ef_search

    def search(self, queries: Vectors, top_k: int, allowed: Mask | None = None) -> tuple[Scores, Rows]:
        if allowed is None:
            scores, rows = self._walk(queries, top_k, self._ef_search, None)
            permitted = self.count
        else:
            permitted = int(np.count_nonzero(allowed))
            if permitted <= _SCAN_SHARE * self.count:
                return self._scan(queries, top_k, allowed)
            # Rows that may not be returned still take places in the search's breadth: widen it.
            ef_search = self._ef_search * self.count // permitted
            selector = _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            scores, rows = self._walk(queries, top_k, ef_search, selector)
        short = (rows >= 0).sum(axis=1) < min(top_k, permitted)
        if short.any():  # the graph had no path to enough of them, as with many equal rows
            scores[short], rows[short] = self._scan(queries[short], top_k, allowed)
        return scores, rows

    def vectors(self, rows: Rows) -> Vectors:
        return self._rows[rows]

    def save(self, path: Path) -> None:
        _faiss.write_index(self._index, str(path))

    def _walk(self, queries: Vectors, top_k: int, ef_search: int, selector: object) -> tuple[Scores, Rows]:
        if self._is_graph:
            effort = _faiss.SearchParametersHNSW(efSearch=max(ef_search, top_k), sel=selector)
        else:
            effort = _faiss.SearchParameters(sel=selector)
        scores, rows = self._index.search(queries, top_k, params=effort)
        return scores, rows

    def _scan(self, queries: Vectors, top_k: int, allowed: Mask | None) -> tuple[Scores, Rows]:
        if allowed is None:
            return exact_top_k(self._rows, queries, top_k)
        numbers = np.flatnonzero(allowed)
        scores, nearest = exact_top_k(self._rows[numbers], queries, top_k)
        return scores, np.append(numbers, -1)[nearest]  # -1 stays -1
