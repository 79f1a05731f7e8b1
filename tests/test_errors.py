"""Every refusal is a problem of the same shape."""

import importlib
import inspect
import pkgutil
from http import HTTPStatus

import pytest
from fastapi.testclient import TestClient

import service
from service.kinds import (
    INTERNAL,
    TABLE,
    http_kind,
    kind_of,
)
from tests.problems import assert_problem

# Raised by the command line, by the client, before anything is served, or to leave a job to another process.
_NOT_BY_HTTP = {
    "InvalidSettings",
    "CommandError",
    "SourceError",
    "SourceElsewhere",
    "TaskFailed",
    "ConflictingInstall",
    "IncompleteInstall",
    "Refused",
    "Unreachable",
    "Blamed",  # has the row of what it wraps
}


def own_exceptions() -> set[type[Exception]]:
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(service.__path__, "service.")]
    members = [cls for module in modules for cls in vars(module).values() if inspect.isclass(cls)]
    ours = [cls for cls in members if cls.__module__.startswith(("service", "models.preprocess"))]
    return {cls for cls in ours if issubclass(cls, Exception) and not cls.__subclasses__()}


def test_every_exception_of_the_service_has_a_row_in_the_table() -> None:
    exceptions = {cls for cls in own_exceptions() if cls.__name__ not in _NOT_BY_HTTP}
    assert len(exceptions) > 15
    assert {cls.__name__ for cls in exceptions if kind_of(cls.__new__(cls)) is INTERNAL} == set()


def test_codes_are_stable_words_and_statuses_are_errors() -> None:
    for kind in TABLE.values():
        assert kind.code.replace("_", "").isalnum()
        assert kind.code == kind.code.lower()
        assert 400 <= kind.status < 600


def test_each_kind_of_problem_is_described_where_its_type_points(client: TestClient) -> None:
    for kind in (*TABLE.values(), http_kind(HTTPStatus.METHOD_NOT_ALLOWED)):
        described = client.get(f"/problems/{kind.code}").json()
        assert (described["status"], described["title"]) == (kind.status, kind.title)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("PATCH", "/v1/collections", 405, "method_not_allowed"),
        ("GET", "/v1/collections/none", 404, "collection_not_found"),
        ("GET", "/v1/collections/c/items/none", 404, "item_not_found"),
        ("GET", "/v1/collections/c/images/none", 404, "item_not_found"),
        ("PUT", "/v1/collections/not%20a%20name", 422, "invalid_request"),
        ("GET", "/problems/none", 404, "not_found"),
        ("GET", "/web/none.js", 404, "not_found"),
        ("GET", "/web/..%2fcli.py", 404, "not_found"),
        ("GET", f"/web/{'a' * 300}.js", 404, "not_found"),
    ],
)
def test_refusals_of_routes(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    assert_problem(client.request(method, path), status, code)


def test_on_openai_routes_a_problem_has_openais_error_too(client: TestClient) -> None:
    reply = client.post("/v1/embeddings", json={"input": "x", "model": "text-embedding-ada-002"})
    assert_problem(reply, 404, "model_not_found")
    assert reply.json()["error"]["code"] == "model_not_found"


def test_the_request_id_of_the_caller_comes_back(client: TestClient) -> None:
    reply = client.get("/nowhere", headers={"X-Request-Id": "abc-1"})
    assert reply.headers["x-request-id"] == reply.json()["request_id"] == "abc-1"


def test_a_request_id_that_could_break_a_log_line_is_replaced(client: TestClient) -> None:
    reply = client.get("/livez", headers={"X-Request-Id": "a b\tc" * 100})
    assert " " not in reply.headers["x-request-id"]


def test_an_unexpected_failure_says_nothing_of_the_inside(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("secret path")

    monkeypatch.setattr(client.app.state.retriever, "collections", broken)  # type: ignore[attr-defined]
    reply = client.get("/v1/collections")
    assert_problem(reply, 500, "internal_error")
    assert "secret" not in reply.text
