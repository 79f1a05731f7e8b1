"""The gate: what a new snapshot must prove, as read back from disk, before it may serve."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from index.engines import Rows, Scores
from index.fields import numbers
from index.recall import exact_top_k, recall_at_k
from index.snapshot import Snapshot
from index.vectors import Vectors

RECALL_K = 10
_SELF_HITS = 256
_SELF_TOLERANCE = 2e-3  # stored rows are of length one within half of this


class GateRefused(Exception):
    """The new snapshot is not fit to serve; the message says why, and ``cause`` which check failed."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Probe:
    """Queries, and the (n, k) scores of their true neighbours."""

    queries: Vectors
    truth: Scores

    @staticmethod
    def of(queries: Vectors, vectors: Vectors) -> "Probe":
        """A probe with these queries among these vectors."""
        return Probe(queries, exact_top_k(vectors, queries, RECALL_K)[0])


def check(snapshot: Snapshot, probes: Mapping[str, Probe], recall_floor: float) -> dict[str, float]:
    """The gate, on a snapshot as read back from disk: its recall@10 per direction. Raises GateRefused.

    Its vectors must be those of the catalog, with the same seqs; they must find themselves; and a search must
    find what exact search finds.
    """
    engine, alive, recall = snapshot.engine, snapshot.alive, {}
    if f"{snapshot.digest(numbers(alive)):016x}" != snapshot.manifest.digest:
        raise GateRefused("its vectors are not those of the catalog", "digest")
    allowed = alive if snapshot.dead else None
    for direction, probe in probes.items():
        share = recall_at_k(probe.truth, engine.search(probe.queries, RECALL_K, allowed)[0])
        if share < recall_floor:
            raise GateRefused(
                f"recall@{RECALL_K} of {direction} queries is {share:.3f} < {recall_floor:.3f}", "recall"
            )
        recall[direction] = round(share, 4)
    own = engine.vectors(sample(numbers(alive), _SELF_HITS))
    found = float(np.mean(engine.search(own, 1, allowed)[0] > 1 - _SELF_TOLERANCE)) if len(own) else 1.0
    if found < recall_floor:
        raise GateRefused(f"only {found:.1%} of its vectors find themselves", "self_hits")
    return recall


def sample(rows: Rows, count: int) -> Rows:
    """At most ``count`` of these rows, the same ones each time."""
    return np.random.default_rng(len(rows)).choice(rows, min(count, len(rows)), replace=False)
