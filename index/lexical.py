"""Words: which items of a view have some of them, and how telling these are.

A word counts by its rarity (the idf of BM25) once for each item that has it. How often it stands there is not
kept, nor how long the text is: what is found by words here are captions and titles, where both say little.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.engines import Rows, Scores
from index.fields import Fields, RowSet, numbers
from index.filters import Filter
from index.live import View
from index.subset import Subset
from index.terms import text_word, word
from index.vectors import Seqs

Ranks = NDArray[np.float64]  # (n,), 1 is first; infinite where there is none
_TIED = 4096  # items of one score that are told apart by how near they are


@dataclass(frozen=True)
class Matched:
    """The items that have some of the words, by ascending seq, and their scores (n,)."""

    seqs: Seqs
    scores: Scores

    def first(self, most: int, nearness: Callable[[Seqs], Scores]) -> Seqs:
        """The ``most`` best; of those that share the last score the nearest ones."""
        if len(self.seqs) <= most:
            return self.seqs
        last = np.partition(self.scores, -most)[-most]
        better, tied = self.seqs[self.scores > last], self.seqs[self.scores == last][-_TIED:]
        nearest = np.argsort(-nearness(tied), kind="stable")[: most - len(better)]
        return np.concatenate((better, tied[nearest]))

    def ranks_of(self, seqs: Seqs) -> Ranks:
        """The place of each among all matched, equals sharing one; infinite for what has no word."""
        if not len(self.seqs):
            return np.full(len(seqs), np.inf)
        places: Rows = np.minimum(np.searchsorted(self.seqs, seqs), len(self.seqs) - 1)
        ordered = np.sort(self.scores)
        ahead = len(ordered) - np.searchsorted(ordered, self.scores[places], "right")
        return np.where(self.seqs[places] == seqs, 1.0 + ahead, np.inf)


def matching(view: View, filter: Filter | None, words: Sequence[str], keys: Sequence[str]) -> Matched:
    """The items that pass the filter and have some of these words, in their text or in metadata ``keys``."""
    subset = Subset.of(view, Filter() if filter is None else filter)
    having = [
        [_having(part.fields, part.rows, one, keys) for one in words] for part in subset.parts
    ]  # by part and word
    frequencies = np.array([sum(map(len, rows)) for rows in zip(*having, strict=True)] or [0] * len(words))
    telling = np.log1p((subset.count - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)
    seqs, scores = list[Seqs](), list[Scores]()
    for part, rows_of_words in zip(subset.parts, having, strict=True):
        total: Scores = np.zeros(part.fields.count, np.float32)
        for rows, worth in zip(rows_of_words, telling, strict=True):
            total[numbers(rows)] += worth
        found = np.flatnonzero(total)
        seqs.append(part.seqs[found])
        scores.append(total[found])
    return Matched(np.concatenate([np.empty(0, np.int64), *seqs]), np.concatenate([_NONE, *scores]))


_NONE: Scores = np.empty(0, np.float32)


def _having(fields: Fields, allowed: RowSet, wanted: str, keys: Iterable[str]) -> RowSet:
    rows = fields.having(text_word(wanted))
    for key in keys:
        rows |= fields.having(word(key, wanted))
    return rows & allowed
