"""Bodies: bounded each and together, in size and in time; and the work for a client who left."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import pytest
from starlette.types import Message, Receive

from service.bodies import BodyTooLarge
from service.intake import BodyTooSlow, Intake, ShuttingDown, TooManyBodies
from tests.served import Served, serving

Body = Sequence[bytes | float]  # pieces, and seconds without any


def coming(body: Body) -> Receive:
    """A client that sends a body, and then stays."""
    pieces = iter(body)

    async def receive() -> Message:
        for piece in pieces:
            if isinstance(piece, bytes):
                return {"type": "http.request", "body": piece, "more_body": True}
            await asyncio.sleep(piece)
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")

    return receive


async def read(receive: Receive, pieces: int) -> int:
    """How many bytes came."""
    return sum([len((await receive())["body"]) for _ in range(pieces)])


def reading(
    intake: Intake, *bodies: Body, streamed: bool = False, before: Callable[[], None] = lambda: None
) -> list[int | BaseException]:
    """What comes of reading bodies at the same time."""

    async def one(body: Body) -> int:
        async with intake.receiving(coming(body), 0, streamed=streamed, left=lambda: None) as receive:
            number = await read(receive, sum(isinstance(piece, bytes) for piece in body))
            await asyncio.sleep(0.05)  # it is held as long as the request lasts
            return number

    async def run() -> list[int | BaseException]:
        asyncio.get_running_loop().call_later(0.1, before)
        return await asyncio.gather(*map(one, bodies), return_exceptions=True)

    return asyncio.run(run())


def test_a_body_may_have_so_many_bytes_and_no_more() -> None:
    intake = Intake(10, 1000, 5)
    assert reading(intake, [b"12345", b"67890"]) == [10]
    (error,) = reading(intake, [b"12345", b"678901"])
    assert isinstance(error, BodyTooLarge)
    assert reading(intake, [b"12345", b"678901"], streamed=True) == [11]


def test_a_body_that_announces_too_much_is_not_read_at_all() -> None:
    async def run() -> None:
        async with Intake(10, 1000, 5).receiving(coming([]), 11, streamed=False, left=lambda: None):
            pass

    with pytest.raises(BodyTooLarge):
        asyncio.run(run())


def test_bodies_share_the_memory_that_there_is_and_give_it_back() -> None:
    intake = Intake(10, 20, 5)
    results = reading(intake, [b"12345678"], [b"12345678"], [b"12345678"])
    assert [type(result) for result in results] == [int, int, TooManyBodies]
    assert reading(intake, [b"12345678"], [b"12345678"]) == [8, 8]


def test_a_client_that_sends_nothing_is_not_waited_for() -> None:
    intake = Intake(10, 100, 0.1)
    patient, impatient = reading(intake, [b"1", 0.02, b"2", 0.02, b"3"], [b"1", 5.0, b"2"])
    assert (patient, type(impatient)) == (3, BodyTooSlow)


def test_a_client_that_sends_a_byte_now_and_then_is_not_waited_for_either() -> None:
    drops: Body = [*(b"1", 0.04) * 10, b"1"]
    intake = Intake(100, 100, 0.2)
    (error,) = reading(intake, drops)
    assert isinstance(error, BodyTooSlow)
    assert reading(intake, drops, streamed=True) == [11]  # lines may take as long as it takes to make them


def test_at_the_end_nobody_is_waited_for() -> None:
    intake = Intake(100, 100, 60)
    started = time.monotonic()
    (error,) = reading(intake, [b"1", 5.0, b"2"], before=intake.drain)
    assert isinstance(error, ShuttingDown)
    assert time.monotonic() - started < 1


@contextmanager
def begun(url: str, method: str, path: str, body: bytes, *, rest: int = 0) -> Iterator[socket.socket]:
    """A connection on which a request was sent but for the last bytes of its body."""
    where = urlsplit(url)
    media = "application/x-ndjson" if path.endswith("/bulk") else "application/json"
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media}\r\n"
    length = f"content-length: {len(body) + rest}\r\n\r\n"
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as connection:
        connection.sendall(head.encode() + length.encode() + body)
        yield connection


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slowed(served: Served, seconds: float) -> list[str]:
    """Let every batch take so long; the texts that were embedded since."""
    encoder = cast(Any, served.refusing.app).state.retriever.encoder
    given, embed = list[str](), encoder.embed

    def slow(documents: Any) -> Any:
        given.extend(document.parts[0] for document in documents)
        time.sleep(seconds)
        return embed(documents)

    encoder.embed = slow
    return given


def test_work_for_a_client_who_left_is_not_done(tmp_path: Path) -> None:
    with serving(tmp_path, max_batch=1) as served:
        given = slowed(served, 0.1)
        body = json.dumps({"input": [f"text {number}" for number in range(50)]}).encode()
        with begun(served.url, "POST", "/v1/embeddings", body):
            until(lambda: len(given) > 1)
        assert httpx2.post(f"{served.url}/v1/embeddings", json={"input": "next"}).status_code == 200
        assert given[-1] == "next"
        assert len(given) < 25
        assert "momoseek_cancelled_total 1.0" in httpx2.get(f"{served.url}/metrics").text


def test_a_write_is_done_though_its_client_left(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        httpx2.put(f"{served.url}/v1/collections/c")
        given = slowed(served, 0.3)
        body = json.dumps({"items": [{"id": "a", "text": "red"}]}).encode()
        with begun(served.url, "PUT", "/v1/collections/c/items", body):
            until(lambda: bool(given))
        until(lambda: httpx2.get(f"{served.url}/v1/collections/c/items/a").status_code == 200)


def test_a_client_that_stops_in_the_middle_of_a_body_is_told(tmp_path: Path) -> None:
    with (
        serving(tmp_path, body_timeout_s=0.2) as served,
        begun(served.url, "POST", "/v1/embeddings", b'{"input', rest=10) as connection,
    ):
        reply = connection.recv(4096)
    assert b" 408 " in reply
    assert b"body_too_slow" in reply


def test_lines_that_are_still_coming_are_refused_when_the_service_ends(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        httpx2.put(f"{served.url}/v1/collections/c")
        lines = b'{"item": {"id": "a", "text": "red"}}\n'
        with begun(served.url, "POST", "/v1/collections/c/bulk", lines, rest=1000) as connection:
            time.sleep(0.2)
            app, loop = cast(Any, served.refusing.app), served.refusing.loop
            assert loop is not None
            loop.call_soon_threadsafe(app.state.intake.drain)
            assert b" 503 " in connection.recv(4096)
        assert httpx2.get(f"{served.url}/v1/jobs").json()["jobs"] == []
