"""Traces for those who collect them: a span for each request and each of its stages, sent by OTLP over HTTP.

Off unless there is an address to send them to, and OpenTelemetry is not imported then. How many
requests are traced, and how spans are batched, its own variables say (``OTEL_TRACES_SAMPLER`` and others).
"""

import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import __version__
from service.auth import route_of
from service.http import QUIET
from service.installation import IncompleteInstall, is_installed
from service.tracing import place_at, traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_PACKAGES = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")


class Telemetry:
    """Sends spans to a collector, such as http://collector:4318. Raises IncompleteInstall."""

    def __init__(self, address: str) -> None:
        if not all(map(is_installed, _PACKAGES)):
            raise IncompleteInstall("Traces need another extra: pip install 'momoseek[otel]'.")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(f"{address.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "momoseek", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("momoseek", __version__)

    def close(self) -> None:
        """Send what was not sent yet, and end."""
        self._provider.shutdown()

    def stage(self, name: str, seconds: float) -> None:
        """The span of a stage that has just ended, within the request that runs; none where none does."""
        from opentelemetry.trace import get_current_span

        if get_current_span().is_recording():
            now = time.time_ns()
            self.tracer.start_span(name, start_time=now - round(seconds * 1e9)).end(now)


class Spans:
    """ASGI middleware: the span of each request, as a part of its caller's trace if it has one.

    What is recorded can be found by its reply and its log lines.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        caller = traceparent(Headers(scope=scope).getlist("traceparent"))
        context = TraceContextTextMapPropagator().extract({} if caller is None else {"traceparent": caller})
        with self._telemetry.tracer.start_as_current_span(
            scope["method"], context, SpanKind.SERVER, {"http.request.method": scope["method"]}
        ) as span:
            if span.is_recording():
                place_at(scope, _place_of(span))

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _describe(span, scope, message["status"])
                await send(message)

            await self._app(scope, receive, sending)


def _place_of(span: "Span") -> str:
    """Its traceparent."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _describe(span: "Span", scope: Scope, status: int) -> None:
    from opentelemetry.trace import StatusCode

    if (route := route_of(scope)) is not None:  # a template: paths have names in them
        span.update_name(route)
        span.set_attribute("http.route", route.partition(" ")[2])
    span.set_attribute("http.response.status_code", status)
    state = scope["state"]
    span.set_attribute("momoseek.request_id", state["request_id"])
    if "problem_code" in state:
        span.set_attribute("error.type", state["problem_code"])
    if status >= 500:
        span.set_status(StatusCode.ERROR)
