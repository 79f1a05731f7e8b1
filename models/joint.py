"""Fusion "joint": the trunk reads all parts of a document at once, or the parts of two documents to match."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.bundle import Manifest
from models.preprocess import TOKEN_BUCKETS, Document, Picture, Preprocessor
from models.sequences import Layout, Part, Sequences

Floats = NDArray[np.float32]

_MARKERS = 2  # what a document without text has for words
# Pairs of tokens that attend to each other in one call: with 12 heads in float32 about 200 MB of scores.
_MAX_ATTENTION = 4_000_000


class Run(Protocol):
    """Runs a graph of the bundle on inputs with n rows for one of its outputs, (n, …)."""

    def __call__(self, kind: Literal["image", "document"], output: str, *inputs: NDArray[Any]) -> Floats: ...


class JointRuntime:
    """Embeds and matches documents: pictures through the image graph, then everything through the trunk."""

    def __init__(self, manifest: Manifest, preprocessor: Preprocessor, run: Run, max_batch: int) -> None:
        if manifest.joint is None:
            raise ValueError(f"{manifest.name} is not a joint bundle")
        self._joint = manifest.joint
        self._dim = manifest.dim
        self._embedding = manifest.graphs["document"].output
        self._tokens = manifest.graphs["image"].output
        self._match = manifest.joint.match or ""
        self._preprocessor = preprocessor
        self._run = run
        self._max_batch = max_batch
        cls, sep = preprocessor.markers
        self._layout = Layout(cls, sep, preprocessor.max_tokens, (_MARKERS, *TOKEN_BUCKETS))

    def embed(self, documents: Sequence[Document]) -> Floats:
        """Unit rows (n, dim) in the documents' order; raises TextError."""
        rows = np.empty((len(documents), self._dim), np.float32)
        for chunk in self._alike(documents, beside=0):
            parts, tokens = self._read([documents[i] for i in chunk])
            rows[chunk] = self._trunk(self._embedding, Sequences.of(parts, self._layout), tokens)
        return rows

    @property
    def matches(self) -> bool:
        """Whether the document graph has an output for ``match``."""
        return bool(self._match)

    def match(self, query: Document, candidates: Sequence[Document]) -> Floats:
        """Probabilities (n,) that the query and each candidate match; raises TextError."""
        (asked, *parts), tokens = self._read([query, *candidates])
        logits = np.empty(len(candidates), np.float32)
        for chunk in self._alike(candidates, beside=len(query.pictures)):
            sequences = Sequences.of_pairs([(asked, parts[i]) for i in chunk], self._layout)
            logits[chunk] = self._trunk(self._match, sequences, tokens)
        probabilities: Floats = 0.5 * np.tanh(0.5 * logits) + 0.5  # a sigmoid that cannot overflow
        return probabilities

    def _alike(self, documents: Sequence[Document], beside: int) -> Iterator[list[int]]:
        """Documents that share a call with little padding: as many pictures, texts or none, like length."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, document in enumerate(documents):
            groups.setdefault((len(document.pictures), bool(document.texts)), []).append(i)
        for (pictures, _), group in groups.items():
            group.sort(key=lambda i: sum(map(len, documents[i].texts)))
            length = (pictures + beside) * self._joint.picture_tokens + self._layout.max_tokens
            size = max(1, min(self._max_batch, _MAX_ATTENTION // length**2))
            yield from (group[start : start + size] for start in range(0, len(group), size))

    def _read(self, documents: Sequence[Document]) -> tuple[list[list[Part]], Floats]:
        """The documents' parts, and the tokens (k, M, W) of the k different pictures among them."""
        pictures: dict[int, Picture] = {}
        for document in documents:
            pictures.update((id(picture), picture) for picture in document.pictures)
        numbers = {key: number for number, key in enumerate(pictures)}
        parts: list[list[Part]] = [
            [
                self._preprocessor.words(part) if isinstance(part, str) else numbers[id(part)]
                for part in document.parts
            ]
            for document in documents
        ]
        return parts, self._picture_tokens(list(pictures.values()))

    def _picture_tokens(self, pictures: Sequence[Picture]) -> Floats:
        tokens = np.empty((len(pictures), self._joint.picture_tokens, self._joint.width), np.float32)
        for start in range(0, len(pictures), self._max_batch):
            chunk = pictures[start : start + self._max_batch]
            pixels = self._preprocessor.pixels(chunk)
            tokens[start : start + len(chunk)] = self._run("image", self._tokens, pixels)
        return tokens

    def _trunk(self, output: str, sequences: Sequences, tokens: Floats) -> Floats:
        count, pictures = sequences.pictures.shape
        beside = tokens[sequences.pictures] if pictures else tokens[:0]
        return self._run(
            "document",
            output,
            sequences.input_ids,
            sequences.word_positions,
            sequences.word_slots,
            beside.reshape(count, pictures * self._joint.picture_tokens, self._joint.width),
            sequences.token_slots(self._joint.picture_tokens),
        )
