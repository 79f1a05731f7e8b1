"""Aliases: second names of collections, which move from one collection to another in one transaction.

Collections and aliases share their names: no alias is called like a collection. An alias goes with the
collection that it stands for.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import sqlalchemy as sa

from index import schema
from index.prepared import Prepared
from index.records import CatalogError, Collection, CollectionNotFound, is_storable
from index.schema import aliases, collections

_Connections = Callable[[], AbstractContextManager[sa.Connection]]
_BY_NAME = (
    sa.select(collections).where(collections.c.name == sa.bindparam("name")),
    sa.select(collections)
    .join(aliases, aliases.c.collection == collections.c.uid)
    .where(aliases.c.alias == sa.bindparam("name")),
)
_READ_BY_NAME = tuple(map(Prepared, _BY_NAME))  # every search begins with the first


class AliasNotFound(CatalogError):
    """There is no alias of this name."""


class AliasConflict(CatalogError):
    """What is asked of a name can be done to a collection only, or to an alias only, and it is the other."""


@dataclass(frozen=True)
class PutAlias:
    """Let a name stand for a collection, whatever it stood for before."""

    alias: str
    collection: str


@dataclass(frozen=True)
class DropAlias:
    """Let a name stand for nothing."""

    alias: str


@dataclass(frozen=True)
class Alias:
    """An alias as it stands, with the own name of its collection."""

    alias: str
    collection: str


class Aliases:
    """The aliases of a catalog. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def apply(self, actions: Sequence[PutAlias | DropAlias]) -> None:
        """Carry out all of ``actions`` in order, in one transaction: nobody sees a part of them.

        Raises CollectionNotFound, AliasNotFound and AliasConflict; then nothing was changed.
        """
        with self._writing() as connection:
            schema.wait_for_writers(connection, aliases)
            for action in actions:
                if isinstance(action, DropAlias):
                    _drop(connection, action.alias)
                else:
                    _put(connection, action)

    def page(self, after: str = "", limit: int = 1000) -> list[Alias]:
        """Aliases in order of name, starting after ``after``."""
        query = (
            sa.select(aliases.c.alias, collections.c.name)
            .join(collections, collections.c.uid == aliases.c.collection)
            .where(aliases.c.alias > after)
            .order_by(aliases.c.alias)
            .limit(limit)
        )
        with self._reading() as connection:
            return [Alias(*row) for row in connection.execute(query)]

    def own_name(self, name: str) -> str:
        """The own name of the collection that ``name`` stands for; ``name`` itself if it is no alias."""
        query = (
            sa.select(collections.c.name)
            .join(aliases, aliases.c.collection == collections.c.uid)
            .where(aliases.c.alias == name)
        )
        with self._reading() as connection:
            found = connection.execute(query).scalar_one_or_none() if is_storable(name) else None
            return name if found is None else str(found)


def find(connection: sa.Connection, name: str, *, for_update: bool = False) -> Collection:
    """The collection of this name, or that an alias of this name stands for. Raises CollectionNotFound."""
    if not is_storable(name):
        raise CollectionNotFound(f"there is no collection {name!r}")
    for query, prepared in zip(_BY_NAME, _READ_BY_NAME, strict=True):
        if for_update:
            locking = query.with_for_update(of=collections)
            rows = [tuple(row) for row in connection.execute(locking, {"name": name})]
        else:
            rows = prepared.rows(connection, {"name": name})
        if rows:
            return Collection(*rows[0])
    raise CollectionNotFound(f"there is no collection {name!r}")


def check_own_name(collection: Collection, name: str) -> None:
    """Raise AliasConflict if ``collection`` was found by an alias."""
    if collection.name != name:
        raise AliasConflict(
            f"{name!r} is an alias of collection {collection.name!r}: delete the alias, or the collection by "
            "its own name"
        )


def _put(connection: sa.Connection, action: PutAlias) -> None:
    uid = find(connection, action.collection, for_update=True).uid
    taken = sa.select(collections.c.uid).where(collections.c.name == action.alias)
    if connection.execute(taken).one_or_none() is not None:
        raise AliasConflict(f"there is a collection {action.alias!r}: an alias cannot have its name")
    connection.execute(sa.delete(aliases).where(aliases.c.alias == action.alias))
    connection.execute(sa.insert(aliases), {"alias": action.alias, "collection": uid})


def _drop(connection: sa.Connection, alias: str) -> None:
    if connection.execute(sa.delete(aliases).where(aliases.c.alias == alias)).rowcount == 0:
        raise AliasNotFound(f"there is no alias {alias!r}")
