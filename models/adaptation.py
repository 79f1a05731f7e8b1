"""Adaptation with a guard: an adapter is learned from some pairs and judged by others that it has not seen.

It runs in a process of its own at the lowest priority: ``python -m models.adaptation`` reads a Lesson from
its standard input and writes what was Learned to its standard output.
"""

import io
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.query_adapter import Floats, Places, QueryAdapter, Rows, fit, gain_of, ranks
from models.relevance import Curve, logistic

_HELD, _KEPT = 0.2, 0.1  # of the items: to judge by, and to choose the number of steps by
_HELD_PAIRS, _KEPT_PAIRS = 2000, 500  # about as many are enough
_QUERIES_HELD = 0.1  # if held items bring hardly any query that training has not seen
_NEW_QUERIES, _QUERIES_TO_SPARE = 10, 50
_LEAST_TRAINED, _LEAST_HELD = 20, 5  # pairs, queries
_RESAMPLES, _BELOW = 10_000, 0.025  # the lower end of an interval of 95 %
_LEAST_GAIN = 0.005  # of nDCG; less is nothing that anybody would notice, and chance makes it easily
_NEW_MAY_LOSE = 0.02  # of nDCG
_FOUND = 10  # places that count as found
_LEAST_MATCHING, _OTHERS = 10, 20  # cosines that a curve of relevance is fitted to: in all, and to each match
_RIDGE = 1e-5
_HEADER_BYTES = 4
_MODEST = 19  # the cores are for those who wait for an answer
TOO_FEW = 3  # the status of a process that was given too few pairs


class TooFewPairs(ValueError):
    """Too little would be left to learn from or to judge by."""


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from: unit rows of queries (q, dim) and of items (n, dim), the pairs (p, 2) and
    the golden pairs (g, 2) of a query and its item, and of each item which of ``kinds`` it is (n,).

    Items that are in no pair are the crowd among which the others must be found.
    """

    queries: Rows
    items: Rows
    pairs: Places
    golden: Places
    modalities: NDArray[np.int8]
    kinds: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As it is sent."""
        file = io.BytesIO()
        members: dict[str, Any] = {name: np.asarray(value) for name, value in vars(self).items()}
        np.savez(file, **members)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What ``to_bytes`` made."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            members = {name: file[name] for name in file.files}
        return cls(**members | {"kinds": tuple(map(str, members["kinds"]))})


@dataclass(frozen=True)
class Found:
    """How well items were found, from 0 to 1, each query alike: nDCG, and the share among the first ten."""

    queries: int
    ndcg_before: float
    ndcg_after: float
    recall_at_10_before: float
    recall_at_10_after: float


@dataclass(frozen=True)
class Verdict:
    """What the gate found. ``gain_low`` is the lower end of the 95 % interval of what nDCG gains.

    ``new`` is about the queries that training has not seen; ``golden_lost`` counts golden pairs that were
    among the first ten and are not any more. Items were found among ``among`` of them.
    """

    accepted: bool
    reason: str
    trained_on: int
    steps: int
    among: int
    held_out: Found
    gain_low: float
    new: Found | None
    golden: int
    golden_lost: int
    seconds: float


@dataclass(frozen=True)
class Learned:
    """An adapter, what the gate says of it, and curves of relevance by the modality of items."""

    adapter: QueryAdapter
    verdict: Verdict
    curves: Mapping[str, Curve]

    def to_bytes(self) -> bytes:
        """As it is sent."""
        told = {
            "verdict": asdict(self.verdict),
            "curves": {kind: asdict(c) for kind, c in self.curves.items()},
        }
        header = json.dumps(told).encode()
        return len(header).to_bytes(_HEADER_BYTES, "little") + header + self.adapter.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> Self:
        """What ``to_bytes`` made, of rows of this length."""
        end = _HEADER_BYTES + int.from_bytes(data[:_HEADER_BYTES], "little")
        told = json.loads(data[_HEADER_BYTES:end])
        said = told["verdict"]
        parts = {name: said[name] and Found(**said[name]) for name in ("held_out", "new")}
        curves = {kind: Curve(**curve) for kind, curve in told["curves"].items()}
        return cls(QueryAdapter.from_bytes(data[end:], dim), Verdict(**said | parts), curves)


