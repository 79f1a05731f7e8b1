"""Tasks: jobs on a collection and not on lines. What each is asked, and what it found.

As with lines, a task's checkpoint moves in the transaction that keeps what was found up to there, and only
from where it stood: whoever goes on after a crash finds nothing twice and misses nothing.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from index import schema
from index.jobs import ENDED, READY, Job, StepRefused, fresh_job, job_of
from index.schema import collections, job_results, job_tasks, jobs

TaskType = Literal["rebuild", "evaluate", "duplicates", "snapshot", "restore", "reembed", "adapt"]
# They need the encoder, which is in the API's process; the others are the worker's.
ENCODING: tuple[TaskType, ...] = ("reembed", "adapt")
_Connections = Callable[[], AbstractContextManager[sa.Connection]]


@dataclass(frozen=True)
class Task:
    """A job that reads no lines, and what it is asked."""

    job: Job
    request: dict[str, Any]


class Tasks:
    """The tasks of a catalog. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def create(
        self, id: str, type: TaskType, uid: str, name: str, request: dict[str, Any], total: int
    ) -> Job:
        """A queued task on the collection, of so many steps."""
        with self._writing() as connection:
            connection.execute(sa.insert(jobs), fresh_job(id, type, uid, name, total, ""))
            connection.execute(sa.insert(job_tasks), {"job": id, "request": request})
            return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == id)).one())

    def standing(self, type: TaskType, uid: str, request: dict[str, Any]) -> Job | None:
        """A task on the collection that is asked the same and may still go on by itself, or when resumed."""
        query = (
            sa.select(jobs, job_tasks.c.request)
            .join(job_tasks, job_tasks.c.job == jobs.c.id)
            .where(jobs.c.type == type, jobs.c.uid == uid, jobs.c.state.not_in(ENDED))
            .order_by(jobs.c.id)
        )
        with self._reading() as connection:
            rows = connection.execute(query).all()
        return next((job_of(row) for row in rows if row.request == request), None)

    def next(self, encoder_id: str | None = None, types: Collection[str] = ENCODING) -> Task | None:
        """The oldest task that waits to be done, or was being done by a process that has died.

        Of those that need an encoder: of these types, and this one, which the request names, or else the
        collection is of. None: of the others.
        """
        named = job_tasks.c.request["encoder_id"].as_string()
        elsewhere = sa.exists().where(collections.c.uid == jobs.c.uid, collections.c.encoder_id != encoder_id)
        here = sa.or_(named == encoder_id, sa.and_(named.is_(None), sa.not_(elsewhere)))
        mine = sa.and_(jobs.c.type.in_(types), here)
        query = (
            sa.select(jobs, job_tasks.c.request)
            .join(job_tasks, job_tasks.c.job == jobs.c.id)
            .where(jobs.c.state.in_(READY), jobs.c.type.not_in(ENCODING) if encoder_id is None else mine)
            .order_by(jobs.c.id)
            .limit(1)
        )
        with self._reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Task(job_of(row), row.request)

    def advance(
        self, job: Job, at: int, steps: int, found: Sequence[dict[str, Any]], rate: float | None = None
    ) -> Job:
        """Keep what was found in so many more steps, the last of which stands at ``at``; the job then.

        Raises StepRefused: it does not stand where this job says, or has ended.
        """
        with self._writing() as connection:
            return _advance(connection, job, at, steps, found, rate)

    def results(self, id: str, after: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """What a task has found, in order, beyond line ``after``, with the numbers of the lines."""
        table = schema.job_results.c
        query = sa.select(table.line, table.value).where(table.job == id, table.line > after)
        with self._reading() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(table.line).limit(limit))]


def in_one_with(job: Job, found: Sequence[dict[str, Any]]) -> Callable[[sa.Connection], None]:
    """What ends the one step of a task in the transaction that does it: raises StepRefused, after which that
    must end."""

    def end(connection: sa.Connection) -> None:
        _advance(connection, job, 1, 1, found, None)

    return end


def _advance(
    connection: sa.Connection,
    job: Job,
    at: int,
    steps: int,
    found: Sequence[dict[str, Any]],
    rate: float | None,
) -> Job:
    here = sa.and_(jobs.c.id == job.id, jobs.c.at_byte == job.at_byte, jobs.c.state.not_in(ENDED))
    values = {"at_byte": at, "at_line": jobs.c.at_line + steps, "done": jobs.c.done + steps, "rate": rate}
    if not connection.execute(sa.update(jobs).where(here).values(**values)).rowcount:
        raise StepRefused(f"job {job.id} does not stand at {job.at_byte} any more, or has ended")
    last = sa.select(sa.func.coalesce(sa.func.max(job_results.c.line), 0))
    line = int(connection.execute(last.where(job_results.c.job == job.id)).scalar_one())
    rows = [{"job": job.id, "line": line + n, "value": value} for n, value in enumerate(found, 1)]
    if rows:
        connection.execute(sa.insert(job_results), rows)
    return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == job.id)).one())
