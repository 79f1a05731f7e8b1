"""The Milvus engine: its vectors stand in a cluster under their seqs; what they are of is known here.

The cluster is trusted to say what is near, and nothing else. An engine knows the seqs of its rows, asks for
those that are allowed, drops what else comes, and asks again, of fewer rows, where an answer may have left
some out. So rows of other generations may stand among its own.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index.engines import AUTO, Engine, OpenEngine, Params, Rows, Scores, Tuning
from index.engines.cluster import (
    AT_ONCE,
    MOST_HITS,
    Cluster,
    RowsMissing,
    among,
    between,
    of_modalities,
    parts,
)
from index.engines.faiss import FaissEngine
from index.fields import Fields, RowSet, numbers
from index.recall import best, exact_top_k, recall_at_k
from index.records import Modality
from index.terms import of_modality
from index.vectors import Seqs, Vectors

FACTORY = "Milvus"
MODALITIES: tuple[Modality, ...] = ("text", "image", "mixed")
_PLACE, _IDS, _FIELDS = "cluster.json", "ids.npy", "fields.bin"
_LISTED = 8_192  # seqs that one condition names: fewer than hits can come back
_RARE = 8  # times as many rows as are wanted: from here on the wanted ones are named
_SLACK = 1.3  # times the hits that should be enough where some will be dropped
_DEEPER = 8  # times as many hits, where those asked for left something out
_BREADTHS = (32, 64, 128, 256, 512, 1024)  # of which tuning takes the least that will do
_EFFORTS = {"low": 0.5, "auto": 1.0, "high": 4.0}  # times the tuned breadth
_NO_SCORE, _ANY_SCORE = np.float32(-np.inf), np.float32(np.inf)


# The rows of each of MODALITIES, which are the only rows that the cluster itself can tell apart.
Kinds = tuple[RowSet, ...]


@dataclass(frozen=True)
class Place:
    """Where rows stand: in a collection of a cluster. All were written before ``as_of_ms`` (since the epoch),
    and no search sees less than what was."""

    collection: str
    dim: int
    as_of_ms: int


class MilvusEngine:
    """An ``Engine`` whose row i is the row ``seqs[i]`` of a place. Asking may raise ClusterUnavailable."""

    def __init__(
        self, cluster: Cluster, place: Place, seqs: Seqs, kinds: Kinds, tuning: Tuning | None = None
    ) -> None:
        """``seqs`` ascend."""
        self._cluster = cluster
        self._place = place
        self._seqs = seqs
        self._kinds = kinds
        self._tuning = tuning or {"ef": _BREADTHS[0]}

    @staticmethod
    def load(cluster: Cluster, folder: Path, tuning: Tuning) -> "MilvusEngine":
        """Open what was saved, without asking the cluster. Raises RuntimeError or OSError."""
        place, seqs = saved(folder)
        return MilvusEngine(cluster, place, seqs, kinds_of(Fields.load(folder / _FIELDS)), tuning)

    def tuned(
        self,
        samples: Sequence[tuple[Vectors, Scores]],
        target_recall: float,
        allowed: RowSet | None = None,
    ) -> "MilvusEngine":
        """The same rows with the least effort that reaches ``target_recall``, or the most there is.

        It must reach it for each of the samples: (n, dim) queries, and the (n, k) scores of their true
        neighbours, all ``allowed``.
        """
        candidate, samples = self, [sample for sample in samples if len(sample[0])]
        for ef in _BREADTHS if samples else ():
            candidate = MilvusEngine(self._cluster, self._place, self._seqs, self._kinds, {"ef": ef})
            if all(candidate._recall(*sample, allowed) >= target_recall for sample in samples):
                break
        return candidate

    @property
    def count(self) -> int:
        return len(self._seqs)

    @property
    def dim(self) -> int:
        return self._place.dim

    @property
    def factory(self) -> str:
        return FACTORY

    @property
    def tuning(self) -> Tuning:
        return self._tuning

    def search(
        self, queries: Vectors, top_k: int, allowed: RowSet | None = None, params: Params = AUTO
    ) -> tuple[Scores, Rows]:
        wanted = RowSet(range(self.count)) if allowed is None else allowed
        if params.exact:
            return self._scan(queries, top_k, numbers(wanted))
        ef = params.ef or max(1, round(self._tuning["ef"] * _EFFORTS[params.effort]))
        present = [code for code, rows in enumerate(self._kinds) if rows.intersect(wanted)]
        some = 0 < len(present) < len(self._kinds)
        crowd = RowSet.union(*(self._kinds[code] for code in present)) if some else RowSet(range(self.count))
        question = _Question(queries, top_k, wanted, crowd, of_modalities(present) if some else "", ef)
        answer = self._ask(question, range(self.count))
        scores, rows = _merged([answer], top_k)
        for number in np.flatnonzero(answer.unseen > scores[:, -1]):
            alone = replace(question, queries=queries[number : number + 1])
            scores[number], rows[number] = self._pursue(alone, answer)
        return scores, rows

    def vectors(self, rows: Rows) -> Vectors:
        distinct, inverse = np.unique(rows, return_inverse=True)
        vectors: Vectors = np.empty((len(distinct), self.dim), np.float32)
        for part in parts(len(distinct), AT_ONCE):
            vectors[part] = self._read(self._seqs[distinct[part]])
        return vectors[inverse]

    def save(self, folder: Path) -> list[str]:
        (folder / _PLACE).write_text(json.dumps(vars(self._place)))
        return [_PLACE]

    def _recall(self, queries: Vectors, truth: Scores, allowed: RowSet | None) -> float:
        return recall_at_k(truth, self.search(queries, truth.shape[1], allowed)[0])

    def _pursue(self, question: "_Question", first: "_Answer") -> tuple[Scores, Rows]:
        """What is found for one query by asking until nothing can have been left out of the first answer."""
        answers = list(self._ask_again(question, first))
        while True:
            scores, rows = _merged(answers, question.top_k)
            unsure = [answer for answer in answers if answer.unseen > scores[:, -1]]
            if not unsure:
                return scores[0], rows[0]
            answers = [answer for answer in answers if answer.unseen <= scores[:, -1]]
            for answer in unsure:
                answers += self._ask_again(question, answer)

    def _ask(self, question: "_Question", part: range, by_name: bool = False, depth: int = 1) -> "_Answer":
        """What the cluster finds of the wanted rows in a part. They are named if they are few, or it is told
        to; else so many hits are asked for as should do, times ``depth``."""
        queries, here, place = question.queries, question.wanted & RowSet(part), self._place
        enough, crowd = min(question.top_k, len(here)), len(question.crowd & RowSet(part))
        if not enough or not len(queries):
            return _Answer.of(part, *_nothing(len(queries)))
        if by_name or (len(here) <= _LISTED and len(here) * _RARE < crowd):
            condition, asked, by_name = among(self._seqs[numbers(here)]), enough, True
        else:
            condition = between(self._seqs[part[0]], self._seqs[part[-1]])
            condition += question.condition and f" and {question.condition}"
            asked = min(MOST_HITS, math.ceil(_SLACK * enough * crowd / len(here)) * depth)
        crowding = max(asked / enough, self.count / len(here))  # what is dropped takes places in a walk
        ef = math.ceil(question.ef * crowding)
        scores, seqs = self._cluster.search(place.collection, queries, asked, condition, ef, place.as_of_ms)
        rows = np.minimum(np.searchsorted(self._seqs, seqs), self.count - 1)
        ours = self._seqs[rows] == seqs
        ours &= np.isin(rows, numbers(RowSet(rows[ours]) & here))
        unseen = np.where(seqs[:, -1] >= 0, scores[:, -1], _ANY_SCORE)  # a short answer lacks who knows what
        unseen[ours.sum(axis=1) == len(here)] = _NO_SCORE
        deepest = by_name or asked == MOST_HITS
        scores, rows = np.where(ours, scores, _NO_SCORE), np.where(ours, rows, -1)
        return _Answer(part, scores, rows, unseen, by_name, None if deepest else depth)

    def _ask_again(self, question: "_Question", answer: "_Answer") -> Iterator["_Answer"]:
        """Surer answers in place of one that may have left something out: of the wanted rows by name, if they
        are not many; with more hits; from the halves of its part; or, where not even names gave all, from the
        vectors themselves."""
        part, here, depth = answer.part, question.wanted & RowSet(answer.part), answer.depth
        if answer.by_name:
            yield _Answer.of(part, *self._scan(question.queries, question.top_k, numbers(here)))
        elif len(here) <= _LISTED:
            yield self._ask(question, part, by_name=True)
        elif depth is not None and np.all(answer.unseen < _ANY_SCORE):
            yield self._ask(question, part, depth=depth * _DEEPER)
        else:
            yield self._ask(question, part[: len(part) // 2], depth=depth or _DEEPER)
            yield self._ask(question, part[len(part) // 2 :], depth=depth or _DEEPER)

    def _scan(self, queries: Vectors, top_k: int, rows: Rows) -> tuple[Scores, Rows]:
        """The true nearest of these rows, whose vectors all come over the network."""
        scores, found = _nothing(len(queries), top_k)
        for part in parts(len(rows), AT_ONCE):
            here, places = exact_top_k(self._read(self._seqs[rows[part]]), queries, top_k)
            names = np.append(rows[part], -1)[places]
            scores, found = best(np.hstack((scores, here)), np.hstack((found, names)), top_k)
        return scores, found

    def _read(self, seqs: Seqs) -> Vectors:
        place = self._place
        found, vectors = self._cluster.rows(place.collection, place.dim, seqs, place.as_of_ms)
        if not np.array_equal(found, seqs):
            raise RowsMissing(f"the cluster lacks {len(seqs) - len(found)} of {len(seqs)} rows it was given")
        return vectors


@dataclass(frozen=True)
class _Question:
    """What is looked for: the nearest ``top_k`` of the wanted rows, with how much effort. With the condition
    the cluster sees no more than the ``crowd`` of them."""

    queries: Vectors
    top_k: int
    wanted: RowSet
    crowd: RowSet
    condition: str
    ef: int


@dataclass(frozen=True)
class _Answer:
    """Scores and rows (n, k) found in a part. No other wanted row of it has a score above ``unseen`` (n,).

    It was asked for by the rows' names, or for ``depth`` times the hits that should do; None: all there are.
    """

    part: range
    scores: Scores
    rows: Rows
    unseen: Scores
    by_name: bool = False
    depth: int | None = None

    @staticmethod
    def of(part: range, scores: Scores, rows: Rows) -> "_Answer":
        """An answer that leaves nothing out."""
        return _Answer(part, scores, rows, np.full(len(scores), _NO_SCORE))


def kinds_of(fields: Fields) -> Kinds:
    """The rows of each of MODALITIES."""
    return tuple(fields.having(of_modality(modality)) for modality in MODALITIES)


def saved(folder: Path) -> tuple[Place, Seqs]:
    """Where the rows of the engine stand that was saved in a snapshot's folder, and their seqs.

    Raises RuntimeError or OSError: none was.
    """
    try:
        return Place(**json.loads((folder / _PLACE).read_bytes())), np.load(folder / _IDS, mmap_mode="r")
    except (ValueError, TypeError) as error:
        raise RuntimeError(f"{folder / _PLACE}: names no place in a cluster: {error}") from error


def opened_with(cluster: Cluster | None, open_other: OpenEngine = FaissEngine.load) -> OpenEngine:
    """Opens what was saved of this engine, or of any other; without a cluster only of the others."""

    def open_engine(folder: Path, factory: str, tuning: Tuning) -> Engine:
        if factory != FACTORY:
            return open_other(folder, factory, tuning)
        if cluster is None:
            raise RuntimeError("its vectors stand in a Milvus cluster, and no address of one is set")
        return MilvusEngine.load(cluster, folder, tuning)

    return open_engine


def _merged(answers: Sequence[_Answer], top_k: int) -> tuple[Scores, Rows]:
    """The best of all answers: (n, top_k), padded."""
    scores, rows = _nothing(len(answers[0].scores), top_k)
    return best(
        np.hstack((scores, *(answer.scores for answer in answers))),
        np.hstack((rows, *(answer.rows for answer in answers))),
        top_k,
    )


def _nothing(queries: int, top_k: int = 0) -> tuple[Scores, Rows]:
    return np.full((queries, top_k), _NO_SCORE), np.full((queries, top_k), -1, np.int64)
