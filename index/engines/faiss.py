"""The FAISS engine: exact while small, a graph or lists of codes beyond, with the vectors beside them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from index.engines import AUTO, Mask, Params, Rows, Scores, Tuning
from index.engines.building import flat_over, grown, indexed, rows_of, stored_in
from index.engines.kinds import Kind
from index.engines.pages import MappedPages, populate
from index.engines.scanning import mask_of, scan
from index.fields import RowSet, numbers
from index.recall import sure_recall
from index.vectors import Vectors

_faiss: Any = faiss  # its stubs know neither the search parameters nor arrays where pointers are meant

_VECTORS, _INDEX = "vectors.faiss", "index.faiss"
_MAPPED, _WITHOUT_VECTORS = _faiss.IO_FLAG_MMAP_IFC, _faiss.IO_FLAG_SKIP_STORAGE
_BREADTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # of which tuning takes the least that will do
_RESCORES = (1, 2, 4, 8, 16)  # candidates for each hit wanted, likewise
_LOST_TO_CODES = 0.002  # of recall, at most
_EFFORTS = {"low": 0.5, "auto": 1.0, "high": 4.0}  # times what was tuned
_ROWS_PER_STEP = 40  # scanned in the time of one step of a walk (`python -m bench.filters`)
_WIDENING = 8  # of a walk, times the share not allowed: the nearest that are lie further out than the nearest
_NEARLY_ALL = 0.9  # of the rows; with so many allowed a search meets enough of them anywhere
_NEARBY = 64  # rows near a query, at most, that tell how many of its neighbours are allowed

Sample = tuple[Vectors, Scores]  # (n, dim) queries, and the (n, k) scores of their true neighbours


class _Walk(NamedTuple):
    """One way through a graph or lists: its breadth (``ef`` or ``nprobe``), and which rows it may find."""

    breadth: int
    rescore: int = 1  # candidates for each hit; 0: the codes' own order and scores
    selector: object = None


class FaissEngine:
    """An ``Engine`` on FAISS.

    ``vectors.faiss`` holds the vectors, ``index.faiss`` what finds the nearest without looking at all of
    them. Both are mapped: only what searches touch is in memory, and of vectors that merely decide between
    candidates only what they touched lately.
    """

    def __init__(
        self,
        flat: Any,
        index: Any,
        kind: Kind,
        tuning: Tuning,
        rows: Vectors,
        pages: MappedPages | None = None,
    ) -> None:
        """``flat`` is an IndexFlatIP on the memory of ``rows``; without an ``index`` all are searched.

        ``pages`` are those of the rows where they need not stay in memory.
        """
        self._flat = flat
        self._index = index
        self._refined = _faiss.IndexRefine(index, flat) if kind.has_codes else None
        self._kind = kind
        self._tuning = tuning
        self._count = len(rows)
        self._rows = rows.view()
        self._rows.flags.writeable = False  # a mapped file is read-only: writing would kill the process
        self._pages = pages

    @staticmethod
    def build(vectors: Vectors, factory: str = "Flat") -> "FaissEngine":
        """An engine over (n, dim) unit rows, which it keeps; exact if there are none, or fewer than lists.

        Raises InvalidKind.
        """
        kind = Kind.of(factory)
        if len(vectors) < max(1, kind.lists):
            kind = Kind.of("Flat")
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        flat = flat_over(vectors)
        index: Any = None if kind.factory == "Flat" else indexed(vectors, kind, flat)
        return FaissEngine(flat, index, kind, _least(kind), vectors)

    def grown(self, folder: Path, vectors: Vectors) -> "FaissEngine":
        """This bare graph, which was saved in ``folder``, with rows added behind its own.

        ``vectors`` (n, dim) are all rows, its own first; the engine keeps them. Raises RuntimeError.
        """
        flat = flat_over(vectors)
        index = grown(folder / _INDEX, self._count, vectors, flat)
        return FaissEngine(flat, index, self._kind, _least(self._kind), vectors)

    @staticmethod
    def load(folder: Path, factory: str, tuning: Tuning) -> "FaissEngine":
        """Map a saved index into memory. Raises RuntimeError when FAISS cannot read it, and InvalidKind."""
        kind, index = Kind.of(factory), None
        flat = _faiss.read_index(str(folder / _VECTORS), _MAPPED)
        if not isinstance(flat, _faiss.IndexFlatIP):
            raise RuntimeError(f"{folder / _VECTORS}: holds no vectors")
        if kind.factory != "Flat":
            index = _read(folder / _INDEX, kind)
            if (index.ntotal, index.d) != (flat.ntotal, flat.d):
                raise RuntimeError(f"{folder / _INDEX}: is of other vectors")
            if kind.is_bare_graph:
                stored_in(flat, index)
        rows = rows_of(flat)
        if not kind.has_codes:
            populate(folder / _VECTORS)
        pages = MappedPages.of(rows, folder / _VECTORS) if kind.has_codes else None
        return FaissEngine(flat, index, kind, tuning, rows, pages)

    def tuned(
        self, samples: Sequence[Sample], target_recall: float, allowed: RowSet | None = None
    ) -> "FaissEngine":
        """The same index with the least effort that reaches ``target_recall``, or the most there is.

        It must reach it for each of the samples, one for each direction of queries; all true neighbours are
        allowed.
        """
        samples = [sample for sample in samples if len(sample[0])]
        if self._index is None or not samples:
            return self
        tuning = {self._knob: _BREADTHS[-1]}
        if self._kind.has_codes:  # the fewest candidates that lose next to nothing of what more would find
            steps = [self._with(tuning | {"rescore": rescore}) for rescore in _RESCORES]
            target = steps[-1]._sure_recall(samples, allowed) - _LOST_TO_CODES
            tuning = dict(_first(steps, samples, target, allowed).tuning)
        steps = [self._with(tuning | {self._knob: breadth}) for breadth in _BREADTHS]
        return _first(steps, samples, target_recall, allowed)

    @property
    def count(self) -> int:
        return self._count

    @property
    def dim(self) -> int:
        return int(self._flat.d)

    @property
    def rows(self) -> Vectors:
        """All vectors where they are, not to be written."""
        return self._rows

    @property
    def factory(self) -> str:
        return self._kind.factory

    @property
    def can_grow(self) -> bool:
        """Whether rows may be added: to links alone. Codes and lists were trained on what was there."""
        return self._kind.is_bare_graph

    @property
    def tuning(self) -> Tuning:
        return self._tuning

    def search(
        self, queries: Vectors, top_k: int, allowed: RowSet | None = None, params: Params = AUTO
    ) -> tuple[Scores, Rows]:
        found = self._search(queries, top_k, allowed, params)
        if self._pages is not None:
            self._pages.trim()
        return found

    def _search(
        self, queries: Vectors, top_k: int, allowed: RowSet | None, params: Params
    ) -> tuple[Scores, Rows]:
        walk = None if params.exact or self._index is None else self._plan(queries, top_k, allowed, params)
        if walk is None:
            return self._scan(queries, top_k, allowed)
        scores, rows = self._walk(queries, top_k, walk)
        permitted = self._count if allowed is None else len(allowed)
        short = (rows >= 0).sum(axis=1) < min(top_k, permitted)
        if short.any():  # the graph had no path to enough of them, as with many equal rows
            scores[short], rows[short] = self._scan(queries[short], top_k, allowed)
        return scores, rows

    def vectors(self, rows: Rows) -> Vectors:
        return self._rows[rows]

    def save(self, folder: Path) -> list[str]:
        _faiss.write_index(self._flat, str(folder / _VECTORS))
        if self._index is None:
            return [_VECTORS]
        flags = _WITHOUT_VECTORS if self._kind.is_bare_graph else 0
        _faiss.write_index(self._index, str(folder / _INDEX), flags)
        return [_VECTORS, _INDEX]

    @property
    def _knob(self) -> str:
        return "ef" if self._kind.links else "nprobe"

    def _with(self, tuning: Tuning) -> "FaissEngine":
        return FaissEngine(self._flat, self._index, self._kind, tuning, self._rows, self._pages)

    def _plan(self, queries: Vectors, top_k: int, allowed: RowSet | None, params: Params) -> _Walk | None:
        """How to find allowed rows; None when a scan of them is faster."""
        asked = params.ef if self._kind.links else params.nprobe
        breadth = asked or self._tuned(self._knob, params)
        rescore = self._tuned("rescore", params) if params.rescore else 0
        if allowed is None:
            return _Walk(breadth, rescore)
        rows, share = len(allowed), len(allowed) / self._count
        if not rows or not self._walking_pays(_widened(breadth, share), rows):
            return None
        mask = mask_of(allowed, self._count)
        if share < _NEARLY_ALL:
            share = min(share, self._share_nearby(queries, breadth, mask))
            if not self._walking_pays(_widened(breadth, share), rows):
                return None
        selector = _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        return _Walk(_widened(breadth, share), rescore, selector)

    def _tuned(self, name: str, params: Params) -> int:
        return math.ceil(self._tuning.get(name, 1) * _EFFORTS[params.effort])

    def _walking_pays(self, breadth: int, rows: int) -> bool:
        if self._kind.links:
            return rows > _ROWS_PER_STEP * breadth
        return rows > breadth * self._count / self._kind.lists * self._kind.bits / 32  # by bytes read

    def _share_nearby(self, queries: Vectors, breadth: int, mask: Mask) -> float:
        """The least share of allowed rows among those nearest to a query.

        A filter may have to do with what is looked for: then it is not the share among all rows.
        """
        nearby = min(breadth, _NEARBY)
        rows = self._walk(queries, nearby, _Walk(breadth, rescore=0))[1]
        allowed = mask[rows] & (rows >= 0)
        return (int(allowed.sum(axis=1).min(initial=nearby)) + 1) / (nearby + 1)

    def _walk(self, queries: Vectors, top_k: int, walk: _Walk) -> tuple[Scores, Rows]:
        breadth, rescore, selector = walk
        effort: Any
        if self._kind.links:
            effort = _faiss.SearchParametersHNSW(efSearch=max(breadth, top_k * max(1, rescore)), sel=selector)
        else:
            effort = _faiss.SearchParametersIVF(nprobe=min(breadth, self._kind.lists), sel=selector)
        if self._refined is None or not rescore:
            scores, rows = self._index.search(queries, top_k, params=effort)
        else:
            refining = _faiss.IndexRefineSearchParameters(k_factor=rescore, base_index_params=effort)
            scores, rows = self._refined.search(queries, top_k, params=refining)
        return scores, rows

    def _scan(self, queries: Vectors, top_k: int, allowed: RowSet | None) -> tuple[Scores, Rows]:
        if allowed is None:
            scores, rows = self._flat.search(queries, top_k)
            return scores, rows
        return scan(self._rows, queries, top_k, numbers(allowed))

    def _sure_recall(self, samples: Sequence[Sample], allowed: RowSet | None) -> float:
        """The recall of the worst sample."""
        found = (self.search(queries, truth.shape[1], allowed)[0] for queries, truth in samples)
        return min(sure_recall(truth, scores) for (_, truth), scores in zip(samples, found, strict=True))


def _read(path: Path, kind: Kind) -> Any:
    """What finds rows, at hand whole. Raises RuntimeError."""
    if kind.is_packed:
        return _faiss.read_index(str(path))
    index = _faiss.read_index(str(path), _MAPPED | (_WITHOUT_VECTORS if kind.is_bare_graph else 0))
    populate(path)
    return index


def _first(
    steps: Sequence[FaissEngine], samples: Sequence[Sample], target_recall: float, allowed: RowSet | None
) -> FaissEngine:
    """The first that reaches the target surely enough, else the last."""
    enough = (step for step in steps[:-1] if step._sure_recall(samples, allowed) >= target_recall)
    return next(enough, steps[-1])


def _least(kind: Kind) -> Tuning:
    """How an index of a kind is searched before it is tuned."""
    if kind.factory == "Flat":
        return {}
    breadth = {"ef" if kind.links else "nprobe": 32}
    return breadth | ({"rescore": 4} if kind.has_codes else {})


def _widened(breadth: int, share: float) -> int:
    """How broad a walk is where this share of the rows is allowed: the others take places in it too."""
    return math.ceil(breadth * (1 + _WIDENING * (1 - share)) / share)
