"""The audit: does what can be found equal what was written? Three digests say so."""

from dataclasses import dataclass

import numpy as np

from index.catalog import Catalog
from index.live import LiveIndex, caught_up
from index.snapshot import SnapshotStore
from index.vectors import digest


@dataclass(frozen=True)
class Audit:
    """Digests of one moment (``watermark``), as 16 hex digits. ``equal``: catalog = snapshot - hidden + tail, with
    every item embedded and the current snapshot undamaged. ``problems`` says what is not."""

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


def audit(catalog: Catalog, store: SnapshotStore, name: str) -> Audit:
    """Compare a collection's catalog with what a process that opened it now would search. Reads everything."""
    live = LiveIndex(catalog, store, name)
    with catalog.reading(name) as reading:
        view = caught_up(live.view, reading)
        expected, embedded = 0, 0
        for seqs, vectors, _ in reading.rows():
            expected += digest(seqs, vectors)
            embedded += len(seqs)
        items = reading.count()
    snapshot_digest = hidden_digest = 0
    if view.snapshot is not None:
        engine, ids = view.snapshot.engine, view.snapshot.ids
        snapshot_digest = digest(ids, engine.vectors(np.arange(len(ids))))
        if view.visible is not None:
            hidden = np.flatnonzero(~view.visible)
            hidden_digest = digest(ids[hidden], engine.vectors(hidden))
    tail = view.tail
    tail_digest = digest(tail.seqs[tail.alive], tail.vectors[tail.alive])
    equal = (expected - snapshot_digest + hidden_digest - tail_digest) % 2**64 == 0
    problems = [live.last_error] if live.last_error else []
    if embedded != items:
        problems.append(f"{items - embedded} items have no embedding")
    if view.count != items:
        problems.append(f"{items} items in the catalog, {view.count} can be found")
    if not equal:
        problems.append("the digests differ")
    return Audit(
        collection=name,
        encoder_id=live.collection.encoder_id,
        watermark=view.watermark,
        generation=view.generation,
        items=items,
        searchable=view.count,
        catalog_digest=f"{expected % 2**64:016x}",
        snapshot_digest=f"{snapshot_digest:016x}",
        hidden_digest=f"{hidden_digest:016x}",
        tail_digest=f"{tail_digest:016x}",
        equal=not problems,
        problems=tuple(problems),
    )
