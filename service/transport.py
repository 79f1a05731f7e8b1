"""How the client reaches the server: kept connections, and further attempts at what may pass."""

import base64
import json
import random
import ssl
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ValidationError

from service.schemas import Problem

M = TypeVar("M", bound=BaseModel)
_FIRST_WAIT_S = 0.2  # between attempts; each later wait is twice as long
_PASSING = (502, 503, 504)  # what proxies say while a server restarts, often without Retry-After


class ClientError(Exception):
    """A call failed."""


class Unreachable(ClientError):
    """No reply came, nor at any further attempt. A write may have been done all the same."""


class Refused(ClientError):
    """The server's reply is an error: ``problem`` says which, and ``problem.code`` is stable."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.code}: {problem.detail}")
        self.problem = problem


class Transport:
    """Sends requests, from any thread, each on a connection of its own that is kept for a later one.

    What may pass is tried again, ``attempts`` times in all: no reply, and replies that say when to come
    again (Retry-After, waited for unless it is longer than ``max_wait_s``). Whatever is not a GET carries an
    Idempotency-Key, so that a write whose reply was lost is not done twice. ``url`` may have a path, under
    which a proxy serves the API; ``sleep`` takes seconds. Raises ValueError for a url that is none.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        attempts: int = 5,
        max_wait_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url!r} is no address such as http://127.0.0.1:8000")
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._tls = None if parts.scheme == "http" else tls or ssl.create_default_context()
        self._headers: dict[str, str] = {}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._max_wait_s = max_wait_s
        self.sleep = sleep
        self._idle: deque[HTTPConnection] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that no thread uses."""
        while self._idle:
            self._idle.pop().close()

    def send(
        self, method: str, path: str, body: bytes | IO[bytes] | None, *, media: str = "application/json"
    ) -> bytes:
        """The content of the reply; a file is sent from its beginning. Raises Refused or Unreachable."""
        headers = {**self._headers, "Content-Type": media}
        if body is not None and not isinstance(body, bytes):
            headers["Content-Length"] = str(body.seek(0, 2))
        if method != "GET":
            headers["Idempotency-Key"] = uuid.uuid4().hex  # the same at every attempt
        attempt = 1
        while True:
            failure: ClientError
            wait_s: float | None
            try:
                status, retry_after, content = self._exchange(method, path, body, headers)
            except (OSError, HTTPException) as error:
                failure = Unreachable(f"{method} {path}: {error or type(error).__name__}")
                # The server closes connections that were idle for long: a new one is worth trying at once.
                wait_s = 0.0 if attempt == 1 else _backoff_s(attempt - 1)
            else:
                if status < 400:
                    return content
                failure = Refused(_problem(status, content))
                wait_s = _retry_after_s(retry_after)
                if wait_s is None and status in _PASSING:
                    wait_s = _backoff_s(attempt)
            if wait_s is None or wait_s > self._max_wait_s or attempt >= self._attempts:
                raise failure
            self.sleep(wait_s)
            attempt += 1

    def _post(self, path: str, body: Mapping[str, Any]) -> None:
        """A call whose reply says nothing. Raises Refused or Unreachable."""
        self.send("POST", path, json_of(body).encode())

    def _call(self, method: str, path: str, reply: type[M], body: Mapping[str, Any] | None = None) -> M:
        sent = None if body is None else json_of(body).encode()
        return reply.model_validate_json(self.send(method, path, sent))

    def _exchange(
        self, method: str, path: str, body: bytes | IO[bytes] | None, headers: dict[str, str]
    ) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and content of the reply."""
        connection = self._connection()
        if body is not None and not isinstance(body, bytes):
            body.seek(0)
        try:
            connection.request(method, self._prefix + path, body, headers)
            reply = connection.getresponse()
            content = reply.read()
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | HTTPException):
                self.close()  # those that were kept as long are as likely to be closed at the other end
            raise
        self._idle.append(connection)
        return reply.status, reply.getheader("Retry-After"), content

    def _connection(self) -> HTTPConnection:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        if self._tls is None:
            return HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)


def given(**members: Any) -> dict[str, Any]:
    """The members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def json_of(value: Any) -> str:
    """JSON, in which a picture may be its bytes or its Path. Raises TypeError, and OSError for its file."""
    return json.dumps(value, default=_base64)


def path_of(name: str, *rest: str, under: str = "/v1/collections") -> str:
    """The path of a collection or, under another, of what is there, whatever characters its name has."""
    return "/".join([under, *(quote(part, safe="") for part in (name, *rest))])


def _base64(picture: object) -> str:
    if isinstance(picture, Path):
        picture = picture.read_bytes()
    if isinstance(picture, bytes):
        return base64.b64encode(picture).decode()
    raise TypeError(f"a {type(picture).__name__} is no JSON; a picture is bytes or a Path")


def _problem(status: int, content: bytes) -> Problem:
    """What the reply says, also where a proxy wrote it."""
    try:
        return Problem.model_validate_json(content)
    except ValidationError:
        shown = content[:200].decode("utf-8", "replace")
        return Problem(
            type="about:blank", title="An error", status=status, code=f"http_{status}", detail=shown
        )


def _backoff_s(attempt: int) -> float:
    """A wait that doubles, and differs between clients that failed together."""
    return _FIRST_WAIT_S * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)


def _retry_after_s(header: str | None) -> float | None:
    """The seconds that Retry-After asks for, as a number or as a date."""
    if header is None:
        return None
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
