"""Fields: an inverted index of rows, from terms to the rows that have them, as roaring bitmaps.

One immutable buffer, the same in memory and in a file: a header; where each term, its rows and each dense
term's bitmap start; the dense terms' numbers; the rows of the other terms; the sorted terms; the bitmaps.
Terms of few rows keep them as they are, side by side in the order of terms, so that the rows of a whole range
of terms are one slice.
"""

import heapq
import mmap
import struct
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

RowSet = BitMap  # positions of rows
Posting = tuple[bytes, int, list[int]]  # a term, the number of its part, and its rows there, ascending

_MAGIC = b"MOMOFLD2"
_HEADER = struct.Struct("<8s6Q")  # magic, rows, terms, dense terms, sparse rows, bytes of terms, of bitmaps
_DENSE = 1024  # rows; from here on a bitmap is smaller and 10 to 100 times faster to open than a list
_SORTED_BY_MASK = 4096  # rows; so many are sorted faster by marking them in an array of all rows
_ROWS_AT_ONCE = 50_000
_MERGED_ROWS = 1024  # parts grow by merging up to here: bounds the pause of one write to some 20 ms


class FieldsError(ValueError):
    """A buffer that holds no fields."""


class _Terms:
    """Sorted terms inside a buffer; each is copied out when it is looked at."""

    def __init__(self, starts: memoryview, text: memoryview) -> None:
        self._starts = starts
        self._text = text

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> bytes:
        return bytes(self._text[self._starts[number] : self._starts[number + 1]])


