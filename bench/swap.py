"""Searches at a steady rate while the next generation is built, published and taken over."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from bench.halts import Halts, halts_noted, is_halted
from bench.house import House, content_of, in_child
from bench.tables import Row
from index.catalog import Upsert
from index.live import LiveIndex
from index.priority import MODEST
from index.vectors import Vectors

_PER_S, _THREADS = 100, 2
_LEAST_BEFORE_S, _AFTER_S = 20.0, 5.0
_REFRESH_S = 0.5  # how often the service looks for news
_CHANGES = 500


class _Asked(NamedTuple):
    at: float  # when it was due
    taken_s: float  # since then: who waits for a thread waits too
    failed: bool


def swapped_under_load(
    house: House, live: LiveIndex, queries: Vectors, turn: int, before_s: float
) -> tuple[list[Row], dict[str, Any]]:
    """Latency of each second, and the numbers of the whole; each ``turn`` has changes of its own.

    Searches go on for ``before_s`` before the build: as long as it will take, if that is known.
    ``swap_p99_ratio`` compares the time from the start of the build to some seconds after the swap with the
    time before. ``swap_pause_ms`` is what the slowest search took that was under way at the swap, beyond the
    median before. Both are of searches during which the machine itself did not halt; ``halted`` others are in
    the table alone, and count if they failed.
    """
    stop, asked = threading.Event(), list[_Asked]()
    house.commit(_changes(turn, queries))
    live.refresh()
    threads = [threading.Thread(target=_ask, args=(live, queries, n, stop, asked)) for n in range(_THREADS)]
    with halts_noted() as halts:
        for thread in threads:
            thread.start()
        _refreshed_for(live, max(before_s, _LEAST_BEFORE_S))
        build_at, generation = time.monotonic(), live.view.generation
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(in_child, House.rebuilt, house, MODEST)
            swap_at = _follow(live, generation, building)
        time.sleep(_AFTER_S)
        stop.set()
        for thread in threads:
            thread.join()
    asked.sort()
    rows = [{"turn": turn} | row for row in _table(asked, build_at, swap_at)]
    return rows, _numbers(asked, build_at, swap_at, halts)


def _changes(turn: int, queries: Vectors) -> list[Upsert]:
    """New items of a turn, on the rows of queries, of which there may be fewer."""
    ids = [f"change-{turn}-{number}" for number in range(_CHANGES)]
    return [Upsert(id, content_of(id), row, "image") for id, row in zip(ids, cycle(queries), strict=False)]


def _ask(live: LiveIndex, queries: Vectors, number: int, stop: threading.Event, asked: list[_Asked]) -> None:
    """One thread's share of the load."""
    random, due = np.random.default_rng(number), time.monotonic() + number / _PER_S
    while not stop.is_set():
        time.sleep(max(0.0, due - time.monotonic()))
        query = queries[random.integers(len(queries), size=1)]
        try:
            failed = len(live.view.search(query, 10)[0]) != 10
        except Exception:
            failed = True
        asked.append(_Asked(due, time.monotonic() - due, failed))
        due += _THREADS / _PER_S


def _refreshed_for(live: LiveIndex, seconds: float) -> None:
    """Look for news as the service does, though there is none."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(_REFRESH_S)
        live.refresh()


def _follow(live: LiveIndex, generation: int, building: "Future[Any]") -> float:
    """Take news over as the service does, until it is the next generation; when that was."""
    while live.view.generation == generation:
        if building.done() and building.exception() is not None:
            building.result()
        time.sleep(_REFRESH_S)
        live.refresh()
    return time.monotonic()


def _table(asked: Sequence[_Asked], build_at: float, swap_at: float) -> list[Row]:
    rows = []
    for second in range(int(asked[-1].at - asked[0].at)):
        start = asked[0].at + second
        taken = [one.taken_s for one in asked if start <= one.at < start + 1]
        if taken:
            phase = "before" if start < build_at else "building" if start < swap_at - 1 else "swap and after"
            p99_ms, median_ms = 1000 * np.quantile(taken, 0.99), 1000 * np.median(taken)
            rows.append(
                {
                    "second": second,
                    "phase": phase,
                    "p99_ms": round(p99_ms, 2),
                    "median_ms": round(median_ms, 2),
                }
            )
    return rows


def _numbers(asked: Sequence[_Asked], build_at: float, swap_at: float, halts: Halts) -> dict[str, Any]:
    told = [one for one in asked if not is_halted(one.at, one.at + one.taken_s, halts)]
    before = [one.taken_s for one in told if one.at < build_at]
    after = [one.taken_s for one in told if one.at >= build_at]
    across = [one.taken_s for one in told if one.at <= swap_at <= one.at + one.taken_s + 0.05]
    p99_before, p99_after = float(np.quantile(before, 0.99)), float(np.quantile(after, 0.99))
    return {
        "searches": len(asked),
        "halted": len(asked) - len(told),
        "swap_failed": sum(one.failed for one in asked),
        "p99_before_ms": round(1000 * p99_before, 2),
        "p99_during_ms": round(1000 * p99_after, 2),
        "swap_p99_ratio": round(p99_after / p99_before, 2),
        "swap_pause_ms": round(1000 * (max(across, default=0.0) - float(np.median(before))), 2),
        "building_s": round(swap_at - build_at, 1),
    }