def learned(lesson: Lesson, seed: int = 0) -> Learned:
    """What is to be learned from a lesson. Raises TooFewPairs."""
    began = time.monotonic()
    pairs, held, kept = _split(lesson.pairs, np.random.default_rng(seed))
    taught = pairs[~held & ~kept]
    adapter, steps = fit(lesson.queries, lesson.items, taught, pairs[kept], seed=seed)
    before, after = (_ranks(lesson, adapted, pairs[held]) for adapted in (None, adapter))
    asked = pairs[held, 0]
    is_new = ~np.isin(asked, taught[:, 0])
    new = _found(asked[is_new], before[is_new], after[is_new]) if is_new.any() else None
    gain_low = _lower_end(asked, gain_of(after) - gain_of(before), np.random.default_rng(seed))
    lost = _lost(lesson, adapter)
    reason = _objection(steps, gain_low, new, lost)
    verdict = Verdict(
        accepted=not reason,
        reason=reason or "it finds more of what it has not seen",
        trained_on=len(taught),
        steps=steps,
        among=len(lesson.items),
        held_out=_found(asked, before, after),
        gain_low=gain_low,
        new=new,
        golden=len(lesson.golden),
        golden_lost=lost,
        seconds=time.monotonic() - began,
    )
    curves = _curves(lesson, adapter, pairs[held | kept], np.random.default_rng(seed))
    return Learned(adapter, verdict, curves)


def _split(pairs: Places, random: np.random.Generator) -> tuple[Places, NDArray[np.bool_], NDArray[np.bool_]]:
    """The pairs, each once, and which of them are held out, and kept for choosing.

    Items go as a whole, so that no picture is learned and judged by. Where that holds out hardly a query that
    is not learned as well, some queries go as a whole, too.
    """
    pairs = np.unique(pairs, axis=0)
    items = random.permutation(np.unique(pairs[:, 1]))
    to_hold, to_keep = min(_HELD, _HELD_PAIRS / len(pairs)), min(_KEPT, _KEPT_PAIRS / len(pairs))
    cuts = [round(share * len(items)) for share in (to_hold, to_hold + to_keep)]
    held = np.isin(pairs[:, 1], items[: cuts[0]])
    kept = np.isin(pairs[:, 1], items[cuts[0] : cuts[1]])
    queries = random.permutation(np.unique(pairs[:, 0]))
    new = np.setdiff1d(pairs[held, 0], pairs[~held & ~kept, 0])
    if len(new) < _NEW_QUERIES and len(queries) >= _QUERIES_TO_SPARE:
        held |= np.isin(pairs[:, 0], queries[: round(_QUERIES_HELD * len(queries))])
        kept &= ~held
    taught = int(np.count_nonzero(~held & ~kept))
    judging = len(np.unique(pairs[held, 0]))
    if taught < _LEAST_TRAINED or judging < _LEAST_HELD or not kept.any():
        raise TooFewPairs(
            f"Of {len(pairs)} pairs {taught} would be left to learn from, and {judging} queries to judge by; "
            f"{_LEAST_TRAINED} and {_LEAST_HELD} are needed."
        )
    return pairs, held, kept


def _ranks(lesson: Lesson, adapter: QueryAdapter | None, pairs: Places) -> Floats:
    """The place (p,) of the item of each pair, from 1, among all items but the query's other ones."""
    rows = lesson.queries if adapter is None else adapter(lesson.queries)
    return ranks(rows, lesson.items, pairs, np.concatenate([lesson.pairs, lesson.golden]))


