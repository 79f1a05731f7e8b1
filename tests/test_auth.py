"""Who may do what over HTTP: every route and every kind of key, from the first to the last."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from index.catalog import StorageUnavailable
from index.schema import api_keys
from service.app import create_app
from service.config import Settings
from service.needs import (
    NEEDS,
)
from tests.guarded import WRONG, Guarded, bearer, guarded
from tests.problems import assert_problem

C = "/v1/collections/{collection}"
# What each route must ask for: a scope, and whether it is about one collection, about none, or about all.
EXPECTED: dict[str, tuple[str, str] | None] = {
    "GET /v1/adapters": ("read", "none"),
    "POST /v1/adapters": ("write", "none"),
    "GET /v1/adapters/{adapter}": ("read", "none"),
    "DELETE /v1/adapters/{adapter}": ("admin", "none"),
    "POST /v1/adapters/{adapter}/promote": ("admin", "none"),
    "POST /v1/adapters/{adapter}/rollback": ("admin", "none"),
    "PUT /v1/adapters/{adapter}/traffic": ("admin", "none"),
    "GET /": None,
    "GET /web/{name}": None,
    "GET /docs": None,
    "GET /docs/{name}": None,
    "GET /openapi.json": None,
    "GET /problems/{code}": None,
    "GET /livez": None,
    "GET /readyz": None,
    "GET /healthz": None,
    "GET /startupz": None,
    "GET /metrics": ("read", "all"),
    "GET /v1/models": ("read", "none"),
    "GET /v1/models/{model}": ("read", "none"),
    "POST /v1/embeddings": ("read", "none"),
    "POST /v1/classify": ("read", "none"),
    "POST /v1/similarity": ("read", "none"),
    "POST /v1/explain": ("read", "none"),
    "POST /v1/rerank": ("read", "none"),
    "POST /v2/rerank": ("read", "none"),
    "GET /v1/collections": ("read", "all"),
    f"GET {C}": ("read", "one"),
    f"PUT {C}": ("write", "one"),
    f"PATCH {C}": ("write", "one"),
    f"DELETE {C}": ("admin", "one"),
    f"PUT {C}/items": ("write", "one"),
    f"POST {C}/items/count": ("read", "one"),
    f"POST {C}/items/delete": ("write", "one"),
    f"POST {C}/items/facet": ("read", "one"),
    f"POST {C}/items/scroll": ("read", "one"),
    f"GET {C}/items/{{item_id}}": ("read", "one"),
    f"PATCH {C}/items/{{item_id}}": ("write", "one"),
    f"DELETE {C}/items/{{item_id}}": ("write", "one"),
    f"GET {C}/images/{{item_id}}": ("read", "one"),
    f"POST {C}/bulk": ("write", "one"),
    f"POST {C}/snapshots": ("admin", "one"),
    f"GET {C}/snapshots": ("admin", "one"),
    f"GET {C}/snapshots/{{snapshot}}": ("admin", "one"),
    f"DELETE {C}/snapshots/{{snapshot}}": ("admin", "one"),
    f"POST {C}/snapshots/{{snapshot}}/restore": ("admin", "one"),
    f"POST {C}/search": ("read", "one"),
    f"POST {C}/search/batch": ("read", "one"),
    f"POST {C}/recommend": ("read", "one"),
    f"POST {C}/duplicates": ("write", "one"),
    f"GET {C}/index": ("read", "one"),
    f"GET {C}/index/audit": ("admin", "one"),
    f"POST {C}/reembed": ("admin", "one"),
    f"POST {C}/index/rebuild": ("admin", "one"),
    f"POST {C}/index/evaluate": ("admin", "one"),
    f"POST {C}/index/rollback": ("admin", "one"),
    "GET /v1/jobs": ("read", "none"),  # a key that is limited to some collections sees their jobs only
    "GET /v1/jobs/{job}": ("read", "none"),
    "GET /v1/jobs/{job}/errors": ("read", "none"),
    "GET /v1/jobs/{job}/results": ("read", "none"),
    "POST /v1/jobs/{job}/cancel": ("write", "none"),
    "POST /v1/jobs/{job}/pause": ("write", "none"),
    "POST /v1/jobs/{job}/resume": ("write", "none"),
    "GET /v1/aliases": ("read", "all"),
    "POST /v1/aliases": ("admin", "all"),
    "GET /v1/keys": ("admin", "all"),
    "POST /v1/keys": ("admin", "all"),
    "DELETE /v1/keys/{prefix}": ("admin", "all"),
}
PARAMETERS = {
    "collection": "c",
    "item_id": "x",
    "job": f"job_{0:024x}",
    "adapter": f"ada_{0:024x}",
    "prefix": "momo_000000000000",
    "name": "index.html",
    "code": "not_found",
    "model": "fake",
    "snapshot": "s",
}
RANK = {"read": 0, "write": 1, "admin": 2}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One for all tests that change no key."""
    with guarded(tmp_path_factory.mktemp("guarded"), metrics_open=False) as shared:
        yield shared


