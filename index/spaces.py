"""Spaces: a collection moves from the embeddings of one encoder to those of another, all of it at once.

Embeddings by the other encoder are added beside those that serve, as far as a job's checkpoint says; nothing
else changes meanwhile. When every item has one, one transaction makes the collection theirs. What was there
before stays for as long as the job is told of, so that the way back is short.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import sqlalchemy as sa

from index import schema
from index.aliases import find
from index.jobs import Job, Step, StepRefused, advance, job_of
from index.reading import embedding_of
from index.records import CatalogError, Collection, CollectionNotFound, Delete, Item, Outcome, Space
from index.schema import collections, embeddings, items, job_tasks, jobs
from index.transaction import Transaction
from index.vectors import Vectors, to_bytes

_Connections = Callable[[], AbstractContextManager[sa.Connection]]


class ItemsAhead(CatalogError):
    """Items were written behind the job's checkpoint that have no embedding in the space yet."""


class ItemsUnreadable(CatalogError):
    """Items cannot be embedded, and the collection stays where it is with them."""


class Renamed(NamedTuple):
    """An item whose vector was given gets a name of its own for its content, in place of the vector's."""

    item: Item
    content: str

    @staticmethod
    def of(item: Item, fingerprint: str) -> "Renamed":
        """``fingerprint``: of what is embedded. Items that were given one vector may have other texts."""
        return Renamed(item, hashlib.sha256(f"{item.content} {fingerprint}".encode()).hexdigest())


class Spaces:
    """Moves the collections of a catalog. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def items(self, uid: str, encoder_id: str, after: int, limit: int) -> list[tuple[Item, bool]]:
        """The next items of a collection behind seq ``after``, and whether the encoder has embedded each."""
        query = (
            sa.select(*schema.item_columns, embeddings.c.content.is_not(None))
            .select_from(items.outerjoin(embeddings, embedding_of(items.c.content, encoder_id)))
            .where(items.c.collection == uid, items.c.seq > after)
            .order_by(items.c.seq)
            .limit(limit)
        )
        with self._reading() as connection:
            return [(Item._make(row[:-1]), bool(row[-1])) for row in connection.execute(query)]

    def add(
        self,
        job: Job,
        space: Space,
        rows: Mapping[str, Vectors],
        step: Step,
        outcomes: Sequence[Outcome],
        renamed: Sequence[Renamed] = (),
    ) -> Job:
        """Keep rows of the space, by their content, in the transaction that moves the job by ``step``; the
        job then. The ``renamed`` keep their vectors in the space that serves.

        Raises CollectionNotFound, StepRefused, VectorError and what the catalog raises.
        """
        with self._writing() as connection:
            if renamed:
                _rename(connection, _locked(connection, job), renamed)
            fresh = [
                {"encoder_id": space.encoder_id, "content": content, "vector": to_bytes(row, space.dim)}
                for content, row in sorted(rows.items(), key=lambda entry: entry[0])
            ]
            if fresh:
                connection.execute(schema.insert_missing(connection, embeddings), fresh)
            advance(connection, job.uid, step, outcomes)
            return job_of(connection.execute(sa.select(jobs).where(jobs.c.id == job.id)).one())

    def move(self, job: Job, space: Space, *, drop: bool) -> int:
        """Let the collection of a running job be of this space; how many items were deleted for it.

        With ``drop`` items that have no embedding there are deleted in the same transaction. Raises
        CollectionNotFound, ItemsAhead, ItemsUnreadable, StepRefused (it was stopped); then nothing changed.
        """
        with self._writing() as connection:
            collection = _locked(connection, job)
            if collection.encoder_id == space.encoder_id:  # whoever did it has died since
                return 0
            bare = connection.execute(
                sa.select(items.c.id, items.c.seq)
                .select_from(items.outerjoin(embeddings, embedding_of(items.c.content, space.encoder_id)))
                .where(items.c.collection == collection.uid, embeddings.c.content.is_(None))
            ).all()
            if any(row.seq > job.at_byte for row in bare):
                raise ItemsAhead(f"{len(bare)} items of {job.name!r} are not embedded by {space.encoder_id}")
            if bare and not drop:
                raise ItemsUnreadable(
                    f"{len(bare)} of the items cannot be embedded by {space.encoder_id}. Nothing was "
                    "changed: write them anew or delete them, or have them dropped."
                )
            mine = sa.and_(jobs.c.id == job.id, jobs.c.state == "running", jobs.c.at_byte == job.at_byte)
            counted = sa.update(jobs).where(mine).values(total=jobs.c.done + jobs.c.failed + jobs.c.skipped)
            if not connection.execute(counted).rowcount:
                raise StepRefused(f"job {job.id} was stopped before its collection was moved")
            Transaction(connection, collection, time.time()).apply([Delete(row.id) for row in bare])
            moved = sa.update(collections).where(collections.c.uid == collection.uid)
            connection.execute(moved.values(encoder_id=space.encoder_id, dim=space.dim))
            return len(bare)

    def kept(self) -> set[str]:
        """The encoder_ids that a collection moves to or has come from: the way back is kept."""
        with self._reading() as connection:
            return kept(connection)


def kept(connection: sa.Connection) -> set[str]:
    """See Spaces.kept."""
    query = sa.select(job_tasks.c.request).join(jobs, jobs.c.id == job_tasks.c.job)
    found = connection.execute(query.where(jobs.c.type == "reembed")).scalars()
    return {encoder_id for request in found for encoder_id in (request["encoder_id"], request["from"])}


def unused(connection: sa.Connection) -> sa.ColumnElement[bool]:
    """Of the embeddings those that serve no item in its collection's space, and no way back either."""
    here = items.outerjoin(collections, collections.c.uid == items.c.collection)
    named = sa.select(items.c.id).select_from(here).where(items.c.content == embeddings.c.content)
    # Rows that are being restored are of no collection yet.
    theirs = sa.or_(collections.c.uid.is_(None), collections.c.encoder_id == embeddings.c.encoder_id)
    ways = embeddings.c.encoder_id.in_(sorted(kept(connection)))
    return sa.not_(sa.exists(named.where(sa.or_(theirs, ways)).correlate(embeddings)))


def _locked(connection: sa.Connection, job: Job) -> Collection:
    """The job's collection, which nobody else changes until the transaction ends."""
    found = find(connection, job.name, for_update=True)
    if found.uid != job.uid:
        raise CollectionNotFound(f"collection {job.name!r} was deleted and made again")
    return found


def _rename(connection: sa.Connection, collection: Collection, renamed: Sequence[Renamed]) -> None:
    for item, content in sorted(renamed, key=lambda entry: entry.content):
        here = sa.and_(items.c.collection == collection.uid, items.c.id == item.id, items.c.seq == item.seq)
        given = sa.select(embeddings.c.vector).where(
            embedding_of(sa.literal(item.content), collection.encoder_id)
        )
        if (vector := connection.execute(given).scalar_one_or_none()) is None:
            continue
        row = {"content": content, "encoder_id": collection.encoder_id, "vector": vector}
        connection.execute(schema.insert_missing(connection, embeddings).values(**row))
        connection.execute(sa.update(items).where(here).values(content=content))
