"""Adapting: the job that learns an adapter from pairs of a query and the item that answers it.

Queries are embedded here, behind everybody who waits. Learning is done by a process of its own, so that it
takes no core from an answer, and ends with the job if somebody cancels that.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from index.adapters import Learned
from index.catalog import Catalog, Reading, check_encoder
from index.jobs import Job, StepRefused
from index.tasks import in_one_with
from index.vectors import Vectors
from models import adaptation
from models.adaptation import Lesson
from models.relevance import KINDS
from service.archivist import TaskFailed
from service.embedder import Embedder
from service.jobs_runner import TRANSIENT

CROWD = 20_000  # items drawn from the collection, among which those of the pairs must be found
_AT_ONCE = 256  # queries
_LOOK_S = 1.0
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Adapting:
    """Carries out jobs of type adapt; its coroutines belong to one event loop."""

    def __init__(self, catalog: Catalog, embedder: Embedder) -> None:
        self._catalog = catalog
        self._embedder = embedder

    async def do(self, job: Job, request: dict[str, Any]) -> None:
        """Learn, judge, and keep what was learned with what the gate says of it.

        Raises StepRefused, TaskFailed, EncoderMismatch and what TRANSIENT has.
        """
        if job.done:  # by a process that died before it could say so
            return
        encoder = self._embedder.encoder
        collection = await asyncio.to_thread(self._catalog.collection, job.name)
        check_encoder(collection, encoder.id)
        pairs, golden = request["pairs"], request["golden"]
        rows = await self._embedded(job, sorted({query for query, _ in (*pairs, *golden)}))
        lesson, left_out = await asyncio.to_thread(self._lesson, job.name, rows, pairs, golden)
        data = await self._in_a_process(job, lesson)
        found = adaptation.Learned.from_bytes(data, encoder.dim)
        report = asdict(found.verdict) | {"left_out": left_out}
        curves = {kind: asdict(curve) for kind, curve in found.curves.items()}
        learned = Learned(found.adapter.to_bytes(), curves, report)

        await asyncio.to_thread(
            self._catalog.adapters.add,
            *(job.uid, request["name"], encoder.id, learned),
            lambda id: in_one_with(job, [{"adapter": id, **report}]),
        )

    async def _embedded(self, job: Job, queries: Sequence[str]) -> dict[str, Vectors]:
        """The rows of those queries that can be read."""
        found = dict[str, Vectors]()
        for start in range(0, len(queries), _AT_ONCE):
            await self._check_going_on(job)
            some = queries[start : start + _AT_ONCE]
            rows = await self._embedder.embed([(query,) for query in some], "bulk")
            for query, row in zip(some, rows, strict=True):
                if isinstance(row, TRANSIENT):  # says nothing about the query
                    raise row
                if not isinstance(row, Exception):
                    found[query] = row
        return found

    def _lesson(
        self,
        name: str,
        rows: dict[str, Vectors],
        pairs: Sequence[tuple[str, str]],
        golden: Sequence[tuple[str, str]],
    ) -> tuple[Lesson, int]:
        """What there is to learn from, and how many pairs are of no use: of unreadable queries, or items that
        are not there."""
        with self._catalog.reading(name) as reading:
            check_encoder(reading.collection, self._embedder.encoder.id)  # it may have moved
            known = reading.found({item for _, item in (*pairs, *golden)})
            crowd, of_crowd = _crowd(reading, {seq for seq, _, _ in known.values()})
        queries = {query: place for place, query in enumerate(rows)}
        items = {item: place for place, item in enumerate(known)}

        def places(given: Sequence[tuple[str, str]]) -> np.ndarray[Any, np.dtype[np.int64]]:
            found = [(queries[q], items[i]) for q, i in given if q in queries and i in items]
            return np.array(found, np.int64).reshape(-1, 2)

        taught, kept = places(pairs), places(golden)
        if not len(taught):
            raise TaskFailed(
                "None of the pairs has a readable query and an item that is there.", "too_few_pairs"
            )
        own = np.stack([row for _, row, _ in known.values()])
        kinds = [*(modality for _, _, modality in known.values()), *of_crowd]
        lesson = Lesson(
            queries=np.stack(list(rows.values())),
            items=np.concatenate([own, crowd]),
            pairs=taught,
            golden=kept,
            modalities=np.array([KINDS.index(kind) for kind in kinds], np.int8),
            kinds=KINDS,
        )
        return lesson, len(pairs) + len(golden) - len(taught) - len(kept)

    async def _in_a_process(self, job: Job, lesson: Lesson) -> bytes:
        asked = await asyncio.to_thread(lesson.to_bytes)
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-P",
                "-m",
                "models.adaptation",
            ),  # whatever packages the working directory holds
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
        )
        talking = asyncio.create_task(process.communicate(asked))
        try:
            while not (await asyncio.wait([talking], timeout=_LOOK_S))[0]:
                await self._check_going_on(job)
            data, said = await talking
        finally:
            talking.cancel()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        told = said.decode(errors="replace").strip()
        if process.returncode == adaptation.TOO_FEW:
            raise TaskFailed(told, "too_few_pairs")
        if process.returncode:
            raise TaskFailed(f"Learning ended with status {process.returncode}: {told[-500:]}", "task_failed")
        return data

    async def _check_going_on(self, job: Job) -> None:
        state = (await asyncio.to_thread(self._catalog.jobs.get, job.id)).state
        if state != "running":
            raise StepRefused(f"job {job.id} is {state}")


def _crowd(reading: Reading, but: set[int]) -> tuple[Vectors, list[str]]:
    """Rows (n, dim) of items drawn by lot, all of them in a small collection, and their modalities."""
    share, random = CROWD / max(1, reading.count()), np.random.default_rng(0)
    rows: list[Vectors] = [np.empty((0, reading.collection.dim), np.float32)]
    kinds = list[str]()
    for seqs, vectors, modalities in reading.rows():
        drawn = (random.random(len(seqs)) < share) & ~np.isin(seqs, list(but))
        rows.append(vectors[drawn])
        kinds += [kind for kind, taken in zip(modalities, drawn, strict=True) if taken]
    return np.concatenate(rows), kinds
