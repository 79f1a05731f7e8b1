"""The door: what was just refused is refused on sight, and nothing else is."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from service.admission import Admission, Overloaded
from service.app import create_app
from service.caller import identified
from service.config import Settings
from service.door import Door
from service.errors import Refusal, problem_of
from service.intake import BodyTooSlow
from tests.fakes import FakeEncoder

EMBEDDINGS = "/v1/embeddings"
SEARCH = "/v1/collections/c/search"


@contextmanager
def full(client: TestClient, key: str | None = None) -> Iterator[None]:
    """No room for anything of a caller, and refusals have just begun."""
    admission: Admission = client.app.state.retriever.embedder.admission  # type: ignore[attr-defined]
    permit = admission.permit(2048, 0.0, "interactive")

    def enter() -> None:
        if key is not None:
            identified(key)
        permit.__enter__()

    copy_context().run(enter)
    try:
        assert client.post(EMBEDDINGS, json={"input": "the first"}).status_code == 429
        yield
    finally:
        permit.__exit__(None, None, None)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that were read rather than refused on sight."""
    bodies: list[bytes] = []

    async def parsed(model: type[Any], body: bytes) -> Any:
        bodies.append(body)
        return await original(model, body)

    import service.bodies

    original = service.bodies.parsed
    monkeypatch.setattr(service.bodies, "parsed", parsed)
    return bodies


def refused(client: TestClient, body: Any, url: str = EMBEDDINGS, **headers: str) -> dict[str, Any]:
    reply = client.post(url, json=body, headers=headers)
    assert reply.status_code == 429, reply.text
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["x-request-id"] == reply.json()["request_id"]
    problem: dict[str, Any] = reply.json()
    return problem


def test_what_was_just_refused_is_refused_unread_with_the_same_words(
    client: TestClient, read: list[bytes]
) -> None:
    with full(client):
        before = refused(client, {"input": ["a red car", "a dog"]})
        seen = len(read)
        again = refused(client, {"input": ["a blue car", "a cat"]}, **{"x-request-id": "mine"})
    assert len(read) == seen
    assert again == {**before, "request_id": "mine"}
    assert again["error"]["code"] == again["code"] == "queue_full"


@pytest.mark.parametrize(
    ("url", "body", "headers"),
    [
        (EMBEDDINGS, {"input": "a red car and a dog"}, {}),  # fewer texts
        (EMBEDDINGS, {"input": ["a red car", "a dog" * 20]}, {}),  # longer ones
        (EMBEDDINGS, {"input": ["a", "b"]}, {}),  # shorter ones
        (EMBEDDINGS, {"input": ["a red car", "a dog"]}, {"authorization": "Bearer another"}),
        (SEARCH, {"query": "a red car"}, {}),
        (EMBEDDINGS, {"input": ["a red car and a"], "model": "d"}, {}),  # other members
    ],
)
def test_what_is_unlike_it_is_read(
    client: TestClient, read: list[bytes], url: str, body: Any, headers: dict[str, str]
) -> None:
    with full(client):
        refused(client, {"input": ["a red car", "a dog"]})
        seen = len(read)
        client.post(url, json=body, headers=headers)
        assert len(read) == seen + 1


def test_once_there_is_room_everybody_is_let_in(client: TestClient) -> None:
    body = {"input": ["a red car", "a dog"]}
    with full(client):
        refused(client, body)
        refused(client, body)
    assert client.post(EMBEDDINGS, json=body).status_code == 200


