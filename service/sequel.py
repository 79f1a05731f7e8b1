"""What the worker that makes a row goes on with: no other thread has to be woken for it."""

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

from index.vectors import Vectors

T = TypeVar("T")
Tell = Callable[[], None]


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class Sequel(Generic[T]):
    """Work on the (dim,) row of one document. It may never be begun: then whoever wants its result does it.

    It is made and awaited in the event loop; ``begin`` and ``run`` are called by the worker.
    """

    def __init__(self, work: Callable[[Vectors, Tell], T]) -> None:
        """``work`` is given the row, and what tells others of it, to be called where they disturb least."""
        self._work = work
        self._context = copy_context()  # of the request, not of the worker
        self._row: Vectors | None = None
        self.held_s = 0.0  # that the row was there and nobody told of it
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()
        # Who left does not ask what went wrong.
        self._future.add_done_callback(lambda future: future.cancelled() or future.exception())

    @property
    def begun(self) -> bool:
        """Whether there will be a result; that is known when the row is."""
        return self._row is not None

    def begin(self, row: Vectors) -> None:
        """Take it on, before others are told of the row."""
        self._row = row

    def run(self, tell: Tell) -> None:
        """Do what was begun, and ``tell`` others of the row meanwhile, or at the end.

        What goes wrong is raised by ``result``.
        """
        assert self._row is not None
        started = time.perf_counter()

        def telling() -> None:
            self.held_s = time.perf_counter() - started
            tell()

        once = _Once(telling)
        found = self._context.run(_tried, self._work, self._row, once)
        once()
        self._loop.call_soon_threadsafe(_settle, self._future, found)

    async def result(self) -> T:
        """What came of the work, or raise what it raised."""
        return await self._future


class _Once:
    def __init__(self, tell: Tell) -> None:
        self._tell: Tell | None = tell

    def __call__(self) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell()


def _tried(work: Callable[[Vectors, Tell], T], row: Vectors, tell: Tell) -> T | _Failure:
    try:
        return work(row, tell)
    except BaseException as error:  # a library's panic is no Exception, and must not end the worker
        return _Failure(error)


def _settle(future: asyncio.Future[T], found: T | _Failure) -> None:
    if future.done():
        return
    if isinstance(found, _Failure):
        future.set_exception(found.error)
    else:
        future.set_result(found)
