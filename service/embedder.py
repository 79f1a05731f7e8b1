"""The embedder: texts and encoded pictures in, unit rows or match probabilities out, by the batcher."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors
from models.preprocess import Document, Picture, announced_pixels
from service.admission import Admission, Lane
from service.batcher import Batcher
from service.caller import DeadlinePassed, caller
from service.encoding import Encoder, Pair, Work
from service.grouping import MATCHED_AT_ONCE, group_of

Part = str | bytes  # a text, or the encoded bytes of a picture
Content = tuple[Part, ...]  # what shares one row, in reading order
Precision = Literal["float", "int8", "ubinary"]  # of the numbers of a row
Load = Callable[[], Content]  # reads a content when its turn comes, on a decoding thread
P = ParamSpec("P")
T = TypeVar("T")
_FEW = 8  # documents; a request with more of them lets those with fewer go first
_LONG_CHARS = 2000  # of a text; tokenising a longer one on the event loop would delay every other request
_BULK_AT_ONCE = 2  # chunks of bulk jobs that are decoded and encoded at the same time; others wait
MAX_PICTURES = 8  # of one document: what a joint encoder can tell apart
_DECODED_AT_ONCE = 8  # contents of a bulk job
_DECODED_AHEAD = 8  # times as many: while others are served, decoding must not take the cores from them
_COUNTED_TEXTS = 4096  # whose tokens are not counted again: of a request, once to check it and once to tell


class DimensionsUnsupported(ValueError):
    """Rows of a length that the encoder does not make."""


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
    max_request_pixels: int


class TooManyPictures(ValueError):
    """A document has more pictures than an encoder can read together."""


class TooManyPixels(ValueError):
    """The pictures of a request together have more pixels than allowed."""


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
        admission: Admission,
        limits: Limits,
        decode_threads: int,
        observe: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> None:
        self._observe = observe
        self.encoder = encoder
        self.batcher = batcher
        self.admission = admission
        self.limits = limits
        self._count = lru_cache(_COUNTED_TEXTS)(encoder.preprocessor.count_tokens)
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._decode_threads = decode_threads
        self._decode_s = 0.0  # smoothed, of one picture
        self._bulk = asyncio.Semaphore(_BULK_AT_ONCE)
        self._bulk_ahead = asyncio.Semaphore(_DECODED_AHEAD)
        # Of the decoding threads one is left to interactive pictures, if there is more than one.
        self._bulk_decoding = asyncio.Semaphore(max(1, decode_threads - 1))

    def close(self) -> None:
        """Release the decoding threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)

    async def embed(
        self, contents: Sequence[Content], lane: Lane = "interactive"
    ) -> list[Vectors | Exception]:
        """A row or an error for each content. Interactive callers are refused when there is no room.

        Raises TooManyItems, TooManyPixels, Overloaded.
        """
        if lane == "bulk":
            async with self._bulk:
                return await self._embed_bulk(contents)
        parts = self.check_count(contents)
        if not parts:
            return []
        own_lane: Lane = lane if parts <= _FEW else "large"
        with self.admission.permit(parts, sum(map(self._cost_s, contents)), own_lane):
            await self._check_pixels(contents)
            return await self._embed_each(contents, own_lane)

    async def read(self, content: Content) -> Document:
        """A content as the encoder reads it. Raises TooManyItems and what is wrong with it."""
        self.check_count([content])
        return await self.in_decoder(lambda: self._document(content))

    async def embed_read(self, documents: Sequence[Document]) -> list[Vectors | Exception]:
        """A row or an error for each of many documents, which let smaller requests go first.

        Raises Overloaded.
        """
        groups = [group_of(document.parts) for document in documents]
        with self.admission.permit(len(documents), sum(map(self.batcher.seconds, groups)), "large"):
            asked = zip(documents, groups, strict=True)
            return await asyncio.gather(*(_attempt(self.batcher.submit, *each, "large") for each in asked))

    async def match(self, query: Content, candidates: Sequence[Content | Load]) -> list[float | Exception]:
        """The probability that each candidate matches the query, or the candidate's own error.

        A few are read and matched at a time, so that a long list keeps nobody else waiting for long. Raises
        RerankUnsupported, TooManyPixels, Overloaded, and what is wrong with the query.
        """
        self.check_matches()
        cost_s = len(candidates) * self.batcher.seconds("match")
        with self.admission.permit(len(candidates), cost_s, "interactive"):
            await self._check_pixels([query, *(given for given in candidates if isinstance(given, tuple))])
            asked = await self.in_decoder(lambda: self._document(query))
            found: list[float | Exception] = []
            for start in range(0, len(candidates), MATCHED_AT_ONCE):
                if MATCHED_AT_ONCE * self.batcher.seconds("match") > caller().left_s:
                    late = DeadlinePassed("There was no time left for it.")
                    return [*found, *([late] * (len(candidates) - start))]
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
            # Pairs share a batch if they have one query.
            return float((await self.batcher.submit(Pair(query, candidate), f"match#{id(query)}"))[0])

        documents = await asyncio.gather(*(_attempt(read, candidate) for candidate in candidates))
        return await asyncio.gather(*(_attempt(compare, document) for document in documents))

    async def _check_pixels(self, contents: Sequence[Content]) -> None:
        """Decoding is paid by the pixel, and few bytes may hold many."""
        pictures = [part for content in contents for part in content if isinstance(part, bytes)]
        if len(pictures) > 1:  # one alone has a limit of its own
            pixels = await self.in_decoder(lambda: sum(map(announced_pixels, pictures)))
            most = self.limits.max_request_pixels
            if pixels > most:
                raise TooManyPixels(
                    f"The pictures have {pixels} pixels together; at most {most} are allowed."
                )

    async def _embed_each(self, contents: Sequence[Content], lane: Lane) -> list[Vectors | Exception]:
        started = time.perf_counter()
        rows = await asyncio.gather(*(_attempt(self._embed, content, lane) for content in contents))
        if lane != "bulk":
            self._observe("encode", time.perf_counter() - started)
        return rows

    async def _embed(self, content: Content, lane: Lane) -> Vectors:
        if any(isinstance(part, bytes) or len(part) > _LONG_CHARS for part in content):
            document = await self.in_decoder(lambda: self._document(content))
        else:
            document = self._document(content)
        return await self.batcher.submit(document, group_of(content), lane)

    async def _embed_bulk(self, contents: Sequence[Content]) -> list[Vectors | Exception]:
        """Some are decoded at a time: one by one, changing threads would cost as much as small pictures."""
        starts = range(0, len(contents), _DECODED_AT_ONCE)
        parts = (self._embed_some(contents[start : start + _DECODED_AT_ONCE]) for start in starts)
        return [row for rows in await asyncio.gather(*parts) for row in rows]

    async def _embed_some(self, contents: Sequence[Content]) -> list[Vectors | Exception]:
        def decoded() -> list[Document | Exception]:
            return [_tried(self._document, content) for content in contents]

        async def submit(document: Document | Exception) -> Vectors:
            if isinstance(document, Exception):
                raise document
            return await self.batcher.submit(document, group_of(document.parts), "bulk")

        async with self._bulk_ahead:
            async with self._bulk_decoding:
                documents = await self.in_decoder(decoded)
            return await asyncio.gather(*(_attempt(submit, document) for document in documents))

    def _cost_s(self, content: Content) -> float:
        """The time that a content keeps others waiting: it is decoded while others are encoded."""
        pictures = sum(isinstance(part, bytes) for part in content)
        decode_s = pictures * self._decode_s / self._decode_threads
        return max(decode_s, self.batcher.seconds(group_of(content)))

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts, which were embedded, the encoder read."""
        if all(len(text) <= _LONG_CHARS for text in texts):
            return sum(map(self._count, texts))
        return await self.in_decoder(lambda: sum(map(self._tokens, texts)))

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
                started = time.perf_counter()
                parts.append(preprocessor.picture(part, max_pixels=limits.max_image_pixels))
                self._decode_s += 0.1 * (time.perf_counter() - started - self._decode_s)
            elif len(part) > limits.max_text_chars:
                raise TextTooLong(
                    f"The text has {len(part)} characters; at most {limits.max_text_chars} are allowed."
                )
            else:
                self._tokens(part)  # raises what is wrong with it
                parts.append(part)
        return Document(tuple(parts))

    def _tokens(self, text: str) -> int:
        """How many tokens the encoder reads of a text. Raises TextError."""
        return (self._count if len(text) <= _LONG_CHARS else self.encoder.preprocessor.count_tokens)(text)

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


def _tried(work: Callable[[Content], Document], content: Content) -> Document | Exception:
    try:
        return work(content)
    except Exception as error:
        return error


def model_name(encoder_id: str) -> str:
    """The readable part of an encoder_id, "<name>-<12 hex digits>"."""
    return encoder_id.rpartition("-")[0] or encoder_id


def quantized(row: Vectors, kind: Precision) -> NDArray[np.generic]:
    """A row (dim,) in fewer bytes: its direction in int8, or its signs in bits. Cosines stay nearly equal."""
    if kind == "ubinary":
        return np.packbits(row > 0)
    if kind == "int8":
        stretched: NDArray[np.int8] = np.rint(row * (127 / np.abs(row).max())).astype(np.int8)
        return stretched
    return row.astype("<f4", copy=False)