class Fields:
    """Which of ``count`` rows have which terms. Immutable; safe in many threads."""

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        """From a buffer that ``of``, ``joined`` or ``save`` made. Raises FieldsError when it is none."""
        try:
            magic, self.count, terms, dense, rows, text, bitmaps = _HEADER.unpack_from(buffer)
        except struct.error as error:
            raise FieldsError(f"not an index of fields: {error}") from error
        sizes = (8 * (terms + 1), 8 * (terms + 1), 8 * (dense + 1), 8 * dense, 4 * rows, text, bitmaps)
        if magic != _MAGIC or _HEADER.size + sum(sizes) != len(buffer):
            raise FieldsError("not an index of fields, or not all of one")
        view, parts, start = memoryview(buffer), list[memoryview](), _HEADER.size
        for size in sizes:
            parts.append(view[start : start + size])
            start += size
        self._buffer = buffer
        self._terms = _Terms(parts[0].cast("Q"), parts[5])
        self._row_starts, self._bitmap_starts, self._dense = (part.cast("Q") for part in parts[1:4])
        self._rows, self._bitmaps = parts[4].cast("I"), parts[6]

    @staticmethod
    def of(rows: Iterable[Iterable[bytes]]) -> "Fields":
        """The fields of rows that have these terms each."""
        postings, count = defaultdict[bytes, list[int]](list), 0
        for terms in rows:
            for term in terms:
                postings[term].append(count)
            count += 1
        return Fields(_packed(count, sorted(postings.items())))

    @staticmethod
    def of_many(rows: Iterable[Iterable[bytes]]) -> "Fields":
        """The same for millions of rows: no more than some tens of thousands are held as Python objects."""
        rest = iter(rows)
        parts = [Fields.of(islice(rest, _ROWS_AT_ONCE))]
        while parts[-1].count == _ROWS_AT_ONCE:
            parts.append(Fields.of(islice(rest, _ROWS_AT_ONCE)))
        return Fields.joined(parts)

    @staticmethod
    def joined(parts: Sequence["Fields"]) -> "Fields":
        """The fields of the parts' rows, one part after the other."""
        postings, count = list[Iterator[Posting]](), 0
        for number, part in enumerate(parts):
            postings.append(part._postings(number, count))
            count += part.count
        ordered = groupby(heapq.merge(*postings), key=itemgetter(0))
        return Fields(
            _packed(count, ((term, list(chain(*map(itemgetter(2), found)))) for term, found in ordered))
        )

    def spread(self, places: NDArray[np.int64], count: int) -> "Fields":
        """The fields of ``count`` rows, among which row i of these is the ``places[i]``-th; others have none.

        ``places`` ascend.
        """
        moved = ((term, places[rows].tolist()) for term, _, rows in self._postings(0, 0))
        return Fields(_packed(count, moved))

    @staticmethod
    def load(path: Path) -> "Fields":
        """Map a saved index into memory. Raises FieldsError and OSError."""
        with path.open("rb") as file:
            try:
                return Fields(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except ValueError as error:  # an empty file cannot be mapped
                raise FieldsError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Write the index to a file. Raises OSError."""
        path.write_bytes(self._buffer)

    @property
    def size_bytes(self) -> int:
        """How large it is, in memory or mapped."""
        return len(self._buffer)

    def having(self, term: bytes) -> RowSet:
        """The rows that have a term."""
        number = bisect_left(self._terms, term)
        if number == len(self._terms) or self._terms[number] != term:
            return BitMap()
        return self._rows_of(number, number + 1)

    def between(self, first: bytes, end: bytes) -> RowSet:
        """The rows that have a term from ``first`` on and before ``end``."""
        return self._rows_of(bisect_left(self._terms, first), bisect_left(self._terms, end))

    def counts(self, first: bytes, end: bytes, rows: RowSet) -> Iterator[tuple[bytes, int]]:
        """Each term from ``first`` on and before ``end`` that some ``rows`` have, and how many; ascending."""
        start, stop = bisect_left(self._terms, first), bisect_left(self._terms, end)
        starts = np.array(self._row_starts[start : stop + 1], np.int64)
        sparse = np.frombuffer(self._rows[starts[0] : starts[-1]], np.uint32)
        wanted = np.zeros(self.count, np.bool_)
        wanted[numbers(rows)] = True
        found = np.diff(np.append(0, np.cumsum(wanted[sparse]))[starts - starts[0]])
        for number in range(bisect_left(self._dense, start), bisect_left(self._dense, stop)):
            found[self._dense[number] - start] = rows.intersection_cardinality(self._bitmap(number))
        for place in np.flatnonzero(found).tolist():
            yield self._terms[start + place], int(found[place])

    def _rows_of(self, first: int, end: int) -> RowSet:
        if first >= end:
            return BitMap()
        sparse = self._sparse(self._rows[self._row_starts[first] : self._row_starts[end]])
        bitmaps = range(bisect_left(self._dense, first), bisect_left(self._dense, end))
        return sparse.union(sparse, *map(self._bitmap, bitmaps)) if bitmaps else sparse

    def _sparse(self, rows: memoryview) -> RowSet:
        """The rows of terms side by side, each term's ascending: not of one another's, and some twice."""
        if len(rows) < _SORTED_BY_MASK:
            return BitMap(array("I", rows.tobytes()))
        present = np.zeros(self.count, np.bool_)
        present[np.frombuffer(rows, np.uint32)] = True
        return marked(present)

    def _bitmap(self, number: int) -> RowSet:
        return BitMap.deserialize(
            bytes(self._bitmaps[self._bitmap_starts[number] : self._bitmap_starts[number + 1]])
        )

    def _postings(self, part: int, offset: int) -> Iterator[Posting]:
        start = 0
        for number in range(len(self._terms)):
            end = self._row_starts[number + 1]
            rows = self._rows[start:end].tolist() or self._rows_of(number, number + 1)
            yield self._terms[number], part, [row + offset for row in rows]
            start = end


def marked(mask: NDArray[np.bool_]) -> RowSet:
    """The rows that are True in a mask of all rows."""
    return BitMap(array("I", np.flatnonzero(mask).astype(np.uint32).tobytes()))


def numbers(rows: RowSet) -> NDArray[np.int64]:
    """The rows of a set, ascending."""
    return np.frombuffer(rows.to_array(), np.uint32).astype(np.int64)


def grown(parts: tuple[Fields, ...], part: Fields) -> tuple[Fields, ...]:
    """The parts and one more; small ones are merged: n rows added one by one make about log n parts."""
    merged = [part]
    count = part.count
    while parts and parts[-1].count <= count and parts[-1].count + count <= _MERGED_ROWS:
        merged.insert(0, parts[-1])
        count += parts[-1].count
        parts = parts[:-1]
    return (*parts, Fields.joined(merged) if len(merged) > 1 else part)


def _packed(count: int, postings: Iterable[tuple[bytes, list[int]]]) -> bytes:
    text, bitmaps, rows, dense = bytearray(), bytearray(), array("I"), array("Q")
    text_starts, row_starts, bitmap_starts = array("Q", [0]), array("Q", [0]), array("Q", [0])
    for number, (term, found) in enumerate(postings):
        text += term
        if len(found) < _DENSE:
            rows.extend(found)
        else:
            dense.append(number)
            bitmaps += BitMap(array("I", found)).serialize()
            bitmap_starts.append(len(bitmaps))
        text_starts.append(len(text))
        row_starts.append(len(rows))
    sizes = (count, len(text_starts) - 1, len(dense), len(rows), len(text), len(bitmaps))
    parts = (text_starts, row_starts, bitmap_starts, dense, rows, text, bitmaps)
    return b"".join((_HEADER.pack(_MAGIC, *sizes), *map(bytes, parts)))
