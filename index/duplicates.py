"""Duplicates: items that are nearly the same as an older one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from index.filters import Filter
from index.live import Hit, View
from index.vectors import Seqs

_CHUNK = 256  # items compared at once
_NEIGHBOURS = 16  # looked at first
_MORE = 8  # times as many, while all of them are newer duplicates
_MOST = 8192


@dataclass(frozen=True)
class Duplicate:
    """The version ``seq`` of an item is nearly the same as the version ``older``, by this cosine."""

    seq: int
    older: int
    score: float


@dataclass(frozen=True)
class Compared:
    """So many items up to seq ``last`` were compared with those before them."""

    last: int
    items: int
    found: list[Duplicate]


def duplicates(view: View, after: int, threshold: float, filter: Filter | None = None) -> Iterator[Compared]:
    """Compare the items of a view that pass the filter, in order of seq, beyond seq ``after``.

    Of each the nearest older one is found, if its cosine is at least ``threshold``: removing all that are
    found leaves one of each kind. Of an item with thousands of newer duplicates that one may be missed.
    """
    seqs = view.seqs(filter)
    for start in range(int(np.searchsorted(seqs, after, "right")), len(seqs), _CHUNK):
        chunk = seqs[start : start + _CHUNK]
        yield Compared(int(chunk[-1]), len(chunk), _found(view, chunk, threshold, filter))


def _found(view: View, seqs: Seqs, threshold: float, filter: Filter | None) -> list[Duplicate]:
    found, count = list[Duplicate](), _NEIGHBOURS
    while len(seqs):
        undecided = list[int]()
        hits_of = view.search(view.vectors(seqs), count, filter)
        for seq, hits in zip(seqs.tolist(), hits_of, strict=True):
            alike = [hit for hit in hits if hit.score >= threshold]
            older = [hit for hit in alike if hit.seq < seq]
            if older:
                best = max(older, key=_nearest_and_oldest)
                found.append(Duplicate(seq, best.seq, best.score))
            elif len(alike) == count:  # there may be an older one behind them
                undecided.append(seq)
        if count >= _MOST:
            break
        seqs, count = np.array(undecided, np.int64), count * _MORE
    return sorted(found, key=lambda duplicate: duplicate.seq)


def _nearest_and_oldest(hit: Hit) -> tuple[float, int]:
    return (round(hit.score, 5), -hit.seq)
