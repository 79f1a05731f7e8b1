"""Halts of the machine itself: moments at which a core runs nothing, whoever wants to.

A shared machine has them without any load of ours, for tenths of a second. On each core a process that does
nothing but sleep notes when it slept much too long: ``python -m bench.halts CORE``.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_NAP_S, _TOO_LONG_S = 0.005, 0.025  # a core that is merely busy lets a sleeper run within a few milliseconds

Halts = list[tuple[float, float]]  # from when to when, of time.monotonic


@contextmanager
def halts_noted() -> Iterator[Halts]:
    """Give a list that has the halts of all cores when the block has ended."""
    found: Halts = []
    watching = [
        subprocess.Popen([sys.executable, "-m", __name__, str(core)], stdout=subprocess.PIPE, text=True)
        for core in os.sched_getaffinity(0)
    ]
    try:
        yield found
    finally:
        for process in watching:
            process.terminate()
            lines = process.communicate()[0].splitlines()
            found += [(float(start), float(end)) for start, end in map(str.split, lines)]


def is_halted(start: float, end: float, halts: Halts) -> bool:
    """Whether the machine halted at some moment between the two."""
    return any(halt_start < end and start < halt_end for halt_start, halt_end in halts)


def _watch(core: int) -> None:
    os.sched_setaffinity(0, {core})
    before = time.monotonic()
    while True:
        time.sleep(_NAP_S)
        now = time.monotonic()
        if now - before > _TOO_LONG_S:
            print(before, now, flush=True)
        before = now


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
