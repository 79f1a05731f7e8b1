"""The runtime: documents in, unit rows or match probabilities out, on ONNX Runtime."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.joint import JointRuntime
from models.preprocess import Document, Picture, Preprocessor
from models.relevance import Relevance
from models.sessions import PROVIDERS, Device, ProviderError, accelerators, session_of

Rows = NDArray[np.float32]  # (n, dim), unit length, C-contiguous

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)
_CANARY_MAX_PIXELS = 1_000_000
_SHORT_CHARS = 60  # shorter texts differ by few tokens


class MatchUnsupported(RuntimeError):
    """The bundle has no graph that compares two documents."""


@dataclass(frozen=True, eq=False)
class Canary:
    """A document whose row is known."""

    document: Document
    expected_row: Rows  # (dim,)


class Encoder:
    """Embeds documents with one bundle. Any threads may call it at once: ``workers`` calls fill its cores.

    ``observe_padding`` is told of each call that reads tokens which share of them, from 0 to 1, was padding:
    behind documents that are shorter than others, and in rows that only fill up a batch.
    """

    def __init__(
        self, bundle: Bundle, device: Device, *, threads: int, max_batch: int, side_by_side: bool = False
    ) -> None:
        self.bundle = bundle
        self.id = bundle.encoder_id
        self.dim = bundle.dim
        self.preprocessor = Preprocessor(
            bundle.manifest.preprocessing,
            bundle.file(bundle.manifest.tokenizer.file),
            max_tokens=bundle.manifest.tokenizer.max_tokens,
            padding=bundle.manifest.tokenizer.padding,
        )
        self._max_batch = max_batch
        self.observe_padding: Callable[[float], None] = lambda share: None
        self.workers = 1
        if side_by_side and device == "cpu":
            self.workers, threads = threads or len(os.sched_getaffinity(0)), 1
        # A trunk's products are too small for threads to share: each core has a call of its own. A picture's
        # convolutions are large enough.
        cores = threads or len(os.sched_getaffinity(0))
        calls = cores if bundle.manifest.joint is not None and device == "cpu" else 1
        self._graphs = {
            kind: (
                session_of(
                    bundle.file(graph.file), device, 1 if calls > 1 and kind == "document" else threads
                ),
                graph,
            )
            for kind, graph in bundle.manifest.graphs.items()
        }
        self._few_shapes = device != "cpu"
        self.relevance = Relevance.read(bundle)
        self._joint = None
        if bundle.manifest.joint is not None:
            self._joint = JointRuntime(
                bundle.manifest,
                self.preprocessor,
                self._run,
                max_batch,
                few_shapes=self._few_shapes,
                calls=calls,
            )

    @classmethod
    def load(
        cls,
        bundle: Bundle | Path,
        *,
        device: Device = "auto",
        threads: int = 0,
        max_batch: int = 32,
        side_by_side: bool = False,
    ) -> Self:
        """Open the bundle's graphs on a device; threads=0 lets the runtime take every core.

        ``side_by_side`` is for callers on several threads. On a CPU each of its threads is then a worker of
        its own: two calls on a core each take less time than one after the other on both.

        "auto" is CUDA where a CUDA session really runs, else OpenVINO where its plugin is installed, else the
        CPU. A device asked for by name that does not really run raises ProviderError.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        for candidate in accelerators() if device == "auto" else ():
            try:
                return cls(opened, candidate, threads=threads, max_batch=max_batch)
            except ProviderError:
                continue
        wanted: Device = "cpu" if device == "auto" else device
        return cls(opened, wanted, threads=threads, max_batch=max_batch, side_by_side=side_by_side)

    @property
    def providers(self) -> list[str]:
        """The execution providers that really run, by the sessions' own account, most preferred first."""
        return list(dict.fromkeys(p for session, _ in self._graphs.values() for p in session.get_providers()))

    @property
    def precision(self) -> str:
        """The weights' number type; "+bf16" under OpenVINO, which uses f32 on a CPU that has no bf16."""
        weights = "/".join(sorted(set(self.bundle.manifest.precision.values())))
        return f"{weights}+bf16" if PROVIDERS["openvino"] in self.providers else weights

    @property
    def modalities(self) -> tuple[str, ...]:
        """Which kinds of documents the bundle embeds: of text, image, mixed."""
        return self.bundle.modalities

    @property
    def fusion(self) -> str:
        """How the parts of a document become one row: "mean" of their rows, or "joint" in one sequence."""
        return self.bundle.manifest.fusion

    @property
    def matches(self) -> bool:
        """Whether ``match`` can compare documents."""
        return self._joint is not None and self._joint.matches

    def embed(self, documents: Sequence[Document]) -> Rows:
        """Unit rows, float32 (n, dim), in the documents' order; raises TextError for a text without words.

        With fusion "mean" a document of several parts gets the normalised mean of its parts' unit rows.
        """
        if self._joint is not None:
            return self._joint.embed(documents)
        texts = [text for document in documents for text in document.texts]
        pictures = [picture for document in documents for picture in document.pictures]
        text_rows, picture_rows = iter(self._embed_texts(texts)), iter(self._embed_pictures(pictures))
        rows = np.empty((len(documents), self.dim), np.float32)
        for row, document in zip(rows, documents, strict=True):
            parts = [next(text_rows if isinstance(part, str) else picture_rows) for part in document.parts]
            row[:] = parts[0] if len(parts) == 1 else _unit(np.mean(parts, axis=0))
        return rows

    def match(self, query: Document, candidates: Sequence[Document]) -> NDArray[np.float32]:
        """The probability (n,) that each candidate matches the query, read together in one sequence.

        Order candidates by it; it is costlier than ``embed``, and nothing of it can be kept for the next
        query. Raises MatchUnsupported, TextError.
        """
        if self._joint is None or not self._joint.matches:
            raise MatchUnsupported(f"{self.bundle.name} embeds documents but cannot compare two of them")
        return self._joint.match(query, candidates)

    def probes(self) -> Rows:
        """Rows (m, dim) of typical text queries."""
        return self.bundle.probes()["text"]

    def canaries(self) -> list[Canary]:
        """The bundle's known answers: a text, a picture, and the two as one document."""
        spec = self.bundle.manifest.canary
        data = self.bundle.file(spec.picture).read_bytes()
        picture = self.preprocessor.picture(data, max_pixels=_CANARY_MAX_PIXELS)
        documents = Document((spec.text,)), Document((picture,)), Document((spec.text, picture))
        rows = self.bundle.array(spec.rows)
        return [Canary(document, row) for document, row in zip(documents, rows, strict=True)]

    def canary_cosine(self) -> float:
        """The worst cosine between a canary's row here and the row it should have."""
        canaries = self.canaries()
        rows = self.embed([canary.document for canary in canaries])
        return min(float(row @ canary.expected_row) for row, canary in zip(rows, canaries, strict=True))

    def _embed_texts(self, texts: Sequence[str]) -> Rows:
        lengths = [len(text) for text in texts]
        graph = self.bundle.manifest.graphs["text"]
        wanted = len(graph.inputs)  # a graph that looks at no mask names none
        rows = np.empty((len(texts), self.dim), np.float32)
        for chunk in alike(lengths, self._max_batch, few=self._few_shapes):
            ids, mask = self.preprocessor.tokens([texts[i] for i in chunk])
            padding = 1.0 - np.count_nonzero(mask) / mask.size
            rows[chunk] = self._run("text", graph.output, *(ids, mask)[:wanted], padding=padding)
        return rows

    def _embed_pictures(self, pictures: Sequence[Picture]) -> Rows:
        output = self.bundle.manifest.graphs["image"].output
        rows = np.empty((len(pictures), self.dim), np.float32)
        for chunk in _chunks(list(range(len(pictures))), self._max_batch):
            rows[chunk] = self._run("image", output, self.preprocessor.pixels([pictures[i] for i in chunk]))
        return rows

    def _run(
        self,
        kind: Literal["text", "image", "document"],
        output: str,
        *inputs: NDArray[Any],
        padding: float | None = None,
    ) -> NDArray[np.float32]:
        """One session call. Few batch sizes ever reach a runtime that prepares itself for each.

        ``padding`` is the share of the inputs' tokens that is padding; None: they are no tokens.
        """
        session, graph = self._graphs[kind]
        count = size = len(inputs[0])
        if self._few_shapes:
            size = next((bucket for bucket in _BATCH_BUCKETS if bucket >= count), count)
        if padding is not None:
            self.observe_padding(1.0 - (1.0 - padding) * count / size)
        padded = [np.concatenate([array, array[:1].repeat(size - count, 0)]) for array in inputs]
        fed = padded if size > count else inputs
        feed = dict(zip(graph.inputs, fed, strict=True))
        (rows,) = session.run([output], feed)
        found: NDArray[np.float32] = rows[:count]
        return found


def alike(lengths: Sequence[int], size: int, *, few: bool) -> Iterator[list[int]]:
    """Which texts share a call, at most ``size``, by their characters: those of like length.

    A call ends where a text would make the shortest more than twice as long; where calls shall be ``few``,
    only when it is full.
    """
    chunk: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        longer = chunk and not few and lengths[i] > 2 * max(lengths[chunk[0]], _SHORT_CHARS)
        if longer or len(chunk) == size:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def _chunks(order: list[int], size: int) -> Iterator[list[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))


def _unit(row: Rows) -> Rows:
    length = np.linalg.norm(row)
    unit: Rows = row / max(length, np.float32(1e-12))
    return unit
