"""Which request it was: told in replies, in problems and in log lines."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.tracing import Lines, traceparent
from tests.guarded import guarded
from tests.logged import logged
from tests.problems import assert_problem

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log as `momoseek serve` writes it."""
    with logged(Lines()) as written:
        yield written


@pytest.mark.parametrize("path", ["/v1/collections/c", "/nowhere", "/livez", "/v1/collections/none"])
def test_every_reply_names_its_request_as_the_caller_did(client: TestClient, path: str) -> None:
    reply = client.get(path, headers={"X-Request-Id": "order-7:1"})
    assert reply.headers.get_list("x-request-id") == ["order-7:1"]
    if reply.status_code == 404:
        assert reply.json()["request_id"] == "order-7:1"


def test_without_a_sane_name_from_the_caller_each_request_gets_one_of_its_own(client: TestClient) -> None:
    senseless = ["", "a b", "x" * 129, "<script>", "å"]
    replies = [client.get("/livez", headers={b"X-Request-Id": name.encode()}) for name in senseless]
    ids = {reply.headers["x-request-id"] for reply in [*replies, client.get("/livez")]}
    assert len(ids) == len(senseless) + 1
    assert all(len(name) == 32 and name.isalnum() for name in ids)


def test_a_body_that_is_refused_unread_and_a_preflight_are_named_too(tmp_path: Path) -> None:
    sent = {"X-Request-Id": "r-2", "traceparent": PARENT}
    with guarded(tmp_path, cors_origins="https://shop.example", max_body_bytes=2048) as locked:
        large = locked.api.put("/v1/collections/c/items", content=b" " * 4096, headers=sent)
        assert_problem(large, 413, "body_too_large")
        asking = {"Origin": "https://shop.example", "Access-Control-Request-Method": "PUT"}
        preflight = locked.api.options("/v1/collections/c/items", headers=sent | asking)
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    for reply in (large, preflight):
        assert (reply.headers["x-request-id"], reply.headers["traceparent"]) == ("r-2", PARENT)


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ([PARENT], PARENT),
        ([PARENT[:-2] + "00"], PARENT[:-2] + "00"),
        ([f"cc{PARENT[2:]}-what-comes-later"], PARENT),
        ([f"cc{PARENT[2:]}"], PARENT),
        ([], None),
        ([""], None),
        ([PARENT, PARENT], None),
        ([f"{PARENT}-more"], None),
        ([f"ff{PARENT[2:]}"], None),
        ([PARENT.upper()], None),
        ([PARENT[:-1]], None),
        ([f" {PARENT}"], None),
        ([f"{PARENT}\n"], None),
        ([f"00-{'0' * 32}-00f067aa0ba902b7-01"], None),
        ([f"00-{TRACE}-{'0' * 16}-01"], None),
        ([f"00-{TRACE}-00f067aa0ba902bg-01"], None),
    ],
)
def test_only_what_the_standard_calls_valid_is_passed_on(given: list[str], passed_on: str | None) -> None:
    assert traceparent(given) == passed_on


def test_a_callers_trace_comes_back_and_a_malformed_one_is_ignored(client: TestClient) -> None:
    good = client.get("/v1/collections/none", headers={"traceparent": PARENT})
    assert_problem(good, 404, "collection_not_found")
    assert good.headers["traceparent"] == PARENT
    bad = client.get("/livez", headers={"traceparent": "00-123"})
    assert bad.status_code == 200
    assert "traceparent" not in bad.headers


def test_log_lines_name_the_request_and_the_trace_that_they_belong_to(
    client: TestClient, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    client.put("/v1/collections/d", headers={"X-Request-Id": "r-3", "traceparent": PARENT})
    client.get("/v1/collections/d", headers={"X-Request-Id": "r-4"})
    monkeypatch.setattr(client.app.state.retriever, "collection", broken)  # type: ignore[attr-defined]
    client.get("/v1/collections/d", headers={"X-Request-Id": "r-5"})
    logging.getLogger("service.watcher").warning("of no request")
    written = lines.getvalue()
    assert f"INFO momoseek.audit [r-3 trace={TRACE}]: {{" in written
    assert f"service.access [r-3 trace={TRACE}]: PUT /v1/collections/{{collection}} 201 " in written
    assert "service.access [r-4]: GET /v1/collections/{collection} 200 " in written
    assert "ERROR service.errors [r-5]: unexpected failure\nTraceback" in written
    assert "WARNING service.watcher: of no request\n" in written


def test_the_openapi_document_has_both_headers_on_every_operation_and_reply(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for name in ("X-Request-Id", "traceparent"):
        assert document["components"]["parameters"][name]["in"] == "header"
        operations = [operation for path in document["paths"].values() for operation in path.values()]
        assert len(operations) > 15
        for operation in operations:
            assert {"$ref": f"#/components/parameters/{name}"} in operation["parameters"]
            for reply in operation["responses"].values():
                assert reply["headers"][name] == {"$ref": f"#/components/headers/{name}"}, json.dumps(reply)
