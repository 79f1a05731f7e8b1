"""Adapters: what was learned for the queries of a collection, which of it serves, and the way back.

At most one adapter of a collection is promoted, and at most one is on trial: that serves a share of the
searches, and the promoted one, or none, the rest.
"""

import secrets
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, Literal

import sqlalchemy as sa

from index.aliases import find
from index.records import CatalogError, CollectionNotFound, is_storable
from index.schema import adapters, collections

AdapterState = Literal["ready", "refused", "promoted", "retired", "rolled_back"]
_Connections = Callable[[], AbstractContextManager[sa.Connection]]


class AdapterNotFound(CatalogError):
    """There is no adapter of this id, or it is of a collection that the caller may not see."""


class AdapterRefused(CatalogError):
    """The gate has refused the adapter: it serves nothing."""


class AdapterStateConflict(CatalogError):
    """The adapter is in a state in which this cannot be done with it."""


@dataclass(frozen=True)
class Learned:
    """What an adapter is made of, and what is known of it."""

    weights: bytes
    curves: Mapping[str, Mapping[str, float]]
    report: Mapping[str, Any]


@dataclass(frozen=True)
class Adapter:
    """An adapter as it stands. ``collection`` is the uid, ``name`` the collection's name.

    ``share`` of the collection's searches are answered with it while it is on trial. ``follows`` is the
    adapter that was promoted before it. ``curves`` have slope and offset of relevance by the modality of
    items; ``report`` is what the gate found. Times are in seconds since the epoch.
    """

    id: str
    collection: str
    name: str
    label: str | None
    encoder_id: str
    state: AdapterState
    share: float
    follows: str | None
    curves: Mapping[str, Mapping[str, float]]
    report: Mapping[str, Any]
    created_at: float
    promoted_at: float | None

    @property
    def serves(self) -> bool:
        """Whether there are searches that it answers unasked."""
        return self.state == "promoted" or self.share > 0


