"""Applying a batch of writes: rows, log and embeddings change together or not at all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from index import schema
from index.records import (
    Collection,
    CollectionFull,
    Delete,
    Item,
    Outcome,
    Refusal,
    Upsert,
    check_condition,
    is_storable,
)
from index.vectors import VectorError, to_bytes

_T = TypeVar("_T")
_Row = dict[str, Any]  # of the items table

_IN_CHUNK = 500  # bound parameters in one IN list
_FIELDS = (
    "content",
    "modality",
    "text",
    "image",
    "image_type",
    "metadata",
    "parts",
)  # what the writer of an item says


class Transaction:
    """Applies writes in order to the items as they stand. The caller has locked the collection's row."""

    def __init__(self, connection: sa.Connection, collection: Collection, now: float) -> None:
        self._connection = connection
        self._collection = collection
        self._now = now
        self._seq = collection.last_seq
        self._changes: list[_Row] = []

    def apply(self, writes: Sequence[Upsert | Delete]) -> list[Outcome]:
        """Store what ``writes`` change; one outcome each.

        Raises VectorError and ConditionFailed before anything is stored, and CollectionFull after it.
        """
        embeddings = self._embeddings([write for write in writes if isinstance(write, Upsert)])
        before = self._current({write.id for write in writes})
        after = dict(before)
        outcomes = [self._apply(write, after) for write in writes]
        if self._changes:
            self._store_items(before, after)
            if embeddings:
                self._connection.execute(
                    schema.insert_missing(self._connection, schema.embeddings), embeddings
                )
            self._connection.execute(sa.insert(schema.changes), self._changes)
            collections = schema.collections
            here = collections.c.uid == self._collection.uid
            self._connection.execute(sa.update(collections).where(here).values(last_seq=self._seq))
            if len(after) > len(before):
                self._check_room()
        return outcomes

    def _check_room(self) -> None:
        most = (self._collection.limits or {}).get("max_items")
        if most is None:
            return
        query = sa.select(sa.func.count()).where(schema.items.c.collection == self._collection.uid)
        count = self._connection.execute(query).scalar_one()
        if count > most:
            name = self._collection.name
            raise CollectionFull(f"collection {name!r} may have {most} items and would have {count}")

    def _apply(self, write: Upsert | Delete, items: dict[str, _Row]) -> Outcome:
        old = items.get(write.id)
        if write.condition is not None:
            check_condition(write.condition, _version(old), f"item {write.id!r}")
        if isinstance(write, Delete):
            if old is None:
                return Outcome(write.id, "not_found", 0)
            del items[write.id]
            return Outcome(write.id, "deleted", self._log(old))
        if (refusal := _refusal(write, old)) is not None:
            return Outcome(write.id, refusal, 0 if old is None else old["seq"])
        said = {name: getattr(write, name) for name in _FIELDS}
        if old is not None and _same(old, said):
            return Outcome(write.id, "unchanged", old["seq"])
        items[write.id] = {
            "collection": self._collection.uid,
            "id": write.id,
            "seq": self._log(old),
            **said,
            "created_at": self._now if old is None else old["created_at"],
            "updated_at": self._now,
        }
        return Outcome(write.id, "created" if old is None else "updated", self._seq)

    def _log(self, old: _Row | None) -> int:
        self._seq += 1
        replaces = None if old is None else old["seq"]
        change = {"collection": self._collection.uid, "seq": self._seq, "replaces": replaces, "at": self._now}
        self._changes.append(change)
        return self._seq

    def _current(self, ids: set[str]) -> dict[str, _Row]:
        items, found = schema.items, {}
        for part in chunks(sorted(item_id for item_id in ids if is_storable(item_id))):
            query = sa.select(items).where(items.c.collection == self._collection.uid, items.c.id.in_(part))
            found.update({row.id: dict(row._mapping) for row in self._connection.execute(query)})
        return found

    def _store_items(self, before: Mapping[str, _Row], after: Mapping[str, _Row]) -> None:
        items = schema.items
        gone = [item_id for item_id, row in before.items() if after.get(item_id) is not row]
        for part in chunks(gone):
            here = sa.and_(items.c.collection == self._collection.uid, items.c.id.in_(part))
            self._connection.execute(sa.delete(items).where(here))
        written = [row for item_id, row in after.items() if before.get(item_id) is not row]
        if written:
            self._connection.execute(sa.insert(items), written)

    def _embeddings(self, writes: Sequence[Upsert]) -> list[_Row]:
        """One row per content, in an order that all writers share, so that no two wait for each other."""
        blobs: dict[str, bytes] = {}
        for write in writes:
            try:
                blobs[write.content] = to_bytes(write.vector, self._collection.dim)
            except VectorError as error:
                raise VectorError(f"item {write.id!r}: {error}") from error
        encoder_id = self._collection.encoder_id
        return [
            {"content": content, "encoder_id": encoder_id, "vector": blobs[content]}
            for content in sorted(blobs)
        ]


def chunks(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """The values in parts that fit in one IN list."""
    for start in range(0, len(values), _IN_CHUNK):
        yield values[start : start + _IN_CHUNK]


def _version(row: _Row | None) -> str | None:
    return None if row is None else Item(**{c.name: row[c.name] for c in schema.item_columns}).version


def _refusal(write: Upsert, old: _Row | None) -> Refusal | None:
    """Why a write's mode or version does not allow it in the place of this item, or in an empty one."""
    if old is None:
        return None if write.mode != "update_only" and write.version is None else "missing"
    if write.mode == "insert_only":
        return "exists"
    return None if write.version in (None, _version(old)) else "changed"


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    if any(a[name] != b[name] for name in _FIELDS if name != "metadata"):
        return False
    # Python's == would call 1, 1.0 and True the same; JSON has no tuples and any Mapping is an object.
    return _canonical(a["metadata"]) == _canonical(b["metadata"])


def _canonical(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, default=dict)
