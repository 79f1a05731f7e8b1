"""The application: routes around a composed service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from models.encoder import Encoder
from service import (
    __version__,
    auth,
    errors,
    http,
    refusals,
    schemas,
    schemas_adapters,
    schemas_aliases,
    schemas_classify,
    schemas_collections,
    schemas_explain,
    schemas_index,
    schemas_inference,
    schemas_items,
    schemas_jobs,
    schemas_keys,
    schemas_search,
    schemas_snapshots,
    schemas_subsets,
    tracing,
)
from service.audit_log import AuditLog
from service.browsers import BrowserGuard
from service.compose import running
from service.config import Settings, as_environment
from service.door import Door
from service.fetch import INTERNET, Internet
from service.heap import kept_trimmed
from service.idempotency import Repeats
from service.intake import Intake
from service.metrics import Metrics
from service.quota import Quota
from service.routes import (
    adapters,
    aliases,
    classify,
    collections,
    embeddings,
    explain,
    health,
    index,
    items,
    jobs,
    keys,
    models,
    pages,
    rerank,
    search,
    snapshots,
)
from service.stores import open_tokens
from service.subsets import Subsets
from service.supervisor import supervise
from service.telemetry import Spans, Telemetry
from service.watcher import Watcher

_BODIES = (
    schemas_items.ItemPatch,
    schemas_items.ItemRequest,
    schemas_items.ItemsRequest,
    schemas.Problem,
    schemas_adapters.AdapterRequest,
    schemas_adapters.TrafficRequest,
    schemas_aliases.AliasesRequest,
    schemas_explain.ExplainRequest,
    schemas_classify.ClassifyRequest,
    schemas_inference.EmbeddingsRequest,
    schemas_inference.RerankRequest,
    schemas_classify.SimilarityRequest,
    schemas_collections.CollectionPatch,
    schemas_collections.CollectionRequest,
    schemas_index.DuplicatesRequest,
    schemas_index.RebuildRequest,
    schemas_index.ReembedRequest,
    schemas_index.RollbackRequest,
    schemas_jobs.BulkLine,
    schemas_jobs.BulkRequest,
    schemas_jobs.LineError,
    schemas_keys.KeyRequest,
    schemas_search.RecommendRequest,
    schemas_search.SearchBatch,
    schemas_search.SearchRequest,
    schemas_snapshots.RestoreRequest,
    schemas_snapshots.SnapshotRequest,
    schemas_subsets.CountRequest,
    schemas_subsets.DeleteRequest,
    schemas_subsets.FacetRequest,
    schemas_subsets.ScrollRequest,
)
_DESCRIPTION = (
    "Finds pictures by words, words by pictures, pictures by pictures, and documents that mix both."
)
_CORS_IN = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "traceparent",
    "X-API-Key",
    "X-Request-Id",
)
_CORS_OUT = (
    "ETag",
    "Idempotent-Replayed",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "traceparent",
    "WWW-Authenticate",
    "X-Request-Id",
)


def create_app(settings: Settings, encoder: Encoder | None = None, internet: Internet = INTERNET) -> FastAPI:
    """The API as an ASGI application; what it needs is made when it starts and closed when it stops."""
    telemetry = Telemetry(settings.traces_address) if settings.traces_address else None
    metrics = Metrics() if telemetry is None else Metrics(telemetry.stage)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if telemetry is not None:
                stack.push_async_callback(asyncio.to_thread, telemetry.close)
            service = await stack.enter_async_context(running(settings, metrics, encoder, internet))
            app.state.retriever, app.state.health = service.retriever, service.health
            app.state.classifier, app.state.fetcher = service.classifier, service.fetcher
            app.state.subsets = Subsets(service.retriever.index, service.retriever.writer)
            app.state.jobs, app.state.replies = service.desk, service.catalog.replies
            app.state.index, app.state.snapshots = service.index, service.snapshots
            app.state.adapters = service.adapters
            quota = Quota(settings.max_requests_per_minute)
            browsers = BrowserGuard(settings.own_names, settings.allowed_origins)
            app.state.gate = auth.Gate(
                service.catalog.keys,
                service.catalog.aliases,
                quota,
                browsers,
                metrics_open=settings.metrics_open,
                tokens=open_tokens(settings),
            )
            watcher = Watcher(settings, service.catalog, service.retriever, metrics, service.meter)
            await asyncio.to_thread(watcher.step)  # indexes are open and warm before the first request
            tasks = [
                asyncio.create_task(watcher.run(), name="watcher"),
                asyncio.create_task(service.runner.run(), name="jobs"),
                asyncio.create_task(service.tasks.run(), name="tasks"),
                asyncio.create_task(kept_trimmed(), name="heap"),
            ]
            if settings.worker:
                restarted = metrics.worker_restarts.inc
                tasks.append(
                    asyncio.create_task(supervise(as_environment(settings), restarted), name="supervisor")
                )
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with suppress(asyncio.CancelledError):
                        await task

    app = FastAPI(
        title="momoseek",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # routes.pages serves it without another host
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=lambda route: route.name,
        responses={500: {"description": "unexpected failure"}},
        telemetry={"tracing": False, "metrics": False, "logs": False},  # service.telemetry has it
    )
    app.state.metrics = metrics
    intake = app.state.intake = Intake(
        settings.max_body_bytes, settings.max_bodies_bytes, settings.body_timeout_s
    )
    # The last one added is the first that a request meets.
    app.add_middleware(Door)
    app.add_middleware(Repeats)
    app.add_middleware(AuditLog)
    app.add_middleware(http.Frame, metrics=metrics, intake=intake)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "PUT", "POST", "PATCH", "DELETE"],
            allow_headers=_CORS_IN,
            expose_headers=_CORS_OUT,
        )
    if telemetry is not None:
        app.add_middleware(Spans, telemetry=telemetry)
    app.add_middleware(tracing.Tracing)
    errors.install(app)
    # They are tried in order: first those that are asked most.
    for routes in (
        embeddings,
        search,
        items,
        rerank,
        classify,
        explain,
        health,
        models,
        collections,
        adapters,
        aliases,
        index,
        snapshots,
        jobs,
        keys,
        pages,
    ):
        app.include_router(routes.router)
    _complete_openapi(app)
    return app


def _complete_openapi(app: FastAPI) -> None:
    """Add to the OpenAPI document keys, traces, and bodies that routes read themselves (maybe multipart)."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            known = document.setdefault("components", {}).setdefault("schemas", {})
            for model in _BODIES:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                known.update(schema.pop("$defs", {}))
                known[model.__name__] = schema
            auth.describe(document)
            refusals.describe(document)
            tracing.describe(document)
            http.describe(document)
            _without_null(document)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _without_null(document: dict[str, Any]) -> None:
    """Parameters that may be left out are never null: no address and no header can say it."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                match parameter.get("schema"):
                    case {"anyOf": [schema, {"type": "null"}], **others}:
                        parameter["schema"] = schema | others
