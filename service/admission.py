"""Admission: who may have work done now, judged by what it will cost; others are refused before it begins."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from service.caller import caller

Lane = Literal["probe", "interactive", "large", "bulk"]
# In order of service. In the last one nobody waits for an answer.
LANES: tuple[Lane, ...] = ("probe", "interactive", "large", "bulk")
_SLOWED = 2.1  # times what a request takes by itself it may wait
_MANY = 32  # documents; a request with fewer may wait as long as one with so many
_BEARABLE_S = 0.5  # to a person; what few documents may wait in any case
_LONGEST_S = 5.0  # that anybody waits
_KEPT = 0.98  # of what was learned, with each request: times of single ones are noise
_SURE = 0.8  # of a deadline: the rest is for what an estimate misses
Totals = dict[str | None, float]  # of each caller who has any


class Overloaded(Exception):
    """There is no room in the queue. ``retry_after_s`` estimates when there will be.

    ``stands`` tells whether there can be no more room yet.
    """

    def __init__(self, message: str, retry_after_s: int, stands: Callable[[], bool] = lambda: False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.stands = stands


class Permit:
    """What was admitted of one request and is not done yet, in seconds of the encoder's time."""

    def __init__(self, totals: Totals, key: str | None, documents: int, cost_s: float) -> None:
        self._totals = totals
        self._key = key
        self._each_s = cost_s / max(1, documents)
        self._left_s = cost_s
        _add(totals, key, cost_s)

    def advance(self) -> None:
        """One document of it is done."""
        self._take(min(self._each_s, self._left_s))

    def end(self) -> None:
        """All of it is done, or nobody waits for it any more."""
        self._take(self._left_s)

    def _take(self, seconds: float) -> None:
        self._left_s -= seconds
        _add(self._totals, self._key, -seconds)


class Admission:
    """Bounds what was admitted and is not done yet: in documents, and in seconds of the encoder's time.

    What is ahead of a request is what was admitted in its own lane and in those before it. It may take
    ``max_wait_s``, or, if that is 0, as long as makes nobody much slower than he would be alone: a few times
    what the request itself takes, or would take with many documents, and for a small one what a person bears.
    An idle encoder takes anything. When there is no room, callers who have less of it than an equal share
    each are admitted all the same, so that one who floods the queue keeps nobody else out. Costs are what
    callers foretell; how long work really took in the end, beside what was foretold, corrects them.
    """

    def __init__(self, max_documents: int, max_wait_s: float) -> None:
        self._max_documents = max_documents
        self._max_wait_s = max_wait_s
        self._documents: Totals = {}
        self._seconds: dict[Lane, Totals] = {lane: {} for lane in LANES}
        self._foretold_s = self._took_s = 1e-9  # of work that is done, the latest most

    @property
    def idle(self) -> bool:
        """Whether everything admitted was answered."""
        return not self._documents

    @contextmanager
    def permit(self, documents: int, cost_s: float, lane: Lane) -> Iterator[Permit]:
        """Admit work of the calling task while the block lasts. Raises Overloaded at once."""
        who = caller()
        cost_s *= self._slowness
        ahead_s = self._ahead_s(lane)
        most_s = self._most_s(cost_s, documents, lane)
        if not self.idle:
            if not self._has_room(who.key, documents, lane, most_s):
                raise Overloaded(
                    "The encoder's queue is full.",
                    _whole(ahead_s),
                    lambda: not (self.idle or self._has_room(who.key, documents, lane, most_s)),
                )
            if ahead_s + cost_s > _SURE * who.left_s:
                raise Overloaded("It would not be done in the time that the request gives.", _whole(ahead_s))
        _add(self._documents, who.key, documents)
        permit = Permit(self._seconds[lane], who.key, documents, cost_s)
        started = time.monotonic()
        try:
            yield permit
        finally:
            permit.end()
            _add(self._documents, who.key, -documents)
            self._learn(ahead_s + cost_s, time.monotonic() - started)

    def _learn(self, foretold_s: float, took_s: float) -> None:
        self._foretold_s = _KEPT * self._foretold_s + foretold_s / self._slowness
        self._took_s = _KEPT * self._took_s + took_s

    @property
    def _slowness(self) -> float:
        return min(4.0, max(1.0, self._took_s / self._foretold_s))

    def _most_s(self, cost_s: float, documents: int, lane: Lane) -> float:
        """How long a request may have to wait."""
        if self._max_wait_s:
            return self._max_wait_s
        if lane == "large":
            return min(_LONGEST_S, _SLOWED * cost_s * _MANY / min(_MANY, max(1, documents)))
        return min(_LONGEST_S, max(_SLOWED * cost_s, _BEARABLE_S))

    def _has_room(self, key: str | None, documents: int, lane: Lane, most_s: float) -> bool:
        if sum(self._documents.values()) + documents <= self._max_documents and self._ahead_s(lane) <= most_s:
            return True
        share = 1 / len(self._documents.keys() | {key})
        own = self._documents.get(key, 0) + documents
        return own <= share * self._max_documents and self._ahead_s(lane, key) <= share * most_s

    def _ahead_s(self, lane: Lane, *keys: str | None) -> float:
        """Seconds of work that are done before a lane's next; of these callers alone, if any are named."""
        before = [self._seconds[earlier] for earlier in LANES[: LANES.index(lane) + 1]]
        return sum(costs.get(key, 0.0) for costs in before for key in keys or costs)


def _add(totals: Totals, key: str | None, amount: float) -> None:
    total = totals.pop(key, 0.0) + amount
    if total > 1e-9:  # what is left of sums of seconds may be rounding
        totals[key] = total


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))
