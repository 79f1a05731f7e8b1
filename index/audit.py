"""The audit: does what can be found equal what was written? Digests of both say so."""

from collections.abc import Callable
from dataclasses import dataclass

from index.catalog import Catalog, Collection
from index.fields import numbers
from index.live import LiveIndex, View
from index.reading import Reading
from index.snapshot import SnapshotStore
from index.vectors import digest


@dataclass(frozen=True)
class Audit:
    """Digests of one moment (``watermark``), as 16 hex digits, and what is wrong.

    ``equal``: catalog = snapshot - hidden + tail, every item is embedded, the current snapshot is undamaged.
    """

    collection: str
    encoder_id: str
    watermark: int
    generation: int
    items: int
    searchable: int
    catalog_digest: str
    snapshot_digest: str
    hidden_digest: str
    tail_digest: str
    equal: bool
    problems: tuple[str, ...]


def audit(catalog: Catalog, store_of: Callable[[Collection], SnapshotStore], name: str) -> Audit:
    """Compare a collection's catalog with what a process that opens it now would search. Reads everything."""
    live = LiveIndex(catalog, store_of, name)
    with live.reading() as (view, reading):
        expected, embedded, items = *_expected(reading), reading.count()
    snapshot, hidden, tail = _found(view)
    problems = [live.last_error] if live.last_error else []
    if store_of(view.collection).has_damaged_pointer():
        problems.append("CURRENT names no generation")
    if embedded != items:
        problems.append(f"{items - embedded} of {items} items have no embedding")
    if view.count != items:
        problems.append(f"{items} items are in the catalog, {view.count} can be found")
    if (snapshot - hidden + tail - expected) % 2**64:
        problems.append("what can be found is not what the catalog holds: the digests differ")
    return Audit(
        collection=name,
        encoder_id=view.collection.encoder_id,
        watermark=view.watermark,
        generation=view.generation,
        items=items,
        searchable=view.count,
        catalog_digest=f"{expected:016x}",
        snapshot_digest=f"{snapshot:016x}",
        hidden_digest=f"{hidden:016x}",
        tail_digest=f"{tail:016x}",
        equal=not problems,
        problems=tuple(problems),
    )


def _expected(reading: Reading) -> tuple[int, int]:
    """The digest of what the catalog holds, and of how many items."""
    total = count = 0
    for seqs, vectors, _ in reading.rows():
        total += digest(seqs, vectors)
        count += len(seqs)
    return total % 2**64, count


def _found(view: View) -> tuple[int, int, int]:
    """The digests of the snapshot, of its hidden rows, and of the tail."""
    snapshot = hidden = 0
    if view.snapshot is not None:
        snapshot = view.snapshot.digest()
        if view.hidden:
            hidden = view.snapshot.digest(numbers(view.hidden))
    tail = view.tail
    return snapshot, hidden, digest(tail.seqs[tail.alive], tail.vectors[tail.alive])
