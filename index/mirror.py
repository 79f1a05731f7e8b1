"""The mirror: a collection's rows in a Milvus cluster, kept in step with the catalog.

A row stands under the seq of the change that wrote it, so it never changes, and delivering it twice is as good
as once. Nothing is remembered of what was delivered: what the cluster lacks is seen by asking it.
"""

import logging
import re

import numpy as np
from numpy.typing import NDArray

from index.engines.cluster import AT_ONCE, Cluster, now_ms, parts
from index.engines.milvus import MilvusEngine, Place
from index.records import Collection
from index.vectors import Seqs, Vectors

log = logging.getLogger(__name__)

_PREFIX = "momoseek_"


class Mirror:
    """The rows of one collection in a cluster. One process at a time may write; all raises ClusterUnavailable."""

    def __init__(self, cluster: Cluster, collection: Collection) -> None:
        self._cluster = cluster
        self._dim = collection.dim
        self.name = f"{_PREFIX}{collection.uid}_{re.sub(r'[^0-9A-Za-z]', '_', collection.encoder_id)}"

    def brought(self, seqs: Seqs, vectors: Vectors) -> MilvusEngine:
        """An engine of these rows, ascending, after delivering those that the cluster lacks or has otherwise."""
        cluster, delivered = self._cluster, 0
        cluster.create(self.name, self._dim)
        begun_ms = now_ms()
        for part in parts(len(seqs), AT_ONCE):
            wanted, rows = seqs[part], np.ascontiguousarray(vectors[part])
            lacking = ~_equal(wanted, rows, *cluster.rows(self.name, self._dim, wanted, begun_ms))
            cluster.upsert(self.name, wanted[lacking], rows[lacking])
            delivered += int(np.count_nonzero(lacking))
        if delivered:
            cluster.settle(self.name)
        log.info("%d of %d rows delivered to the cluster as %s", delivered, len(seqs), self.name)
        return MilvusEngine(cluster, Place(self.name, self._dim, now_ms()), seqs)

    def prune(self, kept: Seqs) -> int:
        """Remove the rows of no generation that may still serve, whose seqs are ``kept``; how many."""
        removed = 0
        for seqs in self._cluster.seqs(self.name, now_ms()):
            surplus = seqs[~np.isin(seqs, kept)]
            self._cluster.delete(self.name, surplus)
            removed += len(surplus)
        return removed

    def drop(self) -> None:
        """Remove all of it."""
        self._cluster.drop(self.name)


def _equal(wanted: Seqs, vectors: Vectors, found: Seqs, stored: Vectors) -> NDArray[np.bool_]:
    """Which of the wanted rows were found, bit for bit."""
    equal = np.isin(wanted, found, assume_unique=True)
    equal[equal] = (vectors[equal] == stored).all(axis=1)
    return equal
