"""The batcher: documents of many requests share encoder batches; each gets its row or its error."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.admission import LANES, Admission, Lane, Overloaded
from service.caller import caller
from service.lane import Queue, Rows, Waiting

log = logging.getLogger(__name__)

_QUIET_S = 0.1  # without anybody who waits for an answer: then bulk has its turn
_PATIENCE_S = 1.0  # after which bulk has one small batch all the same
_ALERT_S = 2.0  # after anybody came: so long bulk goes in small batches, for the next may come any moment
_SMALL_S = 0.02  # of encoding
_UNKNOWN_S = 0.02  # of encoding one document of a kind that was not met yet
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

    As many batches run at a time as there are ``workers``, each on a thread of its own; what waits is shared
    out among those that are free.

    A lane is served when those before it are empty, and within a lane callers have equal shares. Bulk
    moreover waits for a moment of quiet: a client that sends one request after another would else meet a bulk
    batch each time. Documents of one group share batches, which ``max_batch`` bounds. The name of a group is
    a kind, of which there are few, and perhaps "#" and what tells it from others of its kind. A failing batch
    is split until what fails stands alone, unless ``known_good`` fails as well.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[T]], Rows],
        *,
        max_batch: Callable[[str], int],
        admission: Admission,
        workers: int = 1,
        known_good: T | None = None,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._embed = embed
        self._max_batch = max_batch
        self._admission = admission
        self._known_good = known_good
        self._observe = observe
        self._lanes: dict[Lane, Queue[T]] = {lane: Queue() for lane in LANES}
        self._seconds: dict[str, float] = {}  # smoothed, of one worker, of one document of each kind
        self._heard_at = self._bulk_at = -math.inf  # when somebody was answered, and bulk had its turn
        self._wake = asyncio.Event()
        self._workers = self._free = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="encoder")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to serve; call it inside the event loop."""
        self._tasks = [
            asyncio.create_task(self._run(), name=f"batcher-{number}") for number in range(self._workers)
        ]

    async def close(self) -> None:
        """Stop serving; whoever still waits gets an Overloaded."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._fail_all(Overloaded("The service is shutting down.", 1))
        self._threads.shutdown(wait=True)

    def waiting(self, lane: Lane) -> int:
        """How many documents wait in a lane."""
        return len(self._lanes[lane])

    def seconds(self, group: str) -> float:
        """How long one document of a group keeps others waiting, by those before it."""
        return self._seconds.get(_kind(group), _UNKNOWN_S) / self._workers

    async def submit(self, item: T, group: str, lane: Lane = "interactive") -> Rows:
        """The (dim,) row of one document. Raises EncodingFailed, EncoderBroken; Overloaded at shutdown."""
        return await self.put(item, group, lane)

    def put(self, item: T, group: str, lane: Lane = "interactive") -> asyncio.Future[Rows]:
        """The row to come of one document, as of ``submit``."""
        future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._lanes[lane].put(Waiting(item, group, caller().key, future))
        self._wake.set()
        return future

    async def _run(self) -> None:
        while True:
            try:
                lane, batch = self._next_batch()
            except Exception as error:  # a bug, but nobody may wait for ever
                log.exception("no batch could be made")
                self._fail_all(EncoderBroken(f"No batch could be made: {error}"))
                continue
            if batch:
                self._free -= 1
                try:
                    await self._answer(batch, lane)
                finally:
                    self._free += 1
            else:
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._wake.wait(), self._bulk_wait_s() if self._lanes["bulk"] else None
                    )

    def _next_batch(self) -> tuple[Lane, list[Waiting[T]]]:
        """Of the first lane that has one."""
        for lane, queue in self._lanes.items():
            may = queue and (lane != "bulk" or self._bulk_wait_s() <= 0)
            if may and (batch := queue.cut(self._size_in(lane), self.seconds)):
                if lane == "bulk":
                    self._bulk_at = time.monotonic()
                return lane, batch
        return "bulk", []

    def _size_in(self, lane: Lane) -> Callable[[str], int]:
        """The bound of a group's batch: other workers that are free get as much of what waits."""
        size = self._bulk_size if lane == "bulk" else self._max_batch
        share = -(-len(self._lanes[lane]) // self._free)
        return lambda group: min(share, size(group))

    def _bulk_wait_s(self) -> float:
        """How long until bulk has its turn, if nobody comes."""
        now = time.monotonic()
        # Whose picture is decoded is about to come.
        heard_at = self._heard_at if self._admission.idle else now
        return min(heard_at + _QUIET_S, self._bulk_at + _PATIENCE_S) - now

    def _bulk_size(self, group: str) -> int:
        most = self._max_batch(group)
        if time.monotonic() - self._heard_at > _ALERT_S:
            return most
        return max(1, min(most, int(_SMALL_S / self._seconds.get(_kind(group), _UNKNOWN_S))))

    def _fail_all(self, error: Exception) -> None:
        for queue in self._lanes.values():
            for waiting in queue.clear():
                _fail(waiting, error)

    async def _answer(self, batch: list[Waiting[T]], lane: Lane) -> None:
        started = time.monotonic()
        try:
            rows = await self._encoded([waiting.item for waiting in batch])
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, Overloaded("The service is shutting down.", 1))
            raise
        except BaseException as error:  # a library's panic is no Exception, and must not end the lane
            await self._isolate(batch, lane, error)
            return
        ended = time.monotonic()
        if lane == "bulk":
            self._bulk_at = ended
        elif lane != "probe":
            self._heard_at = ended
        self._note(batch[0].group, (ended - started) / len(batch))
        for waiting, row in zip(batch, rows, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(row)
        waits = tuple(started - waiting.since for waiting in batch)
        self._observe(Batch(_kind(batch[0].group), len(batch), waits, ended - started))

    async def _encoded(self, items: Sequence[T]) -> Rows:
        rows = await asyncio.get_running_loop().run_in_executor(self._threads, self._embed, items)
        if len(rows) != len(items):
            raise ValueError(f"{len(rows)} rows for {len(items)} documents")
        return rows

    def _note(self, group: str, seconds: float) -> None:
        before = self._seconds.get(_kind(group), seconds)
        self._seconds[_kind(group)] = before + 0.1 * (seconds - before)

    async def _isolate(self, batch: list[Waiting[T]], lane: Lane, error: BaseException) -> None:
        if await self._is_broken():
            log.error("the encoder is broken", exc_info=error)
            for waiting in batch:
                _fail(waiting, EncoderBroken("The encoder does not work; nothing is wrong with the input."))
        elif len(batch) == 1:
            log.error("the encoder failed on a document", exc_info=error)
            _fail(batch[0], EncodingFailed("The encoder could not process this input."))
        else:
            middle = len(batch) // 2
            await self._answer(batch[:middle], lane)
            await self._answer(batch[middle:], lane)

    async def _is_broken(self) -> bool:
        if self._known_good is None:
            return False
        try:
            await self._encoded([self._known_good])
        except asyncio.CancelledError:
            raise
        except BaseException:
            return True
        return False


def _kind(group: str) -> str:
    return group.partition("#")[0]


def _fail(waiting: Waiting[T], error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
