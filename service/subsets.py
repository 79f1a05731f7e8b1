"""What passes a filter: counted, told apart by a field, deleted."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from index.catalog import Item
from index.filters import Filter
from index.live import LiveIndex
from index.subset import Facet, Subset
from index.vectors import Vectors
from service.writer import Writer

_AT_ONCE = 1000  # items in one commit: others write between two of them


@dataclass(frozen=True)
class Faceted:
    """The values that so many items have, as the log stood at ``watermark``."""

    facet: Facet
    count: int
    watermark: int


@dataclass(frozen=True)
class Listed:
    """An item, and its (dim,) unit row if that was asked for."""

    item: Item
    vector: Vectors | None = None


@dataclass(frozen=True)
class Deleted:
    """How many items passed and how many of them were deleted; ``seq`` is the log's last then."""

    matched: int
    deleted: int
    seq: int


class Subsets:
    """Each method answers for one moment and raises CollectionNotFound. Belongs to one event loop."""

    def __init__(self, index: Callable[[str], LiveIndex], writer: Writer) -> None:
        self._index = index
        self._writer = writer

    async def find(self, name: str, filter: Filter) -> Subset:
        """The items that pass."""

        def read() -> Subset:
            with self._index(name).reading() as (view, _):
                return Subset.of(view, filter)

        return await asyncio.to_thread(read)

    async def facet(self, name: str, filter: Filter, key: str, limit: int) -> Faceted:
        """The most frequent values of metadata ``key`` among the items that pass."""

        def read() -> Faceted:
            with self._index(name).reading() as (view, reading):
                subset = Subset.of(view, filter)
                return Faceted(subset.facet(reading, key, limit), subset.count, view.watermark)

        return await asyncio.to_thread(read)

    async def scroll(
        self, name: str, filter: Filter, after: int, limit: int, *, with_vectors: bool
    ) -> list[Listed]:
        """Up to ``limit`` items that pass, written after the seq ``after``, in order of their last write."""

        def read() -> list[Listed]:
            with self._index(name).reading() as (view, reading):
                seqs = Subset.of(view, filter).seqs()
                seqs = seqs[np.searchsorted(seqs, after, "right") :][:limit]
                items = reading.items_at(seqs.tolist())
                rows = view.vectors(seqs) if with_vectors else [None] * len(seqs)
                return [Listed(items[seq], row) for seq, row in zip(seqs.tolist(), rows, strict=True)]

        return await asyncio.to_thread(read)

    async def delete(self, name: str, filter: Filter, *, dry_run: bool) -> Deleted:
        """Delete the items that pass now, in commits of a thousand; ``dry_run``: only say how many they are.

        One that is replaced before its turn is left alone. Raises what Writer.delete_versions raises; what
        was committed before stays deleted.
        """
        subset = await self.find(name, filter)
        matched, deleted, seq = subset.count, 0, subset.view.watermark
        if not dry_run:
            seqs = await asyncio.to_thread(lambda: subset.seqs().tolist())
            for start in range(0, matched, _AT_ONCE):
                part = seqs[start : start + _AT_ONCE]
                count, seq = await self._writer.delete_versions(subset.view, part)
                deleted += count
        return Deleted(matched, deleted, seq)
