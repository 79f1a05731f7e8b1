"""Reading one collection as it stands at one moment."""

from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cached_property
from typing import Any

import numpy as np
import sqlalchemy as sa

from index import schema
from index.prepared import Prepared
from index.records import Change, Collection, Item, Modality, Space, is_storable
from index.terms import terms_of
from index.transaction import chunks
from index.vectors import Seqs, Vectors, from_bytes

_ITEMS = sa.select(*(schema.items.c[name] for name in Item._fields)).where(
    schema.items.c.collection == sa.bindparam("uid")
)
_ITEMS_AT = _ITEMS.where(schema.items.c.seq.in_(sa.bindparam("seqs", expanding=True)))
_PAGE = [f"seq{place}" for place in range(10)]  # as many results as most searches have
_PAGE_AT = Prepared(_ITEMS.where(schema.items.c.seq.in_([sa.bindparam(name) for name in _PAGE])))


class Reading:
    """One collection as it stood at one moment: every method answers from the same read transaction.

    ``watermark`` is the last seq of its log; the log has no holes, and nothing is ever added below it.
    """

    def __init__(self, connection: sa.Connection, collection: Collection) -> None:
        self._connection = connection
        self.collection = collection
        self.watermark = collection.last_seq

    @cached_property
    def _own(self) -> sa.ColumnElement[bool]:
        """Only when it is asked for: most searches do not, and it takes as long as a query."""
        return schema.items.c.collection == self.collection.uid

    def within(self, space: Space, watermark: int) -> "Reading":
        """The same collection in another space: of its items those that have an embedding there, and were
        written up to ``watermark``."""
        items, embeddings = schema.items, schema.embeddings
        found = Reading(self._connection, self.collection.within(space))
        embedded = sa.select(embeddings.c.content).where(embedding_of(items.c.content, space.encoder_id))
        here = sa.exists(embedded.correlate(items))
        found._own = sa.and_(self._own, items.c.seq <= watermark, here)
        found.watermark = watermark
        return found

    def count(self) -> int:
        """The number of items."""
        query = sa.select(sa.func.count()).select_from(schema.items).where(self._own)
        return int(self._connection.execute(query).scalar_one())

    def rows(self, chunk: int = 4096) -> Iterator[tuple[Seqs, Vectors, list[Modality]]]:
        """Every item's (seq, vector, modality) in ascending seq, in chunks. Memory stays at one chunk."""
        items, embeddings = schema.items, schema.embeddings
        query = (
            sa.select(items.c.seq, embeddings.c.vector, items.c.modality)
            .join(embeddings, embedding_of(items.c.content, self.collection.encoder_id))
            .where(self._own)
            .order_by(items.c.seq)
        )
        result = self._connection.execute(query, execution_options={"yield_per": chunk})
        for part in result.partitions():
            seqs, blobs, modalities = zip(*part, strict=True)
            yield np.array(seqs, np.int64), from_bytes(blobs, self.collection.dim), list(modalities)

    def found(self, ids: Set[str]) -> dict[str, tuple[int, Vectors, Modality]]:
        """The (seq, row, modality) of the items of these ids, those that are there."""
        items, embeddings, rows = schema.items, schema.embeddings, dict[str, tuple[int, Vectors, Modality]]()
        query = (
            sa.select(items.c.id, items.c.seq, embeddings.c.vector, items.c.modality)
            .join(embeddings, embedding_of(items.c.content, self.collection.encoder_id))
            .where(items.c.collection == self.collection.uid)
        )
        for part in chunks(sorted(filter(is_storable, ids))):
            for id, seq, blob, modality in self._connection.execute(query.where(items.c.id.in_(part))):
                rows[id] = seq, from_bytes([blob], self.collection.dim)[0], modality
        return rows

    def terms(self, chunk: int = 4096) -> Iterator[set[bytes]]:
        """What every item can be found by, in ascending seq. Memory stays at one chunk."""
        items = schema.items.c
        query = (
            sa.select(items.id, items.modality, items.metadata, items.text)
            .where(self._own)
            .order_by(items.seq)
        )
        for row in self._connection.execute(query, execution_options={"yield_per": chunk}):
            yield terms_of(*row)

    def items_at(self, seqs: Sequence[int]) -> dict[int, Item]:
        """The items whose current version is one of ``seqs``, by seq; replaced and deleted ones are not."""
        found: dict[int, Item] = {}
        for part in chunks(seqs):
            found.update((item.seq, item) for item in map(Item._make, self._items_at(part)))
        return found

    def _items_at(self, seqs: Sequence[int]) -> Iterable[Sequence[Any]]:
        uid = self.collection.uid
        if len(seqs) > len(_PAGE):
            return self._connection.execute(_ITEMS_AT, {"uid": uid, "seqs": seqs})
        # Places that are left ask for the last again.
        places = dict.fromkeys(_PAGE, seqs[-1]) | dict(zip(_PAGE, seqs, strict=False))
        return _PAGE_AT.rows(self._connection, {"uid": uid, **places})

    def seqs_of(self, ids: Set[str]) -> set[int]:
        """The seqs of the items of these ids; those that are not there have none."""
        items, found = schema.items.c, set[int]()
        for part in chunks(sorted(filter(is_storable, ids))):
            query = sa.select(items.seq).where(items.collection == self.collection.uid, items.id.in_(part))
            found.update(self._connection.execute(query).scalars())
        return found

    def changes(self, after: int, limit: int = 10_000) -> list[Change]:
        """The log after seq ``after``, ascending, at most ``limit`` entries."""
        changes, items, embeddings = schema.changes, schema.items, schema.embeddings
        current = sa.and_(items.c.collection == changes.c.collection, items.c.seq == changes.c.seq)
        query = (
            sa.select(
                *(changes.c.seq, changes.c.replaces, changes.c.at, embeddings.c.vector),
                *(items.c.id, items.c.modality, items.c.metadata, items.c.text),
            )
            .select_from(changes.outerjoin(items, current))
            .outerjoin(embeddings, embedding_of(items.c.content, self.collection.encoder_id))
            .where(changes.c.collection == self.collection.uid, changes.c.seq > after)
            .order_by(changes.c.seq)
            .limit(limit)
        )
        rows = self._connection.execute(query).all()
        vectors = iter(
            from_bytes([row.vector for row in rows if row.vector is not None], self.collection.dim)
        )
        return [
            Change(*row[:3], None)
            if row.vector is None
            else Change(*row[:3], next(vectors), terms_of(*row[4:]))
            for row in rows
        ]

    def removed(self, after: int) -> int:
        """How many versions of items up to seq ``after`` were deleted or replaced by the log after it."""
        changes = schema.changes.c
        query = sa.select(sa.func.count()).where(
            changes.collection == self.collection.uid, changes.seq > after, changes.replaces <= after
        )
        return int(self._connection.execute(query).scalar_one())

    def committed_at(self, seq: int) -> float | None:
        """When the change ``seq`` was committed, in seconds since the epoch; None when the log has none such.

        The empty log, up to seq 0, was always there: 0.0.
        """
        changes = schema.changes.c
        query = sa.select(changes.at).where(changes.collection == self.collection.uid, changes.seq == seq)
        found: float | None = 0.0 if seq == 0 else self._connection.execute(query).scalar_one_or_none()
        return found

    def begins_with(self, uid: str, watermark: int, watermark_at: float) -> bool:
        """Whether this log begins with that of collection ``uid`` up to ``watermark``, committed then.

        A catalog that was restored to an older state and written on gives old seqs to new changes.
        """
        return self.collection.uid == uid and self.committed_at(watermark) == watermark_at

    def backlog(self, after: int) -> tuple[int, float | None]:
        """Of the log after seq ``after``: how many changes, and when the first of them was committed."""
        changes = schema.changes.c
        query = sa.select(sa.func.count(), sa.func.min(changes.at)).where(
            changes.collection == self.collection.uid, changes.seq > after
        )
        count, oldest = self._connection.execute(query).one()
        return int(count), oldest


def pictures(connection: sa.Connection, of: sa.ColumnElement[bool] | None = None) -> Iterator[str]:
    """The sha256 of every picture that an item refers to, ``of`` those items if given, each once.

    Memory stays small.
    """
    of = sa.true() if of is None else of
    image, parts = schema.items.c.image, schema.items.c.parts
    query = sa.select(image).where(image.is_not(None), of).distinct()
    yield from connection.execute(query, execution_options={"yield_per": 1000}).scalars()
    contents = connection.execute(sa.select(parts).where(parts.is_not(None), of)).scalars()
    further = {part["image"] for content in contents for part in content if "image" in part}
    for some in chunks(sorted(further)):
        further -= set(connection.execute(query.where(image.in_(some))).scalars())
    yield from sorted(further)


def embedding_of(content: sa.ColumnElement[str], encoder_id: str) -> sa.ColumnElement[bool]:
    """The join from a content hash to its embedding by one encoder."""
    embeddings = schema.embeddings.c
    return sa.and_(embeddings.content == content, embeddings.encoder_id == encoder_id)
