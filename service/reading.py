"""Contents as the encoder reads them: texts are checked, and pictures decoded on threads of their own."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TypeVar

from models.preprocess import Document, ImageError, Picture, TextError, announced_pixels, is_plain_jpeg
from service.encoding import Preprocessor, Unread

Part = str | bytes  # a text, or the encoded bytes of a picture
Content = tuple[Part, ...]  # what shares one row, in reading order
T = TypeVar("T")
MAX_PICTURES = 8  # of one document: what a joint encoder can tell apart
_SMALL_BYTES, _SMALL_PIXELS = 250_000, 1_000_000  # of a picture that is decoded in a few milliseconds
_LONG_CHARS = 2000  # of a text; tokenising a longer one on the event loop would delay every other request


class TextTooLong(ValueError):
    """A text has more characters than allowed."""


class NotReadWhole(ValueError):
    """A document has more tokens than the encoder reads."""


class TooManyPictures(ValueError):
    """A document has more pictures than an encoder can read together."""


class TooManyPixels(ValueError):
    """The pictures of a request together have more pixels than allowed."""


# What may be wrong with a content itself.
UNREADABLE = (ImageError, TextError, TextTooLong, TooManyPictures)


@dataclass(frozen=True)
class Limits:
    """What one input may be."""

    max_image_bytes: int
    max_image_pixels: int
    max_text_chars: int
    max_metadata_bytes: int
    max_items: int
    max_request_pixels: int


class Reader:
    """Makes documents of contents. ``observe`` is told how long pictures took to decode."""

    def __init__(
        self,
        preprocessor: Preprocessor,
        limits: Limits,
        threads: int,
        observe: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> None:
        self.limits = limits
        self.threads = threads
        self._preprocessor = preprocessor
        self._observe = observe
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._decode_s = 0.0  # smoothed, of one picture

    def close(self) -> None:
        """Release the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def document(self, content: Content) -> Document:
        """A content as the encoder reads it. Raises TooManyPictures, TextTooLong, TextError, ImageError."""
        pictures = sum(isinstance(part, bytes) for part in content)
        if pictures > MAX_PICTURES:
            raise TooManyPictures(
                f"{pictures} pictures in one document; at most {MAX_PICTURES} are read together."
            )
        return Document(tuple(map(self._read, content)))

    def is_quick(self, content: Content) -> bool:
        """Whether a content can be read at once, without delaying others."""
        return all(isinstance(part, str) and len(part) <= _LONG_CHARS for part in content)

    def is_small(self, content: Content) -> bool:
        """Whether a content is one picture that is decoded sooner than a batch of others is encoded."""
        if len(content) != 1 or not isinstance(content[0], bytes) or len(content[0]) > _SMALL_BYTES:
            return False
        return is_plain_jpeg(content[0], min(_SMALL_PIXELS, self.limits.max_image_pixels))

    def unread(self, content: Content) -> Unread:
        """A content that is read later, on whatever thread, and timed for the request that is at work now."""
        context = copy_context()

        def read() -> Document:
            started = time.perf_counter()
            try:
                return self.document(content)
            finally:
                self._observe("decode", time.perf_counter() - started)

        return Unread(lambda: context.run(read))

    def seconds(self, contents: Sequence[Content]) -> float:
        """How long these contents' pictures keep others waiting, by those before them."""
        pictures = sum(isinstance(part, bytes) for content in contents for part in content)
        return pictures * self._decode_s / self.threads

    async def check_pixels(self, contents: Sequence[Content]) -> None:
        """Decoding is paid by the pixel, and few bytes may hold many. Raises TooManyPixels."""
        pictures = [part for content in contents for part in content if isinstance(part, bytes)]
        if len(pictures) > 1:  # one alone has a limit of its own
            pixels = await self.aside(lambda: sum(map(announced_pixels, pictures)))
            most = self.limits.max_request_pixels
            if pixels > most:
                raise TooManyPixels(
                    f"The pictures have {pixels} pixels together; at most {most} are allowed."
                )

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts, which were read, the encoder reads."""
        if all(len(text) <= _LONG_CHARS for text in texts):
            return sum(map(self._preprocessor.count_tokens, texts))
        return await self.aside(lambda: sum(map(self._preprocessor.count_tokens, texts)))

    async def whole(self, contents: Sequence[Content], *, together: bool) -> list[NotReadWhole | None]:
        """Why the encoder does not read all texts of each content; None: it does, or they cannot be read.

        ``together``: it reads those of a document as one.
        """

        def work() -> list[NotReadWhole | None]:
            return [self._whole(content, together) for content in contents]

        return work() if all(map(self.is_quick, contents)) else await self.aside(work)

    async def aside(self, work: Callable[[], T]) -> T:
        """Run work that reads pictures on one of the decoding threads."""
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._observe("decode", time.perf_counter() - started)

    def _whole(self, content: Content, together: bool) -> NotReadWhole | None:
        texts = [part for part in content if isinstance(part, str)]
        if any(len(text) > self.limits.max_text_chars for text in texts):
            return None  # which is told when it is read, as is what is no text
        try:
            counts = list(map(self._preprocessor.count_all_tokens, texts))
        except TextError:
            return None
        if together and counts:  # the marker before them is shared
            counts = [1 + sum(count - 1 for count in counts)]
        most = self._preprocessor.max_tokens
        longest = max(counts, default=0)
        if longest <= most:
            return None
        return NotReadWhole(f"The text has {longest} tokens; the encoder reads {most} of them.")

    def _read(self, part: Part) -> str | Picture:
        if isinstance(part, bytes):
            started = time.perf_counter()
            picture = self._preprocessor.picture(part, max_pixels=self.limits.max_image_pixels)
            self._decode_s += 0.1 * (time.perf_counter() - started - self._decode_s)
            return picture
        if len(part) > self.limits.max_text_chars:
            raise TextTooLong(
                f"The text has {len(part)} characters; at most {self.limits.max_text_chars} are allowed."
            )
        self._preprocessor.count_tokens(part)  # raises what is wrong with it
        return part
