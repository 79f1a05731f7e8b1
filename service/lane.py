"""A lane of the batcher: what waits in it, and whose turn it is."""

import heapq
import time
from asyncio import Future
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.sequel import Sequel

Rows = NDArray[np.float32]  # (n, dim)
T = TypeVar("T")


@dataclass
class Waiting(Generic[T]):
    """A document, who waits for its row, and since when. Documents of one group may share a batch."""

    item: T
    group: str
    caller: str | None
    future: Future[Rows]
    note: Callable[[float, float], None] | None = None  # is told from when to when it waited
    done: Callable[[], None] | None = None  # is called when it has its row
    then: Sequel[Any] | None = None  # may be begun with its row
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Share(Generic[T]):
    """What one caller has waiting, by group in order of arrival, and how much of the encoder it had."""

    used_s: float
    groups: dict[str, deque[Waiting[T]]] = field(default_factory=dict)


class Queue(Generic[T]):
    """Callers who have something waiting get equal shares of the encoder's time, whatever they sent.

    Whoever has had least of it is next; one who comes new, or back, begins at the level of who has had least.
    """

    def __init__(self) -> None:
        self._shares: dict[str | None, _Share[T]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, waiting: Waiting[T]) -> None:
        """Add a document at the end of its caller's."""
        share = self._shares.get(waiting.caller)
        if share is None:
            level = min((other.used_s for other in self._shares.values()), default=0.0)
            share = self._shares[waiting.caller] = _Share(level)
        share.groups.setdefault(waiting.group, deque()).append(waiting)
        self._count += 1

    def cut(
        self,
        most: int,
        size: Callable[[str], int],
        seconds: Callable[[str], float],
        beside: Callable[[str], Sequence[str]] = lambda group: (),
    ) -> list[Waiting[T]]:
        """The next batch: what the caller whose turn it is has waiting longest, and others of its group.

        If these are few, documents of the groups ``beside`` it fill what room they leave. ``size`` is how
        many of a group fill a batch by themselves, and no batch has more than ``most``; ``seconds`` is what
        one document costs. Nobody who left is in it; it is empty if nobody else was there.
        """
        while self._shares:
            share = min(self._shares.values(), key=lambda share: share.used_s)
            first = min(share.groups, key=lambda name: share.groups[name][0].since)
            batch: list[Waiting[T]] = []
            room = 1.0
            for group in (first, *beside(first)):
                fitting = min(most - len(batch), int(room * size(group) + 1e-9))
                found = self._cut(group, fitting, seconds(group))
                room -= len(found) / size(group)
                batch += found
            if batch:
                return batch
        return []

    def clear(self) -> list[Waiting[T]]:
        """Take out everything."""
        left = [
            waiting for share in self._shares.values() for queue in share.groups.values() for waiting in queue
        ]
        self._shares.clear()
        self._count = 0
        return left

    def _cut(self, group: str, size: int, cost_s: float) -> list[Waiting[T]]:
        turns = [
            (share.used_s, number, key)
            for number, (key, share) in enumerate(self._shares.items())
            if group in share.groups
        ]
        heapq.heapify(turns)
        batch: list[Waiting[T]] = []
        while turns and len(batch) < size:
            _, number, key = heapq.heappop(turns)
            share = self._shares[key]
            waiting = self._pop(key, share, group)
            if not waiting.future.done():  # else its caller left
                batch.append(waiting)
                share.used_s += cost_s
            if group in share.groups:
                heapq.heappush(turns, (share.used_s, number, key))
        return batch

    def _pop(self, key: str | None, share: _Share[T], group: str) -> Waiting[T]:
        queue = share.groups[group]
        waiting = queue.popleft()
        self._count -= 1
        if not queue:
            del share.groups[group]
        if not share.groups:
            del self._shares[key]
        return waiting
