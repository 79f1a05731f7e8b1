"""Building FAISS indexes: what is trained on which rows, and how vectors are searched where they are."""

from typing import Any

import faiss
import numpy as np

from index.engines import Rows
from index.engines.kinds import Kind
from index.vectors import Vectors

_faiss: Any = faiss  # its stubs do not take arrays

_EF_CONSTRUCTION = 80
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


def indexed(vectors: Vectors, kind: Kind) -> Any:
    """A graph or lists over (n, dim) rows, of vectors or of codes, by FAISS's own factory."""
    index = _faiss.index_factory(
        vectors.shape[1], kind.factory.removesuffix(",RFlat"), _faiss.METRIC_INNER_PRODUCT
    )
    if kind.links:
        index.hnsw.efConstruction = _EF_CONSTRUCTION
    least, per_list = _TRAINING_ROWS
    if not index.is_trained:
        index.train(vectors[_some(len(vectors), max(least, per_list * kind.lists))])
    add(index, vectors)
    return index


def add(index: Any, vectors: Vectors) -> None:
    """Add rows to an index, some at a time."""
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        index.add(vectors[start : start + _ROWS_AT_ONCE])


def without_copy(index: Any, flat: Any, kind: Kind) -> Any:
    """The index; if it is a graph alone, on the vectors of ``flat`` instead of those that it was built on."""
    if kind.is_graph_alone:
        copy = _faiss.downcast_index(index.storage)
        copy.this.own(True)  # so that its memory goes with the last name for it, which is here
        index.storage, index.own_fields = flat, False
    return index


def _some(count: int, wanted: int) -> Rows:
    """So many of ``count`` rows, ascending, or all of them."""
    if wanted >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).choice(count, wanted, replace=False))
