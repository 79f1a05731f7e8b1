"""The batcher: documents of many requests share encoder batches; each gets its row or its error."""

import asyncio
import logging
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
Lane = Literal["probe", "interactive", "bulk"]
LANES: tuple[Lane, ...] = ("probe", "interactive", "bulk")  # in order of service
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
    future: asyncio.Future[Rows]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[T]):
    """Runs ``embed`` on one thread, on batches of whatever waits: nobody waits for a batch to fill.

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
        self._lanes[lane].append(_Waiting(item, future))
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
                await self._wake.wait()

    def _next_batch(self) -> list[_Waiting[T]]:
        """The longest-waiting document of the first lane that has one, and others of its group there."""
        for queue in self._lanes.values():
            for waiting in [entry for entry in queue if entry.future.done()]:
                queue.remove(waiting)  # its caller left
            if queue:
                group = self._group(queue[0].item)
                batch = [entry for entry in queue if self._group(entry.item) == group][
                    : self._max_batch(group)
                ]
                for waiting in batch:
                    queue.remove(waiting)
                return batch
        return []

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
        seconds = time.monotonic() - started
        self._seconds_per_item += 0.1 * (seconds / len(batch) - self._seconds_per_item)
        for waiting, row in zip(batch, rows, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(row)
        waits = tuple(started - waiting.since for waiting in batch)
        self._observe(Batch(self._group(batch[0].item), len(batch), waits, seconds))

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
