"""The door: while there is no room, a request like those that were refused is refused before it is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from service.admission import Admission, Demand
from service.door import ClosedDoor, Door, Kind
from tests.problems import assert_problem

MANY = {"input": ["red apple"] * 20}
DEMAND = Demand(20, 1.0, "large", None)


def kind(size: int = 1000, path: str = "/v1/embeddings", **headers: str) -> Kind | None:
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Kind.of({"method": "POST", "path": path}, {b"content-length": str(size).encode()} | sent)


def is_closed(door: Door, who: Kind | None) -> bool:
    try:
        door.check(who)
    except ClosedDoor as closed:
        return (closed.route, closed.reason.retry_after_s) == ("route", 5)
    return False


@contextmanager
def crowded(seconds: float = 5.0, lane: str = "large") -> Iterator[Door]:
    """A door before a queue in which so many seconds of work wait."""
    admission = Admission(max_documents=1000, max_wait_s=2)
    with admission.permit(100, seconds, cast(Any, lane)):
        yield Door(admission)


def test_it_closes_when_two_in_a_row_were_refused_inside() -> None:
    with crowded() as door:
        for closed in (False, False, True, True):
            assert is_closed(door, kind()) is closed
            door.note(kind(), "route", DEMAND)


def test_it_is_open_as_soon_as_there_is_room() -> None:
    admission = Admission(max_documents=1000, max_wait_s=2)
    door = Door(admission)
    for _ in range(2):
        door.note(kind(), "route", DEMAND)
    assert not is_closed(door, kind())
    with admission.permit(100, 5.0, "large"):
        assert is_closed(door, kind())
    assert not is_closed(door, kind())


def test_whoever_is_let_in_between_leaves_it_open() -> None:
    with crowded() as door:
        for demand in (DEMAND, None, DEMAND):
            door.note(kind(), "route", demand)
        assert not is_closed(door, kind())
        door.note(kind(), "route", DEMAND)
        assert is_closed(door, kind())
        door.note(kind(), "route", None)  # when there was room
        assert is_closed(door, kind())


def test_after_a_second_it_looks_again() -> None:
    now = [100.0]
    admission = Admission(max_documents=1000, max_wait_s=2)
    door = Door(admission, clock=lambda: now[0])
    with admission.permit(100, 5.0, "large"):
        for _ in range(2):
            door.note(kind(), "route", DEMAND)
        now[0] = 100.9
        assert is_closed(door, kind())
        now[0] = 101.0
        assert not is_closed(door, kind())
        door.note(kind(), "route", DEMAND)
        assert not is_closed(door, kind())


@pytest.mark.parametrize(
    "other",
    [
        kind(size=100),
        kind(size=2000),
        kind(path="/v1/rerank"),
        kind(authorization="Bearer another"),
        kind(x_api_key="another"),
    ],
)
def test_others_are_not_taken_for_those_who_were_refused(other: Kind) -> None:
    with crowded() as door:
        for _ in range(2):
            door.note(kind(), "route", DEMAND)
        assert is_closed(door, kind(size=1030))
        assert not is_closed(door, other)


@pytest.mark.parametrize("nobody", [kind(size=0), kind(idempotency_key="once")])
def test_of_some_nothing_can_be_said_beforehand(nobody: Kind | None) -> None:
    with crowded() as door:
        for _ in range(3):
            door.note(nobody, "route", DEMAND)
            assert not is_closed(door, nobody)


def test_it_remembers_the_latest_kinds_alone() -> None:
    with crowded() as door:
        for number in range(300):
            for _ in range(2):
                door.note(kind(path=str(number)), "route", DEMAND)
        assert not is_closed(door, kind(path="0"))
        assert is_closed(door, kind(path="299"))


def test_a_refusal_at_the_door_is_like_one_inside(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.app.state.retriever.embedder.admission.permit(100, 60.0, "large"):  # type: ignore[attr-defined]
        inside = [client.post("/v1/embeddings", json=MANY) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr("service.routes.embeddings.read", None)  # it would fail if it were read
            outside = client.post("/v1/embeddings", json=MANY)
        for reply in (*inside, outside):
            assert_problem(reply, 429, "queue_full")
            assert reply.json()["error"]["type"] == "rate_limit_error"
            assert int(reply.headers["retry-after"]) == reply.json()["retry_after_seconds"] == 60
            assert reply.headers["x-request-id"] == reply.json()["request_id"]
        assert client.post("/v1/embeddings", json={"input": "red"}).status_code == 200
    assert client.post("/v1/embeddings", json=MANY).status_code == 200
    metrics = client.get("/metrics").text
    assert 'momoseek_rejected_total{reason="queue_full"} 3.0' in metrics
    assert 'code="429",method="POST",route="/v1/embeddings"} 3.0' in metrics
