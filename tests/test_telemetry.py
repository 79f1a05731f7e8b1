"""Traces as a collector gets them, and log lines as one reads them."""

import gzip
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from service import cli
from service.app import create_app
from service.config import InvalidSettings, Settings, resolve
from service.installation import IncompleteInstall
from service.telemetry import Telemetry
from service.tracing import JsonLines
from tests.conftest import ROOT
from tests.fakes import FakeEncoder, square
from tests.logged import logged
from tests.strangers import PUBLIC, Names, answer, internet, stranger

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[Span]]]:
    """The address of a collector, and the spans that it gets."""
    got: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                assert text_of(resource.resource.attributes)["service.name"] == "momoseek"
                got.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output quiet."""

    with ThreadingHTTPServer((PUBLIC, 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{PUBLIC}:{server.server_address[1]}", got
        server.shutdown()


def text_of(attributes: Any) -> dict[str, str]:
    """The attributes that are texts or numbers, as texts."""
    return {a.key: a.value.string_value or str(a.value.int_value) for a in attributes}


def test_a_request_and_its_stages_are_spans_in_its_callers_trace(tmp_path: Path) -> None:
    with collector() as (address, spans), stranger(PUBLIC) as cdn:
        cdn.answers["/red.png"] = answer(square("red"))
        settings = Settings(
            data_dir=tmp_path,
            worker=False,
            refresh_s=60,
            allowed_hosts="testserver",
            traces_address=address,
            fetch_hosts=f"cdn.test:{cdn.port}",
        )
        names = internet(Names({"cdn.test": [[PUBLIC]]}))
        with TestClient(create_app(settings, cast(Any, FakeEncoder()), names)) as api:
            api.put("/v1/collections/secret-name")
            api.put("/v1/collections/secret-name/items", json={"items": [{"id": "x", "text": "blue"}]})
            api.get("/livez")
            url = f"http://cdn.test:{cdn.port}/red.png"
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r-1"}
            query = {"query": {"image": {"url": url}}, "rerank": {"top_n": 1}}
            reply = api.post("/v1/collections/secret-name/search", json=query, headers=headers)
            unfound = api.post("/v1/collections/none/search", json={"query": "red"})
            api.get("/nowhere")
    by_name = {span.name: span for span in spans}
    request = by_name["POST /v1/collections/{collection}/search"]
    found, missing = [span for span in spans if span.name == request.name]
    assert (found.trace_id.hex(), found.parent_span_id.hex()) == (TRACE, PARENT)
    assert found.kind == Span.SPAN_KIND_SERVER
    told = text_of(found.attributes)
    assert told["http.route"] == "/v1/collections/{collection}/search"
    assert told["http.response.status_code"] == "200"
    assert told["momoseek.request_id"] == "r-1"
    assert text_of(missing.attributes)["error.type"] == "collection_not_found"
    assert missing.trace_id != found.trace_id
    assert not missing.parent_span_id
    for answered, span in ((reply, found), (unfound, missing)):
        (place,) = answered.headers.get_list("traceparent")
        assert place[:-2] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}-"
        assert int(place[-2:], 16) & 1  # sampled
    stages = [span for span in spans if span.parent_span_id == found.span_id]
    assert {span.name for span in stages} >= {"fetch", "decode", "encode", "search", "rerank"}
    for span in stages:
        assert found.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= found.end_time_unix_nano
    write = by_name["PUT /v1/collections/{collection}/items"]
    assert {span.name for span in spans if span.parent_span_id == write.span_id} == {"encode", "commit"}
    assert "GET" in by_name  # a path that no route has is not told
    assert not any("livez" in span.name for span in spans)
    assert not any("secret-name" in str(span) for span in spans)


def test_log_lines_name_the_trace_that_was_begun_here(tmp_path: Path) -> None:
    with collector() as (address, spans), logged(JsonLines()) as written:
        settings = Settings(
            data_dir=tmp_path, worker=False, allowed_hosts="testserver", traces_address=address
        )
        with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
            api.get("/v1/models", headers={"X-Request-Id": "r-5"})
    lines = map(json.loads, written.getvalue().splitlines())
    (access,) = (line for line in lines if line["logger"] == "service.access")
    (span,) = spans
    assert (access["request_id"], access["trace_id"]) == ("r-5", span.trace_id.hex())


def test_a_caller_who_is_not_traced_is_not_traced_here(tmp_path: Path) -> None:
    with collector() as (address, spans):
        settings = Settings(
            data_dir=tmp_path, worker=False, allowed_hosts="testserver", traces_address=address
        )
        with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
            untraced = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
            reply = api.get("/v1/models", headers=untraced)
    assert (reply.status_code, reply.headers["traceparent"]) == (200, untraced["traceparent"])
    assert spans == []


def test_a_collector_that_is_not_there_costs_no_request(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, worker=False, allowed_hosts="testserver", traces_address="http://127.0.0.1:9"
    )
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
        assert api.get("/v1/models").status_code == 200


def test_without_an_address_nothing_of_it_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(['opentelemetry.sdk', 'jwt', 'cryptography'])\n"
        "from service.app import create_app; from service.config import Settings; create_app(Settings())"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.telemetry.is_installed", lambda name: False)
    with pytest.raises(IncompleteInstall, match=r"momoseek\[otel\]"):
        Telemetry("http://127.0.0.1:4318")


@pytest.mark.parametrize("address", ["collector:4318", "ftp://collector", "http://a/v1/traces", "x"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidSettings, match="MOMOSEEK_TRACES_ADDRESS"):
        resolve({}, {"MOMOSEEK_TRACES_ADDRESS": address})


# -- log lines as JSON


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log as `momoseek serve --log-format json` writes it."""
    with logged(JsonLines()) as written:
        yield written


def test_every_log_line_is_an_object_that_names_its_request(
    client: TestClient, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted\nin two lines")

    headers = {"X-Request-Id": "r-3", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    client.put("/v1/collections/d", headers=headers)
    monkeypatch.setattr(client.app.state.retriever, "collection", broken)  # type: ignore[attr-defined]
    client.get("/v1/collections/d", headers={"X-Request-Id": "r-4"})
    logging.getLogger("service.watcher").warning("of %s", "no request")
    told = [json.loads(line) for line in lines.getvalue().splitlines() if '"httpx2' not in line]
    audit, access, failure, _, alone = told
    assert (audit["logger"], audit["request_id"], audit["trace_id"]) == ("momoseek.audit", "r-3", TRACE)
    assert (audit["action"], audit["outcome"]) == ("PUT /v1/collections/{collection}", "ok")
    assert (access["method"], access["route"], access["status"]) == (
        *("PUT", "/v1/collections/{collection}"),
        201,
    )
    assert access["ms"] >= 0
    assert access["time"].endswith("Z")
    assert (failure["level"], failure["request_id"]) == ("error", "r-4")
    assert "planted\nin two lines" in failure["exception"]
    assert (alone["message"], alone["level"]) == ("of no request", "warning")
    assert "request_id" not in alone


def test_the_command_line_chooses_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: given.extend(options["handlers"]))
    for format in ("json", "text"):
        with pytest.raises(SystemExit):
            cli.main(["key", "list", "--data-dir", str(tmp_path), "--log-format", format])
    assert [isinstance(handler.formatter, JsonLines) for handler in given] == [True, False]
