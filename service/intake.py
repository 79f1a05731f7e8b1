"""What comes in: request bodies, bounded in size, in time, and all together; and clients who leave."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.types import Message, Receive

from service.bodies import BodyTooLarge

_SLOWEST_BYTES_PER_S = 10_000  # of a body that is kept in memory, once the first wait is over
_WATCHED_AFTER_S = 0.02  # what is answered sooner is not worth a task that waits for its client to leave


class BodyTooSlow(Exception):
    """The client took too long to send the body."""


class TooManyBodies(Exception):
    """The bodies of all requests together take all the memory that they may."""


class ShuttingDown(Exception):
    """The service ends before the body is here."""


class Intake:
    """The bodies of all requests: ``max_bytes`` each, ``max_held_bytes`` of them in memory at a time.

    A client that sends nothing for ``timeout_s`` is not waited for.
    """

    def __init__(self, max_bytes: int, max_held_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_held_bytes = max_held_bytes
        self._timeout_s = timeout_s
        self._held_bytes = 0
        self._draining = False
        self._waits: set[asyncio.Timeout] = set()  # for clients who are about to send

    def drain(self) -> None:
        """From now on wait for no client: what is wholly here is done, other requests are refused."""
        self._draining = True
        for wait in self._waits:
            wait.reschedule(0)

    @asynccontextmanager
    async def receiving(
        self, receive: Receive, announced_bytes: int, *, streamed: bool, left: Callable[[], None]
    ) -> AsyncIterator[Receive]:
        """``receive`` of one request within these bounds; ``left`` is called when its client has gone.

        A streamed body goes to the disk as it comes: it may have any size. Raises BodyTooLarge; receiving
        raises that, BodyTooSlow, TooManyBodies and ShuttingDown.
        """
        if not streamed:
            self._check_size(announced_bytes)  # before a byte of it is read
        held, started = 0, time.monotonic()
        waiting: asyncio.TimerHandle | None = None
        watcher: asyncio.Task[None] | None = None

        async def watch() -> None:
            if (await receive())["type"] == "http.disconnect":
                left()

        def begin_to_watch() -> None:
            nonlocal watcher
            watcher = asyncio.create_task(watch())

        async def bounded() -> Message:
            nonlocal held, waiting
            if waiting is not None:
                return await receive()
            credit_s = math.inf if streamed else started + held / _SLOWEST_BYTES_PER_S - time.monotonic()
            message = await self._next(receive, min(self._timeout_s, self._timeout_s + credit_s))
            if not streamed:
                size = len(message.get("body", b""))
                held += size
                self._held_bytes += size
                self._check_size(held)
                self._check_held()
            if message["type"] == "http.request" and not message.get("more_body", False):
                waiting = asyncio.get_running_loop().call_later(_WATCHED_AFTER_S, begin_to_watch)
            return message

        try:
            yield bounded
        finally:
            self._held_bytes -= held
            if waiting is not None:
                waiting.cancel()
            if watcher is not None:
                watcher.cancel()
                with suppress(asyncio.CancelledError):
                    await watcher

    async def _next(self, receive: Receive, timeout_s: float) -> Message:
        try:
            async with asyncio.timeout(0 if self._draining else max(0, timeout_s)) as wait:
                self._waits.add(wait)
                try:
                    return await receive()
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            if self._draining:
                raise ShuttingDown("The service ends; send the request again to the next one.") from None
            raise BodyTooSlow("The body did not come in time.") from None

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLarge(f"The body has more than {self._max_bytes} bytes.")

    def _check_held(self) -> None:
        if self._held_bytes > self._max_held_bytes:
            raise TooManyBodies("The service reads as many large requests as it can hold.")
