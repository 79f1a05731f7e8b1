"""The mirror: a collection's vectors in a Milvus cluster, kept in step with the catalog.

A row stands under the seq of the change that wrote it: it never changes, and delivering it twice is as good
as once. Nothing is remembered of what was delivered; what the cluster lacks is found by reading it. So a
delivery that was lost, cut off or repeated is no case of its own: the next one brings whatever is not there.
"""

import logging
import re
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from index.engines import Mask
from index.engines.cluster import AT_ONCE, Cluster, ClusterUnavailable, RowsMissing, now_ms, parts
from index.engines.milvus import FACTORY, Kinds, MilvusEngine, Place, saved
from index.fields import numbers
from index.manifest import SnapshotError
from index.records import Collection
from index.snapshot import Snapshot, SnapshotStore
from index.vectors import Seqs, Vectors

log = logging.getLogger(__name__)

_LOOK_S = 60.0  # between looks at some rows
_PROOF_S = 3600.0  # between looks at all rows, if that takes
_PROOF_SHARE = 20  # times less
_SAMPLE = 256  # rows
_NO_SEQ = np.iinfo(np.int64).max  # above all that there are


class Mirror:
    """The vectors of one collection in a cluster. One process at a time may write them."""

    def __init__(self, cluster: Cluster, collection: Collection) -> None:
        self._cluster = cluster
        self._dim = collection.dim
        self.name = f"momoseek_{collection.uid}_{re.sub(r'[^0-9A-Za-z]', '_', collection.encoder_id)}"

    def brought(self, seqs: Seqs, vectors: Vectors, kinds: Kinds) -> MilvusEngine:
        """An engine of these rows, in ascending seq, once those are delivered that the cluster lacks or has
        otherwise. Raises ClusterUnavailable."""
        cluster, lacked, codes = self._cluster, 0, np.zeros(len(seqs), np.int8)
        for code, rows in enumerate(kinds):
            codes[numbers(rows)] = code
        cluster.create(self.name, self._dim)
        begun_ms = now_ms()
        for part in parts(len(seqs), AT_ONCE):
            here, wanted = seqs[part], np.ascontiguousarray(vectors[part])
            lacking = ~_equal(here, wanted, *cluster.rows(self.name, self._dim, here, begun_ms))
            cluster.upsert(self.name, here[lacking], wanted[lacking], codes[part][lacking])
            lacked += int(np.count_nonzero(lacking))
        if lacked:
            cluster.settle(self.name)
        log.info("%d of %d rows were delivered to the cluster as %s", lacked, len(seqs), self.name)
        return MilvusEngine(cluster, Place(self.name, self._dim, now_ms()), seqs, kinds)

    def tidy(self, store: SnapshotStore) -> None:
        """Remove the rows that no generation of a store has, and other places that one names: of collections
        that had its name before. What could not be removed does no harm, and is logged."""
        kept, others = [np.empty(0, np.int64)], set[str]()
        for generation in store.generations():
            try:
                place, seqs = saved(store.folder(generation))
            except (OSError, RuntimeError):  # an index of its own, or not all of one
                continue
            if place.collection == self.name:
                kept.append(seqs)
            else:
                others.add(place.collection)
        try:
            self._prune(np.concatenate(kept))
            for name in others:
                self._cluster.drop(name)
        except ClusterUnavailable as error:
            log.warning("rows of the past were left in %s: %s", self.name, error)

    def _prune(self, kept: Seqs) -> None:
        kept = np.append(np.unique(kept), _NO_SEQ)
        for seqs in self._cluster.seqs(self.name, now_ms()):
            self._cluster.delete(self.name, seqs[kept[np.searchsorted(kept, seqs)] != seqs])


def forget(cluster: Cluster, folder: Path) -> None:
    """Remove from a cluster what the snapshots below a folder have there. Raises ClusterUnavailable."""
    for path in folder.rglob("*"):
        with suppress(OSError, RuntimeError):
            cluster.drop(saved(path)[0].collection)


class Watch:
    """Looks whether clusters still have what they were given: at some rows often, at all of them seldom."""

    def __init__(self) -> None:
        # All by collection uid; times in seconds since the epoch.
        self._looked_at: dict[str, float] = {}
        self._proof_due_at: dict[str, float] = {}
        self._open: dict[str, Snapshot] = {}

    def lost(self, store: SnapshotStore, collection: Collection, now: float) -> str | None:
        """What the cluster lacks of the snapshot that serves, or has otherwise; None if nothing is amiss, or
        nobody has looked."""
        uid = collection.uid
        if now - self._looked_at.get(uid, -np.inf) < _LOOK_S:
            return None
        self._looked_at[uid] = now
        try:
            snapshot = self._serving(store, collection)
            return None if snapshot is None else self._missing(snapshot, now)
        except RowsMissing as error:
            return str(error)
        except ClusterUnavailable as error:
            log.warning("the rows of %s could not be looked at: %s", collection.name, error)
        except SnapshotError:  # which makes a rebuild due by itself
            pass
        return None

    def _serving(self, store: SnapshotStore, collection: Collection) -> Snapshot | None:
        """The snapshot that serves, kept open; None if its rows are in no cluster."""
        generation = store.current()
        if generation is None or store.manifest(generation).factory != FACTORY:
            self._open.pop(collection.uid, None)
            return None
        known = self._open.get(collection.uid)
        if known is None or known.manifest != store.manifest(generation):
            known = store.load(generation, collection.uid, collection.encoder_id)
            self._open[collection.uid] = known
        return known

    def _missing(self, snapshot: Snapshot, now: float) -> str | None:
        uid, rows, started = snapshot.manifest.collection_uid, len(snapshot.ids), time.monotonic()
        if now < self._proof_due_at.setdefault(uid, now + _PROOF_S):
            snapshot.engine.vectors(np.random.default_rng(int(now)).integers(0, rows, min(_SAMPLE, rows)))
            return None
        if f"{snapshot.digest():016x}" != snapshot.manifest.digest:
            return "the cluster's rows are not those of the catalog"
        self._proof_due_at[uid] = now + max(_PROOF_S, _PROOF_SHARE * (time.monotonic() - started))
        return None


def _equal(wanted: Seqs, vectors: Vectors, found: Seqs, stored: Vectors) -> Mask:
    """Which of the wanted rows were found, bit for bit."""
    equal: Mask = np.isin(wanted, found, assume_unique=True)
    equal[equal] = (vectors[equal] == stored).all(axis=1)
    return equal
