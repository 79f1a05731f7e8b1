"""The embedder: texts and encoded pictures in, unit rows or match probabilities out, by the batcher."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from index.vectors import Vectors
from models.preprocess import Document
from service.admission import Admission, Lane
from service.batcher import Batcher
from service.caller import DeadlinePassed, caller
from service.encoding import Encoder, Pair, Unread, Work
from service.grouping import MATCHED_AT_ONCE, UNREAD, group_of
from service.reading import Content, Limits, NotReadWhole, Reader
from service.sequel import Sequel

Load = Callable[[], Content]  # reads a content when its turn comes, on a decoding thread
P = ParamSpec("P")
T = TypeVar("T")
_Put = Callable[[Sequence[tuple[Work, str]]], Sequence[Awaitable[Vectors]]]  # the batcher's, for one request
_FEW = 8  # documents; a request with more of them lets those with fewer go first
_BULK_AT_ONCE = 2  # chunks of bulk jobs that are decoded and encoded at the same time; others wait
_DECODED_AT_ONCE = 8  # contents of a bulk job
_DECODED_AHEAD = 8  # times as many: while others are served, decoding must not take the cores from them
_READ_AT_ONCE = 32  # texts, on the event loop, before others have their turn there


class DimensionsUnsupported(ValueError):
    """Rows of a length that the encoder does not make."""


class RerankUnsupported(ValueError):
    """The encoder embeds documents but cannot compare two of them."""


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
        self._reader = Reader(encoder.preprocessor, limits, decode_threads, observe)
        self.in_decoder = self._reader.aside
        self.count_tokens = self._reader.count_tokens
        self._bulk = asyncio.Semaphore(_BULK_AT_ONCE)
        self._bulk_ahead = asyncio.Semaphore(_DECODED_AHEAD)
        # Of the decoding threads one is left to interactive pictures, if there is more than one.
        self._bulk_decoding = asyncio.Semaphore(max(1, decode_threads - 1))

    def close(self) -> None:
        """Release the decoding threads."""
        self._reader.close()

    async def embed(
        self,
        contents: Sequence[Content],
        lane: Lane = "interactive",
        then: Sequel[Any] | None = None,
    ) -> list[Vectors | Exception]:
        """A row or an error for each content. Interactive callers are refused when there is no room.

        ``then`` may be begun when there is but one content, see ``Batcher.put``; bulk does without. Raises
        TooManyItems, TooManyPixels, Overloaded.
        """
        if lane == "bulk":
            async with self._bulk:
                return await self._embed_bulk(contents)
        parts = self.check_count(contents)
        if not parts:
            return []
        own_lane: Lane = lane if parts <= _FEW else "large"
        groups = [group_of(content) for content in contents]
        cost_s = sum(count * self.batcher.seconds(group) for group, count in Counter(groups).items())
        # Pictures are decoded while others are encoded: what takes longer counts.
        cost_s = max(cost_s, self._reader.seconds(contents))
        with self.admission.permit(parts, cost_s, own_lane) as permit:
            await self._reader.check_pixels(contents)
            only = then if len(contents) == 1 else None
            put = partial(self.batcher.put, lane=own_lane, done=permit.advance, then=only)
            started = time.perf_counter()
            rows = await self._embed_each(contents, groups, put)
            held_s = 0.0 if only is None else only.held_s
            self._observe("encode", time.perf_counter() - started - held_s)
            return rows

    async def whole(self, contents: Sequence[Content]) -> list[Content | NotReadWhole]:
        """Each content, or why the encoder does not read all of it. Raises TooManyItems."""
        self.check_count(contents)
        problems = await self._reader.whole(contents, together=self.encoder.fusion == "joint")
        return [problem or content for content, problem in zip(contents, problems, strict=True)]

    async def read(self, content: Content) -> Document:
        """A content as the encoder reads it. Raises TooManyItems and what is wrong with it."""
        self.check_count([content])
        return await self.in_decoder(lambda: self._reader.document(content))

    async def embed_read(self, documents: Sequence[Document]) -> list[Vectors | Exception]:
        """A row or an error for each of many documents, which let smaller requests go first.

        Raises Overloaded.
        """
        groups = [group_of(document.parts) for document in documents]
        with self.admission.permit(len(documents), sum(map(self.batcher.seconds, groups)), "large") as permit:
            asked = self.batcher.put(list(zip(documents, groups, strict=True)), "large", permit.advance)
            return await _rows(asked)

    async def match(self, query: Content, candidates: Sequence[Content | Load]) -> list[float | Exception]:
        """The probability that each candidate matches the query, or the candidate's own error.

        A few are read and matched at a time, so that a long list keeps nobody else waiting for long. Raises
        RerankUnsupported, TooManyPixels, Overloaded, and what is wrong with the query.
        """
        self.check_matches()
        cost_s = len(candidates) * self.batcher.seconds("match")
        # A long list is no more ahead of others than the few that are matched at a time.
        lane: Lane = "interactive" if len(candidates) <= _FEW else "large"
        with self.admission.permit(len(candidates), cost_s, lane) as permit:
            await self._reader.check_pixels(
                [query, *(given for given in candidates if isinstance(given, tuple))]
            )
            asked = await self.in_decoder(lambda: self._reader.document(query))
            found: list[float | Exception] = []
            for start in range(0, len(candidates), MATCHED_AT_ONCE):
                if MATCHED_AT_ONCE * self.batcher.seconds("match") > caller().left_s:
                    late = DeadlinePassed("There was no time left for it.")
                    return [*found, *([late] * (len(candidates) - start))]
                some = candidates[start : start + MATCHED_AT_ONCE]
                found += await self._match(asked, some, permit.advance)
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

    async def _match(
        self, query: Document, candidates: Sequence[Content | Load], done: Callable[[], None]
    ) -> list[float | Exception]:
        async def read(given: Content | Load) -> Document:
            return await self.in_decoder(lambda: self._reader.document(given() if callable(given) else given))

        documents = await asyncio.gather(*(_attempt(read, candidate) for candidate in candidates))
        pairs = [Pair(query, document) for document in documents if isinstance(document, Document)]
        # Pairs share a batch if they have one query.
        asked = self.batcher.put([(pair, f"match#{id(query)}") for pair in pairs], "interactive", done)
        found = iter(await _rows(asked))
        return [_score(next(found)) if isinstance(each, Document) else each for each in documents]

    async def _embed_each(
        self, contents: Sequence[Content], groups: Sequence[str], put: _Put
    ) -> list[Vectors | Exception]:
        asked: list[Awaitable[Vectors]] = []
        for start in range(0, len(contents), _READ_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            some = slice(start, start + _READ_AT_ONCE)
            asked += self._asked(contents[some], groups[some], put)
        return await _rows(asked)

    def _asked(
        self, contents: Sequence[Content], groups: Sequence[str], put: _Put
    ) -> list[Awaitable[Vectors]]:
        """The rows to come of some contents, in order. What is read at once needs no task of its own."""
        asked: dict[int, Awaitable[Vectors]] = {}
        read: dict[int, tuple[Document | Unread, str]] = {}
        for number, (content, group) in enumerate(zip(contents, groups, strict=True)):
            if self._is_left_unread(content):
                read[number] = self._reader.unread(content), UNREAD
                continue
            if not self._reader.is_quick(content):
                coming = self._decoded_and_embedded(content, group, put)
                asked[number] = coming if len(contents) == 1 else asyncio.ensure_future(coming)
                continue
            try:
                read[number] = self._reader.document(content), group
            except Exception as error:
                asked[number] = _failed(error)
        asked.update(zip(read, put(list(read.values())), strict=True))
        return [asked[number] for number in range(len(contents))]

    def _is_left_unread(self, content: Content) -> bool:
        """Whether whoever encodes it decodes it: what was just decoded is nearest at hand.

        The only worker that there is shall do nothing but encode.
        """
        return self.encoder.workers > 1 and self._reader.is_small(content)

    async def _decoded_and_embedded(self, content: Content, group: str, put: _Put) -> Vectors:
        document = await self.in_decoder(lambda: self._reader.document(content))
        (row,) = put([(document, group)])
        return await row

    async def _embed_bulk(self, contents: Sequence[Content]) -> list[Vectors | Exception]:
        """Others than small pictures are decoded some at a time, lest threads change too often."""
        small, others = list[int](), list[int]()
        for number, content in enumerate(contents):
            (small if self._is_left_unread(content) else others).append(number)
        asked = self.batcher.put([(self._reader.unread(contents[n]), UNREAD) for n in small], "bulk")
        starts = range(0, len(others), _DECODED_AT_ONCE)
        parts = ([contents[n] for n in others[start : start + _DECODED_AT_ONCE]] for start in starts)
        found = await asyncio.gather(_rows(asked), *map(self._embed_some, parts))
        rows = dict(zip([*small, *others], chain.from_iterable(found), strict=True))
        return [rows[number] for number in range(len(contents))]

    async def _embed_some(self, contents: Sequence[Content]) -> list[Vectors | Exception]:
        def decoded() -> list[Document | Exception]:
            return [_tried(self._reader.document, content) for content in contents]

        async with self._bulk_ahead:
            async with self._bulk_decoding:
                documents = await self.in_decoder(decoded)
            good = [document for document in documents if isinstance(document, Document)]
            asked = self.batcher.put([(each, group_of(each.parts)) for each in good], "bulk")
            rows = iter(await _rows(asked))
            return [next(rows) if isinstance(document, Document) else document for document in documents]


def _failed(error: Exception) -> "asyncio.Future[Vectors]":
    future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


async def _rows(asked: Sequence[Awaitable[Vectors]]) -> list[Vectors | Exception]:
    """The rows that were asked for, or the error of each. Who is cancelled here waits for none any more."""
    if len(asked) == 1:  # as of most searches: no task, and no turn of the event loop
        return [await _row(asked[0])]
    coming = [asyncio.ensure_future(each) for each in asked]
    try:
        # One after the other: most are done together, and to gather them would take a callback for each.
        return [await _row(each) for each in coming]
    except asyncio.CancelledError:
        for each in coming:
            if not each.cancel() and not each.cancelled():
                each.exception()  # nobody asks for it any more
        raise


async def _row(asked: Awaitable[Vectors]) -> Vectors | Exception:
    try:
        return await asked
    except Exception as error:
        return error


def _score(found: Vectors | Exception) -> float | Exception:
    return found if isinstance(found, Exception) else float(found[0])


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
