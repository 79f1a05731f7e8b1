"""Search: by words, by picture, by item, by a weighted mix of them, by examples; one at a time or many."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request, Response

from index.catalog import ItemNotFound
from index.engines import Params
from service.blame import blaming
from service.bodies import Uploads, content_parts, fetched, given_of, image_bytes, parsed, read
from service.caller import within
from service.errors import problem_of
from service.finder import Wanted
from service.hybrid import Hybrid
from service.paging import MAX_OFFSET, Cursor, Pin
from service.parsing import InvalidBody, json_of, validated
from service.query_terms import Term
from service.reranker import Found
from service.retriever import Retriever
from service.routes import (
    CollectionName,
    RetrieverDep,
    body,
    filter_of,
    guarded,
    item_members,
    retriever_of,
)
from service.schemas_found import (
    HitExplanation,
    SearchBatchReply,
    SearchOutcome,
    SearchReply,
)
from service.schemas_query import Compose, ComposedQuery, QueryImageRef, QueryTerm
from service.schemas_search import (
    Choices,
    Example,
    HybridRequest,
    RecommendRequest,
    SearchBatch,
    SearchRequest,
)
from service.searcher import Answer
from service.selection import Diversity, Selection
from service.tokens import seq_of, write_token

router = guarded("search", "/v1/collections")
_EXCLUDED = -0.5  # the weight of what a composed query keeps away from


@router.post("/{collection}/search", openapi_extra=body(SearchRequest, form=True), response_model=SearchReply)
async def search(collection: CollectionName, request: Request) -> Response:
    """The items nearest to a query, best first."""
    wanted, uploads = await read(request, SearchRequest)
    return _response(await _search(collection, wanted, uploads, retriever_of(request)))


@router.post("/{collection}/search/batch", openapi_extra=body(SearchBatch), response_model=SearchBatchReply)
async def search_batch(collection: CollectionName, request: Request, retriever: RetrieverDep) -> Response:
    """Up to 100 searches at once; each succeeds or fails alone."""
    wanted = await parsed(SearchBatch, await request.body())
    await retriever.searcher.check(collection)
    searches = [_checked(entry) for entry in wanted.searches]
    pictures = await fetched(request, [entry for entry in searches if isinstance(entry, SearchRequest)])
    outcomes = await asyncio.gather(*(_outcome(collection, entry, pictures, retriever) for entry in searches))
    reply = SearchBatchReply(results=list(outcomes))
    return Response(reply.model_dump_json(), media_type="application/json")


@router.post("/{collection}/recommend", openapi_extra=body(RecommendRequest), response_model=SearchReply)
async def recommend(collection: CollectionName, request: Request, retriever: RetrieverDep) -> Response:
    """The items that resemble some and not others."""
    wanted = await parsed(RecommendRequest, await request.body())
    async with within(wanted.timeout_ms):
        answer = await retriever.searcher.recommend(
            collection,
            _examples("positive", wanted.positive),
            _examples("negative", wanted.negative),
            _wanted(wanted),
            strategy=wanted.strategy,
            exclude_inputs=wanted.exclude_inputs,
        )
    return _response(reply_of(collection, answer, wanted.fields, with_vectors=wanted.with_vectors))


async def _search(
    collection: str, wanted: SearchRequest, uploads: Uploads, retriever: Retriever
) -> dict[str, Any]:
    if isinstance(wanted.query, ComposedQuery):
        terms = await _composed(collection, wanted.query.compose, uploads, retriever)
    elif isinstance(wanted.query, list):
        terms = [
            _term(query, uploads, retriever, f"/query/{place}") for place, query in enumerate(wanted.query)
        ]
    else:
        terms = [_term(wanted.query, uploads, retriever, "/query")]
    rerank = 0 if wanted.rerank is None else wanted.rerank.top_n
    async with within(wanted.timeout_ms):
        choices = _wanted(wanted, _hybrid(wanted.hybrid, terms), wanted.explain)
        answer = await retriever.searcher.search(
            collection, terms, choices, rerank, wanted.min_relevance, wanted.adapter
        )
    return reply_of(collection, answer, wanted.fields, with_vectors=wanted.with_vectors)


def _checked(entry: Any) -> SearchRequest | InvalidBody:
    try:
        return validated(SearchRequest, entry)
    except InvalidBody as error:
        return error


async def _outcome(
    collection: str, entry: SearchRequest | InvalidBody, pictures: Uploads, retriever: Retriever
) -> SearchOutcome:
    try:
        if isinstance(entry, InvalidBody):
            raise entry
        return SearchOutcome(reply=SearchReply(**await _search(collection, entry, pictures, retriever)))
    except Exception as error:
        return SearchOutcome(problem=problem_of(error))


def _wanted(choices: Choices, hybrid: Hybrid | None = None, explain: bool = False) -> Wanted:
    cursor = None if choices.cursor is None else Cursor.read(choices.cursor)
    diversity, consistency = choices.diversity, choices.consistency
    return Wanted(
        limit=choices.limit,
        offset=choices.offset if cursor is None else cursor.offset,
        target=choices.target,
        filter=None if choices.filter is None else filter_of(choices.filter),
        selection=Selection(
            score_threshold=choices.score_threshold,
            dedup=None if choices.dedup is None else choices.dedup.threshold,
            group_by=choices.group_by,
            group_size=choices.group_size,
            diversity=None if diversity is None else Diversity(diversity.weight, diversity.candidates),
        ),
        with_vectors=choices.with_vectors,
        pinned=None if cursor is None else cursor.pin,
        covers=0 if consistency is None else seq_of(consistency.write_token),
        patience_s=0 if consistency is None else consistency.timeout_ms / 1000,
        params=Params(**{name: getattr(choices.params, name) for name in choices.params.model_fields_set}),
        hybrid=hybrid,
        explain=explain,
    )


def _hybrid(wanted: HybridRequest | None, terms: Sequence[Term]) -> Hybrid | None:
    """What to look for by words: by default those of the query's own texts that are not to be avoided."""
    if wanted is None:
        return None
    texts = [part for term in terms if term.weight > 0 for part in term.content if isinstance(part, str)]
    return Hybrid(
        " ".join(texts) if wanted.text is None else wanted.text,
        tuple(wanted.keys),
        wanted.alpha,
        wanted.k,
        wanted.candidates,
    )


