"""The embedder: texts and encoded pictures in, unit rows out, by decoding threads and the batcher."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from index.vectors import Vectors
from models.preprocess import Document, Picture
from service.batcher import Batcher, Lane

Part = str | bytes  # a text, or the encoded bytes of a picture
Content = tuple[Part, ...]  # what shares one row, in reading order
T = TypeVar("T")
_FEW = 8  # documents; a request with more of them lets those with fewer go first
_LONG_CHARS = 2000  # of a text; tokenising a longer one on the event loop would delay every other request
_BULK_AT_ONCE = 2  # bulk requests that are decoded and encoded at the same time; others wait


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
    def embed(self, documents: Sequence[Document]) -> Vectors: ...


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


class TooManyItems(ValueError):
    """The request holds more items, texts or pictures than allowed."""


class Embedder:
    """Embeds contents: ordered tuples of texts and pictures, each with its own row or its own error."""

    def __init__(
        self, encoder: Encoder, batcher: Batcher[Document], limits: Limits, decode_threads: int
    ) -> None:
        self.encoder = encoder
        self.batcher = batcher
        self.limits = limits
        self._decoders = ThreadPoolExecutor(decode_threads, thread_name_prefix="decode")
        self._bulk = asyncio.Semaphore(_BULK_AT_ONCE)

    def close(self) -> None:
        """Release the decoding threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)

    async def embed(
        self, contents: Sequence[tuple[Part, ...]], lane: Lane = "interactive"
    ) -> list[Vectors | Exception]:
        """A row or an error for each content. Interactive callers are refused when there is no room."""
        parts = sum(map(len, contents))
        if not parts:
            return []
        if parts > self.limits.max_items:
            raise TooManyItems(f"{parts} texts and pictures; at most {self.limits.max_items} are allowed.")
        if lane == "bulk":
            async with self._bulk:
                return await self._embed_each(contents, lane)
        with self.batcher.permit(parts):
            return await self._embed_each(contents, lane if parts <= _FEW else "bulk")

    async def _embed_each(
        self, contents: Sequence[tuple[Part, ...]], lane: Lane
    ) -> list[Vectors | Exception]:
        return await asyncio.gather(*(self._embed(content, lane) for content in contents))

    async def _embed(self, content: Content, lane: Lane) -> Vectors | Exception:
        try:
            if any(isinstance(part, bytes) or len(part) > _LONG_CHARS for part in content):
                document = await self.in_decoder(lambda: self._document(content))
            else:
                document = self._document(content)
            return await self.batcher.submit(document, lane)
        except Exception as error:  # it belongs to this content: its neighbours get their rows
            return error

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts the encoder reads."""
        return await self.in_decoder(lambda: sum(map(self.encoder.preprocessor.count_tokens, texts)))

    def _document(self, content: Content) -> Document:
        preprocessor, limits = self.encoder.preprocessor, self.limits
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
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)


def model_name(encoder_id: str) -> str:
    """The readable part of an encoder_id, "<name>-<12 hex digits>"."""
    return encoder_id.rpartition("-")[0] or encoder_id
