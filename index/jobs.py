"""Jobs: work that was accepted and is done later, how far each has come, and which of its lines failed.

A job's checkpoint moves in the transaction that commits the items it covers (``advance``), and only from
where it stood. So however a process ends, and whoever goes on, no line is lost and none is counted twice.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, Literal

import sqlalchemy as sa

from index import schema
from index.records import CatalogError, JobState, Outcome, is_storable
from index.replies import KeyReused
from index.schema import job_failures, jobs

State = JobState
Wish = Literal["pause", "resume", "cancel"]
STATES: tuple[State, ...] = ("queued", "running", "paused", "succeeded", "failed", "cancelled")
KEPT_S = 7 * 86_400.0  # after its end

READY = ("queued", "running")  # running under a process that died is as good as queued
_UNFINISHED = (*READY, "paused", "failed")  # what may still go on, and needs what it reads
ENDED = ("succeeded", "failed", "cancelled")
_WISHES: Mapping[Wish, tuple[State, tuple[State, ...]]] = {
    "pause": ("paused", ("queued", "running")),
    "resume": ("queued", ("paused", "failed")),
    "cancel": ("cancelled", ("queued", "running", "paused", "failed")),
}
# A wish that is fulfilled already: it may be sent twice.
_FULFILLED: Mapping[Wish, tuple[State, ...]] = {
    "pause": ("paused",),
    "resume": ("queued", "running"),
    "cancel": ("cancelled",),
}
_Connections = Callable[[], AbstractContextManager[sa.Connection]]


class JobNotFound(CatalogError):
    """There is no job of this id, or it is about a collection that the caller may not see."""


class JobStateConflict(CatalogError):
    """The job is in a state in which it cannot do what is asked."""


class StepRefused(CatalogError):
    """The job does not stand where the step begins, or was cancelled; nothing of the transaction was kept."""


@dataclass(frozen=True)
class Job:
    """A job as it stands. ``at_line`` lines of what it reads, ``at_byte`` bytes of it, are accounted for; of
    a task, so many steps, and it goes on behind seq ``at_byte``.

    ``total`` counts the lines that say something: at the end it is done + failed + skipped. ``uid`` and
    ``name`` tell its collection. Times are in seconds since the epoch, ``rate`` in lines per second.
    """

    id: str
    type: str
    uid: str
    name: str
    state: State
    total: int
    at_line: int
    at_byte: int
    done: int
    failed: int
    skipped: int
    rate: float | None
    problem: dict[str, Any] | None  # why the whole job failed
    created_at: float
    started_at: float | None
    ended_at: float | None

    @property
    def left(self) -> int:
        """How many lines are not accounted for yet."""
        return max(0, self.total - self.done - self.failed - self.skipped)


@dataclass(frozen=True)
class Failure:
    """A line that failed, counted from 1, alone; ``problem`` is JSON."""

    line: int
    custom_id: str | None
    problem: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What one commit moves a job by: from byte ``start`` to ``end``, which is the end of line ``line``.

    ``lines`` are those that the commit's writes stand on, with their custom_ids; ``told`` says as a problem
    why a write was refused.
    """

    job: str
    start: int
    end: int
    line: int
    failures: Sequence[Failure] = ()
    rate: float | None = None
    lines: Sequence[tuple[int, str | None]] = ()
    told: Callable[[Outcome], dict[str, Any]] = lambda outcome: {"detail": outcome.status}


