"""The door: what was just refused is refused on sight, and nothing else is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

EMBEDDINGS = "/v1/embeddings"
SEARCH = "/v1/collections/c/search"


@contextmanager
def full(client: TestClient) -> Iterator[None]:
    """No room for anything, and refusals have just begun."""
    admission = client.app.state.retriever.embedder.admission  # type: ignore[attr-defined]
    with admission.permit(2048, 0.0, "interactive"):
        assert client.post(EMBEDDINGS, json={"input": "the first"}).status_code == 429
        yield


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


def test_a_write_is_always_read(client: TestClient, read: list[bytes]) -> None:
    body = {"items": [{"id": "x", "text": "red"}]}
    with full(client):
        for _ in range(3):
            assert client.put("/v1/collections/c/items", json=body).status_code == 429
    assert client.put("/v1/collections/c/items", json=body).status_code == 200


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


def test_a_flood_of_refusals_has_few_log_lines(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    body = {"input": ["a red car", "a dog"]}
    with full(client), caplog.at_level("INFO"):
        refused(client, body)
        caplog.clear()
        for _ in range(20):
            refused(client, body)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("service")]
    assert 1 <= len(lines) <= 2  # of one second, or of two
    assert lines[0] == "requests refused on sight since the last such line: 1"
