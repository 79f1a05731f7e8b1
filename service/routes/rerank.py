"""Reranking in Cohere's and Jina's shape, for texts, pictures and documents that mix both."""

from typing import Any

from fastapi import Request, Response

from service.blame import Blamed, blaming
from service.bodies import read
from service.caller import within
from service.embedder import model_name
from service.reading import UNREADABLE
from service.routes import RetrieverDep, body, guarded
from service.routes.collections import check_model
from service.routes.embeddings import content_of, usage_of
from service.schemas import Content
from service.schemas_inference import RerankReply, RerankRequest, RerankResult

router = guarded("rerank")


@router.post("/v2/rerank", include_in_schema=False)  # where Cohere's newer clients look
@router.post(
    "/v1/rerank",
    openapi_extra=body(RerankRequest, form=True),
    response_model=RerankReply,
)
async def rerank(request: Request, retriever: RetrieverDep) -> Response:
    """Documents in order of how well they match a query; a bad one fails the request and is pointed at."""
    wanted, uploads = await read(request, RerankRequest)
    check_model(wanted.model, retriever)
    embedder = retriever.embedder
    embedder.check_matches()
    query = content_of(wanted.query, uploads, retriever)
    if isinstance(query, Exception):
        raise Blamed(query, "/query")
    contents = []
    for index, document in enumerate(wanted.documents):
        content = content_of(document, uploads, retriever)
        if isinstance(content, Exception):
            raise Blamed(content, f"/documents/{index}")
        contents.append(content)
    embedder.check_count([query, *contents])
    async with within(wanted.timeout_ms):
        with blaming("/query", *UNREADABLE):
            scores = await embedder.match(query, contents)
    results = []
    for index, score in enumerate(scores):
        if isinstance(score, Exception):
            raise Blamed(score, f"/documents/{index}")
        shown = _shown(wanted.documents[index]) if wanted.return_documents else None
        results.append(RerankResult(index=index, relevance_score=score, document=shown))
    results.sort(key=lambda result: -result.relevance_score)
    answer = RerankReply(
        results=results[: wanted.top_n],
        model=model_name(embedder.encoder.id),
        usage=await usage_of([query, *contents], retriever),
    )
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _shown(document: str | Content) -> dict[str, Any]:
    return {"text": document} if isinstance(document, str) else document.model_dump(exclude_none=True)
