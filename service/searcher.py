"""The searcher: from contents and examples to embeddings to neighbours."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from index.adapters import AdapterNotFound
from index.catalog import Catalog, Collection, EncoderMismatch, Item, ItemNotFound
from index.live import View
from index.vectors import Vectors
from service.adapters import NONE, AdapterUnusable, Serving, ServingAdapters
from service.blame import Blamed, blaming
from service.embedder import Embedder
from service.finder import BestOf, Finder, Finding, Nearest, Ranking, Wanted
from service.given import VectorInvalid
from service.images import ImageStore
from service.indexes import Indexes
from service.query_terms import (
    Adapted,
    Term,
    averaged,
    check_one_document,
    kind_of,
    sum_of,
    words_of,
)
from service.reasons import explained
from service.recall_meter import Sample
from service.relevance import Curves, curves_of, least_scores, with_relevance
from service.reranker import Found, Reranker
from service.sequel import Sequel, Tell
from service.tokens import WriteNotCovered

Strategy = Literal["average", "best_score"]
T = TypeVar("T")
_LOOK_AGAIN_S = 0.05


@dataclass(frozen=True)
class Answer:
    """The results of a search, the view that gave them, and what was left out. ``timings_s`` by stage.

    ``next_offset`` is how many results there are up to here; None if no more can come. ``adapter`` has
    adapted the query.
    """

    results: list[Found]
    view: View
    timings_s: dict[str, float]
    next_offset: int | None = None
    degraded: tuple[str, ...] = ()
    adapter: str | None = None


class Searcher:
    """Answers searches; its coroutines belong to one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        embedder: Embedder,
        images: ImageStore,
        indexes: Indexes,
        adapters: ServingAdapters,
        observe: Callable[[str, float], None],
        sample: Callable[[Sample], None],
    ) -> None:
        """``sample`` is told of every answer that is the nearest to one row."""
        self._catalog = catalog
        self._embedder = embedder
        self._reranker = Reranker(embedder, images)
        self._indexes = indexes
        self._adapters = adapters
        self._observe = observe
        self._sample = sample

    async def check(self, name: str) -> None:
        """Raise CollectionNotFound or EncoderMismatch unless a collection can be searched."""
        await self._indexes.following(name, self._indexes.searchable)

    async def search(
        self,
        name: str,
        terms: Sequence[Term],
        wanted: Wanted,
        rerank: int = 0,
        min_relevance: float | None = None,
        adapter: str | None = None,
    ) -> Answer:
        """The items nearest to the weighted sum of the terms, best first; items named by a term are left out.

        With ``rerank`` the first so many are put in order of their match with the query, which is one term
        then, and so it is with ``min_relevance``. ``adapter`` is the one to use, or NONE; None: what serves.
        Raises CollectionNotFound, ItemNotFound, EncoderMismatch, CursorExpired, QueryCancelsOut,
        RerankUnsupported, NotOneDocument, RelevanceUnknown, WriteNotCovered, AdapterNotFound,
        AdapterUnusable, Overloaded and what the contents raise.
        """
        named = {named for term in terms for named in (term.item_id, term.made_of) if named is not None}

        async def work(own: str) -> Answer:
            started = time.perf_counter()
            index = await self._indexes.searchable(own)
            if rerank:
                self._embedder.check_matches()
                check_one_document(terms)
            serving = await self._serving(index.collection, terms, adapter)
            adapted = Adapted(terms, serving)
            curves = await self._curves(own, terms, serving)
            within = wanted
            if min_relevance is not None:
                within = replace(wanted, least=least_scores(curves, min_relevance, wanted.modalities))
            finder = Finder(index, self._embedder.encoder.id, named, within, rerank, adapted.by)
            # The row of an only term is the query: whoever makes it may go on and find what is near.
            is_query = len(terms) == 1 and terms[0].weight > 0
            nearest = partial(Nearest, params=wanted.params)

            def go_on(row: Vectors, tell: Tell) -> Finding:
                return finder.find(nearest(adapted(row.reshape(1, -1)), begins=tell))

            embedded = await self._term_rows(own, terms, sequel := Sequel(go_on) if is_query else None)
            rows = adapted(embedded)
            ranking = nearest(sum_of(terms, rows))
            encode_s = time.perf_counter() - started - (0.0 if sequel is None else sequel.held_s)
            kind = kind_of(terms)
            answer = await self._answer(finder, ranking, encode_s, kind, terms[0], sequel)
            results = with_relevance(answer.results, curves)
            if wanted.explain:
                results = [explained(found, rows, wanted.hybrid) for found in results]
            return replace(answer, results=results, adapter=adapted.by)

        return await self._indexes.following(name, work)

    async def recommend(
        self,
        name: str,
        positive: Sequence[Term],
        negative: Sequence[Term],
        wanted: Wanted,
        *,
        strategy: Strategy,
        exclude_inputs: bool,
    ) -> Answer:
        """The items most like the positive examples, which are one or more, and least like the negative ones.

        All examples name items. By "average" they are those nearest to twice the mean of the positive rows
        less that of the negative ones; by "best_score" those nearest to any positive one, see ``best_of``.
        Raises what ``search`` raises.
        """
        named = {term.item_id or "" for term in (*positive, *negative)} if exclude_inputs else set[str]()

        async def work(own: str) -> Answer:
            started = time.perf_counter()
            index = await self._indexes.searchable(own)
            ranking: Ranking
            if strategy == "average":
                examples = averaged(positive, negative)
                ranking = Nearest(sum_of(examples, await self._term_rows(own, examples)), wanted.params)
            else:
                rows = (*await self._rows(own, positive), *await self._rows(own, negative))
                ranking = BestOf(*rows, wanted.params)
            encode_s = time.perf_counter() - started
            finder = Finder(index, self._embedder.encoder.id, named, wanted)
            return await self._answer(finder, ranking, encode_s, "item")

        return await self._indexes.following(name, work)

    # -- inside

    async def _answer(
        self,
        finder: Finder,
        ranking: Ranking,
        encode_s: float,
        kind: str,
        term: Term | None = None,
        sequel: Sequel[Finding] | None = None,
    ) -> Answer:
        """``sequel`` finds the same, if it was begun."""
        started, wanted = time.perf_counter() - (0.0 if sequel is None else sequel.held_s), finder.wanted
        finding = await _patient(wanted.patience_s, partial(finder.find, ranking), sequel)
        results, degraded = finding.results, ("selection_cut_short",) if finding.cut_short else ()
        if wanted.hybrid is not None and not wanted.hybrid.words:
            degraded = (*degraded, "hybrid_without_words")
        if isinstance(ranking, Nearest) and wanted.hybrid is None:
            sample = Sample(finding.view, ranking.query, kind, wanted.target, finding.filter)
            asyncio.get_running_loop().call_soon(self._sample, sample)  # after the reply
        searched = time.perf_counter()
        took_s = finding.took_s  # more has passed where it waited; less, if a sequel was done with it by then
        took_s["search"] = max(took_s["search"], searched - started - took_s["metadata"])
        for stage, seconds in took_s.items():
            self._observe(stage, seconds)
        timings_s = {"encode": encode_s, "search": took_s["search"], "metadata": took_s["metadata"]}
        if term is not None and finder.reranked:
            name = finder.index.collection.name
            document = term.content if term.item_id is None else await self._item(name, term)
            reranked = await self._reranker.rerank(document, results, finder.reranked)
            results, degraded = reranked.results, (*degraded, *reranked.degraded)
            timings_s["rerank"] = time.perf_counter() - searched
            self._observe("rerank", timings_s["rerank"])
        page, following = finder.page_of(results)
        return Answer(page, finding.view, timings_s, following, degraded)

    async def _serving(
        self, collection: Collection, terms: Sequence[Term], asked: str | None
    ) -> Serving | None:
        if asked == NONE:
            return None
        if asked is not None:
            with blaming("/adapter", AdapterNotFound, AdapterUnusable):
                return await asyncio.to_thread(self._adapters.named, collection, asked, words_of(terms))
        return self._adapters.choose(collection, words_of(terms))

    async def _curves(self, name: str, terms: Sequence[Term], serving: Serving | None) -> Curves:
        """What the scores of a query say; nothing if it is not one document."""
        relevance, term = self._embedder.encoder.relevance, terms[0]
        if serving is not None and len(terms) == 1 and term.weight > 0 and term.is_words:
            # Of modalities that it was taught nothing of, the encoder's own are the best guess.
            return {**({} if relevance is None else curves_of(relevance, "text")), **serving.curves}
        if relevance is None or len(terms) > 1 or term.weight <= 0 or term.given is not None:
            return {}
        if term.item_id is not None:
            return curves_of(relevance, (await self._item(name, term)).modality)
        pictures = {isinstance(part, bytes) for part in term.content}
        return curves_of(relevance, "mixed" if len(pictures) > 1 else "image" if True in pictures else "text")

    async def _term_rows(
        self, name: str, terms: Sequence[Term], then: Sequel[Finding] | None = None
    ) -> Vectors:
        """The unit row of each term (terms, dim). ``then`` may be done with that of the only one."""
        encoder = self._embedder.encoder
        given = [self._given_row(term) for term in terms]
        contents = [term.content for term in terms if term.content]
        embedded = iter(await self._embedder.embed(contents, then=then))
        rows: Vectors = np.empty((len(terms), encoder.dim), np.float32)
        for place, term in enumerate(terms):
            row: Vectors | Exception | None = given[place]
            if row is None:
                row = next(embedded) if term.content else await self._vector(name, term)
            if isinstance(row, Exception):
                raise Blamed(row, term.pointer)
            rows[place] = row
        return rows

    async def _rows(self, name: str, examples: Sequence[Term]) -> tuple[Vectors, Vectors]:
        """The rows (examples, dim) of items, and their weights (examples,)."""
        rows: Vectors = np.empty((len(examples), self._embedder.encoder.dim), np.float32)
        for place, example in enumerate(examples):
            rows[place] = await self._vector(name, example)
        return rows, np.array([example.weight for example in examples], np.float32)

    def _given_row(self, term: Term) -> Vectors | None:
        if term.given is None:
            return None
        with blaming(term.pointer, VectorInvalid, EncoderMismatch):
            return term.given.row(self._embedder.encoder.id, self._embedder.encoder.dim)

    async def _item(self, name: str, term: Term) -> Item:
        with blaming(term.pointer, ItemNotFound):
            return await asyncio.to_thread(self._catalog.item, name, term.item_id or "")

    async def _vector(self, name: str, term: Term) -> Vectors:
        with blaming(term.pointer, ItemNotFound):
            encoder_id = self._embedder.encoder.id
            return await asyncio.to_thread(self._catalog.vector, name, term.item_id or "", encoder_id)


async def _patient(patience_s: float, work: Callable[[], T], sequel: Sequel[T] | None) -> T:
    """Work on a thread; for so long it is done again while there is a write that it does not see.

    A sequel that was begun is the same work, done once.
    """
    until = time.monotonic() + patience_s
    begun = sequel if sequel is not None and sequel.begun else None
    while True:
        try:
            return await (asyncio.to_thread(work) if begun is None else begun.result())
        except WriteNotCovered:
            if time.monotonic() >= until:
                raise
        begun = None
        await asyncio.sleep(min(_LOOK_AGAIN_S, patience_s))