class Adapters:
    """The adapters of a catalog. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def add(
        self,
        uid: str,
        label: str | None,
        encoder_id: str,
        learned: Learned,
        also: Callable[[str], Callable[[sa.Connection], None]] = lambda id: lambda connection: None,
    ) -> Adapter:
        """A new adapter of the collection ``uid``, refused unless its report says "accepted".

        What ``also`` makes of its id is done in the same transaction. Raises CollectionNotFound and what that
        raises.
        """
        id = f"ada_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"
        with self._writing() as connection:
            here = sa.select(collections.c.name).where(collections.c.uid == uid).with_for_update()
            name = connection.execute(here).scalar()
            if name is None:
                raise CollectionNotFound(f"the collection {uid} is gone")
            row = {
                "id": id,
                "collection": uid,
                "name": name,
                "label": label,
                "encoder_id": encoder_id,
                "state": "ready" if learned.report["accepted"] else "refused",
                "share": 0.0,
                "created_at": time.time(),
                **vars(learned),
            }
            connection.execute(sa.insert(adapters), row)
            also(id)(connection)
            return _one(connection, id, None)

    def get(self, id: str, within: Collection[str] | None = None) -> Adapter:
        """One adapter, of a collection named in ``within`` (None: of any). Raises AdapterNotFound."""
        with self._reading() as connection:
            return _one(connection, id, within)

    def page(
        self, collection: str | None, before: str, limit: int, within: Collection[str] | None = None
    ) -> list[Adapter]:
        """Adapters, of that collection if one is given, the newest first, older than the one of id ``before``
        ("": from the newest)."""
        query = sa.select(*_COLUMNS).order_by(adapters.c.id.desc()).limit(limit)
        if collection is not None:
            query = query.where(adapters.c.name == collection)
        if before:
            query = query.where(adapters.c.id < before)
        if within is not None:
            query = query.where(adapters.c.name.in_(within))
        with self._reading() as connection:
            return [_adapter(row) for row in connection.execute(query)]

    def serving(self) -> list[Adapter]:
        """Those that answer searches unasked."""
        query = sa.select(*_COLUMNS).where(sa.or_(adapters.c.state == "promoted", adapters.c.share > 0))
        with self._reading() as connection:
            return [_adapter(row) for row in connection.execute(query)]

    def weights(self, id: str) -> bytes:
        """What it is made of. Raises AdapterNotFound."""
        with self._reading() as connection:
            found = connection.execute(sa.select(adapters.c.weights).where(adapters.c.id == id)).scalar()
        if found is None:
            raise AdapterNotFound(f"There is no adapter {id!r}.")
        return bytes(found)

    def promote(self, id: str, within: Collection[str] | None = None) -> Adapter:
        """Let it answer all searches of its collection; the adapter then. The one before is retired.

        Raises AdapterNotFound, AdapterRefused, AdapterStateConflict (the collection has another encoder now).
        """
        with self._writing() as connection:
            adapter = _locked(connection, id, within)
            if adapter.state == "promoted":
                return adapter
            _check_may_serve(connection, adapter)
            before = connection.execute(
                sa.select(adapters.c.id).where(_of(adapter), adapters.c.state == "promoted")
            ).scalar()
            if before is not None:
                _set(connection, before, state="retired")
            _set(connection, id, state="promoted", share=0.0, follows=before, promoted_at=time.time())
            return _one(connection, id, within)

    def roll_back(self, id: str, within: Collection[str] | None = None) -> Adapter:
        """Take it out of service; the adapter then. If it was promoted, the one before it is so again.

        Raises AdapterNotFound, AdapterStateConflict (it is not in service).
        """
        with self._writing() as connection:
            adapter = _locked(connection, id, within)
            if adapter.state == "rolled_back":
                return adapter
            if not adapter.serves:
                raise AdapterStateConflict(f"Adapter {id!r} is {adapter.state} and serves nothing.")
            _set(connection, id, state="rolled_back", share=0.0)
            if adapter.state == "promoted" and adapter.follows is not None:
                former = sa.and_(adapters.c.id == adapter.follows, adapters.c.state == "retired")
                connection.execute(
                    sa.update(adapters)
                    .where(former, adapters.c.encoder_id == adapter.encoder_id)
                    .values(state="promoted", share=0.0)
                )
            return _one(connection, id, within)

    def set_share(self, id: str, share: float, within: Collection[str] | None = None) -> Adapter:
        """Let it answer this share of searches, from 0 to 1; the adapter then.

        Raises AdapterNotFound, AdapterRefused, AdapterStateConflict (it is promoted, or another one is on
        trial, or the collection has another encoder now).
        """
        with self._writing() as connection:
            adapter = _locked(connection, id, within)
            if adapter.state == "promoted":
                raise AdapterStateConflict(f"Adapter {id!r} is promoted: it has all that no trial takes.")
            if share > 0:
                _check_may_serve(connection, adapter)
                others = sa.and_(_of(adapter), adapters.c.share > 0, adapters.c.id != id)
                other = connection.execute(sa.select(adapters.c.id).where(others)).scalar()
                if other is not None:
                    raise AdapterStateConflict(f"Adapter {other!r} is on trial; there is one at a time.")
            _set(connection, id, share=share)
            return _one(connection, id, within)

    def delete(self, id: str, within: Collection[str] | None = None) -> None:
        """Forget it. Raises AdapterNotFound, AdapterStateConflict (it serves)."""
        with self._writing() as connection:
            adapter = _locked(connection, id, within)
            if adapter.serves:
                raise AdapterStateConflict(f"Adapter {id!r} serves; roll it back first.")
            connection.execute(sa.delete(adapters).where(adapters.c.id == id))


_COLUMNS = [adapters.c[field.name] for field in fields(Adapter)]


def _adapter(row: sa.Row[Any]) -> Adapter:
    return Adapter(**row._mapping)


def _one(connection: sa.Connection, id: str, within: Collection[str] | None) -> Adapter:
    query = sa.select(*_COLUMNS).where(adapters.c.id == id)
    row = connection.execute(query).one_or_none() if is_storable(id) else None
    if row is None or (within is not None and row.name not in within):
        raise AdapterNotFound(f"There is no adapter {id!r}.")
    return _adapter(row)


def _locked(connection: sa.Connection, id: str, within: Collection[str] | None) -> Adapter:
    """The adapter, once nobody else changes those of its collection."""
    try:
        find(connection, _one(connection, id, within).name, for_update=True)
    except CollectionNotFound:  # being deleted, with its adapters
        raise AdapterNotFound(f"There is no adapter {id!r}.") from None
    return _one(connection, id, within)


def _check_may_serve(connection: sa.Connection, adapter: Adapter) -> None:
    if adapter.state == "refused":
        raise AdapterRefused(f"The gate refused adapter {adapter.id!r}: {adapter.report.get('reason')}")
    query = sa.select(collections.c.encoder_id).where(collections.c.uid == adapter.collection)
    if connection.execute(query).scalar() != adapter.encoder_id:
        raise AdapterStateConflict(f"Adapter {adapter.id!r} is of {adapter.encoder_id}, which is not in use.")


def _of(adapter: Adapter) -> sa.ColumnElement[bool]:
    return adapters.c.collection == adapter.collection


def _set(connection: sa.Connection, id: str, **values: Any) -> None:
    connection.execute(sa.update(adapters).where(adapters.c.id == id).values(**values))
