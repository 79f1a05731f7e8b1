"""Fusion "joint": the trunk reads all parts of a document at once, or the parts of two documents to match."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.bundle import Manifest
from models.preprocess import TOKEN_BUCKETS, Document, Picture, Preprocessor
from models.sequences import Layout, Part, Parts, Sequences

Floats = NDArray[np.float32]
S = TypeVar("S")

_MARKERS = 2  # what a document without text has for words
# Pairs of tokens that attend to each other in one call: with 12 heads in float32 about 200 MB of scores.
_MAX_ATTENTION = 4_000_000
# What a call costs before its first token, in tokens. Where each new shape is costly calls shall be few.
_CALL_TOKENS, _FEW_CALLS = 16, 1_000_000

Read = list[list[int] | Picture]  # a document's parts in reading order, texts as word pieces


class Run(Protocol):
    """Runs a graph of the bundle on inputs with n rows for one of its outputs, (n, …).

    ``padding`` is the share of the inputs' tokens that is padding; None: they are no tokens.
    """

    def __call__(
        self,
        kind: Literal["image", "document"],
        output: str,
        *inputs: NDArray[Any],
        padding: float | None = None,
    ) -> Floats: ...


class JointRuntime:
    """Embeds and matches documents: pictures through the image graph, then everything through the trunk.

    With few_shapes sequences are padded to few lengths, for a runtime to which each new one is costly;
    without it documents are put into calls so that as little as possible is padded. The trunk is called
    that many times at once, where there are several sequences.
    """

    def __init__(
        self,
        manifest: Manifest,
        preprocessor: Preprocessor,
        run: Run,
        max_batch: int,
        *,
        few_shapes: bool,
        calls: int = 1,
    ) -> None:
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
        self._few_shapes = few_shapes
        self._calls = calls
        self._threads = ThreadPoolExecutor(calls, "trunk") if calls > 1 else None
        cls, sep = preprocessor.markers
        widths = (_MARKERS, *TOKEN_BUCKETS) if few_shapes else ()
        self._layout = Layout(cls, sep, preprocessor.max_tokens, widths)

    def embed(self, documents: Sequence[Document]) -> Floats:
        """Unit rows (n, dim) in the documents' order; raises TextError."""
        read = [self._read(document) for document in documents]
        rows = np.empty((len(documents), self._dim), np.float32)
        for chunk in self._alike(read):
            parts, tokens = self._numbered([read[i] for i in chunk])
            rows[chunk] = self._shared(parts, partial(self._embedded, tokens))
        return rows

    @property
    def matches(self) -> bool:
        """Whether the document graph has an output for ``match``."""
        return bool(self._match)

    def match(self, query: Document, candidates: Sequence[Document]) -> Floats:
        """Probabilities (n,) that the query and each candidate match; raises TextError."""
        beside, *read = (self._read(document) for document in (query, *candidates))
        (asked, *parts), tokens = self._numbered([beside, *read])
        logits = np.empty(len(candidates), np.float32)
        for chunk in self._alike(read, self._length(beside)):
            logits[chunk] = self._shared([(asked, parts[i]) for i in chunk], partial(self._matched, tokens))
        probabilities: Floats = 0.5 * np.tanh(0.5 * logits) + 0.5  # a sigmoid that cannot overflow
        return probabilities

    def _alike(self, documents: Sequence[Read], beside: int = 0) -> Iterator[list[int]]:
        """Documents that share a call: as many pictures, texts or none, like length.

        Each has ``beside`` tokens of another document in its sequence.
        """
        lengths = [self._length(document) + beside for document in documents]
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, document in enumerate(documents):
            pictures = sum(isinstance(part, np.ndarray) for part in document)
            groups.setdefault((pictures, pictures < len(document)), []).append(i)
        for group in groups.values():
            group.sort(key=lengths.__getitem__)
            call = _FEW_CALLS if self._few_shapes else _CALL_TOKENS
            ends = _ends([lengths[i] for i in group], self._max_batch, call)
            yield from (group[start:end] for start, end in pairwise((0, *ends)))

    def _length(self, document: Read) -> int:
        """Tokens of a document's sequence."""
        pictures = sum(isinstance(part, np.ndarray) for part in document)
        words = sum(len(part) + 1 for part in document if isinstance(part, list)) or 1
        return pictures * self._joint.picture_tokens + min(1 + words, self._layout.max_tokens)

    def _read(self, document: Document) -> Read:
        return [self._preprocessor.words(part) if isinstance(part, str) else part for part in document.parts]

    def _numbered(self, documents: Sequence[Read]) -> tuple[list[list[Part]], Floats]:
        """The documents' parts, and the tokens (k, M, W) of the k different pictures among them."""
        pictures = {
            id(part): part for document in documents for part in document if not isinstance(part, list)
        }
        numbers = {key: number for number, key in enumerate(pictures)}
        parts: list[list[Part]] = [
            [part if isinstance(part, list) else numbers[id(part)] for part in document]
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

    def _embedded(self, tokens: Floats, documents: Sequence[Parts]) -> Floats:
        return self._trunk(self._embedding, Sequences.of(documents, self._layout), tokens)

    def _matched(self, tokens: Floats, pairs: Sequence[tuple[Parts, Parts]]) -> Floats:
        return self._trunk(self._match, Sequences.of_pairs(pairs, self._layout), tokens)

    def _shared(self, sequences: Sequence[S], call: Callable[[Sequence[S]], Floats]) -> Floats:
        """What a call gives for these, in as many calls at once as there may be."""
        if self._threads is None or len(sequences) == 1:
            return call(sequences)
        size = -(-len(sequences) // self._calls)
        shares = [sequences[start : start + size] for start in range(0, len(sequences), size)]
        return np.concatenate(list(self._threads.map(call, shares)))

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
            padding=sequences.padding(self._joint.picture_tokens),
        )


def _ends(lengths: Sequence[int], max_batch: int, call_tokens: int) -> list[int]:
    """Where the calls end that sequences of ascending lengths are cheapest in.

    All sequences of a call are as long as its longest, and a call costs ``call_tokens`` more.
    """
    cheapest = [(0, 0)]  # up to each sequence: tokens, and where the last call begins
    for end, longest in enumerate(lengths, 1):
        most = max(1, min(max_batch, _MAX_ATTENTION // longest**2))
        cheapest.append(
            min(
                (cheapest[start][0] + call_tokens + (end - start) * longest, start)
                for start in range(max(0, end - most), end)
            )
        )
    ends = [len(lengths)]
    while start := cheapest[ends[-1]][1]:
        ends.append(start)
    return ends[::-1]