def _term(query: str | QueryTerm, uploads: Uploads, retriever: Retriever, pointer: str) -> Term:
    if isinstance(query, str):
        return Term(content=(query,), pointer=pointer)
    term = Term(weight=query.weight, pointer=pointer)
    if query.vector is not None:
        return replace(term, given=given_of(query.vector, query.embedding_space))
    if query.id is not None:
        return replace(term, item_id=query.id)
    if isinstance(query.image, QueryImageRef) and query.image.id is not None:
        return replace(term, item_id=query.image.id)
    with blaming(pointer):
        return replace(term, content=content_parts(query, uploads, retriever.limits.max_image_bytes))


async def _composed(collection: str, wanted: Compose, uploads: Uploads, retriever: Retriever) -> list[Term]:
    anchor = wanted.anchor
    item_id = None if isinstance(anchor, str) else anchor.id
    if item_id is not None:
        with blaming("/query/compose/anchor", ItemNotFound):
            content = await retriever.content(collection, item_id)
    else:
        with blaming("/query/compose/anchor"):
            content = (image_bytes(anchor, uploads, retriever.limits.max_image_bytes),)
    terms = [Term(content=(*content, wanted.modify), made_of=item_id, pointer="/query/compose")]
    if wanted.exclude is not None:
        excluded = Term(content=(wanted.exclude,), weight=_EXCLUDED, pointer="/query/compose/exclude")
        terms.append(excluded)
    return terms


def _examples(side: str, examples: Sequence[str | Example]) -> list[Term]:
    given = [example if isinstance(example, Example) else Example(id=example) for example in examples]
    return [
        Term(item_id=example.id, weight=example.weight, pointer=f"/{side}/{place}")
        for place, example in enumerate(given)
    ]


def reply_of(
    collection: str, answer: Answer, fields: Collection[str] | None = None, *, with_vectors: bool = False
) -> dict[str, Any]:
    """An answer as clients see it, with these members of the metadata; None: all.

    It is a SearchReply, but none is made: to check what is known to be right takes as long as to write it.
    """
    hits = [
        {
            **item_members(collection, found.item, fields),
            "score": round(found.score, 6),
            "relevance": None if found.relevance is None else round(found.relevance, 4),
            "rerank_score": None if found.rerank_score is None else round(found.rerank_score, 6),
            "hybrid_score": None if found.hybrid_score is None else round(found.hybrid_score, 6),
            "explain": None if found.terms is None else _explained(found),
            "vector": found.vector.tolist() if with_vectors and found.vector is not None else None,
        }
        for found in answer.results
    ]
    view = answer.view
    pin = Pin.of(view.collection, view.generation, answer.adapter)
    following = answer.next_offset
    return {
        "results": hits,
        "next_cursor": None if following is None or following > MAX_OFFSET else str(Cursor(pin, following)),
        "index": {"generation": view.generation, "covers_token": write_token(view.watermark)},
        "adapter": answer.adapter,
        "degraded": list(answer.degraded),
        "timing_ms": {stage: round(seconds * 1000, 2) for stage, seconds in answer.timings_s.items()},
    }


def _explained(found: Found) -> HitExplanation:
    return HitExplanation(
        terms=[round(cosine, 6) for cosine in found.terms or ()],
        words=found.words or [],
    )


def _response(reply: dict[str, Any]) -> Response:
    return Response(json_of(reply), media_type="application/json")
