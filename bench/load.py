"""Load on a real server, cheap enough to share its cores: prepared bytes over connections that are kept."""

import asyncio
import base64
import itertools
import json
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import uvloop

_PATIENCE_S = 120.0  # for a reply
_LOOK_S = 0.5  # between looks at a job: each takes something from it
_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
KEPT_S = 2.0  # a connection that is idle; servers close theirs after a few seconds


@dataclass(frozen=True)
class Reply:
    """What came of a request: when it was due, how long from then its last byte took, and its status.

    ``status`` is 0 where the connection was lost, or no reply came.
    """

    due: float
    seconds: float
    status: int

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time. What it costs is taken from the server beside it."""

    def __init__(self) -> None:
        self._got = bytearray()
        self._status = self._body_at = self._end = 0  # of the reply, once its head is here
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, url: str) -> Self:
        where = urlsplit(url)
        _, connection = await asyncio.get_running_loop().create_connection(
            cls, where.hostname or "", where.port or 80
        )
        return connection

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """The status and the body of the reply. Raises ConnectionResetError, TimeoutError."""
        if self._transport is None:
            raise ConnectionResetError
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(_PATIENCE_S):
            return await self._reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, of no common class

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._end and (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = self._got[:end].lower()
            start = head.index(b"content-length:") + 15
            self._status, self._body_at = int(head[9:12]), end + 4
            self._end = self._body_at + int(head[start:].split(b"\r", 1)[0])
        if self._end and len(self._got) >= self._end and self._reply is not None:
            reply = self._status, bytes(self._got[self._body_at : self._end])
            del self._got[: self._end]
            self._end = 0
            if not self._reply.done():
                self._reply.set_result(reply)


def post(path: str, body: bytes, media: str = "application/json", method: str = "POST") -> bytes:
    """The bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media}\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def closed(url: str, requests: Iterable[bytes], clients: int, seconds: float) -> list[Reply]:
    """Clients that each wait for their reply before they send the next request."""
    replies: list[Reply] = []
    coming = itertools.cycle(requests)
    until = time.perf_counter() + seconds

    async def client() -> None:
        connection = await Connection.open(url)
        while (due := time.perf_counter()) < until:
            status, _ = await connection.send(next(coming))
            replies.append(Reply(due, time.perf_counter() - due, status))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


