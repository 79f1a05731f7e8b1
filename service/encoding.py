"""What the service needs of a model, and what it gives it to do: documents to embed, and pairs to match."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors
from models.preprocess import Document, Picture
from models.relevance import Relevance

Probabilities = NDArray[np.float32]  # (n,)
Precision = Literal["float", "int8", "ubinary"]  # of the numbers of a row


class Preprocessor(Protocol):
    """What the service needs to know about a model's inputs."""

    max_tokens: int  # of a text that the encoder reads; of fusion "joint", of all texts of a document

    def picture(self, data: bytes, *, max_pixels: int) -> Picture: ...
    def count_tokens(self, text: str) -> int: ...
    def count_all_tokens(self, text: str) -> int: ...


class Encoder(Protocol):
    """What the service needs of a model."""

    @property
    def id(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def preprocessor(self) -> Preprocessor: ...
    @property
    def providers(self) -> list[str]: ...
    @property
    def precision(self) -> str: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def fusion(self) -> str: ...
    @property
    def matches(self) -> bool: ...
    @property
    def workers(self) -> int: ...
    @property
    def relevance(self) -> Relevance | None: ...
    def embed(self, documents: Sequence[Document]) -> Vectors: ...
    def match(self, query: Document, candidates: Sequence[Document]) -> Probabilities: ...


@dataclass(frozen=True, eq=False)
class Pair:
    """Two documents to match."""

    query: Document
    candidate: Document


@dataclass(frozen=True, eq=False)
class Unread:
    """A document that is read by whoever encodes it. ``read`` raises what is wrong with it."""

    read: Callable[[], Document]


Work = Document | Unread | Pair  # what waits for the encoder


def work_of(encoder: Encoder) -> Callable[[Sequence[Work]], Sequence[Vectors | Exception]]:
    """What the batcher runs: rows (n, dim) of documents, or probabilities (n, 1) of pairs with one query.

    In place of the row of a document that cannot be read is what is wrong with it.
    """

    def run(batch: Sequence[Work]) -> Sequence[Vectors | Exception]:
        pairs = [work for work in batch if isinstance(work, Pair)]
        if pairs:
            return list(encoder.match(pairs[0].query, [pair.candidate for pair in pairs])[:, None])
        found = [_read(work) if isinstance(work, Unread) else work for work in batch]
        documents = [each for each in found if isinstance(each, Document)]
        rows = iter(encoder.embed(documents) if documents else ())
        return [each if isinstance(each, Exception) else next(rows) for each in found]

    return run


def _read(work: Unread) -> Document | Exception:
    try:
        return work.read()
    except Exception as error:
        return error


def quantized(row: Vectors, kind: Precision) -> NDArray[np.generic]:
    """A row (dim,) in fewer bytes, C-contiguous: its direction in int8, or its signs in bits. Cosines stay
    nearly equal."""
    if kind == "ubinary":
        return np.packbits(row > 0)
    if kind == "int8":
        stretched: NDArray[np.int8] = np.rint(row * (127 / np.abs(row).max())).astype(np.int8)
        return stretched
    return np.ascontiguousarray(row, "<f4")
