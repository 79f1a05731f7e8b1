"""Building: a new index of all rows, or the graph that serves with the newer rows added.

Growing costs what the newer rows cost. What was deleted or replaced stays in the graph as dead rows, which a
search walks past: when they are too many, or recall has suffered, a new graph is due.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from index.contents import Contents
from index.engines.faiss import FaissEngine
from index.fields import Fields, marked
from index.gate import Probe
from index.recall import recall_at_k
from index.snapshot import Snapshot
from index.tail import positions
from index.vectors import Seqs

log = logging.getLogger(__name__)

Kind = Literal["full", "grown"]


@dataclass(frozen=True)
class Aim:
    """What an index is to reach: exact up to ``flat_limit`` rows, ``target_recall`` beyond, and no more than
    ``dead_share`` of its rows dead."""

    flat_limit: int
    target_recall: float
    dead_share: float


@dataclass(frozen=True)
class Base:
    """An index that may grow, and where its file is."""

    snapshot: Snapshot
    path: Path


@dataclass(frozen=True)
class Built:
    """An index of some contents. Row i is the version ``ids[i]``; if that is negative, it is a dead row."""

    kind: Kind
    engine: FaissEngine
    ids: Seqs
    fields: Fields

    @property
    def dead(self) -> int:
        """How many rows are of no item."""
        return int(np.count_nonzero(self.ids < 0))


def built(contents: Contents, base: Base | None, probe: Probe, aim: Aim) -> Built:
    """The tuned index of some contents: grown from ``base`` if there is one and that is as good.

    Raises RuntimeError, MemoryError, OSError.
    """
    grown = None if base is None else _grown(base, contents, aim)
    if grown is not None:
        alive = marked(grown.ids > 0) if grown.dead else None
        engine = grown.engine.tuned(probe.queries, probe.truth, aim.target_recall, alive)
        found = engine.search(probe.queries, probe.truth.shape[1], alive)[0]
        if recall_at_k(probe.truth, found) >= aim.target_recall:
            return replace(grown, engine=engine)
        log.info("the grown graph does not reach its recall: it is built anew")
    engine = FaissEngine.build(contents.vectors, aim.flat_limit)
    engine = engine.tuned(probe.queries, probe.truth, aim.target_recall)
    return Built("full", engine, contents.ids, contents.fields)


def _grown(base: Base, contents: Contents, aim: Aim) -> Built | None:
    """The index of ``base`` with the contents that are newer; None if a full one is due."""
    ids = base.snapshot.ids
    older = int(np.searchsorted(contents.ids, base.snapshot.manifest.watermark, "right"))
    newer, rows = slice(older, None), len(ids) + len(contents.ids) - older
    alive = positions(ids, contents.ids[:older])
    if len(alive) != older:  # not the log that the base was made of
        return None
    if not base.snapshot.engine.can_grow or len(contents.ids) <= aim.flat_limit:
        return None
    if rows - len(contents.ids) > aim.dead_share * rows:
        return None
    signed = np.concatenate((-ids, contents.ids[newer]))
    signed[alive] = ids[alive]
    places = np.append(alive, np.arange(len(ids), rows))
    engine = FaissEngine.grown(base.path, contents.vectors[newer])
    return Built("grown", engine, signed, contents.fields.spread(places, rows))