def test_every_route_says_which_scope_it_needs_and_no_other_does() -> None:
    found = {
        f"{method} {context.path_format}"
        for context in iter_route_contexts(create_app(Settings()).routes)
        for method in (context.methods or set()) - {"HEAD"}
    }
    assert len(found) > 25
    assert found - set(NEEDS) == set(), "declare these in service/needs.py"
    assert set(NEEDS) - found == set(), "these are no routes any more"
    assert set(EXPECTED) == found


def refusal(caller: str, needed: tuple[str, str] | None) -> str | None:
    """The code with which this caller must be refused."""
    if needed is None:
        return None
    scope, reach = needed
    if caller == "nobody":
        return "key_missing"
    if caller in ("wrong", "revoked"):
        return "key_invalid"
    if RANK.get(caller, RANK["admin"]) < RANK[scope]:
        return "scope_insufficient"
    if (caller == "other" and reach != "none") or (caller == "own" and reach == "all"):
        return "collection_forbidden"
    return None


@pytest.mark.parametrize("caller", ["nobody", "wrong", "revoked", "read", "write", "own", "other", "admin"])
@pytest.mark.parametrize("route", EXPECTED)
def test_a_route_lets_in_whom_it_must_and_nobody_else(shared: Guarded, route: str, caller: str) -> None:
    method, _, template = route.partition(" ")
    body: dict[str, Any] = {} if method == "GET" else {"json": {}}
    reply = shared.api.request(method, template.format(**PARAMETERS), headers=shared.headers(caller), **body)
    code = refusal(caller, EXPECTED[route])
    if code is None:
        assert reply.status_code not in (401, 403)
        assert reply.status_code < 500
        return
    assert_problem(reply, 401 if code.startswith("key") else 403, code)
    challenge = {
        "key_missing": 'Bearer realm="momoseek"',
        "key_invalid": 'Bearer realm="momoseek", error="invalid_token"',
    }
    assert reply.headers.get("www-authenticate") == challenge.get(code)


def test_head_is_refused_as_get_is(shared: Guarded) -> None:
    assert shared.api.head("/v1/models").status_code == 401
    assert shared.api.head("/v1/models", headers=shared.headers("read")).status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Authorization", "bearer {}", 200),
        ("Authorization", "Bearer   {} ", 200),
        ("X-API-Key", "{}", 200),
        ("Authorization", "{}", 401),
        ("Authorization", "Basic {}", 401),
        ("Authorization", "Bearer", 401),
        ("X-API-Key", "", 401),
        ("Cookie", "key={}", 401),
    ],
)
def test_a_key_comes_as_a_bearer_or_in_its_own_header(
    shared: Guarded, name: str, value: str, status: int
) -> None:
    headers = {name: value.format(shared.secrets["read"])}
    assert shared.api.get("/v1/models", headers=headers).status_code == status
    assert shared.api.get(f"/v1/models?key={shared.secrets['read']}").status_code == 401


def test_openais_clients_are_told_in_their_own_words(shared: Guarded) -> None:
    reply = shared.api.post("/v1/embeddings", json={"input": "x"}, headers=bearer(WRONG))
    assert reply.json()["error"]["type"] == "authentication_error"
    assert reply.json()["error"]["code"] == "key_invalid"


def test_the_description_says_which_scope_an_operation_needs(shared: Guarded) -> None:
    document = shared.api.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            needed = EXPECTED[f"{method.upper()} {path}"]
            shown = operation.get("security")
            assert shown == (needed and [{"bearer": [needed[0]]}, {"header": [needed[0]]}])
            assert ("401" in operation["responses"]) == (needed is not None)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Guarded]:
    """One of the test's own."""
    with guarded(tmp_path) as locked:
        yield locked


# -- the life of a key


def test_everything_is_open_until_the_first_key_and_never_again(client: TestClient) -> None:
    assert client.get("/v1/collections", headers=bearer(WRONG)).status_code == 200
    made = client.post("/v1/keys", json={"name": "first", "scope": "admin"})
    assert made.status_code == 201
    secret, prefix = made.json()["key"], made.json()["about"]["prefix"]
    assert_problem(client.get("/v1/collections"), 401, "key_missing")
    assert client.get("/v1/collections", headers=bearer(secret)).status_code == 200
    assert client.delete(f"/v1/keys/{prefix}", headers=bearer(secret)).status_code == 204
    assert_problem(client.get("/v1/collections", headers=bearer(secret)), 401, "key_invalid")
    assert_problem(client.get("/v1/collections"), 401, "key_missing")


def test_a_page_in_a_browser_cannot_make_the_first_key(client: TestClient) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        reply = client.post(
            "/v1/keys", content=b'{"name": "x", "scope": "read"}', headers={"Content-Type": media}
        )
        assert_problem(reply, 415, "unsupported_media_type")
    assert client.get("/v1/keys").json() == {"keys": [], "next_cursor": None}


