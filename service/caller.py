"""Who asks, and until when an answer is of use: what the queue must know of a request.

It goes with the request's task, so that nothing in between has to hand it on.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


class DeadlinePassed(Exception):
    """The answer was not there in the time that the request gave for it."""


@dataclass(frozen=True)
class Caller:
    """The API key's prefix, None without one, and a time of ``time.monotonic``."""

    key: str | None = None
    deadline: float = math.inf

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


_NOBODY = Caller()
_asking: ContextVar[Caller] = ContextVar("asking", default=_NOBODY)


def caller() -> Caller:
    """Who asks, in this task."""
    return _asking.get()


def identified(key: str) -> None:
    """From now on this task works for this key."""
    _asking.set(replace(_asking.get(), key=key))


@asynccontextmanager
async def within(timeout_ms: int | None) -> AsyncIterator[None]:
    """Work whose result is of use for so long; None: for ever. Raises DeadlinePassed when that is over."""
    if timeout_ms is None:
        yield
        return
    before = _asking.get()
    token = _asking.set(replace(before, deadline=min(before.deadline, time.monotonic() + timeout_ms / 1000)))
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            yield
    except TimeoutError:
        raise DeadlinePassed(f"The answer was not there within {timeout_ms} ms.") from None
    finally:
        _asking.reset(token)
