"""What the worker that makes a row goes on with: no other thread has to be woken for it."""

import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Generic, TypeVar

from index.vectors import Vectors

T = TypeVar("T")


class Sequel(Generic[T]):
    """Work on the (dim,) row of one document, which may stay undone: ``result`` is None then.

    So it is as well where the work failed: whoever wants its result does it, or does it again, and is told.
    """

    def __init__(self, work: Callable[[Vectors], T]) -> None:
        self._work = work
        self._context = copy_context()  # of the request, not of the worker
        self.result: T | None = None
        self.seconds = 0.0

    def __call__(self, row: Vectors) -> None:
        """Do it, on any thread."""
        started = time.perf_counter()
        self.result = self._context.run(self._work, row)
        self.seconds = time.perf_counter() - started
