"""Which candidates of a search become its results, and in what order: pure functions on scores and rows.

Candidates come best first. Those below a score are cut off; then of near-identical ones, and of each group,
the best are kept; then the first of what was kept are put in an order that repeats itself little.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.vectors import Seqs, Vectors

Scores = NDArray[np.float32]  # (n,), highest first
Places = NDArray[np.int64]  # positions among candidates

MOST_CANDIDATES = 50_000  # looked at in one search: 77 MB of rows at 384 dimensions
# Pages of one search are cut from as many candidates, so that neither equal scores nor an approximate index
# put a result on two of them: the number grows in few steps.
_LEAST_CANDIDATES = 64
_MORE = 4
_BLOCK = 512  # candidates compared with those kept at once


@dataclass(frozen=True)
class Diversity:
    """Maximal marginal relevance: the ``candidates`` best in an order that weighs nearness against novelty.

    ``weight`` is that of nearness, from 0 to 1; 1 leaves the order as it is.
    """

    weight: float = 0.5
    candidates: int = 100


@dataclass(frozen=True)
class Selection:
    """What to keep of the candidates; as it is made, all of them.

    ``dedup`` is the cosine from which on two candidates are the same. Of each group at most ``group_size``
    are kept.
    """

    score_threshold: float | None = None
    dedup: float | None = None
    group_by: str | None = None  # a member of the metadata
    group_size: int = 1
    diversity: Diversity | None = None


@dataclass(frozen=True)
class Ranked:
    """Candidates, best first, of which the first ``sure`` are what they would be in a longer ranking.

    ``complete``: there are no others.
    """

    seqs: Seqs
    scores: Scores
    sure: int
    complete: bool


@dataclass(frozen=True)
class Selected:
    """The results in order. ``cut_short``: there may be more, behind the MOST_CANDIDATES looked at."""

    seqs: Seqs
    scores: Scores
    cut_short: bool


def select(
    wanted: Selection,
    count: int,
    rank: Callable[[int], Ranked],
    rows_of: Callable[[Seqs], Vectors],
    groups_of: Callable[[str, Seqs], Sequence[Hashable | None]],
    most: int = MOST_CANDIDATES,
) -> Selected:
    """The ``count`` first results, or as many as there are.

    ``rank`` gives so many candidates, or all there are; it is asked for more until enough were kept.
    ``groups_of`` gives the group of each by a member of the metadata; None is in no group.
    """
    needed = count if wanted.diversity is None else max(count, wanted.diversity.candidates)
    selective = wanted.dedup is not None or wanted.group_by is not None
    depth = _LEAST_CANDIDATES
    while depth < (2 * needed if selective else needed):
        depth *= _MORE
    while True:
        depth = min(most, depth)
        ranked = rank(depth)
        end, closed = ranked.sure, ranked.complete
        if wanted.score_threshold is not None:
            passing = int(np.count_nonzero(ranked.scores[:end] >= wanted.score_threshold))
            closed = closed or passing < end
            end = passing
        kept = _kept(wanted, needed, ranked.seqs[:end], rows_of, groups_of)
        if closed or len(kept) >= needed or depth == most:
            break
        depth *= _MORE
    cut_short = len(kept) < count and not closed
    kept = kept[:needed]
    if wanted.diversity is not None:
        kept = kept[_reordered(wanted.diversity, ranked.scores[kept], rows_of(ranked.seqs[kept]))]
    kept = kept[:count]
    return Selected(ranked.seqs[kept], ranked.scores[kept], cut_short)


def _kept(
    wanted: Selection,
    count: int,
    seqs: Seqs,
    rows_of: Callable[[Seqs], Vectors],
    groups_of: Callable[[str, Seqs], Sequence[Hashable | None]],
) -> Places:
    kept = np.arange(len(seqs))
    if wanted.dedup is not None:
        # Without groups after it, no more than ``count`` are needed.
        most = count if wanted.group_by is None else len(seqs)
        kept = distinct(rows_of(seqs), wanted.dedup, most)
    if wanted.group_by is not None:
        kept = kept[grouped(groups_of(wanted.group_by, seqs[kept]), wanted.group_size)]
    return kept


def distinct(rows: Vectors, threshold: float, most: int) -> Places:
    """Positions of the first ``most`` of (n, dim) unit rows, each with a cosine below ``threshold`` to those
    before it."""
    kept = list[int]()
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        fresh = np.ones(len(block), np.bool_) if not kept else (block @ rows[kept].T).max(axis=1) < threshold
        among = block @ block.T
        for place in range(len(block)):
            if fresh[place]:
                kept.append(start + place)
                if len(kept) == most:
                    return np.array(kept, np.int64)
                fresh[place + 1 :] &= among[place, place + 1 :] < threshold
    return np.array(kept, np.int64)


def grouped(groups: Sequence[Hashable | None], size: int) -> Places:
    """Positions of the first ``size`` of each group, and of all that are in none."""
    counts = dict[Hashable, int]()
    kept = list[int]()
    for place, group in enumerate(groups):
        if group is not None:
            counts[group] = counts.get(group, 0) + 1
        if group is None or counts[group] <= size:
            kept.append(place)
    return np.array(kept, np.int64)


def diverse(scores: Scores, rows: Vectors, weight: float) -> Places:
    """All positions, each next one that with the greatest ``weight`` x its score - (1 - ``weight``) x its
    cosine with the nearest of those before it (maximal marginal relevance, Carbonell and Goldstein 1998).
    """
    order = list[int]()
    left = np.ones(len(scores), np.bool_)
    nearest = np.zeros(len(scores), np.float32)
    for _ in range(len(scores)):
        worth = np.where(left, weight * scores - (1 - weight) * nearest, -np.inf)
        place = int(np.argmax(worth))
        order.append(place)
        left[place] = False
        cosines = rows @ rows[place]
        nearest = cosines if len(order) == 1 else np.maximum(nearest, cosines)
    return np.array(order, np.int64)


def best_of(positive: Vectors, negative: Vectors) -> Scores:
    """How near candidates are to the nearest positive example, less how much nearer they are to a negative.

    ``positive`` (n, p) and ``negative`` (n, q) are cosines times weights. No score exceeds the best positive.
    """
    nearest: Scores = positive.max(axis=1)
    if not negative.shape[1]:
        return nearest
    excess: Scores = nearest - np.maximum(0, negative.max(axis=1) - nearest)
    return excess


def _reordered(diversity: Diversity, scores: Scores, rows: Vectors) -> Places:
    pool = min(diversity.candidates, len(scores))
    return np.append(diverse(scores[:pool], rows[:pool], diversity.weight), np.arange(pool, len(scores)))
