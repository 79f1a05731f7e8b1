"""What the worker that makes a row goes on with: no other thread has to be woken for it."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

from index.vectors import Vectors

T = TypeVar("T")


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class Sequel(Generic[T]):
    """Work on the (dim,) row of one document. It may never be begun: then whoever wants its result does it.

    It is made and awaited in the event loop; ``begin`` and ``run`` are called by the worker.
    """

    def __init__(self, work: Callable[[Vectors], T]) -> None:
        self._work = work
        self._context = copy_context()  # of the request, not of the worker
        self._row: Vectors | None = None
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()
        # Who left does not ask what went wrong.
        self._future.add_done_callback(lambda future: future.cancelled() or future.exception())

    @property
    def begun(self) -> bool:
        """Whether there will be a result; that is known when the row is."""
        return self._row is not None

    def begin(self, row: Vectors) -> None:
        """Take it on, before anybody is told of the row."""
        self._row = row

    def run(self) -> None:
        """Do what was begun. What goes wrong is raised by ``result``."""
        if self._row is not None and not self._future.cancelled():
            found = self._context.run(_tried, self._work, self._row)
            self._loop.call_soon_threadsafe(_settle, self._future, found)

    async def result(self) -> T:
        """What came of the work, or raise what it raised."""
        return await self._future


def _tried(work: Callable[[Vectors], T], row: Vectors) -> T | _Failure:
    try:
        return work(row)
    except BaseException as error:  # a library's panic is no Exception, and must not end the worker
        return _Failure(error)


def _settle(future: asyncio.Future[T], found: T | _Failure) -> None:
    if future.done():
        return
    if isinstance(found, _Failure):
        future.set_exception(found.error)
    else:
        future.set_result(found)
