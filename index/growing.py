"""Growing: the graph that serves with the newer rows added, or a new index where that would not do.

Growing costs what the newer rows cost. What was deleted or replaced stays in the graph as dead rows, which a
search walks past: when they are too many, or recall has suffered, a new one is due.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from index.contents import Contents, on_disk
from index.engines.faiss import FaissEngine
from index.engines.kinds import Kind
from index.engines.milvus import MilvusEngine, kinds_of
from index.fields import Fields, marked
from index.gate import Probe
from index.mirror import Mirror
from index.recall import recall_at_k
from index.snapshot import Snapshot
from index.tail import positions
from index.vectors import Seqs, Vectors

log = logging.getLogger(__name__)
_ROWS_AT_ONCE = 65_536  # copied


@dataclass(frozen=True)
class Base:
    """A snapshot that may grow until such a share of its rows are dead, and the folder of its files."""

    snapshot: Snapshot
    folder: Path
    dead_share: float


@dataclass(frozen=True)
class Steps:
    """How a graph is built that takes long: what there is after the first ``rows``, and whenever they have
    doubled, is kept, so that a build that is killed loses half of its work at most.

    ``left``: what an earlier attempt has kept. ``keep`` gives back what it kept of the first rows of some
    contents, to grow from, or None if there was no room.
    """

    rows: int
    left: Base | None
    keep: "Callable[[Contents, Built], Base | None]"


@dataclass(frozen=True)
class Built:
    """An index of some contents. Row i is the version ``ids[i]``; if that is negative, it is a dead row."""

    how: Literal["full", "grown"]
    engine: FaissEngine | MilvusEngine
    ids: Seqs
    fields: Fields

    @property
    def dead(self) -> int:
        """How many rows are of no item."""
        return int(np.count_nonzero(self.ids < 0))


def built(
    contents: Contents,
    factory: str,
    base: Base | None,
    probes: Sequence[Probe],
    target_recall: float,
    mirror: Mirror | None = None,
    steps: Steps | None = None,
) -> Built:
    """The index of some contents, tuned to its recall; grown from ``base`` if there is one and that will do.

    With a ``mirror`` the vectors are brought there. A graph that is built anew takes ``steps``.

    Raises RuntimeError, MemoryError, OSError, InvalidKind, ClusterUnavailable.
    """
    samples = [(probe.queries, probe.truth) for probe in probes]
    if mirror is not None:
        elsewhere = mirror.brought(contents.ids, contents.vectors, kinds_of(contents.fields))
        return Built("full", elsewhere.tuned(samples, target_recall), contents.ids, contents.fields)
    grown = None if base is None else _grown(base, contents, factory)
    if grown is not None:
        alive = marked(grown.ids > 0) if grown.dead else None
        engine = grown.engine.tuned(samples, target_recall, alive)
        found = [engine.search(probe.queries, probe.truth.shape[1], alive)[0] for probe in probes]
        recall = [recall_at_k(probe.truth, scores) for probe, scores in zip(probes, found, strict=True)]
        if min(recall, default=1.0) >= target_recall:
            return replace(grown, engine=engine)
        log.info("the grown index has a recall of %.3f: it is built anew", min(recall))
    made = _anew(contents, factory, steps)
    alive = marked(made.ids > 0) if made.dead else None
    return replace(made, how="full", engine=made.engine.tuned(samples, target_recall, alive))


def _anew(contents: Contents, factory: str, steps: Steps | None) -> Built:
    """An index that was built of nothing, if perhaps in several attempts."""
    base = None
    if steps is not None and Kind.of(factory).is_bare_graph:
        base, count = steps.left, steps.rows
        if base is not None:
            log.info("the build goes on after %d rows", len(base.snapshot.ids))
            count = 2 * len(base.snapshot.ids)
        while count < len(contents.ids):
            first = contents.first(count)
            base = steps.keep(first, _from(base, first, factory))
            count *= 2 if base is not None else len(contents.ids)
    return _from(base, contents, factory)


def _from(base: Base | None, contents: Contents, factory: str) -> Built:
    made = None if base is None else _grown(base, contents, factory)
    if made is None:
        made = Built("full", FaissEngine.build(contents.vectors, factory), contents.ids, contents.fields)
    return made


def _grown(base: Base, contents: Contents, factory: str) -> Built | None:
    """The index of ``base`` with the contents that are newer; None if a new one is due."""
    engine, ids = base.snapshot.engine, base.snapshot.ids
    older = int(np.searchsorted(contents.ids, base.snapshot.manifest.watermark, "right"))
    newer, rows = slice(older, None), len(ids) + len(contents.ids) - older
    alive = positions(ids, contents.ids[:older])
    if not isinstance(engine, FaissEngine) or not engine.can_grow or engine.factory != factory:
        return None
    if rows - len(contents.ids) > base.dead_share * rows:
        return None
    if len(alive) != older:  # not the log that the base was made of
        return None

    def vectors() -> Iterator[Vectors]:
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            yield engine.vectors(np.arange(start, min(start + _ROWS_AT_ONCE, len(ids))))
        yield contents.vectors[newer]

    signed = np.concatenate((-ids, contents.ids[newer]))
    signed[alive] = ids[alive]
    places = np.append(alive, np.arange(len(ids), rows))
    grown = engine.grown(base.folder, on_disk(vectors(), engine.dim, base.folder.parent))
    return Built("grown", grown, signed, contents.fields.spread(places, rows))
