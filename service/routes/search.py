"""Search: by words, by picture, by item, by a weighted mix of them."""

from fastapi import APIRouter, Request, Response

from index.filters import parse
from service.bodies import Uploads, content_parts, read
from service.retriever import Answer, Retriever, Term
from service.routes import PROBLEMS, CollectionName, RetrieverDep, body, item_members, write_token
from service.schemas import ImageRef
from service.schemas_search import IndexState, QueryTerm, SearchHit, SearchReply, SearchRequest

router = APIRouter(prefix="/v1/collections", tags=["search"], responses=PROBLEMS)


@router.post("/{collection}/search", openapi_extra=body(SearchRequest, form=True), response_model=SearchReply)
async def search(collection: CollectionName, request: Request, retriever: RetrieverDep) -> Response:
    """The items nearest to a query, best first."""
    wanted, uploads = await read(request, SearchRequest)
    queries = wanted.query if isinstance(wanted.query, list) else [wanted.query]
    answer = await retriever.search(
        collection,
        [_term(query, uploads, retriever) for query in queries],
        limit=wanted.limit,
        target=wanted.target,
        filter=None if wanted.filter is None else parse(wanted.filter),
        rerank=0 if wanted.rerank is None else wanted.rerank.top_n,
    )
    shown = reply_of(collection, answer)
    timing = ", ".join(f"{stage};dur={ms}" for stage, ms in shown.timing_ms.items())
    # As it is: the framework would validate its own reply once more.
    return Response(shown.model_dump_json(), headers={"Server-Timing": timing}, media_type="application/json")


def _term(query: str | QueryTerm, uploads: Uploads, retriever: Retriever) -> Term:
    if isinstance(query, str):
        return Term(content=(query,))
    if query.id is not None:
        return Term(item_id=query.id, weight=query.weight)
    if isinstance(query.image, ImageRef) and query.image.id is not None:
        return Term(item_id=query.image.id, weight=query.weight)
    return Term(content=content_parts(query, uploads, retriever.limits.max_image_bytes), weight=query.weight)


def reply_of(collection: str, answer: Answer) -> SearchReply:
    """An answer as clients see it."""
    hits = [
        SearchHit(
            **item_members(collection, found.item),
            score=round(found.score, 6),
            rerank_score=None if found.rerank_score is None else round(found.rerank_score, 6),
        )
        for found in answer.results
    ]
    view = answer.view
    return SearchReply(
        results=hits,
        index=IndexState(generation=view.generation, covers_token=write_token(view.watermark)),
        degraded=list(answer.degraded),
        timing_ms={stage: round(seconds * 1000, 2) for stage, seconds in answer.timings_s.items()},
    )
