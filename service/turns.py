"""Whose turn it is: which documents make the next batch, and how many batches run beside each other."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from service.admission import LANES, Admission, Lane
from service.costs import Costs
from service.lane import Queue, Waiting

SPARE = 1  # thread more than cores
_QUIET_S = 0.1  # without anybody who waits for an answer: then bulk has its turn
_PATIENCE_S = 1.0  # after which bulk has one small batch all the same
_PATIENCE_BESIDE_S = 0.25  # the same, where other workers go on meanwhile
_ALERT_S = 2.0  # after anybody came: so long bulk goes in small batches, for the next may come any moment
_SMALL_S = 0.02  # of encoding
T = TypeVar("T")


class Turns(Generic[T]):
    """What waits, by lane, and the batches that run, on ``workers`` cores.

    A lane is served when those before it are empty, and within a lane callers have equal shares. What waits
    is shared out among the cores that are free. Bulk moreover waits for a moment of quiet: a client that
    sends one request after another would else meet a bulk batch each time. ``max_batch`` bounds a group's
    batches; what room they leave is for the groups ``beside`` it. One batch more than cores runs while
    another is of a group that ``pauses``, for that leaves its core at times; others would only lose caches.

    Not safe for threads: whoever calls it holds a lock, but for ``waiting`` and ``seconds``.
    """

    def __init__(
        self,
        workers: int,
        admission: Admission,
        max_batch: Callable[[str], int],
        beside: Callable[[str], Sequence[str]],
        pauses: Callable[[str], bool],
    ) -> None:
        self._workers = workers
        self._admission = admission
        self._max_batch = max_batch
        self._beside = beside
        self._pauses = pauses
        self._lanes: dict[Lane, Queue[T]] = {lane: Queue() for lane in LANES}
        self._costs = Costs(max_batch)
        self._heard_at = self._bulk_at = -math.inf  # when somebody was answered, and bulk had its turn
        self._patience_s = _PATIENCE_S if workers == 1 else _PATIENCE_BESIDE_S
        self._running: list[list[Waiting[T]]] = []

    def put(self, waiting: Waiting[T], lane: Lane) -> None:
        """Let a document wait in a lane."""
        self._lanes[lane].put(waiting)

    def waiting(self, lane: Lane) -> int:
        """How many documents wait in a lane."""
        return len(self._lanes[lane])

    def seconds(self, group: str) -> float:
        """How long one document of a group keeps others waiting, by those before it."""
        return self._costs.seconds(group) / self._workers

    @property
    def ready(self) -> int:
        """How many batches could begin now, or fewer than none; there may be no document left for some."""
        waiting = sum(len(queue) for lane, queue in self._lanes.items() if self._has_turn(lane))
        return min(waiting, self._room)

    @property
    def wait_s(self) -> float | None:
        """In how many seconds there may be a batch to begin though nothing happens; None: never."""
        if not self._lanes["bulk"] or self._room <= 0:
            return None
        return max(0.0, self._bulk_wait_s())

    def begin(self) -> tuple[Lane, list[Waiting[T]]]:
        """The next batch, which runs until ``end``; it is empty if there is none to begin."""
        if self._room > 0:
            for lane, queue in self._lanes.items():
                if not queue or not self._has_turn(lane):
                    continue
                batch = queue.cut(self._share(lane), self._size_in(lane), self.seconds, self._beside)
                if batch:
                    if lane == "bulk":
                        self._bulk_at = time.monotonic()
                    self._running.append(batch)
                    return lane, batch
        return "bulk", []

    def answered(self, batch: Sequence[Waiting[T]], lane: Lane, ended: float, seconds: float) -> None:
        """What runs, or a part of it, has its rows, after so long."""
        if lane == "bulk":
            self._bulk_at = ended
        elif lane != "probe":
            self._heard_at = ended
        share = min(1.0, self._workers / len(self._running))  # of a core that the batch had
        self._costs.learn([waiting.group for waiting in batch], share * seconds)

    def end(self, batch: list[Waiting[T]]) -> None:
        """A batch runs no more."""
        self._running = [other for other in self._running if other is not batch]

    def clear(self) -> list[Waiting[T]]:
        """Take out all that waits."""
        return [waiting for queue in self._lanes.values() for waiting in queue.clear()]

    @property
    def running(self) -> list[Waiting[T]]:
        """The documents of the batches that run."""
        return [waiting for batch in self._running for waiting in batch]

    @property
    def _room(self) -> int:
        """How many batches may begin beside those that run."""
        paused = any(self._pauses(batch[0].group) for batch in self._running)
        return self._workers + (SPARE if paused else 0) - len(self._running)

    def _has_turn(self, lane: Lane) -> bool:
        return lane != "bulk" or self._bulk_wait_s() <= 0

    def _share(self, lane: Lane) -> int:
        """How many documents are one core's: others that are free get as much of what waits."""
        return -(-len(self._lanes[lane]) // max(1, self._workers - len(self._running)))

    def _size_in(self, lane: Lane) -> Callable[[str], int]:
        return self._bulk_size if lane == "bulk" else self._max_batch

    def _bulk_wait_s(self) -> float:
        """How long until bulk has its turn, if nobody comes."""
        now = time.monotonic()
        # Whose picture is decoded is about to come.
        heard_at = self._heard_at if self._admission.idle else now
        return min(heard_at + _QUIET_S, self._bulk_at + self._patience_s) - now

    def _bulk_size(self, group: str) -> int:
        most = self._max_batch(group)
        if time.monotonic() - self._heard_at > _ALERT_S:
            return most
        return max(1, min(most, int(_SMALL_S / self._costs.seconds(group))))
