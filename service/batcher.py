"""The batcher: documents of many requests share encoder batches; each gets its row or its error."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Thread, current_thread
from typing import Any, Generic, TypeVar

from service import timing
from service.admission import LANES, Admission, Lane, Overloaded
from service.caller import caller
from service.costs import Costs, kind_of
from service.lane import Queue, Rows, Waiting
from service.sequel import Sequel
from service.waking import Sleepers

log = logging.getLogger(__name__)

_QUIET_S = 0.1  # without anybody who waits for an answer: then bulk has its turn
_PATIENCE_S = 1.0  # after which bulk has one small batch all the same
_PATIENCE_BESIDE_S = 0.25  # the same, where other workers go on meanwhile
_ALERT_S = 2.0  # after anybody came: so long bulk goes in small batches, for the next may come any moment
_SMALL_S = 0.02  # of encoding
_SPARE = 1  # thread
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
    by itself: the event loop may be busy. What waits is shared out among the cores that are free. Where there
    are several, one thread more than cores finds something to do while another waits for Python's lock, or
    goes on with what a row was made for.

    A lane is served when those before it are empty, and within a lane callers have equal shares. Bulk
    moreover waits for a moment of quiet: a client that sends one request after another would else meet a bulk
    batch each time. Documents of one group share batches, which ``max_batch`` bounds. The name of a group is
    a kind, of which there are few, and perhaps "#" and what tells it from others of its kind. A failing batch
    is split until what fails stands alone, unless ``known_good`` fails as well.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[T]], Answers],
        *,
        max_batch: Callable[[str], int],
        beside: Callable[[str], Sequence[str]] | None = None,
        admission: Admission,
        workers: int = 1,
        known_good: T | None = None,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._embed = embed
        self._max_batch = max_batch
        self._beside = beside or (lambda group: ())
        self._admission = admission
        self._known_good = known_good
        self._observe = observe
        self._lanes: dict[Lane, Queue[T]] = {lane: Queue() for lane in LANES}
        self._costs = Costs(max_batch)
        self._heard_at = self._bulk_at = -math.inf  # when somebody was answered, and bulk had its turn
        self._workers = workers
        self._patience_s = _PATIENCE_S if workers == 1 else _PATIENCE_BESIDE_S
        self._threads: list[Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = Sleepers()  # guards what is above, but for what the event loop alone uses
        self._closing = False
        self._sequels = 0  # that workers are at
        self._running: dict[str, list[Waiting[T]]] = {}  # by the name of the thread

    def start(self) -> None:
        """Begin to serve; call it inside the event loop."""
        self._loop = asyncio.get_running_loop()
        self._threads = [
            Thread(target=self._work, name=f"encoder_{number}", daemon=True)
            for number in range(self._workers + (_SPARE if self._workers > 1 else 0))
        ]
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Stop serving; whoever still waits gets an Overloaded."""
        with self._changed:
            self._closing = True
            running = [waiting for batch in self._running.values() for waiting in batch]
            left = [*running, *self._all_waiting()]
            self._changed.wake_all()
        for waiting in left:
            _settle(waiting, Overloaded("The service is shutting down.", 1))
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def waiting(self, lane: Lane) -> int:
        """How many documents wait in a lane."""
        return len(self._lanes[lane])

    def seconds(self, group: str) -> float:
        """How long one document of a group keeps others waiting, by those before it."""
        return self._costs.seconds(group) / self._workers

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
                self._lanes[lane].put(waiting)
            self._changed.wake(len(asked))
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
            self._running[current_thread().name] = batch
        go_on = self._answer(batch, lane)
        with self._changed:
            del self._running[current_thread().name]
        if go_on is not None:
            go_on()
            with self._changed:
                self._sequels -= 1
        return True

    def _waited(self) -> tuple[Lane, list[Waiting[T]]]:
        """The next batch, once there is one; no batch at the end."""
        while not self._closing:
            try:
                lane, batch = self._next_batch()
            except Exception as error:  # a bug, but nobody may wait for ever
                log.exception("no batch could be made")
                broken = EncoderBroken(f"No batch could be made: {error}")
                self._reply([(waiting, broken) for waiting in self._all_waiting()])
                continue
            if batch:
                return lane, batch
            self._changed.wait(max(0.0, self._bulk_wait_s()) if self._lanes["bulk"] else None)
        return "bulk", []

    def _next_batch(self) -> tuple[Lane, list[Waiting[T]]]:
        """Of the first lane that has one."""
        for lane, queue in self._lanes.items():
            may = queue and (lane != "bulk" or self._bulk_wait_s() <= 0)
            if may and (
                batch := queue.cut(self._share(lane), self._size_in(lane), self.seconds, self._beside)
            ):
                if lane == "bulk":
                    self._bulk_at = time.monotonic()
                return lane, batch
        return "bulk", []

    def _share(self, lane: Lane) -> int:
        """How many documents are one core's: others that are free get as much of what waits."""
        return -(-len(self._lanes[lane]) // max(1, self._workers - len(self._running)))

    def _size_in(self, lane: Lane) -> Callable[[str], int]:
        return self._bulk_size if lane == "bulk" else self._max_batch

    def _bulk_wait_s(self) -> float:
        """How long until bulk has its turn, if nobody comes."""
        now = time.monotonic()
        # Whose picture is decoded is about to come.
        heard_at = self._heard_at if self._admission.idle else now
        return min(heard_at + _QUIET_S, self._bulk_at + self._patience_s) - now

    def _bulk_size(self, group: str) -> int:
        most = self._max_batch(group)
        if time.monotonic() - self._heard_at > _ALERT_S:
            return most
        return max(1, min(most, int(_SMALL_S / self._costs.seconds(group))))

    def _all_waiting(self) -> list[Waiting[T]]:
        return [waiting for queue in self._lanes.values() for waiting in queue.clear()]

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
            if lane == "bulk":
                self._bulk_at = ended
            elif lane != "probe":
                self._heard_at = ended
            share = min(1.0, self._workers / len(self._running))  # of a core that the batch had
            self._costs.learn([waiting.group for waiting in batch], share * (ended - started))
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
        if self._sequels == _SPARE or not self._changed.asleep:
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
