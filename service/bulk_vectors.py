"""Vectors made elsewhere, as NumPy writes them (.npy), as the records of a bulk job."""

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import IO, Any

import numpy as np

from index.records import Modality
from service.bulk_lines import SourceUnreadable, json_or_text
from service.spool import CHUNK_LINES, Chunk, Lines

_CONTENTS = ("text", "image", "content", "modality")


@dataclass(frozen=True)
class Made:
    """What a file of vectors does not say itself: the encoder_id that made them, and from what."""

    space: str
    modality: Modality = "image"


class VectorFile:
    """An array (n, dim) of floats, of 16, 32 or 64 bits, row by row. Positions are rows.

    ``items`` has the item of each row, one to a line; else their ids are ``name`` and the row's number.
    """

    def __init__(self, file: IO[bytes], name: str, made: Made, items: Lines | None) -> None:
        """Raises SourceUnreadable."""
        self._file, self._name, self._made, self._items = file, name, made, items
        self._count, self._dim, self._type = _header(file)
        self._start = file.tell()
        size = self._start + self._count * self._dim * self._type.itemsize
        if os.fstat(file.fileno()).st_size != size:
            raise SourceUnreadable(f"The file of {self._count} vectors should have {size} bytes.")
        self._lines: Iterator[bytes | None] = iter(())
        self._at = -1  # the row that comes next

    def chunk(self, start: int, line: int) -> Chunk:
        """See Records."""
        if start != self._at:
            self._lines = repeat(b"") if self._items is None else self._lines_from(self._items, start)
        count = min(CHUNK_LINES, self._count - start)
        size = self._dim * self._type.itemsize
        self._file.seek(self._start + start * size)
        data = self._file.read(count * size)
        if len(data) != count * size:
            raise SourceUnreadable("The file of vectors ends too early.")
        with np.errstate(over="ignore"):  # what does not fit becomes infinite: that line fails
            rows = np.frombuffer(data, self._type).astype("<f4").reshape(count, self._dim)
        lines = chain(
            islice(self._lines, count), repeat(None)
        )  # a line that is missing fails as one too long
        self._at = start + count
        found = [
            (line + place, None if said is None else self._line(start + place - 1, said, row.tobytes()))
            for place, (said, row) in enumerate(zip(lines, rows, strict=False), 1)
        ]
        return Chunk(found, self._at, line + count)

    def total(self) -> int:
        """See Records. Raises SourceUnreadable: there is not an item for each vector."""
        if self._items is not None and (items := self._items.total()) != self._count:
            raise SourceUnreadable(f"There are {self._count} vectors and {items} items.")
        return self._count

    def _line(self, row: int, said: bytes, vector: bytes) -> bytes:
        item = json_or_text(said) if self._items is not None else {"id": f"{self._name}-{row}"}
        if isinstance(item, dict):
            item |= {"vector": base64.b64encode(vector).decode(), "embedding_space": self._made.space}
            if not any(item.get(name) is not None for name in _CONTENTS):
                item["modality"] = self._made.modality
        custom_id = item.get("id") if isinstance(item, dict) else None
        return json.dumps({"custom_id": custom_id, "item": item}).encode()

    def _lines_from(self, items: Lines, row: int) -> Iterator[bytes | None]:
        """The lines that say something, from one on; those before are read and dropped."""
        at = line = 0
        while (found := items.chunk(at, line)).end > at:
            yield from (data for _, data in found.lines[max(0, row) :])
            at, line, row = found.end, found.line, row - len(found.lines)


def _header(file: IO[bytes]) -> tuple[int, int, np.dtype[Any]]:
    """The number of rows, their length, and the type of their numbers. Raises SourceUnreadable."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(file)
        shape, by_column, kind = read[version](file)
    except (ValueError, KeyError, EOFError) as error:
        raise SourceUnreadable(f"The file is no array of NumPy's: {error}") from error
    if by_column or len(shape) != 2 or kind.kind != "f" or kind.itemsize not in (2, 4, 8):
        raise SourceUnreadable(f"The array is no table of floats row by row: {shape} of {kind}.")
    if not 0 < shape[1] <= 8192:
        raise SourceUnreadable(f"Vectors of {shape[1]} numbers are none.")
    return int(shape[0]), int(shape[1]), kind
