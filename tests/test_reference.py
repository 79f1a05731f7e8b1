"""The reference: docs/api.md is what the API says of itself, and that is complete and true."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.config import Settings
from service.kinds import (
    TABLE,
)
from service.reference import main, render
from service.refusals import describe

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORK = {"HTTPValidationError", "ValidationError"}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Json:
    """The OpenAPI document."""
    return create_app(Settings()).openapi()


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, entries in document["paths"].items():
        for method, operation in entries.items():
            yield method.upper(), path, operation


def sent(document: Json, operation: Json) -> Any:
    """The example of an operation's body as JSON; None where it has no such body."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    return document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]["examples"][0]


def address(path: str, operation: Json, **others: str) -> str:
    """The path with the examples of its parameters, or with ``others``."""
    shown = {
        parameter["name"]: parameter["schema"]["examples"][0] if "examples" in parameter["schema"] else ""
        for parameter in operation["parameters"]
        if parameter.get("in") == "path"
    }
    assert all(shown.values()), path
    return path.format(**(shown | others))


def test_the_page_is_what_the_document_says(document: Json) -> None:
    page = (ROOT / "docs/api.md").read_text()
    assert page == render(document), "run `make api-doc`, which is `python -m service.reference docs/api.md`"


def test_every_link_leads_to_a_heading(document: Json) -> None:
    page = render(document)
    headings = {line.lstrip("#").strip().lower() for line in page.splitlines() if line.startswith("#")}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= headings
    assert page.count("```bash") == len(list(operations(document)))


def test_every_operation_has_a_readable_name_of_its_own_and_says_what_it_does(document: Json) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names) > 30
    assert [name for name in names if not re.fullmatch("[a-z]+(_[a-z]+)*", name)] == []
    assert [
        one["operationId"] for _, _, one in operations(document) if len(one.get("description", "")) < 10
    ] == []


def test_every_member_and_every_parameter_is_described(document: Json) -> None:
    silent = [
        f"{name}.{member}"
        for name, schema in document["components"]["schemas"].items()
        for member, of in schema.get("properties", {}).items()
        if name not in FRAMEWORK and "description" not in of
    ] + [
        f"{method} {path} {parameter['name']}"
        for method, path, operation in operations(document)
        for parameter in operation["parameters"]
        if "$ref" not in parameter and "description" not in parameter
    ]
    assert silent == []


def test_whatever_is_sent_or_comes_back_as_an_object_has_an_example(document: Json) -> None:
    missing = []
    for method, path, operation in operations(document):
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in contents:
            schema = content.get("content", {}).get("application/json", {}).get("schema", {})
            name = schema.get("$ref", "").rpartition("/")[2]
            if name and not document["components"]["schemas"][name].get("examples"):
                missing.append(f"{method} {path}: {name}")
    assert missing == []


def test_the_examples_can_be_sent(client: TestClient, document: Json) -> None:
    client.put("/v1/collections/shop")
    item = {"id": "sku-77", "text": "red", "metadata": {"price": 5, "product": "boot"}}
    client.put("/v1/collections/shop/items", json={"items": [item]})
    done = [entry for entry in operations(document) if sent(document, entry[2]) is not None]
    assert len(done) > 12
    for method, path, operation in sorted(done, key=lambda entry: entry[1] == "/v1/keys"):
        headers = {"Idempotency-Key": "once"} if path.endswith("/bulk") else {}
        if path == "/v1/keys":  # the first one locks the door
            first = client.post(path, json={"name": "first", "scope": "admin"}).json()["key"]
            headers = {"Authorization": f"Bearer {first}"}
        reply = client.request(
            method, address(path, operation), json=sent(document, operation), headers=headers
        )
        known = reply.status_code < 300 or reply.json()["code"] == "sources_disabled"
        known = known or reply.json()["status"] == 404 or path.endswith("/rollback")
        assert known, (method, path, reply.text)


@pytest.mark.parametrize("body", ["{", "{}", '{"unknown": 1}'])
@pytest.mark.parametrize("media", ["application/json", "text/plain"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_refusal_is_one_that_its_operation_names(
    client: TestClient, document: Json, body: str, media: str, missing: bool
) -> None:
    refused = 0
    client.put("/v1/collections/shop")
    for method, path, operation in operations(document):
        if method == "DELETE" and not missing:
            continue  # it would take away what the next ones need
        others = {"collection": "missing"} if missing and "{collection}" in path else {}
        headers = {"Content-Type": media, "If-Match": '"other"', "Idempotency-Key": "x" * 300}
        for chosen in ({}, {"If-Match": '"other"'}, headers):
            given = {"Content-Type": media, **chosen}
            reply = client.request(method, address(path, operation, **others), content=body, headers=given)
            assert reply.status_code < 500, (method, path, reply.text)
            if reply.status_code >= 400:
                problem, refused = reply.json(), refused + 1
                content = operation["responses"][str(reply.status_code)]["content"]
                assert problem["code"] in content["application/problem+json"]["examples"], (
                    method,
                    path,
                    problem,
                )
    assert refused > 20


def test_a_refusal_that_passes_says_when_to_try_again(document: Json) -> None:
    for _, path, operation in operations(document):
        if "429" in operation["responses"]:
            assert "Retry-After" in operation["responses"]["429"]["headers"], path
        if "security" in operation:
            for reply in operation["responses"].values():
                assert {"Server-Timing", "RateLimit", "X-Request-Id"} <= set(reply["headers"]), path


def test_every_kind_of_problem_is_named_by_some_operation(document: Json) -> None:
    named = {
        code
        for _, _, operation in operations(document)
        for reply in operation["responses"].values()
        for code in reply.get("content", {}).get("application/problem+json", {}).get("examples", {})
    }
    assert {kind.code for kind in TABLE.values()} <= named


def test_what_an_operation_cannot_answer_is_not_in_its_description() -> None:
    plain: Json = {
        "operationId": "x",
        "responses": {"200": {}, "404": {}, "422": {}, "503": {"content": {"application/json": {}}}},
    }
    describe({"paths": {"/x": {"get": plain}}})
    assert set(plain["responses"]) == {"200", "500", "503"}


def test_a_flag_is_no_file_to_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert not any(tmp_path.iterdir())
