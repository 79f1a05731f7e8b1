"""Searching on a GPU: it gets a copy of the vectors and compares every query with all of them.

On disk an index has one form, the CPU's. Whoever opens it decides by ``placed`` where it is searched, and a
GPU that is not there, too small, or wrong costs speed and nothing else.
"""

import ctypes
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import faiss
import numpy as np

from index.engines import AUTO, Engine, OpenEngine, Params, Rows, Scores, Tuning
from index.engines.faiss import FaissEngine
from index.engines.scanning import NO_SCORE
from index.fields import RowSet, numbers
from index.vectors import Vectors

log = logging.getLogger(__name__)
_faiss: Any = faiss

Device = Literal["auto", "cpu", "cuda"]
Reason = Literal["asked", "fits", "no_gpu", "too_large", "failed", "wrong"]
ExactSearch = Callable[[Vectors, int], tuple[Scores, Rows]]

_SCRATCH_BYTES = 1 << 28  # of the card's memory, for the distances of one batch
_SPARED = 0.1  # of what is free: other processes and the encoder grow too
_MOST_FOUND = 2048  # rows; FAISS finds no more at once on a GPU
_BATCH = 1024  # queries in one call
_PROBES = 64  # rows that must find what they find on the CPU before the card serves
_TOLERANCE = 1e-3  # between the card's scores and the CPU's


class Card(Protocol):
    """A GPU as it is needed here."""

    def free_bytes(self) -> int:
        """How much of its memory nobody uses."""
        ...

    def hold(self, rows: Vectors) -> ExactSearch:
        """Copy (n, dim) rows there; what finds the nearest of them, in one thread. Raises RuntimeError."""
        ...


class CudaCard:
    """A GPU that FAISS can use."""

    def __init__(self, number: int = 0) -> None:
        self._number = number

    @staticmethod
    def find() -> "CudaCard | None":
        """The first GPU; None when there is none, or FAISS was built without."""
        return CudaCard() if getattr(_faiss, "get_num_gpus", int)() else None

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        cuda = ctypes.CDLL("libcudart.so.12")  # the one that FAISS has loaded
        if cuda.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
            raise RuntimeError("the GPU does not say how much memory is free")
        return free.value

    def hold(self, rows: Vectors) -> ExactSearch:
        options, resources = _faiss.GpuIndexFlatConfig(), _faiss.StandardGpuResources()
        options.device = self._number
        resources.setTempMemory(_SCRATCH_BYTES)  # of this index alone: threads must not share it
        index = _faiss.GpuIndexFlatIP(resources, rows.shape[1], options)
        index.add(rows)

        def find(queries: Vectors, top_k: int, _kept: Any = resources) -> tuple[Scores, Rows]:
            scores, found = index.search(queries, top_k)
            return scores, found

        return find


@dataclass(frozen=True)
class _Request:
    queries: Vectors
    top_k: int
    answer: "Future[tuple[Scores, Rows]]" = field(default_factory=Future)


class Lane:
    """Searches of many threads in one: GPU indexes bear no more. All that wait share the next call."""

    def __init__(self, find: ExactSearch) -> None:
        self._find = find
        self._waiting: list[_Request] = []
        self._queueing = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gpu")

    def search(self, queries: Vectors, top_k: int) -> tuple[Scores, Rows]:
        """See ``Engine.search``. Raises what the card raises."""
        request = _Request(queries, top_k)
        with self._queueing:
            self._waiting.append(request)
        self._thread.submit(self._answer)
        return request.answer.result()

    def _answer(self) -> None:
        """Answer those that wait; whoever is left has submitted a call of their own."""
        batch = self._taken()
        if not batch:
            return
        try:
            queries = np.concatenate([request.queries for request in batch])
            scores, rows = self._find(queries, max(request.top_k for request in batch))
        except Exception as error:
            for request in batch:
                request.answer.set_exception(error)
            return
        start = 0
        for request in batch:
            part = np.s_[start : start + len(request.queries), : request.top_k]
            request.answer.set_result((scores[part], rows[part]))
            start += len(request.queries)

    def _taken(self) -> list[_Request]:
        with self._queueing:
            size, number = 0, 0
            for number, request in enumerate(self._waiting):
                size += len(request.queries)
                if number and size > _BATCH:
                    break
            else:
                number = len(self._waiting)
            batch, self._waiting = self._waiting[:number], self._waiting[number:]
            return batch


