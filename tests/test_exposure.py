"""Where a server listens, and which pages in a browser may call it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.config import InvalidSettings, Settings, resolve
from service.console import CommandError
from service.serve import bound, serve
from tests.fakes import FakeEncoder
from tests.guarded import guarded
from tests.problems import assert_problem

ORIGIN = {"Origin": "https://shop.example"}
PREFLIGHT = {
    **ORIGIN,
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[TestClient]:
    """A server without keys, with these settings."""
    wanted = Settings(data_dir=folder, worker=False, refresh_s=60, **settings)
    with TestClient(create_app(wanted, cast(Any, FakeEncoder()))) as api:
        yield api


@pytest.fixture(scope="module")
def open_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server without keys, which has two names and lets the pages of a shop call it."""
    names = {"host": "", "allowed_hosts": "search.example, box", "cors_origins": "https://shop.example"}
    with serving(tmp_path_factory.mktemp("open"), **names) as api:
        yield api


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
def test_without_a_key_nothing_listens_beyond_loopback(host: str, tmp_path: Path) -> None:
    settings = Settings(host=host, port=0, data_dir=tmp_path)
    with pytest.raises(CommandError, match="momoseek key create NAME --scope admin"):
        serve(settings, dict.fromkeys(Settings.model_fields, "default"))


@pytest.mark.parametrize(
    ("settings", "locked"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "open_to_everybody": True}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "localhost"}, False),
    ],
)
def test_with_a_key_or_on_loopback_or_when_told_it_listens(settings: dict[str, Any], locked: bool) -> None:
    with bound(Settings(port=0, **settings), locked) as listener:
        socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=5).close()


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.:8000", True),
        ("127.0.0.1:8000", True),
        ("192.0.2.7", True),
        ("[::1]:8000", True),
        ("search.example", True),
        ("Box:8000", True),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("search.example@evil.example", False),
        ("search.example:80:80", False),
        ("[::1", False),
        ("*", False),
        ("", False),
    ],
)
def test_without_a_key_only_own_names_are_answered(open_api: TestClient, host: str, known: bool) -> None:
    for method, path in (("GET", "/v1/collections"), ("PUT", "/v1/collections/new"), ("GET", "/v1/keys")):
        reply = open_api.request(method, path, headers={"Host": host})
        if known:
            assert reply.is_success
        else:
            assert_problem(reply, 403, "host_not_allowed")
    assert open_api.get("/livez", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "known"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("localhost", "http://localhost", True),
        ("box:8000", "https://Box:8000", True),
        ("localhost", "https://shop.example", True),
        ("127.0.0.1:8000", "http://127.0.0.1:3000", False),
        ("localhost", "http://evil.example", False),
        ("localhost", "https://shop.example.evil.example", False),
        ("localhost", "null", False),
        ("localhost", "", False),
    ],
)
def test_without_a_key_no_page_of_another_server_writes(
    open_api: TestClient, host: str, origin: str, known: bool
) -> None:
    # What a browser sends without asking first: a POST of plain text.
    headers = {"Host": host, "Origin": origin, "Content-Type": "text/plain"}
    open_api.put("/v1/collections/c", headers={"Host": "localhost"})
    reply = open_api.post("/v1/collections/c/bulk", content=b'{"op": "delete", "id": "x"}\n', headers=headers)
    if known:
        assert reply.is_success
    else:
        assert_problem(reply, 403, "origin_not_allowed")


def test_any_name_is_answered_when_told_or_when_there_is_a_key(tmp_path: Path) -> None:
    stranger = {"Host": "evil.example"}
    with serving(tmp_path / "any", allowed_hosts="*") as api:
        assert api.get("/v1/models", headers=stranger).status_code == 200
    with guarded(tmp_path) as locked:
        assert_problem(locked.api.get("/v1/models", headers=stranger), 401, "key_missing")
        assert locked.api.get("/v1/models", headers=stranger | locked.headers("read")).status_code == 200


@pytest.mark.parametrize("value", ["http://a", "a:8000", "a b", "*.example", "[::1]"])
def test_what_is_no_host_name_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(InvalidSettings, match="is no host name"):
        resolve({"allowed_hosts": value}, {})


def test_no_page_of_another_origin_is_let_in_by_default(client: TestClient) -> None:
    for reply in (
        client.get("/livez", headers=ORIGIN),
        client.options("/v1/keys", headers=PREFLIGHT),
    ):
        assert not [name for name in reply.headers if name.startswith("access-control")]


def test_pages_of_the_origins_that_are_named_may_call_and_read_refusals(tmp_path: Path) -> None:
    with guarded(tmp_path, cors_origins="https://shop.example, http://localhost:3000") as locked:
        asked = locked.api.options("/v1/collections/c/items", headers=PREFLIGHT)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == "https://shop.example"
        assert "access-control-allow-credentials" not in asked.headers
        refused = locked.api.put("/v1/collections/c/items", headers=ORIGIN)
        assert_problem(refused, 401, "key_missing")
        assert refused.headers["access-control-allow-origin"] == "https://shop.example"
        stranger = locked.api.get("/livez", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("value", ["shop.example", "https://shop.example/", "https://a b", "null"])
def test_what_is_no_origin_is_refused_at_the_start(value: str) -> None:
    with pytest.raises(InvalidSettings, match="is no origin"):
        resolve({"cors_origins": value}, {})
