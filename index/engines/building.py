"""Building FAISS indexes: what is trained on which rows, and how vectors are searched where they are."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np

from index.engines import Rows
from index.engines.kinds import Kind
from index.vectors import Vectors

_faiss: Any = faiss  # its stubs do not take arrays

_WITHOUT_VECTORS = _faiss.IO_FLAG_SKIP_STORAGE
EF_CONSTRUCTION = (
    160  # 80 builds twice as fast, and then a search to the same recall takes 1.3 to 1.8 times as long
)
_TRAINING_ROWS = 65_536, 64  # at least so many if there are, and so many for each list
_ROWS_AT_ONCE = 65_536  # added: bounds memory while codes are computed


def flat_over(vectors: Vectors) -> Any:
    """An IndexFlatIP that searches these rows where they are."""
    flat = _faiss.IndexFlatIP(vectors.shape[1])
    nobody = flat.codes.owner  # the array stays ours
    flat.codes = _faiss.MaybeOwnedVectorUInt8.create_view(
        _faiss.swig_ptr(vectors.view(np.uint8)), vectors.nbytes, nobody
    )
    flat.ntotal = len(vectors)
    return flat


def rows_of(flat: Any) -> Vectors:
    """The (n, dim) rows of an IndexFlatIP where they are, read-only; the index lives as long as they."""
    interface = {
        "version": 3,
        "shape": (flat.ntotal, flat.d),
        "typestr": "<f4",
        "data": (int(flat.get_xb()) if flat.ntotal else 0, True),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface, index=flat))


def indexed(vectors: Vectors, kind: Kind, flat: Any) -> Any:
    """A graph or lists over (n, dim) rows, which are those of ``flat``, by FAISS's own factory."""
    index = _faiss.index_factory(
        vectors.shape[1], kind.factory.removesuffix(",RFlat"), _faiss.METRIC_INNER_PRODUCT
    )
    if kind.links:
        index.hnsw.efConstruction = EF_CONSTRUCTION
    least, per_list = _TRAINING_ROWS
    if not index.is_trained:
        index.train(vectors[_some(len(vectors), max(least, per_list * kind.lists))])
    _add(index, vectors)
    return _on(flat, index) if kind.is_bare_graph else index


def grown(path: Path, count: int, vectors: Vectors, flat: Any) -> Any:
    """The saved bare graph of the first ``count`` of these rows, which are those of ``flat``, with the others
    added. Raises RuntimeError."""
    index = _faiss.read_index(str(path), _WITHOUT_VECTORS)
    storage = _faiss.IndexFlatIP(flat.d)
    _add(storage, vectors[:count])
    storage.this.disown()
    index.storage, index.own_fields = storage, True
    _add(index, vectors[count:])
    return _on(flat, index)


def _add(index: Any, vectors: Vectors) -> None:
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        index.add(vectors[start : start + _ROWS_AT_ONCE])


def _on(flat: Any, graph: Any) -> Any:
    """A bare graph with the rows of ``flat`` in place of its own copy of them."""
    copy = _faiss.IndexPreTransform(graph.storage)
    copy.own_fields = True  # it frees what it wraps, and is itself freed here
    return stored_in(flat, graph)


def stored_in(flat: Any, graph: Any) -> Any:
    """A bare graph that has no rows of its own, with those of ``flat``, which must live as long."""
    graph.storage, graph.own_fields = flat, False
    flat.this.own(True)  # the line above takes it from its name: nobody would ever free it
    return graph


def _some(count: int, wanted: int) -> Rows:
    """So many of ``count`` rows, ascending, or all of them."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).choice(count, wanted, replace=False))
