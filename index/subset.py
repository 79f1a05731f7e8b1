"""A subset: the items of a view that pass a filter, to be counted, told apart by a field, or gone through."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from index import terms
from index.fields import Fields, RowSet, marked, numbers
from index.filters import Filter
from index.live import View
from index.reading import Reading
from index.terms import Scalar
from index.vectors import Seqs


class Part(NamedTuple):
    """Rows of a snapshot, or of a part of a tail."""

    fields: Fields
    seqs: Seqs  # of all rows
    rows: RowSet  # those that belong to the subset

    def counts(self, key: str) -> Iterator[tuple[bytes, int]]:
        """How many rows of the subset have each value of a key, ascending by its term."""
        for first, end in terms.values(key):
            yield from self.fields.counts(first, end, self.rows)


@dataclass(frozen=True)
class Facet:
    """Values, the most frequent first, and how many items have each; ``distinct`` are there in all."""

    values: list[tuple[Scalar, int]]
    distinct: int


@dataclass(frozen=True)
class Subset:
    """The items of ``view`` that pass a filter."""

    view: View
    parts: list[Part]

    @staticmethod
    def of(view: View, filter: Filter) -> "Subset":
        """The items of a view that pass the filter."""
        parts, start = list[Part](), 0
        if view.snapshot is not None:
            fields = view.snapshot.fields
            parts.append(Part(fields, view.snapshot.ids, filter.rows(fields) - view.hidden))
        for fields in view.tail.fields:
            here = slice(start, start + fields.count)
            rows = filter.rows(fields) & marked(view.tail.alive[here])
            parts.append(Part(fields, view.tail.seqs[here], rows))
            start += fields.count
        return Subset(view, parts)

    @property
    def count(self) -> int:
        """How many items there are."""
        return sum(len(part.rows) for part in self.parts)

    def seqs(self) -> Seqs:
        """The items' versions, ascending."""
        found = [part.seqs[numbers(part.rows)] for part in self.parts]
        return np.concatenate([np.empty(0, np.int64), *found])

    def facet(self, reading: Reading, key: str, limit: int) -> Facet:
        """The ``limit`` most frequent values of metadata ``key``; an item with a list counts once for each.

        Equals come in the order of values. Takes time with the number of different values, memory with
        ``limit``. ``reading`` is of the view's moment: it spells long strings out.
        """
        distinct = 0

        def counted() -> Iterator[tuple[bytes, int]]:
            nonlocal distinct
            ordered = heapq.merge(*(part.counts(key) for part in self.parts))
            for term, found in groupby(ordered, key=itemgetter(0)):
                distinct += 1
                yield term, sum(count for _, count in found)

        most = heapq.nlargest(limit, counted(), key=itemgetter(1))
        return Facet([(self._value(reading, key, term), count) for term, count in most], distinct)

    def _value(self, reading: Reading, key: str, term: bytes) -> Scalar:
        value = terms.value_of(key, term)
        if value is not None:
            return value
        part, row = next(
            (part, rows.min()) for part in self.parts if (rows := part.rows & part.fields.having(term))
        )
        seq = int(part.seqs[row])
        held = reading.items_at([seq])[seq].metadata[key]
        texts: list[str] = [
            one for one in (held if isinstance(held, list) else [held]) if isinstance(one, str)
        ]
        return next(text for text in texts if terms.equals(key, text) == term)
