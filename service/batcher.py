"""The batcher: documents of many requests share encoder batches; each gets its row or its error."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, Generic, TypeVar

from service import timing
from service.admission import Admission, Lane, Overloaded
from service.caller import caller
from service.costs import kind_of
from service.lane import Rows, Waiting
from service.sequel import Sequel
from service.turns import SPARE, Turns
from service.waking import Sleepers

log = logging.getLogger(__name__)

Answers = Rows | Sequence[Rows | Exception]  # a row (dim,) of each document, or what is wrong with it
T = TypeVar("T")


class EncodingFailed(Exception):
    """The encoder failed on this very document, alone in its batch, and does not fail on others."""


class EncoderBroken(Exception):
    """The encoder fails on a document that it is known to encode well."""


@dataclass(frozen=True)
class Batch:
    """What one encoder call did: for metrics."""

    kind: str
    size: int
    waits_s: tuple[float, ...]
    seconds: float


class Batcher(Generic[T]):
    """Runs ``embed`` on batches of whatever waits: nobody waits for a batch to fill.

    There are ``workers`` cores to keep busy. Each batch runs on a thread of its own, which takes the next one
    by itself: the event loop may be busy. Where there are several, there is one thread more than cores: it
    goes on with what a row was made for, or takes a batch while another is of a group that ``pauses``.

    See ``Turns`` for who is served when. Documents of one group share batches, which ``max_batch`` bounds.
    The name of a group is a kind, of which there are few, and perhaps "#" and what tells it from others of
    its kind. A failing batch is split until what fails stands alone, unless ``known_good`` fails as well.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[T]], Answers],
        *,
        max_batch: Callable[[str], int],
        beside: Callable[[str], Sequence[str]] | None = None,
        pauses: Callable[[str], bool] = lambda group: False,
        admission: Admission,
        workers: int = 1,
        known_good: T | None = None,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._embed = embed
        self._known_good = known_good
        self._observe = observe
        self._workers = workers
        self._turns: Turns[T] = Turns(workers, admission, max_batch, beside or (lambda group: ()), pauses)
        self._threads: list[Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = Sleepers()  # guards what is above, but for what the event loop alone uses
        self._closing = False
        self._sequels = 0  # that workers are at
        self._timed = 0  # sleepers who look again when bulk may have its turn

    def start(self) -> None:
        """Begin to serve; call it inside the event loop."""
        self._loop = asyncio.get_running_loop()
        self._threads = [
            Thread(target=self._work, name=f"encoder_{number}", daemon=True)
            for number in range(self._workers + (SPARE if self._workers > 1 else 0))
        ]
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Stop serving; whoever still waits gets an Overloaded."""
        with self._changed:
            self._closing = True
            left = [*self._turns.running, *self._turns.clear()]
            self._changed.wake_all()
        for waiting in left:
            _settle(waiting, Overloaded("The service is shutting down.", 1))
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def waiting(self, lane: Lane) -> int:
        """How many documents wait in a lane."""
        return self._turns.waiting(lane)

    def seconds(self, group: str) -> float:
        """How long one document of a group keeps others waiting, by those before it."""
        return self._turns.seconds(group)

    async def submit(self, item: T, group: str, lane: Lane = "interactive") -> Rows:
        """The (dim,) row of one document. Raises EncodingFailed, EncoderBroken; Overloaded at shutdown."""
        (future,) = self.put([(item, group)], lane)
        return await future

    def put(
        self,
        items: Sequence[tuple[T, str]],
        lane: Lane,
        done: Callable[[], None] | None = None,
        then: Sequel[Any] | None = None,
    ) -> list[asyncio.Future[Rows]]:
        """The rows to come of documents and their groups, as of ``submit``; workers see them all at once.

        ``done`` is called in the event loop for each that has its row, or its error. The worker that made the
        row of an only document goes on with ``then``, if that keeps nobody waiting: it had no other in its
        batch, and there are as many workers besides as there are cores.
        """
        loop, key, note = asyncio.get_running_loop(), caller().key, timing.noting("queue")
        asked = [Waiting(item, group, key, loop.create_future(), note, done, then) for item, group in items]
        with self._changed:
            for waiting in asked:
                self._turns.put(waiting, lane)
            self._call()
        return [waiting.future for waiting in asked]

    def _work(self) -> None:
        """What a worker does until the end. It holds on to nothing while it waits."""
        while self._turn():
            pass

    def _turn(self) -> bool:
        """One batch and what comes of it; False at the end."""
        with self._changed:
            lane, batch = self._waited()
            if self._closing:
                return False
            self._call()  # others may be needed now, beside this batch
        go_on = None
        try:
            go_on = self._answer(batch, lane)
        finally:
            with self._changed:
                self._turns.end(batch)
                if go_on is not None:
                    self._call()  # others take what this one would take
        if go_on is not None:
            go_on()
            with self._changed:
                self._sequels -= 1
        return True

    def _waited(self) -> tuple[Lane, list[Waiting[T]]]:
        """The next batch, once there is one; no batch at the end."""
        while not self._closing:
            try:
                lane, batch = self._turns.begin()
            except Exception as error:  # a bug, but nobody may wait for ever
                log.exception("no batch could be made")
                broken = EncoderBroken(f"No batch could be made: {error}")
                self._reply([(waiting, broken) for waiting in self._turns.clear()])
                continue
            if batch:
                return lane, batch
            wait_s = self._turns.wait_s
            self._timed += wait_s is not None
            self._changed.wait(wait_s)
            self._timed -= wait_s is not None
        return "bulk", []

    def _call(self) -> None:
        """Wake as many workers as can begin a batch, or one who begins the next of bulk in time."""
        unminded = self._turns.wait_s is not None and not self._timed
        self._changed.wake(max(self._turns.ready, int(unminded)))

    def _answer(
        self, batch: list[Waiting[T]], lane: Lane, *, whole: bool = True
    ) -> Callable[[], None] | None:
        """What the worker is to go on with, if a ``whole`` batch was one document: that tells of its row."""
        started = time.monotonic()
        try:
            rows = self._encoded([waiting.item for waiting in batch])
        except BaseException as error:  # a library's panic is no Exception, and must not end the lane
            self._isolate(batch, lane, error)
            return None
        ended = time.monotonic()
        with self._changed:
            self._turns.answered(batch, lane, ended, ended - started)
            sequel = self._begun(batch[0], rows[0]) if whole and len(batch) == 1 else None
        waits = tuple(started - waiting.since for waiting in batch)
        told = Batch(kind_of(batch[0].group), len(batch), waits, ended - started)
        reply = partial(self._reply, list(zip(batch, rows, strict=True)), told, started)
        if sequel is not None:
            return partial(sequel.run, reply)
        reply()
        return None

    def _begun(self, waiting: Waiting[T], row: Rows | Exception) -> Sequel[Any] | None:
        """What a worker has taken on, now that there is a row, and somebody who wants what comes of it."""
        sequel = waiting.then
        if sequel is None or waiting.future.done() or isinstance(row, Exception):
            return None
        if self._sequels == SPARE or not self._changed.asleep:
            return None
        self._sequels += 1
        sequel.begin(row)
        return sequel

    def _encoded(self, items: Sequence[T]) -> Answers:
        rows = self._embed(items)
        if len(rows) != len(items):
            raise ValueError(f"{len(rows)} rows for {len(items)} documents")
        return rows

    def _isolate(self, batch: list[Waiting[T]], lane: Lane, error: BaseException) -> None:
        if self._is_broken():
            log.error("the encoder is broken", exc_info=error)
            broken = EncoderBroken("The encoder does not work; nothing is wrong with the input.")
            self._reply([(waiting, broken) for waiting in batch])
        elif len(batch) == 1:
            log.error("the encoder failed on a document", exc_info=error)
            self._reply([(batch[0], EncodingFailed("The encoder could not process this input."))])
        else:
            middle = len(batch) // 2
            self._answer(batch[:middle], lane, whole=False)
            self._answer(batch[middle:], lane, whole=False)

    def _is_broken(self) -> bool:
        if self._known_good is None:
            return False
        try:
            self._encoded([self._known_good])
        except BaseException:
            return True
        return False

    def _reply(
        self,
        answers: Sequence[tuple[Waiting[T], Rows | Exception]],
        told: Batch | None = None,
        began_at: float = math.nan,
    ) -> None:
        """Hand answers to those who wait in the event loop. ``told`` of a batch that ``began_at`` then."""

        def settle() -> None:
            noted = None
            for waiting, answer in answers:
                if told is not None and waiting.note is not None and waiting.note is not noted:
                    noted = waiting.note  # once for those of one request, of whom the first came first
                    noted(waiting.since, began_at)
                _settle(waiting, answer)
                if waiting.done is not None:
                    waiting.done()
            if told is not None:
                self._observe(told)

        assert self._loop is not None
        self._loop.call_soon_threadsafe(settle)


def _settle(waiting: Waiting[T], answer: Rows | Exception) -> None:
    if waiting.future.done():
        return
    if isinstance(answer, Exception):
        waiting.future.set_exception(answer)
    else:
        waiting.future.set_result(answer)
