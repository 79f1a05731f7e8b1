"""What the service needs of a model, and what it gives it to do: documents to embed, and pairs to match."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors
from models.preprocess import Document, Picture
from models.relevance import Relevance

Probabilities = NDArray[np.float32]  # (n,)


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


Work = Document | Pair  # what waits for the encoder


def work_of(encoder: Encoder) -> Callable[[Sequence[Work]], Vectors]:
    """What the batcher runs: rows (n, dim) of documents, or probabilities (n, 1) of pairs with one query."""

    def run(batch: Sequence[Work]) -> Vectors:
        pairs = [work for work in batch if isinstance(work, Pair)]
        if pairs:
            return encoder.match(pairs[0].query, [pair.candidate for pair in pairs])[:, None]
        return encoder.embed([work for work in batch if isinstance(work, Document)])

    return run