def test_who_comes_after_the_room_was_taken_is_refused_on_sight(
    client: TestClient, read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.door._KNOWN_S", 30.0)
    monkeypatch.setattr("service.door._WATCHFUL_S", 30.0)
    body = {"input": ["a red car", "a dog"]}
    with full(client):
        refused(client, body)
    assert client.post(EMBEDDINGS, json=body).status_code == 200
    with full(client):
        seen = len(read)
        refused(client, body)
    assert len(read) == seen


def test_a_refusal_is_forgotten_after_a_moment(
    client: TestClient, read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.door._KNOWN_S", 0.0)
    body = {"input": ["a red car", "a dog"]}
    with full(client):
        refused(client, body)
        seen = len(read)
        refused(client, body)
    assert len(read) == seen + 1


def test_an_item_is_found_while_a_text_of_its_length_is_refused(client: TestClient) -> None:
    item = {"id": "sku-77", "text": "red"}
    assert client.put("/v1/collections/c/items", json={"items": [item]}).status_code == 200
    with full(client):
        for _ in range(3):
            refused(client, {"query": {"text": "shoes"}}, SEARCH)
            assert client.post(SEARCH, json={"query": {"id": "sku-77"}}).status_code == 200


def test_what_was_refused_is_not_kept(client: TestClient) -> None:
    with full(client):
        for _ in range(3):
            refused(client, {"input": ["a red car", "a dog"]})
        assert not [held for held in gc.get_objects() if type(held) is Overloaded]  # isinstance asks each


OPEN = SimpleNamespace(state=SimpleNamespace(gate=SimpleNamespace(is_open=lambda route: True)))


class Routed:
    """Stands for the application: refuses whatever it reads, under one route."""

    def __init__(self, route: str) -> None:
        self.route = APIRoute(route, lambda: None, methods=["POST"])
        self.read: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["route"], scope["path_params"] = self.route, {}
        try:
            self.read.append(await receive())
        except BodyTooSlow as error:
            self.read.append(error)
        refusal = Refusal(problem_of(Overloaded("full", 1)), lambda: True)
        scope["state"]["refusal"] = refusal


def meeting(routed: Routed, *bodies: bytes | Exception) -> list[Any]:
    """What the application gets to read of requests that come one after the other."""

    async def run() -> None:
        door = Door(routed)
        for body in bodies:

            async def receive(body: bytes | Exception = body) -> Any:
                if isinstance(body, Exception):
                    raise body
                return {"type": "http.request", "body": body}

            async def send(message: Any) -> None:
                pass

            scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b"", "headers": []}
            await door(scope | {"state": {}, "app": OPEN}, receive, send)

    asyncio.run(run())
    return routed.read


def test_a_write_is_always_read() -> None:
    assert len(meeting(Routed("/v1/embeddings"), *[b"{}"] * 4)) == 2
    assert len(meeting(Routed("/v1/collections/{collection}/items/delete"), *[b"{}"] * 4)) == 4


def test_a_body_that_does_not_come_is_the_routes_matter() -> None:
    slow = BodyTooSlow("It did not come.")
    assert meeting(Routed("/v1/embeddings"), b"{}", slow)[1] is slow


def test_a_refusal_on_sight_takes_from_the_quota_and_asks_for_the_key(
    settings: Settings, fake_encoder: FakeEncoder
) -> None:
    limited = settings.model_copy(update={"max_requests_per_minute": 6})
    with TestClient(create_app(limited, cast(Any, fake_encoder))) as client:
        made = client.post("/v1/keys", json={"name": "a", "scope": "admin"})
        assert made.status_code == 201, made.text
        client.headers["authorization"] = f"Bearer {made.json()['key']}"
        body = {"input": ["a red car", "a dog"]}
        with full(client, made.json()["about"]["prefix"]):
            codes = [client.post(EMBEDDINGS, json=body).json()["code"] for _ in range(8)]
    assert codes == ["queue_full"] * 5 + ["rate_limited"] * 3


def test_refusals_on_sight_are_counted_under_their_route(client: TestClient) -> None:
    body = {"input": ["a red car", "a dog"]}
    with full(client):
        for _ in range(5):
            refused(client, body)
    assert 'momoseek_rejected_total{reason="queue_full"} 6.0' in client.get("/metrics").text
    counted = [
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("momoseek_http_requests_total") and 'code="429"' in line
    ]
    assert len(counted) == 1
    assert 'route="/v1/embeddings"' in counted[0]
    assert counted[0].endswith(" 6.0")


def test_a_flood_of_refusals_has_a_log_line_a_second(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"input": ["a red car", "a dog"]}
    with full(client), caplog.at_level("INFO"):
        refused(client, body)
        caplog.clear()
        for _ in range(20):
            refused(client, body)
        while not (lines := [each.getMessage() for each in caplog.records if each.name == "service.door"]):
            time.sleep(0.05)
    assert lines == ["requests refused on sight in the last second: 20"]
    assert not [each for each in caplog.records if each.name == "service.access"]
