"""Reranking: the first results of a search are read beside the query and put in order of their match."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isinf
from typing import NamedTuple

from index.catalog import Item
from index.vectors import Vectors
from service.caller import caller
from service.drafts import content_of_item
from service.embedder import Embedder
from service.images import ImageStore
from service.reading import Content

log = logging.getLogger(__name__)
_ANSWERING_S = 0.01  # what a search still needs when there is no time left to rerank


class NotOneDocument(ValueError):
    """The query is more than one document, or one to keep away from: nothing to compare results with."""


class Found(NamedTuple):  # made and changed many times in a search: a dataclass takes longer
    """One result of a search; ``rerank_score`` is the probability that it matches, and ``vector`` its (dim,)
    unit row, where these were asked for. ``relevance`` is what its score says, where that is known.

    ``hybrid_score`` is what a fused order goes by; ``terms`` are cosines with each term of the query, and
    ``words`` those of a hybrid search that the item has.
    """

    item: Item
    score: float
    relevance: float | None = None
    rerank_score: float | None = None
    vector: Vectors | None = None
    hybrid_score: float | None = None
    terms: list[float] | None = None
    words: list[str] | None = None


@dataclass(frozen=True)
class Reranked:
    """Results in their new order, and what was left out.

    ``degraded`` is empty, or "rerank_skipped" where no result could be scored (the queue is full, no time was
    left, the query's picture is gone), or "rerank_incomplete" where some could not (the time was over, a
    picture is gone) and kept their places.
    """

    results: list[Found]
    degraded: tuple[str, ...]


class Reranker:
    """Puts results in order. A search does not fail over what cannot be scored."""

    def __init__(self, embedder: Embedder, images: ImageStore) -> None:
        self._embedder = embedder
        self._images = images

    async def rerank(self, query: Content | Item, results: Sequence[Found], top_n: int) -> Reranked:
        """The first top_n results by their match with the query, then the others as they were."""
        top = results[:top_n]
        scores = await self._scores(query, [found.item for found in top])
        ordered = [top[i]._replace(rerank_score=scores[i]) for i in order(scores)]
        missing = scores.count(None)
        degraded = () if not missing else ("rerank_skipped" if missing == len(top) else "rerank_incomplete",)
        return Reranked([*ordered, *results[top_n:]], degraded)

    async def _scores(self, query: Content | Item, items: Sequence[Item]) -> list[float | None]:
        try:
            asked = await self._content(query) if isinstance(query, Item) else query
            left_s = caller().left_s
            async with asyncio.timeout(None if isinf(left_s) else left_s - _ANSWERING_S):
                found = await self._embedder.match(asked, [partial(self._read, item) for item in items])
        except Exception as error:
            log.warning("nothing is reranked: %s", error)
            return [None] * len(items)
        for item, score in zip(items, found, strict=True):
            if isinstance(score, Exception):
                log.warning("item %r is not reranked: %s", item.id, score)
        return [None if isinstance(score, Exception) else score for score in found]

    async def _content(self, item: Item) -> Content:
        return await self._embedder.in_decoder(lambda: self._read(item))

    def _read(self, item: Item) -> Content:
        """What was embedded of an item. Raises ImageNotFound, NothingToRead."""
        return content_of_item(item, self._images.get)


def order(scores: Sequence[float | None]) -> list[int]:
    """Positions from best to worst; what has no score keeps its place, and equal scores keep their order."""
    places = [i for i, score in enumerate(scores) if score is not None]
    best = sorted(places, key=lambda i: -(scores[i] or 0.0))
    ordered = list(range(len(scores)))
    for place, i in zip(places, best, strict=True):
        ordered[place] = i
    return ordered
