"""Staging: a collection is put beside what serves, row by row, and takes its place in one transaction.

Its rows are of a uid that no collection has, so nobody finds them. Taking a place gives the collection of
that name this uid, and its old rows are of no collection then. They are deleted afterwards, a few at a time:
no transaction here keeps other writers waiting for as long as a collection is large.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import sqlalchemy as sa

from index import rows, schema
from index.aliases import check_own_name, find
from index.reading import embedding_of
from index.records import CatalogError, Collection, CollectionNotFound
from index.schema import changes, embeddings, items, staged
from index.transaction import chunks

_DELETED_AT_ONCE = 5000
_Connections = Callable[[], AbstractContextManager[sa.Connection]]


class TargetChanged(CatalogError):
    """What would be replaced is not what it was when that was decided."""


class StagingLost(CatalogError):
    """The staged rows were given up, because nothing was added for long."""


class Staging:
    """The rows of a catalog that are of no collection. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def begin(self, uid: str) -> None:
        """Make room for a collection's rows, without those of an attempt that failed."""
        self.drop(uid)
        with self._writing() as connection:
            connection.execute(sa.insert(staged), {"uid": uid, "at": time.time()})

    def add(self, uid: str, table: sa.Table, added: Sequence[rows.Row]) -> None:
        """Add rows of this uid. Raises RowsError, StagingLost and what the catalog raises."""
        with self._writing() as connection:
            _touch(connection, uid)
            rows.put(connection, table, added)

    def add_embeddings(self, uid: str, encoder_id: str, added: Sequence[rows.Row]) -> bool:
        """Add those embeddings by this encoder that items of this uid have; False if others stand for some of
        them already, and stay.

        Raises RowsError, StagingLost and what the catalog raises.
        """
        same = True
        with self._writing() as connection:
            _touch(connection, uid)
            blobs = {row["content"]: row for row in added if row["encoder_id"] == encoder_id}
            for part in chunks(sorted(blobs)):  # in this order, as all who write them
                here = sa.and_(items.c.collection == uid, items.c.content.in_(part))
                used = sorted(connection.execute(sa.select(items.c.content).where(here).distinct()).scalars())
                rows.put(connection, embeddings, [blobs[content] for content in used], missing=True)
                stand = sa.and_(embeddings.c.encoder_id == encoder_id, embeddings.c.content.in_(used))
                query = sa.select(embeddings.c.content, embeddings.c.vector).where(stand)
                for row in connection.execute(query):
                    same = same and bytes(row.vector) == blobs[row.content]["vector"]
        return same

    def sizes(self, collection: Collection) -> tuple[int, int, int]:
        """How many changes are staged under the collection's uid, how many items, and how many of these have
        no embedding by its encoder."""
        uid, joined = collection.uid, embedding_of(items.c.content, collection.encoder_id)
        bare = sa.select(items.c.id).where(
            items.c.collection == uid, sa.not_(sa.exists(sa.select(embeddings.c.content).where(joined)))
        )
        queries = (
            sa.select(changes.c.seq).where(changes.c.collection == uid),
            sa.select(items.c.seq).where(items.c.collection == uid),
            bare,
        )
        with self._reading() as connection:
            logged, there, without = (
                int(connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one())
                for query in queries
            )
        return logged, there, without

    def put_in_place(
        self,
        collection: Collection,
        replaces: str | None,
        also: Callable[[sa.Connection], None] = lambda connection: None,
    ) -> None:
        """Let the staged rows be those of this collection, in place of the one of uid ``replaces``; None:
        there is none yet. Aliases of the one before lead to it, and its adapters stay. ``also`` is done in
        the same transaction.

        Raises TargetChanged, AliasConflict, StagingLost and what ``also`` raises; then nothing has changed.
        """
        with self._writing() as connection:
            schema.wait_for_writers(connection, schema.aliases)  # before the row, as all who lock both
            standing = _standing(connection, collection.name)
            if standing != replaces:
                raise TargetChanged(
                    f"collection {collection.name!r} was made, deleted or replaced since this was asked for"
                )
            here = sa.and_(staged.c.uid == collection.uid, staged.c.at > 0)
            if connection.execute(sa.delete(staged).where(here)).rowcount != 1:
                raise StagingLost(f"the rows of {collection.uid} were given up")
            table = schema.collections
            if standing is None:
                connection.execute(sa.insert(table), vars(collection))
            else:  # the row stays: writers that wait for it go on with what it says then
                connection.execute(sa.update(table).where(table.c.uid == standing).values(**vars(collection)))
                for following in (schema.aliases, schema.adapters):
                    moved = sa.update(following).where(following.c.collection == standing)
                    connection.execute(moved.values(collection=collection.uid))
                connection.execute(sa.insert(staged), {"uid": standing, "at": 0.0})
            also(connection)

    def given_up(self, before: float) -> list[str]:
        """The uids of rows to be deleted: of what was replaced, and of what nobody added to since
        ``before``."""
        query = sa.select(staged.c.uid).where(staged.c.at < before).order_by(staged.c.uid)
        with self._reading() as connection:
            return list(connection.execute(query).scalars())

    def drop(self, uid: str) -> None:
        """Delete all rows of a uid that is staged; of any other, none."""
        here = staged.c.uid == uid
        while True:
            with self._writing() as connection:  # from the first one on nobody puts them in place
                marked = sa.update(staged).where(here).values(at=0.0)
                if not connection.execute(marked).rowcount:
                    return
                if not sum(_delete_some(connection, table, uid) for table in (items, changes)):
                    connection.execute(sa.delete(staged).where(here))
                    return


def _touch(connection: sa.Connection, uid: str) -> None:
    here = sa.and_(staged.c.uid == uid, staged.c.at > 0)
    if not connection.execute(sa.update(staged).where(here).values(at=time.time())).rowcount:
        raise StagingLost(f"the rows of {uid} were given up")


def _standing(connection: sa.Connection, name: str) -> str | None:
    try:
        found = find(connection, name, for_update=True)
    except CollectionNotFound:
        return None
    check_own_name(found, name)
    return found.uid


def _delete_some(connection: sa.Connection, table: sa.Table, uid: str) -> int:
    first = sa.select(table.c.seq).where(table.c.collection == uid).order_by(table.c.seq)
    doomed = sa.and_(table.c.collection == uid, table.c.seq.in_(first.limit(_DELETED_AT_ONCE)))
    return connection.execute(sa.delete(table).where(doomed)).rowcount
