"""The finder: from rows to look near to the items found, all in one state of a collection."""

import json
import time
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np

from index.catalog import Item, Modality, Reading, check_encoder
from index.engines import AUTO, Mask, Params, Scores
from index.fields import Fields, RowSet
from index.filters import Filter, of_modalities
from index.live import LiveIndex, View
from index.vectors import Seqs, Vectors
from models.relevance import KINDS
from service.hybrid import Fused, Hybrid
from service.paging import Pin
from service.reranker import Found
from service.selection import Ranked, Selection, best_of, select
from service.tokens import WriteNotCovered, write_token

Target = Literal["any", "image", "text"]
_TARGETS: dict[Target, tuple[Modality, ...]] = {
    "any": (),
    "image": ("image", "mixed"),
    "text": ("text", "mixed"),
}


@dataclass(frozen=True)
class Wanted:
    """Which results of a search are wanted: ``limit`` of them behind the first ``offset``.

    ``least`` is the lowest score of items, by their modality.
    """

    limit: int = 10
    offset: int = 0
    target: Target = "any"
    filter: Filter | None = None
    selection: Selection = field(default_factory=Selection)
    with_vectors: bool = False
    pinned: Pin | None = None
    least: Mapping[Modality, float] | None = None
    covers: int = 0  # the seq of a write that must be seen
    patience_s: float = 0.0  # how long it is waited for
    params: Params = AUTO
    hybrid: Hybrid | None = None
    explain: bool = False

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the items found may be made of."""
        return _TARGETS[self.target] or KINDS


class Ranking(Protocol):
    """An order of all items."""

    def rank(self, view: View, count: int, filter: Filter | None, skipped: Seqs) -> Ranked:
        """``count`` or more that pass the filter and are not ``skipped``, or all there are, best first."""
        ...


@dataclass(frozen=True)
class Nearest:
    """By cosine with a (1, dim) unit row. ``begins`` is called when the index begins to search."""

    query: Vectors
    params: Params = AUTO
    begins: Callable[[], None] = lambda: None

    def rank(self, view: View, count: int, filter: Filter | None, skipped: Seqs) -> Ranked:
        """See Ranking."""
        asked = count + len(skipped)
        self.begins()
        hits = view.search(self.query, asked, filter, self.params)[0]
        seqs = np.array([hit.seq for hit in hits], np.int64)
        scores = np.array([hit.score for hit in hits], np.float32)
        order = np.lexsort((seqs, -scores))  # of equal scores the older first, however many were asked for
        order = order[~np.isin(seqs[order], skipped)]
        return Ranked(seqs[order], scores[order], len(order), len(hits) < asked)


@dataclass(frozen=True)
class BestOf:
    """By ``best_of`` the cosines with (p, dim) positive and (q, dim) negative unit rows, times weights."""

    positive: Vectors
    positive_weights: Vectors
    negative: Vectors
    negative_weights: Vectors
    params: Params = AUTO

    def rank(self, view: View, count: int, filter: Filter | None, skipped: Seqs) -> Ranked:
        """See Ranking. What is near to no positive example has a score below the last hit's of each."""
        asked = count + len(skipped)
        found = view.search(self.positive, asked, filter, self.params)
        complete = any(len(hits) < asked for hits in found)
        seqs = np.array(sorted({hit.seq for hits in found for hit in hits}), np.int64)
        seqs = seqs[~np.isin(seqs, skipped)]
        rows = view.vectors(seqs)
        scores = best_of(
            rows @ self.positive.T * self.positive_weights, rows @ self.negative.T * self.negative_weights
        )
        order = np.argsort(-scores, kind="stable")
        seqs, scores = seqs[order], scores[order]
        if complete:
            return Ranked(seqs, scores, len(seqs), True)
        last = np.array([hits[-1].score for hits in found], np.float32)
        unseen = float((last * self.positive_weights).max())
        return Ranked(seqs, scores, int(np.count_nonzero(scores >= unseen)), False)


@dataclass(frozen=True)
class AtLeast:
    """Another ranking without the items whose score is lower than ``least`` says of their modality."""

    ranking: Ranking
    least: Mapping[Modality, float]
    modalities_of: Callable[[Seqs], Sequence[Modality]]

    def rank(self, view: View, count: int, filter: Filter | None, skipped: Seqs) -> Ranked:
        """See Ranking."""
        ranked = self.ranking.rank(view, count, filter, skipped)
        needed = [self.least[modality] for modality in self.modalities_of(ranked.seqs)]
        passing = ranked.scores >= np.array(needed, np.float64)
        below = len(ranked.scores) > 0 and float(ranked.scores[-1]) < min(self.least.values())
        sure = int(np.count_nonzero(passing[: ranked.sure]))
        return Ranked(ranked.seqs[passing], ranked.scores[passing], sure, ranked.complete or below)


@dataclass(frozen=True)
class Finding:
    """Results in order, the view that gave them, and what passed there; ``cut_short`` as in Selected.

    ``took_s`` by stage: "search", in it "filter" if there was one, and "metadata", to read the items.
    """

    view: View
    filter: Filter | None
    results: list[Found]
    cut_short: bool
    took_s: dict[str, float]


