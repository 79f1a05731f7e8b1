"""Work in the background: it gives way to whoever waits for an answer."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
# Of threads beside those that answer: one that is hardly let on may hold Python's lock while all others wait.
MODEST = 10


def give_way() -> None:
    """Make the calling thread nice to others, where threads have a niceness of their own."""
    if sys.platform == "linux":  # to which a thread is a process too
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, max(MODEST, os.getpriority(os.PRIO_PROCESS, thread)))


def behind_others(work: Callable[[], T]) -> T:
    """Do work on a thread of its own that gives way, as do the threads that it starts; what it returned.

    It runs when nothing else wants to: then who wakes up never waits for it, while beside work that is merely
    nice, on every core, one in fifty waits for the next tick of the clock. A machine that is busy for hours
    would leave it next to nothing: there it takes the tenth of a core that a modest one gets.
    """
    busy = os.getloadavg()[0] >= (os.cpu_count() or 1)
    with ThreadPoolExecutor(1, "background", give_way if busy else _when_idle) as thread:
        return thread.submit(work).result()


def _when_idle() -> None:
    give_way()  # where there is no such policy
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
