"""Tables as the records of a bulk job: Parquet, a row to an item."""

import base64
import importlib
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

from service.bulk_lines import SourceUnreadable, json_or_text, upsert_line
from service.spool import CHUNK_BYTES, CHUNK_LINES, Chunk


class Table:
    """A Parquet file: columns id, text, image (bytes, or a struct with a member bytes), and metadata (JSON).

    Other columns become members of the metadata. Positions are rows.
    """

    def __init__(self, file: IO[bytes]) -> None:
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise SourceUnreadable("To read Parquet the extra `parquet` must be installed.") from error
        try:
            self._file = parquet.ParquetFile(file)
        except Exception as error:  # whatever a library raises at hostile bytes
            raise SourceUnreadable(f"The file is no Parquet: {error}") from error
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._at = -1  # the row that comes next

    def chunk(self, start: int, line: int) -> Chunk:
        """See Records."""
        found: list[tuple[int, bytes | None]] = []
        size = 0
        try:
            if start != self._at:
                self._rows = self._from(start)
            for row in islice(self._rows, CHUNK_LINES):
                line += 1
                data = upsert_line(_item(row))
                found.append((line, data))
                size += len(data)
                if size >= CHUNK_BYTES:
                    break
        except Exception as error:
            raise SourceUnreadable(f"The Parquet file cannot be read: {error}") from error
        self._at = start + len(found)
        return Chunk(found, self._at, line)

    def total(self) -> int:
        """See Records."""
        return int(self._file.metadata.num_rows)

    def _from(self, row: int) -> Iterator[dict[str, Any]]:
        """Rows from one on; of its group those before are read and dropped."""
        first = 0
        for group in range(self._file.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if first + count > row:
                for batch in self._file.iter_batches(CHUNK_LINES, row_groups=[group]):
                    for number, values in enumerate(batch.to_pylist(), first):
                        if number >= row:
                            yield values
                    first += batch.num_rows
            else:
                first += count


def _item(row: dict[str, Any]) -> dict[str, Any]:
    item = {name: str(row[name]) for name in ("id", "text") if row.get(name) is not None}
    image = row.get("image")
    if isinstance(image, dict):
        image = image.get("bytes")
    if image is not None:
        item["image"] = base64.b64encode(image).decode()
    others = {
        name: value
        for name, value in row.items()
        if name not in ("id", "text", "image", "metadata") and not isinstance(value, bytes | None)
    }
    given = row.get("metadata")
    metadata = json_or_text(given) if isinstance(given, str | bytes) else given
    return {**item, "metadata": {**others, **metadata} if isinstance(metadata, dict) else metadata or others}
