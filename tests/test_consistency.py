"""Read your writes: what a reply to a write promises, and that a search which carries its token keeps it."""

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from index.folders import store_in
from index.rebuild import Rebuilder
from service.app import create_app
from service.config import Settings
from service.stores import open_catalog
from tests.fakes import FakeEncoder, square
from tests.problems import assert_problem

C = "/v1/collections/c"
WITHIN_S = 20.0


@pytest.fixture
def replica(settings: Settings, client: TestClient) -> Iterator[TestClient]:
    """Another API process on the same data, which looks for news once a minute."""
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
        yield api


def put(api: TestClient, *words: str, **params: Any) -> Any:
    """The reply to a write of an item for each word, called by it."""
    items = [{"id": word, "text": word} for word in words]
    return api.put(f"{C}/items", json={"items": items}, params=params)


def search(api: TestClient, query: str, token: str | None = None, **consistency: Any) -> Any:
    """The reply to a search that must see a write."""
    body: dict[str, Any] = {"query": query, "limit": 3}
    if token is not None:
        body["consistency"] = {"write_token": token} | consistency
    return api.post(f"{C}/search", json=body)


def first(reply: Any) -> str:
    """The id of the best result."""
    assert reply.status_code == 200, reply.text
    return str(reply.json()["results"][0]["id"])


# -- what a reply promises


@pytest.mark.parametrize("wait", ["durable", "searchable"])
def test_a_reply_says_how_far_the_write_has_come(client: TestClient, wait: str) -> None:
    reply = put(client, "red", wait=wait)
    assert (reply.status_code, reply.json()["state"]) == (200, wait)
    assert reply.json()["write_token"] == "wt_0000000001"
    found = search(client, "red", reply.json()["write_token"])
    assert first(found) == "red"
    assert found.json()["index"]["covers_token"] >= reply.json()["write_token"]


