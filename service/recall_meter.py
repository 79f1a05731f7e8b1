"""The recall meter: a share of the searches is answered again, exactly, behind everybody's back.

It has one thread of low priority on one core, and rests nine times as long as it works. What comes
meanwhile is not waited for: a sample needs to be fair, not complete.
"""

import logging
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from index.engines import AUTO, Params, milvus
from index.engines.scanning import use_one_core
from index.filters import Filter
from index.live import View
from index.priority import give_way
from index.recall import recall_at_k
from index.vectors import Vectors

log = logging.getLogger(__name__)
K = 10
_WAITING = 4  # samples; each holds the view that it was answered from
_REST = 9  # times as long as it worked
_WINDOW = 200  # samples of a kind, over which recall is a mean
_STEPS = (0.5, 0.1, 0.01, 0.001, 0.0)


@dataclass(frozen=True)
class Sample:
    """A (1, dim) query as it was answered from ``view``; what it was made of, and what it was to find."""

    view: View
    query: Vectors
    kind: str  # text, image, item, vector or mixed
    target: str  # any, image or text
    filter: Filter | None
    params: Params = AUTO


@dataclass(frozen=True)
class Estimate:
    """The mean recall of the last samples of a kind, and how many there were since the start."""

    collection: str
    query: str
    target: str
    selectivity: str
    recall: float
    samples: int


@dataclass
class _Series:
    last: deque[float]
    samples: int = 0


class RecallMeter:
    """Measures recall in a thread of its own. ``offer`` may be called by any thread."""

    def __init__(self, share: float, observe: Callable[[Estimate], None]) -> None:
        """Of all that is offered, this share is measured; 0: nothing."""
        self._share = share
        self._observe = observe
        self._waiting: queue.Queue[Sample | None] = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recall", daemon=True)
        self._series: dict[tuple[str, str, str, str], _Series] = {}

    def start(self) -> None:
        """Begin to measure."""
        if self._share:
            self._thread.start()

    def close(self) -> None:
        """End after the sample in hand."""
        self._stop.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join()

    def offer(self, sample: Sample) -> None:
        """A search was answered. Never waits."""
        if random.random() < self._share:
            with suppress(queue.Full):
                self._waiting.put_nowait(sample)

    def estimates(self, collection: str) -> list[Estimate]:
        """What was measured of a collection since this process started."""
        series = sorted(self._series.copy().items())
        return [_estimate(key, found) for key, found in series if key[0] == collection]

    def forget(self, collection: str) -> None:
        """The collection is gone."""
        for key in [key for key in self._series.copy() if key[0] == collection]:
            self._series.pop(key, None)

    def measure(self, sample: Sample) -> None:
        """Compare what a search finds with what there is, and take it into the mean of its kind."""
        view, filter = sample.view, sample.filter
        if view.snapshot is not None and view.snapshot.manifest.factory == milvus.FACTORY:
            return  # whose vectors would all have to come over the network
        matching = len(view.seqs(filter))
        if not matching:
            return
        k = min(K, matching)
        found = view.scores(sample.query, k, filter, sample.params)
        truth = view.scores(sample.query, k, filter, Params(exact=True))
        share = None if filter is None else matching / view.count
        key = (view.collection.name, sample.kind, sample.target, selectivity(share))
        series = self._series.setdefault(key, _Series(deque(maxlen=_WINDOW)))
        series.last.append(recall_at_k(truth, found))
        series.samples += 1
        self._observe(_estimate(key, series))

    def _run(self) -> None:
        give_way()
        use_one_core()
        while (sample := self._waiting.get()) is not None and not self._stop.is_set():
            started = time.monotonic()
            try:
                self.measure(sample)
            except Exception:
                log.exception("the recall of a search could not be measured")
            del sample  # and with it the view
            self._stop.wait(_REST * (time.monotonic() - started))


def selectivity(share: float | None) -> str:
    """The share of items that pass a filter, as a label: at least so many. "all": there is no filter."""
    return "all" if share is None else str(next(step for step in _STEPS if share >= step))


def _estimate(key: tuple[str, str, str, str], series: _Series) -> Estimate:
    return Estimate(*key, recall=sum(series.last) / len(series.last), samples=series.samples)