@pytest.mark.parametrize(
    "less", [{"scope": "read"}, {"scope": "write"}, {"scope": "admin", "collections": ["shop"]}]
)
def test_the_first_key_is_of_somebody_who_can_make_others(client: TestClient, less: dict[str, Any]) -> None:
    refused = client.post("/v1/keys", json={"name": "first", **less})
    assert_problem(refused, 422, "invalid_request")
    assert refused.json()["param"] == "/scope"
    assert client.get("/v1/collections").status_code == 200  # nobody is locked out
    made = client.post("/v1/keys", json={"name": "first", "scope": "admin"}).json()
    second = client.post("/v1/keys", json={"name": "second", **less}, headers=bearer(made["key"]))
    assert second.status_code == 201


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": "x"},
        {"name": "", "scope": "read"},
        {"name": "a\nb", "scope": "read"},
        {"name": "x", "scope": "root"},
        {"name": "x", "scope": "read", "collections": []},
        {"name": "x", "scope": "read", "collections": ["*"]},
        {"name": "x", "scope": "read", "key": "chosen"},
    ],
)
def test_a_key_that_makes_no_sense_is_refused(client: TestClient, wanted: dict[str, Any]) -> None:
    assert_problem(client.post("/v1/keys", json=wanted), 422, "invalid_request")


def test_keys_are_listed_with_their_last_use_and_without_secrets(locked: Guarded) -> None:
    admin = locked.headers("admin")
    made = locked.api.post(
        "/v1/keys", json={"name": "new", "scope": "read", "collections": ["c"]}, headers=admin
    ).json()
    assert locked.api.get("/v1/collections/c", headers=bearer(made["key"])).status_code == 200
    reply = locked.api.get("/v1/keys", headers=admin)
    keys = {key["name"]: key for key in reply.json()["keys"]}
    assert keys["new"]["prefix"] == made["about"]["prefix"]
    assert keys["new"]["collections"] == ["c"]
    assert keys["new"]["last_used_at"] >= keys["new"]["created_at"]
    assert keys["read"]["last_used_at"] is None
    assert keys["revoked"]["revoked_at"] is not None
    assert all(secret[-64:] not in reply.text for secret in (*locked.secrets.values(), made["key"]))


def test_keys_are_listed_page_by_page_in_order_of_creation(locked: Guarded) -> None:
    admin = locked.headers("admin")
    first = locked.api.get("/v1/keys?limit=4", headers=admin).json()
    second = locked.api.get(f"/v1/keys?limit=4&cursor={first['next_cursor']}", headers=admin).json()
    assert [key["name"] for key in first["keys"]] == ["read", "write", "admin", "own"]
    assert [key["name"] for key in second["keys"]] == ["other", "revoked"]
    assert second["next_cursor"] is None
    for cursor, status, code in (("momo_000000000000", 404, "key_not_found"), ("x", 422, "invalid_request")):
        assert_problem(locked.api.get(f"/v1/keys?cursor={cursor}", headers=admin), status, code)


def test_a_key_that_another_process_revokes_is_refused_within_two_seconds(locked: Guarded) -> None:
    read = locked.headers("read")
    assert locked.api.get("/v1/collections/c", headers=read).status_code == 200
    locked.catalog.keys.revoke(locked.secrets["read"][:17])
    until = time.monotonic() + 2
    while locked.api.get("/v1/collections/c", headers=read).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert_problem(locked.api.get("/v1/collections/c", headers=read), 401, "key_invalid")


def test_revoking_a_key_that_is_not_there_is_not_found(locked: Guarded) -> None:
    admin = locked.headers("admin")
    assert_problem(locked.api.delete("/v1/keys/momo_000000000000", headers=admin), 404, "key_not_found")
    assert_problem(locked.api.delete("/v1/keys/%25", headers=admin), 422, "invalid_request")


def test_a_server_that_asked_for_keys_does_not_open_when_they_vanish(locked: Guarded) -> None:
    with locked.catalog._writing() as connection:
        connection.execute(api_keys.delete())
    cast(Any, locked.api.app).state.gate._ring = None
    assert_problem(locked.api.get("/v1/models"), 401, "key_missing")
    assert_problem(locked.api.get("/v1/models", headers=locked.headers("admin")), 401, "key_invalid")


def test_nobody_is_let_in_while_the_keys_cannot_be_read(
    locked: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = cast(Any, locked.api.app).state.gate

    def broken() -> None:
        raise StorageUnavailable("the catalog cannot be used: planted")

    monkeypatch.setattr(gate._keys, "ring", broken)
    gate._ring = None
    for caller in ("nobody", "admin"):
        reply = locked.api.get("/v1/models", headers=locked.headers(caller))
        assert_problem(reply, 503, "storage_unavailable")
    assert locked.api.get("/livez").status_code == 200