class Jobs:
    """The jobs of a catalog. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def create(
        self, id: str, uid: str, name: str, total: int, digest: str, key: str | None = None
    ) -> tuple[Job, bool]:
        """A queued bulk job on the collection; True if it was made now.

        ``key`` (a sha256) names the request: if there is a job of this key, it is that one. Raises KeyReused
        if its ``digest`` (a sha256 of what it reads) is another.
        """
        fresh = fresh_job(id, "bulk", uid, name, total, digest) | {"key": key}
        here = jobs.c.id == id if key is None else jobs.c.key == key
        with self._writing() as connection:
            connection.execute(schema.insert_missing(connection, jobs).values(**fresh))
            row = connection.execute(sa.select(jobs).where(here)).one()
        if row.digest != digest:
            raise KeyReused("The Idempotency-Key was sent before, with other lines.")
        return job_of(row), row.id == id

    def unfinished_of(self, key: str, uid: str) -> Job | None:
        """The job of this key on this collection, unless it ended; any other one lets the key go."""
        mine = sa.and_(jobs.c.uid == uid, jobs.c.state.not_in(ENDED))
        with self._writing() as connection:
            connection.execute(sa.update(jobs).where(jobs.c.key == key, sa.not_(mine)).values(key=None))
            row = connection.execute(sa.select(jobs).where(jobs.c.key == key)).one_or_none()
            return None if row is None else job_of(row)

    def get(self, id: str, within: Collection[str] | None = None) -> Job:
        """One job, of a collection named in ``within`` (None: of any). Raises JobNotFound."""
        with self._reading() as connection:
            return _one(connection, id, within)

    def page(
        self, state: State | None, before: str, limit: int, within: Collection[str] | None = None
    ) -> list[Job]:
        """Jobs, the newest first, older than the one of id ``before`` ("": from the newest)."""
        query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        if before:
            query = query.where(jobs.c.id < before)
        if within is not None:
            query = query.where(jobs.c.name.in_(within))
        with self._reading() as connection:
            return [job_of(row) for row in connection.execute(query)]

    def wish(self, id: str, wish: Wish, within: Collection[str] | None = None) -> Job:
        """Change a job's state as a client wishes; the job then. Raises JobNotFound, JobStateConflict.

        After a cancel nothing more of it is committed; after a pause what is in hand may be.
        """
        state, possible = _WISHES[wish]
        with self._writing() as connection:
            fresh: dict[str, Any] = {"state": state, "rate": None, "problem": None}
            fresh["ended_at"] = time.time() if state in ENDED else None
            here = sa.and_(jobs.c.id == id, jobs.c.state.in_(possible))
            job = _one(connection, id, within)
            changed = connection.execute(sa.update(jobs).where(here).values(**fresh)).rowcount
            after = _one(connection, id, within)
        if not changed and after.state not in _FULFILLED[wish]:
            raise JobStateConflict(f"The job is {job.state}: too late to {wish} it.")
        return after

    def ready(self) -> list[Job]:
        """The bulk jobs that wait to be done, the oldest first; some may be at work in a process."""
        query = sa.select(jobs).where(jobs.c.state.in_(READY), jobs.c.type == "bulk").order_by(jobs.c.id)
        with self._reading() as connection:
            return [job_of(row) for row in connection.execute(query)]

    def claim(self, id: str) -> Job | None:
        """Begin or go on with a job, whose lock the caller holds; None if it is not to be done any more."""
        started = sa.func.coalesce(jobs.c.started_at, time.time())
        with self._writing() as connection:
            here = sa.and_(jobs.c.id == id, jobs.c.state.in_(READY))
            values = {"state": "running", "started_at": started, "rate": None}
            if not connection.execute(sa.update(jobs).where(here).values(**values)).rowcount:
                return None
            return _one(connection, id, None)

    def end(self, id: str, problem: dict[str, Any] | None = None) -> None:
        """A job has succeeded, or failed with this problem, unless it was paused or cancelled meanwhile."""
        values = {
            "state": "succeeded" if problem is None else "failed",
            "problem": problem,
            "rate": None,
            "ended_at": time.time(),
        }
        with self._writing() as connection:
            here = sa.and_(jobs.c.id == id, jobs.c.state.in_(READY))
            connection.execute(sa.update(jobs).where(here).values(**values))

    def failures(self, id: str, after: int, limit: int) -> list[Failure]:
        """The lines that failed, in order, beyond line ``after``."""
        table = job_failures.c
        query = sa.select(table.line, table.custom_id, table.problem)
        query = query.where(table.job == id, table.line > after).order_by(table.line).limit(limit)
        with self._reading() as connection:
            return [Failure(**row._mapping) for row in connection.execute(query)]

    def counts(self) -> dict[str, dict[State, int]]:
        """How many jobs there are in each state, by type."""
        query = sa.select(jobs.c.type, jobs.c.state, sa.func.count()).group_by(jobs.c.type, jobs.c.state)
        with self._reading() as connection:
            found = {(row[0], row[1]): int(row[2]) for row in connection.execute(query)}
        types = sorted({"bulk", *(type for type, _ in found)})
        return {type: {state: found.get((type, state), 0) for state in STATES} for type in types}

    def unfinished(self) -> set[str]:
        """The ids of the jobs that may still go on."""
        with self._reading() as connection:
            return set(
                connection.execute(sa.select(jobs.c.id).where(jobs.c.state.in_(_UNFINISHED))).scalars()
            )

    def prune(self, now: float) -> int:
        """Forget jobs that ended a week ago; how many."""
        old = sa.and_(jobs.c.state.in_(ENDED), jobs.c.ended_at < now - KEPT_S)
        with self._writing() as connection:
            ids = sa.select(jobs.c.id).where(old)
            for table in (job_failures, schema.job_results, schema.job_tasks):
                connection.execute(sa.delete(table).where(table.c.job.in_(ids)))
            return connection.execute(sa.delete(jobs).where(old)).rowcount


def new_id() -> str:
    """A fresh id; ids are in order of time."""
    return f"job_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def advance(connection: sa.Connection, uid: str, step: Step, outcomes: Sequence[Outcome]) -> None:
    """Move a job, in the transaction that wrote ``outcomes`` into collection ``uid``. Raises StepRefused."""
    skipped = sum(outcome.status in ("unchanged", "not_found") for outcome in outcomes)
    refused = [
        Failure(line, custom_id, step.told(outcome))
        for (line, custom_id), outcome in zip(step.lines, outcomes, strict=False)
        if outcome.refused
    ]
    failures = [*step.failures, *refused]
    table = jobs.c
    here = sa.and_(
        table.id == step.job, table.uid == uid, table.at_byte == step.start, table.state.not_in(ENDED)
    )
    values = {
        "at_byte": step.end,
        "at_line": step.line,
        "done": table.done + len(outcomes) - skipped - len(refused),
        "skipped": table.skipped + skipped,
        "failed": table.failed + len(failures),
        "rate": step.rate,
    }
    if not connection.execute(sa.update(jobs).where(here).values(**values)).rowcount:
        raise StepRefused(f"job {step.job} does not stand at byte {step.start} any more, or has ended")
    if failures:
        connection.execute(
            sa.insert(job_failures), [{"job": step.job, **vars(failure)} for failure in failures]
        )


def _one(connection: sa.Connection, id: str, within: Collection[str] | None) -> Job:
    query = sa.select(jobs).where(jobs.c.id == id)
    found = connection.execute(query).one_or_none() if is_storable(id) else None
    if found is None or (within is not None and found.name not in within):
        raise JobNotFound(f"There is no job {id!r}.")
    return job_of(found)


def fresh_job(id: str, type: str, uid: str, name: str, total: int, digest: str) -> dict[str, Any]:
    """The row of a job that waits for its begin."""
    return {
        "id": id,
        "type": type,
        "uid": uid,
        "name": name,
        "state": "queued",
        "total": total,
        **dict.fromkeys(("at_line", "at_byte", "done", "failed", "skipped"), 0),
        "created_at": time.time(),
        "digest": digest,
    }


def job_of(row: sa.Row[Any]) -> Job:
    """The job that a row tells of."""
    return Job(**{field.name: row._mapping[field.name] for field in fields(Job)})
