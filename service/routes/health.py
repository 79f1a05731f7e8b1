"""Liveness, readiness and metrics. No authentication: orchestrators and scrapers call these."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.admission import LANES
from service.auth import Guarded
from service.health import Health
from service.metrics import Metrics
from service.routes import RetrieverDep
from service.schemas_health import Readiness

router = APIRouter(route_class=Guarded, tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": Readiness}})
@router.get("/healthz", responses={503: {"model": Readiness}}, include_in_schema=False)
@router.get("/startupz", name="startupz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response) -> Readiness:
    """The service can answer: known documents give known vectors, the catalog can be read."""
    health: Health = request.app.state.health
    readiness = await health.ready()
    response.status_code = 200 if readiness.status == "ready" else 503
    return readiness


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "the metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
)
async def metrics(request: Request, retriever: RetrieverDep) -> Response:
    """Prometheus's text format."""
    health: Health = request.app.state.health
    shown: Metrics = request.app.state.metrics
    readiness = await health.ready()  # whoever scrapes need not probe too
    shown.ready.set(readiness.status == "ready")
    for lane in LANES:
        shown.queue_items.labels(lane).set(retriever.embedder.batcher.waiting(lane))
    return Response(shown.exposition(), media_type=CONTENT_TYPE_LATEST)
