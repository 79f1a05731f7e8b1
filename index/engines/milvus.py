"""The Milvus engine: its vectors stand in a cluster under their seqs; what they are of is known here.

The cluster is trusted to say what is near, and nothing else. An engine knows the seqs of its rows, asks for
those that are allowed, drops what else comes, and asks again, of fewer rows, where an answer may have left some
out. So rows of other generations may stand among its own.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index.engines import Rows, Scores
from index.engines.cluster import AT_ONCE, MOST_HITS, Cluster, ClusterUnavailable, among, between, parts
from index.fields import RowSet, numbers
from index.recall import best, exact_top_k, recall_at_k
from index.vectors import Seqs, Vectors

FACTORY = "Milvus"
_LISTED = 8_192  # seqs that one condition names
_RARE = 8  # times as many rows as are wanted: from here on the wanted ones are named
_SLACK = 1.3  # times the hits that should be enough where some will be dropped
_EF_STEPS = (64, 128, 256, 512, 1024)
_NO_SCORE = np.float32(-np.inf)


@dataclass(frozen=True)
class _Answer:
    """What was found of a part: (n, k) scores and rows. No other wanted row of it has a score above ``unseen``."""

    part: range
    scores: Scores
    rows: Rows
    unseen: Scores  # (n,)
    listed: bool = False  # the cluster was told every row that is wanted


class MilvusEngine:
    """An ``Engine`` whose row i is the row ``seqs[i]`` of a collection in a cluster."""

    def __init__(
        self, cluster: Cluster, name: str, seqs: Seqs, dim: int, as_of_ms: int, ef: int = _EF_STEPS[0]
    ) -> None:
        """``seqs`` ascend; all their rows were written before ``as_of_ms``, and no search sees less."""
        self._cluster = cluster
        self._name = name
        self._seqs = seqs
        self._dim = dim
        self._as_of_ms = as_of_ms
        self._ef = ef

    @staticmethod
    def load(cluster: Cluster, path: Path, seqs: Seqs, ef: int) -> "MilvusEngine":
        """Open what was saved, without asking the cluster. Raises OSError and ValueError."""
        members = json.loads(path.read_bytes())
        try:
            name, dim, as_of_ms = members["collection"], members["dim"], members["as_of_ms"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} names no place in a cluster") from error
        return MilvusEngine(cluster, name, seqs, dim, as_of_ms, ef)

    def tuned(self, queries: Vectors, truth: Scores, target_recall: float) -> "MilvusEngine":
        """The same rows with the least search effort that reaches ``target_recall``, or the most there is."""
        candidate = self
        for ef in _EF_STEPS if len(queries) else ():
            candidate = MilvusEngine(self._cluster, self._name, self._seqs, self._dim, self._as_of_ms, ef)
            if recall_at_k(truth, candidate.search(queries, truth.shape[1])[0]) >= target_recall:
                break
        return candidate

    @property
    def count(self) -> int:
        return len(self._seqs)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def factory(self) -> str:
        return FACTORY

    @property
    def ef_search(self) -> int:
        return self._ef

    def search(self, queries: Vectors, top_k: int, allowed: RowSet | None = None) -> tuple[Scores, Rows]:
        """See Engine. Raises ClusterUnavailable."""
        wanted = RowSet(range(self.count)) if allowed is None else allowed
        answers = [self._ask(queries, top_k, wanted, range(self.count))]
        while True:
            scores, rows = _merged(answers, top_k)
            unsure = [bool(np.any(answer.unseen > scores[:, -1])) for answer in answers]
            if not any(unsure):
                return scores, rows
            answers = [
                better
                for answer, again in zip(answers, unsure, strict=True)
                for better in (self._closer(queries, top_k, wanted, answer) if again else [answer])
            ]

    def vectors(self, rows: Rows) -> Vectors:
        """See Engine. Raises ClusterUnavailable."""
        places, inverse = np.unique(rows, return_inverse=True)
        vectors: Vectors = np.empty((len(places), self._dim), np.float32)
        for part in parts(len(places), AT_ONCE):
            seqs = self._seqs[places[part]]
            found, vectors_found = self._cluster.rows(self._name, self._dim, seqs, self._as_of_ms)
            if not np.array_equal(found, seqs):
                raise ClusterUnavailable(
                    f"{len(seqs) - len(found)} of {len(seqs)} rows are not in the cluster"
                )
            vectors[part] = vectors_found
        return vectors[inverse]

    def save(self, path: Path) -> None:
        """See Engine: a note of where the rows stand."""
        note = {"collection": self._name, "dim": self._dim, "as_of_ms": self._as_of_ms}
        path.write_text(json.dumps(note))

    def _ask(
        self, queries: Vectors, top_k: int, wanted: RowSet, part: range, listed: bool = False
    ) -> _Answer:
        """What the cluster finds among the wanted rows of a part."""
        here = wanted & RowSet(part)
        enough = min(top_k, len(here))
        if not enough or not len(queries):
            return _nothing(queries, part)
        listed = listed or _RARE * len(here) < len(part) and len(here) <= _LISTED
        if listed:
            condition, asked = among(self._seqs[numbers(here)]), enough
        else:
            condition = between(self._seqs[part[0]], self._seqs[part[-1]])
            asked = min(MOST_HITS, math.ceil(_SLACK * enough * len(part) / len(here)))
        scores, seqs = self._cluster.search(self._name, queries, asked, condition, self._ef, self._as_of_ms)
        last = np.where(
            seqs[:, -1] < 0, np.float32(np.inf), scores[:, -1]
        )  # what a short one lacks, who knows
        rows = np.minimum(np.searchsorted(self._seqs, seqs), self.count - 1)
        ours = self._seqs[rows] == seqs
        ours &= np.isin(rows, numbers(RowSet(rows[ours]) & here))
        unseen = np.where(ours.sum(axis=1) == len(here), _NO_SCORE, last)
        return _Answer(part, np.where(ours, scores, _NO_SCORE), np.where(ours, rows, -1), unseen, listed)

    def _closer(self, queries: Vectors, top_k: int, wanted: RowSet, answer: _Answer) -> list[_Answer]:
        """Surer answers in place of one: of its halves; where few rows are wanted, of these by name; and where
        not even that gave all, from their very vectors."""
        part = answer.part
        here = wanted & RowSet(part)
        if len(here) > _LISTED:
            halves = part[: len(part) // 2], part[len(part) // 2 :]
            return [self._ask(queries, top_k, wanted, half) for half in halves]
        if not answer.listed:
            return [self._ask(queries, top_k, wanted, part, listed=True)]
        rows = numbers(here)
        scores, places = exact_top_k(self.vectors(rows), queries, top_k)
        return [_Answer(part, scores, np.append(rows, -1)[places], _sure(queries))]


def _merged(answers: list[_Answer], top_k: int) -> tuple[Scores, Rows]:
    """The best of all answers; (n, top_k), padded."""
    count = len(answers[0].scores)
    scores = np.hstack([np.full((count, top_k), _NO_SCORE), *(answer.scores for answer in answers)])
    rows = np.hstack([np.full((count, top_k), -1), *(answer.rows for answer in answers)])
    return best(scores, rows, top_k)


def _sure(queries: Vectors) -> Scores:
    return np.full(len(queries), _NO_SCORE)


def _nothing(queries: Vectors, part: range) -> _Answer:
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    return _Answer(part, scores, rows, _sure(queries))
