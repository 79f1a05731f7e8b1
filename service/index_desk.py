"""The index desk: how the index of a collection is, and what may be asked of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from index.audit import Audit, audit
from index.catalog import Catalog, Collection, check_encoder
from index.jobs import Job, new_id
from index.live import LiveIndex, View
from index.manifest import SnapshotError
from index.snapshot import SnapshotStore
from index.tasks import TaskType
from service import gate_reports
from service.gate_reports import GateReport
from service.recall_meter import Estimate

__all__ = ["Audit", "GenerationUnusable", "IndexDesk", "Job", "State", "TaskType"]


class GenerationUnusable(Exception):
    """The generation to roll back to is not there, or cannot serve."""


@dataclass(frozen=True)
class State:
    """An index as this process searches it. Times are in seconds since the epoch.

    ``oldest_unindexed_at``: when the oldest write was committed that the snapshot does not have.
    """

    view: View
    oldest_unindexed_at: float | None
    size_bytes: int
    generations: list[int]  # that can serve, the current one first
    held: bool  # by a rollback
    building: bool
    problem: str | None  # why the current snapshot does not serve
    recall: list[Estimate]
    gate: GateReport | None


class IndexDesk:
    """Answers for indexes. Its methods raise CollectionNotFound; its coroutines belong to one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        index: Callable[[str], LiveIndex],
        store_of: Callable[[Collection], SnapshotStore],
        estimates: Callable[[str], list[Estimate]],
        encoder_id: str,
        wake: Callable[[], None],
    ) -> None:
        """``wake`` is called when there may be something to do for who has the encoder."""
        self._catalog = catalog
        self._index = index
        self._store_of = store_of
        self._estimates = estimates
        self._encoder_id = encoder_id
        self._wake = wake
        self._auditing = asyncio.Lock()

    async def state(self, name: str) -> State:
        """How the index is."""
        return await asyncio.to_thread(self._state, name)

    async def audit(self, name: str) -> Audit:
        """Whether what can be found is what was written. Reads everything; one at a time."""

        def read() -> Audit:
            return audit(self._catalog, self._store_of, self._catalog.aliases.own_name(name))

        async with self._auditing:
            return await asyncio.to_thread(read)

    async def roll_back(self, name: str, generation: int | None) -> State:
        """Let an older generation serve, the one before by default, until a rebuild is asked for.

        Raises GenerationUnusable.
        """

        def work() -> State:
            index = self._index(name)
            store = self._store_of(index.collection)
            wanted = [generation] if generation is not None else list(store.servable())[1:]
            if not wanted:
                raise GenerationUnusable("There is no older generation.")
            problems = list[str]()
            for candidate in wanted:
                try:
                    self._check(index.collection, store, candidate)
                    store.roll_back(candidate)
                    index.refresh()
                    return self._state(name)
                except SnapshotError as error:
                    # Where this server keeps things is nobody's business.
                    problems.append(str(error).replace(f"{store.root}/", ""))
            raise GenerationUnusable(f"No such generation can serve: {'; '.join(problems)}")

        return await asyncio.to_thread(work)

    async def submit(self, name: str, type: TaskType, request: dict[str, Any]) -> Job:
        """A task for the worker. Raises EncoderMismatch."""

        def create() -> Job:
            collection = self._catalog.collection(name)
            check_encoder(collection, self._encoder_id)
            total = self._catalog.count(collection) if type == "duplicates" else 1
            return self._catalog.tasks.create(new_id(), type, collection.uid, collection.name, request, total)

        return await asyncio.to_thread(create)

    async def reembed(self, name: str, *, drop_unreadable: bool) -> Job:
        """A task that moves a collection to the encoder that runs, or the one that does so already.

        Of a collection that is there it has nothing to do.
        """

        def create() -> Job:
            found, id = self._catalog.collection(name), self._encoder_id
            request = {"encoder_id": id, "from": found.encoder_id, "drop_unreadable": drop_unreadable}
            standing = self._catalog.tasks.standing("reembed", found.uid, request)
            total = 0 if found.encoder_id == id else self._catalog.count(found)
            return standing or self._catalog.tasks.create(
                new_id(), "reembed", found.uid, found.name, request, total
            )

        job = await asyncio.to_thread(create)
        self._wake()
        return job

    def _check(self, collection: Collection, store: SnapshotStore, generation: int) -> None:
        manifest = store.load(generation, collection.uid, collection.encoder_id).manifest
        with self._catalog.reading(collection.name) as reading:
            if not reading.begins_with(manifest.collection_uid, manifest.watermark, manifest.watermark_at):
                raise SnapshotError(f"generation {generation} holds another log, of before a restore")

    def _state(self, name: str) -> State:
        index = self._index(name)
        view, store = index.view, self._store_of(index.collection)
        with self._catalog.reading(view.collection.name) as reading:
            _, oldest_at = reading.backlog(view.snapshot.manifest.watermark if view.snapshot else 0)
        return State(
            view=view,
            oldest_unindexed_at=oldest_at,
            size_bytes=store.size_bytes(view.generation),
            generations=list(store.servable()),
            held=store.is_held(),
            building=store.is_publishing(),
            problem=index.last_error,
            recall=self._estimates(view.collection.name),
            gate=gate_reports.read(store),
        )