class GpuEngine:
    """An ``Engine`` whose vectors are on a GPU too, where all are compared with a query: exact at any effort.

    What the GPU cannot do, the CPU does: long answers, filters, and everything once a call has failed.
    """

    def __init__(self, engine: FaissEngine, find: ExactSearch) -> None:
        self._engine = engine
        self._lane: Lane | None = Lane(find)

    @property
    def count(self) -> int:
        return self._engine.count

    @property
    def dim(self) -> int:
        return self._engine.dim

    @property
    def factory(self) -> str:
        return self._engine.factory

    @property
    def tuning(self) -> Tuning:
        return self._engine.tuning

    def search(
        self, queries: Vectors, top_k: int, allowed: RowSet | None = None, params: Params = AUTO
    ) -> tuple[Scores, Rows]:
        hidden = 0 if allowed is None else self.count - len(allowed)
        asked, lane = min(top_k + hidden, self.count), self._lane
        if lane is None or not 0 < asked <= _MOST_FOUND or top_k > asked or not len(queries):
            return self._engine.search(queries, top_k, allowed, params)
        try:
            scores, rows = lane.search(queries, asked)
        except Exception:
            log.exception("the GPU failed: the index is searched on the CPU from here on")
            self._lane = None
            return self._engine.search(queries, top_k, allowed, params)
        if allowed is None:
            return scores, rows
        return _without(scores, rows, numbers(allowed.flip(0, self.count)), top_k)

    def vectors(self, rows: Rows) -> Vectors:
        return self._engine.vectors(rows)

    def save(self, folder: Path) -> list[str]:
        return self._engine.save(folder)


def placed(
    engine: FaissEngine, device: Device, card: Card | None, note: Callable[[Device, Reason], None]
) -> Engine:
    """The engine on the device wanted, if that is possible, else on the CPU; never an error.

    ``note`` is told where it is and why. "auto" takes a GPU if there is one; "cuda" also says in the log what
    is wrong with it.
    """
    found: Engine = engine
    reason: Reason = "asked"
    if device != "cpu":
        found, reason = _on_card(engine, card)
    on: Device = "cpu" if found is engine else "cuda"
    serious = reason in ("failed", "wrong") or (device == "cuda" and on == "cpu")
    log.log(logging.WARNING if serious else logging.DEBUG, "index on %s: %s", on, reason)
    note(on, reason)
    return found


def _on_card(engine: FaissEngine, card: Card | None) -> tuple[Engine, Reason]:
    if card is None:
        return engine, "no_gpu"
    try:
        if engine.rows.nbytes + _SCRATCH_BYTES > (1 - _SPARED) * card.free_bytes():
            return engine, "too_large"
        find = card.hold(engine.rows)
        return (GpuEngine(engine, find), "fits") if _agrees(find, engine) else (engine, "wrong")
    except Exception:
        log.exception("the GPU cannot hold the index")
        return engine, "failed"


def _agrees(find: ExactSearch, engine: FaissEngine) -> bool:
    """Whether the card finds what the CPU finds: some have found random neighbours without a word."""
    queries = engine.rows[:: max(1, engine.count // _PROBES)][:_PROBES]
    top_k = min(10, engine.count)
    expected = engine.search(queries, top_k, params=Params(exact=True))[0]
    return np.allclose(find(queries, top_k)[0], expected, atol=_TOLERANCE)


def opening(device: Device, card: Card | None, note: Callable[[Device, Reason], None]) -> OpenEngine:
    """What opens saved indexes on a device: see ``placed``."""
    return lambda folder, factory, tuning: placed(
        FaissEngine.load(folder, factory, tuning), device, card, note
    )


def _without(scores: Scores, rows: Rows, hidden: Rows, top_k: int) -> tuple[Scores, Rows]:
    """The first ``top_k`` of each line that are not hidden, padded if there are fewer."""
    seen = ~np.isin(rows, hidden)
    order = np.argsort(~seen, axis=1, kind="stable")[:, :top_k]
    seen = np.take_along_axis(seen, order, axis=1)
    found = np.where(seen, np.take_along_axis(scores, order, axis=1), NO_SCORE)
    return found, np.where(seen, np.take_along_axis(rows, order, axis=1), -1)