def test_an_index_that_does_not_catch_up_is_not_waited_for(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: Any = client.app.state  # type: ignore[attr-defined]
    index = state.retriever.index("c")
    refresh, held = index.refresh, threading.Event()
    monkeypatch.setattr(index, "refresh", lambda: held.wait(WITHIN_S) and refresh())
    started = time.monotonic()
    reply = put(client, "red", timeout_ms=100).json()
    assert 0.09 < time.monotonic() - started < 5
    assert (reply["state"], reply["items"][0]["status"]) == ("durable", "created")
    held.set()
    assert put(client, "green", timeout_ms=10_000).json()["state"] == "searchable"
    assert first(search(client, "red", reply["write_token"])) == "red"


def test_a_refresh_that_fails_leaves_the_write_durable(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: Any = client.app.state  # type: ignore[attr-defined]
    index = state.retriever.index("c")
    with monkeypatch.context() as broken:
        broken.setattr(index, "refresh", lambda: 1 / 0)
        reply = put(client, "red", timeout_ms=1000).json()
    assert reply["state"] == "durable"
    assert first(search(client, "red", reply["write_token"])) == "red"


# -- accepted


def wait_for(api: TestClient, job: str) -> dict[str, Any]:
    """A job at its end."""
    until = time.monotonic() + WITHIN_S
    while (found := api.get(f"/v1/jobs/{job}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < until
        time.sleep(0.01)
    return cast(dict[str, Any], found)


def test_what_is_accepted_is_a_job_that_writes_it(client: TestClient) -> None:
    picture = base64.b64encode(square("blue")).decode()
    items = [
        {"id": "words", "text": "red", "metadata": {"n": 1}},
        {"id": "picture", "image": {"base64": picture}},
        {"id": "nothing"},
        {"id": "bad", "text": "poison"},
    ]
    reply = client.put(f"{C}/items", json={"items": items}, params={"wait": "accepted"})
    assert reply.status_code == 202, reply.text
    body = reply.json()
    assert [item["status"] for item in body["items"]] == ["accepted", "accepted", "failed", "accepted"]
    assert (body["state"], body["errors"], "write_token" in body) == ("accepted", True, False)
    job = wait_for(client, body["job"])
    assert (job["state"], job["counts"]) == ("succeeded", {"total": 3, "done": 2, "failed": 1, "skipped": 0})
    assert client.get(f"{C}/items/words").json()["metadata"] == {"n": 1}
    assert client.get(f"{C}/images/picture").content == square("blue")
    assert first(search(client, "blue")) == "picture"


def test_a_form_is_accepted_too(client: TestClient) -> None:
    reply = client.put(
        f"{C}/items", data={"id": "p"}, files={"file": square("green")}, params={"wait": "accepted"}
    )
    assert reply.status_code == 202, reply.text
    wait_for(client, reply.json()["job"])
    assert client.get(f"{C}/images/p").content == square("green")


def test_what_was_accepted_outlives_the_process(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as idle:

        async def nothing(runner: Any) -> None:
            """A runner that dies before it begins."""

        idle.setattr("service.jobs_runner.JobRunner.run", nothing)
        with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
            api.put(C)
            job = put(api, "red", wait="accepted").json()["job"]
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
        assert wait_for(api, job)["counts"]["done"] == 1
        assert first(search(api, "red")) == "red"


def test_nothing_good_is_no_job(client: TestClient) -> None:
    reply = client.put(f"{C}/items", json={"items": [{"id": "x"}]}, params={"wait": "accepted"})
    assert (reply.status_code, reply.json()["errors"], "job" in reply.json()) == (202, True, False)
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_a_condition_cannot_be_kept_of_what_is_written_later(client: TestClient) -> None:
    reply = client.put(
        f"{C}/items",
        json={"items": [{"id": "x", "text": "red"}]},
        params={"wait": "accepted"},
        headers={"If-None-Match": "*"},
    )
    assert_problem(reply, 422, "precondition_needs_one_item")


# -- a token that a search carries


def test_a_replica_sees_the_write_whose_token_it_is_given(client: TestClient, replica: TestClient) -> None:
    assert search(replica, "red").json()["results"] == []
    for word in ("red", "green", "blue"):
        token = put(client, word).json()["write_token"]
        found = search(replica, word, token)
        assert (first(found), found.json()["index"]["covers_token"] >= token) == (word, True)


def test_a_token_holds_across_swaps(client: TestClient, replica: TestClient, settings: Settings) -> None:
    catalog = open_catalog(settings)
    rebuilder = Rebuilder(catalog, store_in(settings.snapshots_dir), lambda _: None)
    for generation, word in enumerate(("red", "green", "blue"), 1):
        token = put(client, word).json()["write_token"]
        assert rebuilder.rebuild("c", "test", 0.0).generation == generation
        for api in (client, replica):
            api.app.state.retriever.index("c").refresh()  # type: ignore[attr-defined]
            found = search(api, word, token)
            assert (first(found), found.json()["index"]["generation"]) == (word, generation)
    catalog.close()


def test_a_write_that_is_nowhere_yet_is_waited_for_and_said_so(client: TestClient) -> None:
    put(client, "red")
    started = time.monotonic()
    reply = search(client, "red", "wt_0000000009", timeout_ms=200)
    assert_problem(reply, 504, "write_not_covered")
    assert "ends at wt_0000000001" in reply.json()["detail"]
    assert reply.headers["retry-after"] == "1"
    assert 0.2 <= time.monotonic() - started < 5
    assert_problem(search(client, "red", "wt_0000000009", timeout_ms=0), 504, "write_not_covered")


def test_a_write_that_comes_while_it_is_waited_for_is_seen(client: TestClient, replica: TestClient) -> None:
    put(client, "green")
    search(
        replica, "green"
    )  # FastAPI makes a route ready at its first request, and not in two threads at once
    writer = threading.Timer(0.2, put, (client, "red"))
    writer.start()
    assert first(search(replica, "red", "wt_0000000002", timeout_ms=10_000)) == "red"
    writer.join()


def test_every_kind_of_search_takes_a_token(client: TestClient, replica: TestClient) -> None:
    token = put(client, "red", "green").json()["write_token"]
    consistency = {"write_token": token}
    body = {"searches": [{"query": "red", "consistency": consistency}]}
    [found] = replica.post(f"{C}/search/batch", json=body).json()["results"]
    assert found["reply"]["results"][0]["id"] == "red"
    like: dict[str, Any] = {"positive": ["red"], "consistency": consistency}
    assert first(replica.post(f"{C}/recommend", json=like)) == "green"
    form = {"query": "red", "consistency": '{"write_token": "wt_00000000ff", "timeout_ms": 0}'}
    reply = replica.post(f"{C}/search", data=form, files={"file": square("red")})
    assert_problem(reply, 504, "write_not_covered")


@pytest.mark.parametrize("token", ["", "wt_", "wt_xyz", "4", "wt_1_2", "wt_" + "f" * 16])
def test_what_is_no_token_is_told(client: TestClient, token: str) -> None:
    assert_problem(search(client, "red", token), 422, "write_token_invalid")
