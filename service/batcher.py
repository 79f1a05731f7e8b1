"""The batcher: documents of many requests share encoder batches; each gets its row or its error."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Rows = NDArray[np.float32]  # (n, dim)
Lane = Literal["probe", "interactive", "large", "bulk"]
# In order of service. In the last one nobody waits for an answer.
LANES: tuple[Lane, ...] = ("probe", "interactive", "large", "bulk")
_QUIET_S = 0.1  # without anybody who waits for an answer: then bulk has its turn
_PATIENCE_S = 1.0  # after which bulk has one small batch all the same
_ALERT_S = 2.0  # after anybody came: so long bulk goes in small batches, for the next may come any moment
_SMALL_S = 0.02  # of encoding
T = TypeVar("T")


class Overloaded(Exception):
    """There is no room in the queue. ``retry_after_s`` estimates when there will be."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EncodingFailed(Exception):
    """The encoder failed on this very document, alone in its batch."""


@dataclass(frozen=True)
class Batch:
    """What one encoder call did: for metrics."""

    group: str
    size: int
    waits_s: tuple[float, ...]
    seconds: float


@dataclass
class _Waiting(Generic[T]):
    item: T
    lane: Lane
    future: asyncio.Future[Rows]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[T]):
    """Runs ``embed`` on one thread, on batches of whatever waits: nobody waits for a batch to fill.

    A lane is served when those before it are empty. Bulk moreover waits for a moment of quiet: a client that
    sends one request after another would else meet a bulk batch each time.
    ``group`` keeps apart what should not share a batch (a text must not wait for eight pictures);
    ``max_batch`` bounds each group's batches. A failing batch is split until what fails stands alone.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[T]], Rows],
        *,
        group: Callable[[T], str],
        max_batch: Callable[[str], int],
        max_queue: int,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        self._embed = embed
        self._group = group
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._observe = observe
        self._lanes: dict[Lane, deque[_Waiting[T]]] = {lane: deque() for lane in LANES}
        self._permits = 0
        self._seconds_per_item = 0.05  # smoothed; only for Retry-After
        self._bulk_seconds: dict[str, float] = {}  # smoothed, of one document of each group
        self._heard_at = self._bulk_at = -math.inf  # when somebody was answered, and bulk had its turn
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve; call it inside the event loop."""
        self._task = asyncio.create_task(self._run(), name="batcher")

    async def close(self) -> None:
        """Stop serving; whoever still waits gets an Overloaded."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._fail_all(Overloaded("The service is shutting down.", 1))
        self._thread.shutdown(wait=True)

    def waiting(self, lane: Lane) -> int:
        """How many documents wait in a lane."""
        return len(self._lanes[lane])

    @contextmanager
    def permit(self, count: int) -> Iterator[None]:
        """Reserve room for ``count`` documents before any work on them. Raises Overloaded at once."""
        if self._permits and self._permits + count > self._max_queue:
            retry_after_s = max(1, round(self._permits * self._seconds_per_item))
            raise Overloaded("The encoder's queue is full.", retry_after_s)
        self._permits += count
        try:
            yield
        finally:
            self._permits -= count

    async def submit(self, item: T, lane: Lane = "interactive") -> Rows:
        """The (dim,) row of one document. Raises EncodingFailed, and Overloaded at shutdown."""
        future: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        self._lanes[lane].append(_Waiting(item, lane, future))
        self._wake.set()
        return await future

    async def _run(self) -> None:
        while True:
            try:
                batch = self._next_batch()
            except Exception as error:  # a bug, but nobody may wait for ever
                log.exception("no batch could be made")
                self._fail_all(EncodingFailed(f"No batch could be made: {error}"))
                continue
            if batch:
                await self._answer(batch)
            else:
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._wake.wait(), self._bulk_wait_s() if self._lanes["bulk"] else None
                    )

    def _next_batch(self) -> list[_Waiting[T]]:
        """The longest-waiting document of the first lane that has one, and others of its group there."""
        for lane, queue in self._lanes.items():
            for waiting in [entry for entry in queue if entry.future.done()]:
                queue.remove(waiting)  # its caller left
            if queue and (lane != "bulk" or self._bulk_wait_s() <= 0):
                group = self._group(queue[0].item)
                size = self._bulk_size(group) if lane == "bulk" else self._max_batch(group)
                batch = [entry for entry in queue if self._group(entry.item) == group][:size]
                for waiting in batch:
                    queue.remove(waiting)
                return batch
        return []

    def _bulk_wait_s(self) -> float:
        """How long until bulk has its turn, if nobody comes."""
        now = time.monotonic()
        heard_at = now if self._permits else self._heard_at  # whose picture is decoded is about to come
        return min(heard_at + _QUIET_S, self._bulk_at + _PATIENCE_S) - now

    def _bulk_size(self, group: str) -> int:
        most = self._max_batch(group)
        if time.monotonic() - self._heard_at > _ALERT_S:
            return most
        return max(1, min(most, int(_SMALL_S / self._bulk_seconds.get(group, _SMALL_S))))

    def _fail_all(self, error: Exception) -> None:
        for queue in self._lanes.values():
            for waiting in queue:
                _fail(waiting, error)
            queue.clear()

    async def _answer(self, batch: list[_Waiting[T]]) -> None:
        started = time.monotonic()
        try:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._embed, [w.item for w in batch]
            )
            if len(rows) != len(batch):
                raise ValueError(f"{len(rows)} rows for {len(batch)} documents")
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, Overloaded("The service is shutting down.", 1))
            raise
        except BaseException as error:  # a library's panic is no Exception, and must not end the lane
            await self._isolate(batch, error)
            return
        ended = time.monotonic()
        seconds = ended - started
        self._seconds_per_item += 0.1 * (seconds / len(batch) - self._seconds_per_item)
        if batch[0].lane == "bulk":
            self._note_bulk(self._group(batch[0].item), seconds / len(batch), ended)
        elif batch[0].lane != "probe":
            self._heard_at = ended
        for waiting, row in zip(batch, rows, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(row)
        waits = tuple(started - waiting.since for waiting in batch)
        self._observe(Batch(self._group(batch[0].item), len(batch), waits, seconds))

    def _note_bulk(self, group: str, seconds: float, ended: float) -> None:
        before = self._bulk_seconds.get(group, seconds)
        self._bulk_seconds[group] = before + 0.1 * (seconds - before)
        self._bulk_at = ended

    async def _isolate(self, batch: list[_Waiting[T]], error: BaseException) -> None:
        if len(batch) == 1:
            log.error("the encoder failed on a document", exc_info=error)
            _fail(batch[0], EncodingFailed("The encoder could not process this input."))
            return
        middle = len(batch) // 2
        await self._answer(batch[:middle])
        await self._answer(batch[middle:])


def _fail(waiting: _Waiting[T], error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)
