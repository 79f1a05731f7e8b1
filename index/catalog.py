"""The catalog: items, their embeddings and the log of changes. Everything else is derived from it.

A commit is one transaction on SQLite (WAL, synchronous=FULL) or PostgreSQL; when it returns, the writes are
durable. Each change of an item gets the next ``seq`` of its collection, and commits of one collection are
serialised, so "the log up to seq W" is the same set of changes for every reader.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from index import schema
from index.adapters import Adapters
from index.aliases import Aliases, check_own_name, find
from index.jobs import Jobs, Step, advance
from index.keys import Keys
from index.reading import Reading, embedding_of, pictures
from index.records import (
    CatalogError,
    Change,
    Collection,
    CollectionFull,
    CollectionNotFound,
    Condition,
    ConditionFailed,
    Delete,
    EncoderMismatch,
    InvalidItem,
    Item,
    ItemNotFound,
    Modality,
    Outcome,
    Status,
    StorageFull,
    StorageUnavailable,
    Upsert,
    check_condition,
    is_storable,
)
from index.replies import Replies
from index.spaces import Spaces, unused
from index.staging import Staging
from index.storage import storage_errors
from index.tasks import Tasks
from index.transaction import Transaction, chunks
from index.vectors import Vectors, from_bytes

__all__ = [
    "Catalog",
    "CatalogError",
    "Change",
    "Collection",
    "CollectionFull",
    "CollectionNotFound",
    "Condition",
    "ConditionFailed",
    "Delete",
    "EncoderMismatch",
    "InvalidItem",
    "Item",
    "ItemNotFound",
    "Modality",
    "Outcome",
    "Reading",
    "Status",
    "StorageFull",
    "StorageUnavailable",
    "Upsert",
    "check_encoder",
]


class Catalog:
    """The store of record. Safe to use from many threads and processes."""

    def __init__(self, url: str) -> None:
        """Open (and create) the catalog at a SQLAlchemy URL, such as ``sqlite:////var/lib/x/catalog.db``.

        Raises StorageUnavailable: no such database, or not one of its drivers is installed.
        """
        try:
            self._engine = schema.open_engine(url)
        except (sa.exc.ArgumentError, ImportError, ValueError) as error:
            raise StorageUnavailable(f"the catalog's address cannot be used: {error}") from error
        # SQLite's waiting writers poll: threads of this process wait in line instead, and each goes at once.
        self._turn = threading.Lock() if self._engine.dialect.name == "sqlite" else nullcontext()
        with self._writing() as connection:
            schema.create_tables(connection)
        self.adapters = Adapters(self._reading, self._writing)
        self.aliases = Aliases(self._reading, self._writing)
        self.jobs = Jobs(self._reading, self._writing)
        self.keys = Keys(self._reading, self._writing)
        self.replies = Replies(self._reading, self._writing)
        self.spaces = Spaces(self._reading, self._writing)
        self.staging = Staging(self._reading, self._writing)
        self.tasks = Tasks(self._reading, self._writing)

    def close(self) -> None:
        """Release every connection."""
        self._engine.dispose()

    # -- collections

    def create_collection(
        self,
        name: str,
        encoder_id: str,
        dim: int,
        condition: Condition | None = None,
        **settings: Mapping[str, Any] | None,
    ) -> tuple[Collection, bool]:
        """The collection that this name stands for, made if there is none; True when it was.

        ``settings`` are its "index", "fields" and "limits", and replace those that it has; what is absent or
        None stays. Raises EncoderMismatch and ConditionFailed.
        """
        given = {name: value or None for name, value in settings.items() if value is not None}
        fresh = Collection(name, uuid.uuid4().hex, encoder_id, dim, 0, time.time(), **given)
        with self._writing() as connection:
            schema.wait_for_writers(connection, schema.aliases)  # none may come to have this name meanwhile
            try:
                collection = find(connection, name)
            except CollectionNotFound:
                connection.execute(sa.insert(schema.collections), vars(fresh))
                collection = find(connection, name)
            created = collection.uid == fresh.uid
            if condition is not None:
                version = None if created else _version(connection, collection)
                check_condition(condition, version, f"collection {name!r}")
            check_encoder(collection, encoder_id)
            return _changed(connection, collection, given), created

    def change_collection(
        self,
        name: str,
        change: Callable[[Collection], Mapping[str, Mapping[str, Any] | None]],
        condition: Condition | None = None,
    ) -> Collection:
        """The collection with the settings that ``change`` gives in place of those it has.

        Raises CollectionNotFound, ConditionFailed.
        """
        with self._writing() as connection:
            collection = find(connection, name, for_update=True)
            if condition is not None:
                check_condition(condition, _version(connection, collection), f"collection {name!r}")
            return _changed(connection, collection, change(collection))

    def delete_collection(self, name: str, condition: Condition | None = None) -> None:
        """Remove a collection with its items and aliases. Raises CollectionNotFound, ConditionFailed and, for
        the name of an alias, AliasConflict."""
        with self._writing() as connection:
            schema.wait_for_writers(connection, schema.aliases)  # before the row, as all who lock both
            collection = find(connection, name, for_update=True)
            check_own_name(collection, name)
            if condition is not None:
                check_condition(condition, _version(connection, collection), f"collection {name!r}")
            uid = collection.uid
            for table in (schema.adapters, schema.aliases, schema.changes, schema.items):
                connection.execute(sa.delete(table).where(table.c.collection == uid))
            connection.execute(sa.delete(schema.collections).where(schema.collections.c.uid == uid))

    def collection(self, name: str) -> Collection:
        """The collection of this name, its own or an alias. Raises CollectionNotFound."""
        with self._reading() as connection:
            return find(connection, name)

    def collections(self, after: str = "", limit: int = 1000) -> list[Collection]:
        """Collections in order of name, starting after ``after``."""
        table = schema.collections
        query = sa.select(table).where(table.c.name > after).order_by(table.c.name).limit(limit)
        with self._reading() as connection:
            return [Collection(**row._mapping) for row in connection.execute(query)]

    def every_collection(self) -> Iterator[Collection]:
        """All collections in order of name, read a page at a time."""
        page = self.collections()
        while page:
            yield from page
            page = self.collections(after=page[-1].name)

    @contextmanager
    def reading(self, name: str) -> Iterator[Reading]:
        """One consistent reading of a collection. Raises CollectionNotFound."""
        with self._reading() as connection:
            yield Reading(connection, find(connection, name))

    # -- writing items

    def commit(
        self, name: str, writes: Sequence[Upsert | Delete], encoder_id: str, step: Step | None = None
    ) -> list[Outcome]:
        """Write all of ``writes`` in order, in one durable transaction, which also moves a job by ``step``.

        An upsert that changes nothing leaves no trace and reports "unchanged"; one that its mode or version
        does not allow says why. Raises CollectionNotFound, EncoderMismatch, VectorError, ConditionFailed,
        CollectionFull, StepRefused, StorageFull, StorageUnavailable; then it wrote nothing.
        """
        with self._writing() as connection:
            collection = find(connection, name, for_update=True)
            check_encoder(collection, encoder_id)
            outcomes = Transaction(connection, collection, time.time()).apply(writes)
            if step is not None:
                advance(connection, collection.uid, step, outcomes)
            return outcomes

    def embeddings(self, encoder_id: str, dim: int, contents: Sequence[str]) -> dict[str, Vectors]:
        """The rows already computed by ``encoder_id`` for these content hashes."""
        table, found = schema.embeddings.c, dict[str, Vectors]()
        with self._reading() as connection:
            for part in chunks(sorted(set(contents))):
                wanted = sa.and_(table.encoder_id == encoder_id, table.content.in_(part))
                rows = connection.execute(sa.select(table.content, table.vector).where(wanted)).all()
                vectors = from_bytes([row.vector for row in rows], dim)
                found.update((row.content, vector) for row, vector in zip(rows, vectors, strict=True))
        return found

    def prune_embeddings(self) -> int:
        """Drop embeddings that no item has any use for; the number dropped."""
        embeddings = schema.embeddings
        with self._writing() as connection:
            # A commit that relies on an embedding found here must not lose it before its items can be seen.
            schema.wait_for_writers(connection, embeddings)
            return connection.execute(sa.delete(embeddings).where(unused(connection))).rowcount

    # -- reading items

    def item(self, name: str, item_id: str) -> Item:
        """One item. Raises CollectionNotFound, ItemNotFound."""
        with self._reading() as connection:
            collection = find(connection, name)
            return self._item(connection, collection, item_id)

    def scroll(self, name: str, after: str, limit: int) -> list[Item]:
        """Items in order of id, starting after ``after``. Raises CollectionNotFound."""
        items = schema.items
        with self._reading() as connection:
            here = sa.and_(items.c.collection == find(connection, name).uid, items.c.id > after)
            query = sa.select(*schema.item_columns).where(here).order_by(items.c.id).limit(limit)
            return [Item(**row._mapping) for row in connection.execute(query)]

    def count(self, collection: Collection) -> int:
        """The number of items in a collection."""
        with self._reading() as connection:
            return Reading(connection, collection).count()

    def vector(self, name: str, item_id: str, encoder_id: str | None = None) -> Vectors:
        """The (dim,) unit row of one item, by this encoder if one is named.

        Raises CollectionNotFound, ItemNotFound, EncoderMismatch.
        """
        embeddings = schema.embeddings.c
        with self._reading() as connection:
            collection = find(connection, name)
            check_encoder(collection, encoder_id or collection.encoder_id)
            content = sa.literal(self._item(connection, collection, item_id).content)
            query = sa.select(embeddings.vector).where(embedding_of(content, collection.encoder_id))
            blob = connection.execute(query).scalar_one()
        row: Vectors = from_bytes([blob], collection.dim)[0]
        return row

    def images(self) -> set[str]:
        """The sha256 of every picture that an item refers to."""
        with self._reading() as connection:
            return set(pictures(connection))

    # -- the whole of it

    @contextmanager
    def copying(self) -> Iterator[sa.Connection]:
        """One reading of every table, all as they stand at one moment."""
        with self._reading() as connection:
            yield connection

    @contextmanager
    def replacing(self) -> Iterator[sa.Connection]:
        """One transaction that may replace every row; others' writes wait until it ends."""
        with self._writing() as connection:
            for table in schema.tables.sorted_tables:
                schema.wait_for_writers(connection, table)
            yield connection

    # -- transactions

    def _item(self, connection: sa.Connection, collection: Collection, item_id: str) -> Item:
        items = schema.items.c
        query = sa.select(*schema.item_columns).where(items.collection == collection.uid, items.id == item_id)
        row = connection.execute(query).one_or_none() if is_storable(item_id) else None
        if row is None:
            raise ItemNotFound(f"collection {collection.name!r} has no item {item_id!r}")
        return Item(**row._mapping)

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with storage_errors(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with storage_errors(), self._turn, self._engine.connect() as connection:
            writing = connection.execution_options(momoseek_write=True)
            with writing.begin():
                yield writing


def check_encoder(collection: Collection, encoder_id: str) -> None:
    """Raise EncoderMismatch unless the collection's embeddings come from ``encoder_id``."""
    if collection.encoder_id != encoder_id:
        raise EncoderMismatch(
            f"collection {collection.name!r} holds embeddings of {collection.encoder_id}, not of {encoder_id}"
        )


def _changed(
    connection: sa.Connection, collection: Collection, settings: Mapping[str, Mapping[str, Any] | None]
) -> Collection:
    """The collection with other settings, of which the database is told if they are others."""
    changed: dict[str, Any] = {name: value or None for name, value in settings.items()}
    after = replace(collection, **changed)
    if after != collection:
        here = schema.collections.c.uid == collection.uid
        values = {name: getattr(after, name) for name in settings}
        connection.execute(sa.update(schema.collections).where(here).values(**values))
    return after


def _version(connection: sa.Connection, collection: Collection) -> str:
    return collection.version(Reading(connection, collection).count())