def _found(asked: Places, before: Floats, after: Floats) -> Found:
    def mean(values: NDArray[Any]) -> float:
        return float(np.mean(_by_query(asked, values.astype(np.float64))))

    return Found(
        queries=len(np.unique(asked)),
        ndcg_before=mean(gain_of(before)),
        ndcg_after=mean(gain_of(after)),
        recall_at_10_before=mean(before <= _FOUND),
        recall_at_10_after=mean(after <= _FOUND),
    )


def _by_query(asked: Places, values: Floats) -> Floats:
    """The mean (queries,) over the pairs of each query: one with many items counts as any other."""
    _, query = np.unique(asked, return_inverse=True)
    means: Floats = np.bincount(query, values) / np.bincount(query)
    return means


def _lower_end(asked: Places, gains: Floats, random: np.random.Generator) -> float:
    """The lower end of the interval in which the mean gain lies, by a paired bootstrap over queries."""
    means = _by_query(asked, gains)
    drawn = [means[random.integers(len(means), size=len(means))].mean() for _ in range(_RESAMPLES)]
    return float(np.quantile(drawn, _BELOW))


def _lost(lesson: Lesson, adapter: QueryAdapter) -> int:
    if not len(lesson.golden):
        return 0
    before, after = (_ranks(lesson, adapted, lesson.golden) for adapted in (None, adapter))
    return int(np.count_nonzero((before <= _FOUND) & (after > _FOUND)))


def _objection(steps: int, gain_low: float, new: Found | None, lost: int) -> str:
    if not steps:
        return "no number of steps made it better at the pairs that were kept for choosing one"
    if gain_low < _LEAST_GAIN:
        return f"the gain at the pairs held out may be chance: it is not above {_LEAST_GAIN} for certain"
    if lost:
        return f"{lost} golden pairs are not among the first {_FOUND} any more"
    if new is not None and new.queries >= _LEAST_HELD and new.ndcg_before - new.ndcg_after > _NEW_MAY_LOSE:
        return f"queries that it has not learned find less: {new.ndcg_before:.3f} became {new.ndcg_after:.3f}"
    return ""


def _curves(
    lesson: Lesson, adapter: QueryAdapter, pairs: Places, random: np.random.Generator
) -> dict[str, Curve]:
    """What cosines with adapted queries say, from pairs that training has not seen and items drawn by lot."""
    known = {tuple(pair) for pair in lesson.pairs.tolist()}
    rows = adapter(lesson.queries)
    found = dict[str, Curve]()
    for number, kind in enumerate(lesson.kinds):
        of_kind = np.flatnonzero(lesson.modalities == number)
        here = pairs[lesson.modalities[pairs[:, 1]] == number]
        if len(here) < _LEAST_MATCHING:
            continue
        drawn = random.choice(of_kind, (len(here), _OTHERS))
        asked = np.repeat(here[:, 0], _OTHERS)
        strange = [pair not in known for pair in zip(asked.tolist(), drawn.reshape(-1).tolist(), strict=True)]
        cosines = [lesson.items[some] @ rows[query] for query, some in zip(here[:, 0], drawn, strict=True)]
        others = np.concatenate(cosines)[strange]
        matching = np.einsum("nd,nd->n", rows[here[:, 0]], lesson.items[here[:, 1]])
        if len(others) < _LEAST_MATCHING:
            continue
        slope, offset = logistic(matching.astype(np.float64), others.astype(np.float64), _RIDGE)
        if slope > 0:
            found[kind] = Curve(slope, offset)
    return found


def main() -> None:
    """Learn what is on the standard input. Ends with status TOO_FEW, and says why, if that is too little."""
    os.nice(_MODEST)
    try:
        found = learned(Lesson.from_bytes(sys.stdin.buffer.read()))
    except TooFewPairs as error:
        print(error, file=sys.stderr)
        raise SystemExit(TOO_FEW) from error
    sys.stdout.buffer.write(found.to_bytes())


if __name__ == "__main__":
    main()
