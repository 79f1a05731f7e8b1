"""How long the stages of one request took, for its Server-Timing header.

They go with the request's task, so that nothing in between has to hand them on.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Spans = dict[str, list[tuple[float, float]]]  # by stage: begins and ends, in seconds of time.perf_counter
Note = Callable[[float, float], None]  # a begin and an end
_measured: ContextVar[Spans | None] = ContextVar("measured", default=None)


@contextmanager
def measuring() -> Iterator[Spans]:
    """What ``note`` is told in this block, and in tasks that begin in it."""
    spans: Spans = {}
    token = _measured.set(spans)
    try:
        yield spans
    finally:
        _measured.reset(token)


def note(stage: str, seconds: float) -> None:
    """A stage that took so long has just ended; outside of requests nobody is told."""
    spans = _measured.get()
    if spans is not None:
        now = time.perf_counter()
        spans.setdefault(stage, []).append((now - seconds, now))


def noting(stage: str) -> Note | None:
    """What is told later, out of this task, when the stage began and ended for this request; None: nobody
    measures. Times are of one clock, whichever."""
    spans = _measured.get()
    return None if spans is None else lambda begin, end: spans.setdefault(stage, []).append((begin, end))


def server_timing(spans: Mapping[str, list[tuple[float, float]]]) -> str:
    """The header's value: of each stage the time in which one of its kind or more went on."""
    return ", ".join(f"{stage};dur={_covered_s(found) * 1000:.2f}" for stage, found in spans.items())


def _covered_s(spans: list[tuple[float, float]]) -> float:
    covered, last = 0.0, 0.0
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, last))
        last = max(last, end)
    return covered
