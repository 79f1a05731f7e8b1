"""Explanations: which regions of a picture and which words make two documents near."""

import asyncio
import base64

from fastapi import Request, Response

from service import auth
from service.blame import Blamed, blaming
from service.bodies import read
from service.caller import within
from service.embedder import model_name
from service.explanation import Explainer, overlay
from service.routes import RetrieverDep, body, guarded
from service.routes.collections import check_model
from service.routes.embeddings import content_of
from service.schemas_explain import ExplainReply, ExplainRequest

router = guarded("explain", "/v1")


@router.post("/explain", openapi_extra=body(ExplainRequest, form=True), response_model=ExplainReply)
async def explain(request: Request, retriever: RetrieverDep) -> Response:
    """What makes the cosine of two documents: regions of the picture, and words of the text.

    A region is worth the mean of what the cosine loses when it is covered and of what it has when all else
    is. It takes the encoder about a hundred pictures, which wait behind smaller requests.
    """
    wanted, uploads = await read(request, ExplainRequest)
    check_model(wanted.model, retriever)
    query = content_of(wanted.query, uploads, retriever)
    if isinstance(query, Exception):
        raise Blamed(query, "/query")
    if wanted.stored is not None:
        collection = await auth.allowed_collection(request, wanted.stored.collection)
        item = await retriever.content(collection, wanted.stored.id)
    else:
        assert wanted.item is not None
        given = content_of(wanted.item, uploads, retriever)
        if isinstance(given, Exception):
            raise Blamed(given, "/item")
        item = given
    async with within(wanted.timeout_ms):
        with blaming("/query"):
            asked = await retriever.embedder.read(query)
        with blaming("/item" if wanted.stored is None else "/stored"):
            shown = await retriever.embedder.read(item)
        found = await Explainer(retriever.embedder).explain(asked, shown, wanted.grid)
    drawn = None
    if wanted.overlay and found.picture is not None and found.heat is not None:
        png = await asyncio.to_thread(overlay, found.picture, found.heat)
        drawn = "data:image/png;base64," + base64.b64encode(png).decode()
    answer = ExplainReply.of(found, drawn, model_name(retriever.encoder.id))
    return Response(answer.model_dump_json(), media_type="application/json")
