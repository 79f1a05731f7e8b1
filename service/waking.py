"""Threads that wait for work, of whom the last to come is woken first."""

from threading import Lock
from types import TracebackType


class Sleepers:
    """A lock, and whoever waits for what it guards to change, as with ``threading.Condition``.

    That one wakes who has waited longest; here it is who waits since a moment ago, for what he works with is
    still in a core's caches. Each method but ``__enter__`` is called by who holds the lock.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._asleep: list[Lock] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait(self, timeout_s: float | None = None) -> None:
        """Let others have the lock until this thread is woken, or for so long."""
        woken = Lock()
        woken.acquire()
        self._asleep.append(woken)
        self._lock.release()
        try:
            woken.acquire(timeout=-1 if timeout_s is None else timeout_s)
        finally:
            self._lock.acquire()
            if woken in self._asleep:  # nobody woke it
                self._asleep.remove(woken)

    @property
    def asleep(self) -> int:
        """How many wait."""
        return len(self._asleep)

    def wake(self, count: int) -> None:
        """Wake so many, or all if there are fewer."""
        for _ in range(min(count, len(self._asleep))):
            self._asleep.pop().release()

    def wake_all(self) -> None:
        """Wake everybody who waits."""
        self.wake(len(self._asleep))