@dataclass(frozen=True)
class Finder:
    """Finds what one search wants in an index of ``encoder_id``; the items of the ids ``named`` are left out.

    With ``reranked`` so many results and more are found, from the first one on. ``adapter`` has adapted the
    query.
    """

    index: LiveIndex
    encoder_id: str
    named: Set[str]
    wanted: Wanted
    reranked: int = 0
    adapter: str | None = None

    def find(self, ranking: Ranking) -> Finding:
        """The results by a ranking, all as of one moment.

        Raises CollectionNotFound, EncoderMismatch, CursorExpired, WriteNotCovered.
        """
        wanted, began = self.wanted, time.perf_counter()
        with self.index.reading() as (view, reading):
            check_encoder(reading.collection, self.encoder_id)
            if view.watermark < wanted.covers:
                raise WriteNotCovered(
                    f"The write {write_token(wanted.covers)} is not in the log that is searched here, "
                    f"which ends at {write_token(view.watermark)}."
                )
            if wanted.pinned is not None:
                wanted.pinned.check(Pin.of(view.collection, view.generation, self.adapter))
            filter = of_modalities(wanted.filter, _TARGETS[wanted.target])
            timed = None if filter is None else _Timed(filter)
            passing = None if timed is None else Filter((timed,))
            skipped = np.array(sorted(reading.seqs_of(self.named)) if self.named else [], np.int64)
            groups, selection = _Groups(reading), wanted.selection
            if wanted.hybrid is not None and isinstance(ranking, Nearest):
                # What is asked of scores is asked of cosines, whatever the order is made of.
                high = groups.passing(wanted.least, selection.score_threshold)
                fused = Fused(ranking.query, wanted.hybrid, ranking.rank, high, wanted.params)
                ranking, selection = fused, replace(selection, score_threshold=None)
            elif wanted.least is not None:
                ranking = AtLeast(ranking, wanted.least, groups.modalities_of)
            selected = select(
                selection,
                self._end,
                lambda count: ranking.rank(view, count, passing, skipped),
                view.vectors,
                groups.of,
            )
            seqs, scores = selected.seqs[self._start :], selected.scores[self._start :]
            selected_at = time.perf_counter()
            items = reading.items_at(seqs.tolist())
            took_s = {"search": selected_at - began, "metadata": time.perf_counter() - selected_at}
            if timed is not None:
                took_s["filter"] = timed.seconds
            is_fused = isinstance(ranking, Fused)
            needed = wanted.with_vectors or wanted.explain or is_fused
            vectors = view.vectors(seqs) if needed else [None] * len(seqs)
        results = [
            Found(items[seq], score, vector=vector)
            for seq, score, vector in zip(seqs.tolist(), scores.tolist(), vectors, strict=True)
        ]
        if isinstance(ranking, Fused):
            query = ranking.query[0]
            results = [
                found._replace(score=float(vector @ query), hybrid_score=found.score)
                for found, vector in zip(results, vectors, strict=True)
            ]
        return Finding(view, filter, results, selected.cut_short, took_s)

    def page_of(self, results: Sequence[Found]) -> tuple[list[Found], int | None]:
        """Of what was found the page that is wanted, and how many results there are up to its end.

        None: no more can come.
        """
        page = list(results[self.wanted.offset - self._start : self._page_end - self._start])
        return page, self._page_end if len(page) == self.wanted.limit else None

    @property
    def _start(self) -> int:
        return 0 if self.reranked else self.wanted.offset

    @property
    def _end(self) -> int:
        return max(self._page_end, self.reranked)

    @property
    def _page_end(self) -> int:
        return self.wanted.offset + self.wanted.limit


class _Timed:
    """A filter as a condition, which knows how long it was evaluated."""

    def __init__(self, filter: Filter) -> None:
        self._filter = filter
        self.seconds = 0.0

    def rows(self, fields: Fields) -> RowSet:
        """See Condition."""
        started = time.perf_counter()
        found = self._filter.rows(fields)
        self.seconds += time.perf_counter() - started
        return found


class _Groups:
    """The groups and modalities of versions of items, each read once."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._known: dict[int, Hashable | None] = {}
        self._modalities: dict[int, Modality] = {}

    def of(self, key: str, seqs: Seqs) -> Sequence[Hashable | None]:
        """The group of each by this member of its metadata."""
        unknown = [seq for seq in seqs.tolist() if seq not in self._known]
        items = self._reading.items_at(unknown)
        self._known.update((seq, _group(items[seq], key)) for seq in unknown)
        return [self._known[seq] for seq in seqs.tolist()]

    def modalities_of(self, seqs: Seqs) -> Sequence[Modality]:
        """What each is made of."""
        unknown = [seq for seq in seqs.tolist() if seq not in self._modalities]
        items = self._reading.items_at(unknown)
        self._modalities.update((seq, items[seq].modality) for seq in unknown)
        return [self._modalities[seq] for seq in seqs.tolist()]

    def passing(
        self, least: Mapping[Modality, float] | None, threshold: float | None
    ) -> Callable[[Seqs, Scores], Mask]:
        """What tells which cosines are as high as ``threshold``, and as ``least`` says of their modality."""

        def passing(seqs: Seqs, cosines: Scores) -> Mask:
            needed = np.full(len(seqs), -np.inf if threshold is None else threshold)
            if least is not None:
                needed = np.maximum(needed, [least[modality] for modality in self.modalities_of(seqs)])
            return cosines >= needed

        return passing


def _group(item: Item, key: str) -> Hashable | None:
    """What an item has in common with its group; None if the member is missing, null or an empty list."""
    value = item.metadata.get(key)
    if value is None or value == []:
        return None
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True)
    return isinstance(value, bool), value  # to Python 1 is True
