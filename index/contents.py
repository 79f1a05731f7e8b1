"""What a snapshot is built from: a collection as it stood at one moment, its rows on disk, not in memory."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index.engines import Rows
from index.fields import Fields
from index.gate import GateRefused
from index.reading import Reading
from index.vectors import Seqs, Vectors, digest


@dataclass(frozen=True)
class Contents:
    """Every item of the log up to ``watermark``, in ascending seq.

    ``vectors`` (n, dim) are mapped from a file without a name: what of it is in memory the system takes back
    when it needs to, and the file goes with the process. ``pictures``: the rows that hold one. ``digest`` is
    that of the (seq, vector) pairs, taken as they came out of the catalog.
    """

    watermark: int
    watermark_at: float  # seconds since the epoch
    ids: Seqs
    vectors: Vectors
    pictures: Rows
    fields: Fields
    digest: int

    def first(self, count: int) -> "Contents":
        """The oldest so many items as if they were all, without fields; ``digest`` is not theirs."""
        return replace(
            self,
            watermark=int(self.ids[count - 1]),
            ids=self.ids[:count],
            vectors=self.vectors[:count],
            pictures=self.pictures[self.pictures < count],
            fields=Fields.of([]),
        )

    @staticmethod
    def of(reading: Reading, folder: Path) -> "Contents":
        """Read a collection; its rows go to a file in ``folder``.

        Raises GateRefused when items have no embedding; OSError: no room for the rows.
        """
        count, dim = reading.count(), reading.collection.dim
        ids, pictures = np.empty(count, np.int64), np.zeros(count, np.bool_)
        filled = total = 0

        def read() -> Iterator[Vectors]:
            nonlocal filled, total
            for seqs, rows, modalities in reading.rows():
                part = slice(filled, filled + len(seqs))
                ids[part] = seqs
                pictures[part] = [modality != "text" for modality in modalities]
                total += digest(seqs, rows)
                filled = part.stop
                yield rows

        vectors = on_disk(read(), dim, folder)
        if filled != count:
            raise GateRefused(f"{count - filled} of {count} items have no embedding", "not_embedded")
        committed_at = reading.committed_at(reading.watermark)
        if committed_at is None:
            raise GateRefused(f"the log has no change {reading.watermark}", "log_damaged")
        return Contents(
            watermark=reading.watermark,
            watermark_at=committed_at,
            ids=ids,
            vectors=vectors,
            pictures=np.flatnonzero(pictures),
            fields=Fields.of_many(reading.terms()),
            digest=total % 2**64,
        )


def on_disk(parts: Iterable[Vectors], dim: int, folder: Path) -> Vectors:
    """The rows of all parts as one array (n, dim), mapped from a file in ``folder`` that has no name.

    Raises OSError: no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        for rows in parts:
            file.write(np.ascontiguousarray(rows).data)  # not through a map: a full disk would kill us
        file.flush()
        count = file.tell() // (4 * dim)
        if not count:  # an empty file cannot be mapped
            return np.empty((0, dim), np.float32)
        # A plain array of the map, which it keeps open: nobody needs anything else of a memmap.
        return np.asarray(np.memmap(file, np.float32, "r", shape=(count, dim)))
