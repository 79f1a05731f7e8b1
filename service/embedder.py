"""The embedder: texts and encoded pictures in, unit rows or match probabilities out, by the batcher."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors
from models.preprocess import Document, Picture
from service.batcher import Batcher, Lane

Part = str | bytes  # a text, or the encoded bytes of a picture
Content = tuple[Part, ...]  # what shares one row, in reading order
Probabilities = NDArray[np.float32]  # (n,)
Load = Callable[[], Content]  # reads a content when its turn comes, on a decoding thread
P = ParamSpec("P")
T = TypeVar("T")
_FEW = 8  # documents; a request with more of them lets those with fewer go first
_LONG_CHARS = 2000  # of a text; tokenising a longer one on the event loop would delay every other request
_BULK_AT_ONCE = 2  # chunks of bulk jobs that are decoded and encoded at the same time; others wait
MAX_PICTURES = 8  # of one document: what a joint encoder can tell apart
MATCHED_AT_ONCE = 4  # documents of one request; then whoever came meanwhile has a turn


class Preprocessor(Protocol):
    """What the service needs to know about a model's inputs."""

    def picture(self, data: bytes, *, max_pixels: int) -> Picture: ...
    def check_text(self, text: str) -> None: ...
    def count_tokens(self, text: str) -> int: ...


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


class RerankUnsupported(ValueError):
    """The encoder embeds documents but cannot compare two of them."""


class TextTooLong(ValueError):
    """A text has more characters than allowed."""


@dataclass(frozen=True)
class Limits:
    """What one input may be."""

    max_image_bytes: int
    max_image_pixels: int
    max_text_chars: int
    max_metadata_bytes: int
    max_items: int


class TooManyPictures(ValueError):
    """A document has more pictures than an encoder can read together."""


class TooManyItems(ValueError):
    """The request holds more items, texts or pictures than allowed."""


class Embedder:
    """Embeds contents: ordered tuples of texts and pictures, each with its own row or its own error.

    ``observe`` is told how long stages took: encode, from a request's contents to its rows, and within it
    decode, of each picture.
    """

    def __init__(
        self,
        encoder: Encoder,
        batcher: Batcher[Work],
        limits: Limits,
        decode_threads: int,
        observe: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> None:
        self._observe = observe
        self.encoder = encoder
        self.batcher = batcher
        self.limits = limits
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._bulk = asyncio.Semaphore(_BULK_AT_ONCE)
        # Of the decoding threads one is left to interactive pictures, if there is more than one.
        self._bulk_decoding = asyncio.Semaphore(max(1, decode_threads - 1))

    def close(self) -> None:
        """Release the decoding threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)

    async def embed(
        self, contents: Sequence[Content], lane: Lane = "interactive"
    ) -> list[Vectors | Exception]:
        """A row or an error for each content. Interactive callers are refused when there is no room."""
        if lane == "bulk":
            async with self._bulk:
                return await self._embed_each(contents, lane)
        parts = self.check_count(contents)
        if not parts:
            return []
        with self.batcher.permit(parts):
            return await self._embed_each(contents, lane if parts <= _FEW else "large")

    async def match(self, query: Content, candidates: Sequence[Content | Load]) -> list[float | Exception]:
        """The probability that each candidate matches the query, or the candidate's own error.

        A few are read and matched at a time, so that a long list keeps nobody else waiting for long. Raises
        RerankUnsupported, Overloaded, and what is wrong with the query.
        """
        self.check_matches()
        with self.batcher.permit(len(candidates)):
            asked = await self.in_decoder(lambda: self._document(query))
            found: list[float | Exception] = []
            for start in range(0, len(candidates), MATCHED_AT_ONCE):
                found += await self._match(asked, candidates[start : start + MATCHED_AT_ONCE])
        return found

    def check_matches(self) -> None:
        """Raise RerankUnsupported unless the encoder can match."""
        if not self.encoder.matches:
            raise RerankUnsupported(f"{model_name(self.encoder.id)!r} cannot compare two documents.")

    def check_count(self, contents: Sequence[Content]) -> int:
        """How many texts and pictures there are; raises TooManyItems."""
        parts = sum(map(len, contents))
        if parts > self.limits.max_items:
            raise TooManyItems(f"{parts} texts and pictures; at most {self.limits.max_items} are allowed.")
        return parts

    async def _match(self, query: Document, candidates: Sequence[Content | Load]) -> list[float | Exception]:
        async def read(given: Content | Load) -> Document:
            return await self.in_decoder(lambda: self._document(given() if callable(given) else given))

        async def compare(candidate: Document | Exception) -> float:
            if isinstance(candidate, Exception):
                raise candidate
            return float((await self.batcher.submit(Pair(query, candidate)))[0])

        documents = await asyncio.gather(*(_attempt(read, candidate) for candidate in candidates))
        return await asyncio.gather(*(_attempt(compare, document) for document in documents))

    async def _embed_each(self, contents: Sequence[Content], lane: Lane) -> list[Vectors | Exception]:
        started = time.perf_counter()
        rows = await asyncio.gather(*(_attempt(self._embed, content, lane) for content in contents))
        if lane != "bulk":
            self._observe("encode", time.perf_counter() - started)
        return rows

    async def _embed(self, content: Content, lane: Lane) -> Vectors:
        if any(isinstance(part, bytes) or len(part) > _LONG_CHARS for part in content):
            async with self._bulk_decoding if lane == "bulk" else nullcontext():
                document = await self.in_decoder(lambda: self._document(content))
        else:
            document = self._document(content)
        return await self.batcher.submit(document, lane)

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts the encoder reads."""
        return await self.in_decoder(lambda: sum(map(self.encoder.preprocessor.count_tokens, texts)))

    def _document(self, content: Content) -> Document:
        preprocessor, limits = self.encoder.preprocessor, self.limits
        pictures = sum(isinstance(part, bytes) for part in content)
        if pictures > MAX_PICTURES:
            raise TooManyPictures(
                f"{pictures} pictures in one document; at most {MAX_PICTURES} are read together."
            )
        parts: list[str | Picture] = []
        for part in content:
            if isinstance(part, bytes):
                parts.append(preprocessor.picture(part, max_pixels=limits.max_image_pixels))
            elif len(part) > limits.max_text_chars:
                raise TextTooLong(
                    f"The text has {len(part)} characters; at most {limits.max_text_chars} are allowed."
                )
            else:
                preprocessor.check_text(part)
                parts.append(part)
        return Document(tuple(parts))

    async def in_decoder(self, work: Callable[[], T]) -> T:
        """Run work that reads pictures on one of the decoding threads."""
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        finally:
            self._observe("decode", time.perf_counter() - started)


async def _attempt(work: Callable[P, Awaitable[T]], *given: P.args, **named: P.kwargs) -> T | Exception:
    """What comes of work, or its error, which belongs to one content: its neighbours get their results."""
    try:
        return await work(*given, **named)
    except Exception as error:
        return error


def model_name(encoder_id: str) -> str:
    """The readable part of an encoder_id, "<name>-<12 hex digits>"."""
    return encoder_id.rpartition("-")[0] or encoder_id