class _BareConnection:
    """A connection without an event loop, and what is known of the reply that it waits for."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.socket = socket.create_connection((where.hostname or "", where.port or 80), _PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = self.since = 0.0  # of the request; when the last reply came
        self._head = b""
        self._left = -1  # bytes, once the head is here

    def send(self, request: bytes, due: float) -> None:
        self.due, self._head, self._left = due, b"", -1
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """The status, once all of the reply is here; 0 if the connection is lost."""
        data = self.socket.recv(1 << 18)
        if not data:
            return 0
        if self._left < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return None
            length = _LENGTH.search(self._head)
            assert length is not None
            self._left = end + 4 + int(length[1]) - len(self._head)
        else:
            self._left -= len(data)
        return None if self._left else int(self._head[9:12])


def offered(url: str, requests: Iterable[bytes], per_second: float, seconds: float) -> list[Reply]:
    """Requests that come when they come (a Poisson process), whether or not others have been answered.

    Without an event loop and its tasks: this process has its cores from the server.
    """
    replies: list[Reply] = []
    idle: list[_BareConnection] = []
    asked: dict[int, _BareConnection] = {}
    coming = itertools.cycle(requests)
    rng = np.random.default_rng(0)
    poll = select.epoll()

    def send(due: float) -> None:
        while idle and idle[0].since < time.perf_counter() - KEPT_S:
            idle.pop(0).socket.close()
        try:
            if idle:
                connection = idle.pop()
            else:
                connection = _BareConnection(url)
                poll.register(connection.socket, select.EPOLLIN)
        except OSError:
            replies.append(Reply(due, time.perf_counter() - due, 0))
            return
        try:
            connection.send(next(coming), due)
        except OSError:
            connection.socket.close()
            replies.append(Reply(due, time.perf_counter() - due, 0))
            return
        asked[connection.socket.fileno()] = connection

    def receive(number: int) -> None:
        connection = asked.get(number)
        if connection is None:  # idle, and closed by the server
            gone = next(other for other in idle if other.socket.fileno() == number)
            idle.remove(gone)
            gone.socket.close()
            return
        try:
            status = connection.receive()
        except OSError:
            status = 0
        if status is None:
            return
        del asked[number]
        connection.since = time.perf_counter()
        replies.append(Reply(connection.due, connection.since - connection.due, status))
        if status:
            idle.append(connection)
        else:
            connection.socket.close()

    due = time.perf_counter()
    until = due + seconds
    while due < until or (asked and time.perf_counter() < until + _PATIENCE_S):
        while due < until and due <= time.perf_counter():
            send(due)
            due += rng.exponential(1 / per_second)
        for number, _ in poll.poll(max(0.0, due - time.perf_counter()) if due < until else _LOOK_S):
            receive(number)
    now = time.perf_counter()
    replies += [Reply(connection.due, now - connection.due, 0) for connection in asked.values()]
    for connection in (*idle, *asked.values()):
        connection.socket.close()
    poll.close()
    return replies


def per_second(replies: list[Reply]) -> float:
    """Good replies a second, from the first request to the last good reply."""
    good = [reply for reply in replies if reply.ok]
    if not good:
        return 0.0
    return len(good) / (
        max(reply.due + reply.seconds for reply in good) - min(reply.due for reply in replies)
    )


def quantile_ms(replies: Iterable[Reply], share: float) -> float:
    """A quantile of the times, in milliseconds; 0 of none."""
    times = [reply.seconds for reply in replies]
    return 1000 * float(np.quantile(times, share)) if times else 0.0


def serve(data_dir: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """A real server that answers, and its address."""
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data-dir", str(data_dir)]
    process = subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    line = next((line for line in process.stdout if "momoseek is at" in line), None)
    if line is None:
        raise RuntimeError(f"the server ended with {process.wait()}")
    return process, line.split()[3]


@contextmanager
def served(data_dir: Path, *flags: str) -> Iterator[str]:
    """A real server for a while; gives its address."""
    process, url = serve(data_dir, *flags)
    try:
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def json_body(value: Any) -> bytes:
    """A value as the body of a request."""
    return json.dumps(value).encode()


def encoded(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def send(
    url: str, method: str, path: str, body: bytes | None = None, media: str = "application/json"
) -> bytes:
    """The body of a reply to one request."""
    with urlopen(Request(url + path, body, {"Content-Type": media}, method=method), timeout=60) as reply:
        data: bytes = reply.read()
        return data


def job_rate(url: str, lines: bytes) -> float:
    """Lines a second of a bulk job, from the request on until, as the job itself says, it ended."""
    started = time.time()
    job = json.loads(send(url, "POST", "/v1/collections/bulk/bulk", lines, "application/x-ndjson"))
    while job["state"] in ("queued", "running"):
        time.sleep(_LOOK_S)
        job = json.loads(send(url, "GET", f"/v1/jobs/{job['id']}"))
    counts = job["counts"]
    assert (job["state"], counts["done"]) == ("succeeded", counts["total"]), job
    return float(counts["done"] / (job["ended_at"] - started))


def time_until_calm(url: str, requests: Sequence[bytes], unloaded_ms: float) -> float:
    """Seconds until five requests in a row take no longer than twice what they took before the flood."""

    async def run() -> float:
        connection, started, calm = await Connection.open(url), time.perf_counter(), 0
        for number in range(10_000):
            asked = time.perf_counter()
            status, _ = await connection.send(requests[number % len(requests)])
            took_ms = 1000 * (time.perf_counter() - asked)
            calm = calm + 1 if status == 200 and took_ms <= 2 * unloaded_ms else 0
            if calm == 5:
                return asked - started
            if status != 200:
                await asyncio.sleep(0.05)
        raise RuntimeError("the server never calmed down")

    return uvloop.run(run())
