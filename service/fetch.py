"""Pictures by URL: from hosts that the operator named, to which every redirect must lead as well.

A name is looked up once, and the connection goes to an address that was checked: a second answer of the name
server cannot lead elsewhere (DNS rebinding). No proxy, cookie or credential is ever used. What comes is
bounded in bytes and in time, and must not be compressed; whether it is a picture is for the decoder to say.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from service.images import TooManyBytes
from service.urls import (
    Address,
    Allowed,
    NotFetched,
    Target,
    UrlFetchDisabled,
    UrlNotAllowed,
    UrlUnreachable,
    address_of,
    is_public,
    redirected,
)

Resolve = Callable[[str], Sequence[str]]
Fetched = bytes | Exception

_MAX_REDIRECTS = 3
_MAX_ADDRESSES = 3  # of one name, tried one after the other
_MAX_HEAD_BYTES = 65_536
_AT_ONCE = 16
_AT_ONCE_IN_REQUEST = 8
_AT_ONCE_IN_BULK = 8  # so that requests have turns too
_LOOKUPS_AT_ONCE = 4
_REDIRECTS = (301, 302, 303, 307, 308)


def look_up(host: str) -> list[str]:
    """The addresses of a name, in the order in which to try them. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@cache
def verifying() -> ssl.SSLContext:
    """TLS that believes the machine's certificate authorities; they are read at the first use."""
    return ssl.create_default_context()


@dataclass(frozen=True)
class Internet:
    """How others are reached, and how long they are waited for: tests have one of their own."""

    resolve: Resolve = look_up
    is_open: Callable[[Address], bool] = is_public
    tls: Callable[[], ssl.SSLContext] = verifying
    connect_s: float = 3.0
    picture_s: float = 10.0  # with its redirects, and the wait for its turn
    request_s: float = 30.0  # all the pictures of one request


INTERNET = Internet()


class Fetcher:
    """Fetches pictures of at most ``max_bytes``, and ``max_request_bytes`` for one request.

    ``observe`` is told how long each took, and why it was not fetched if it was not.
    """

    def __init__(
        self,
        allowed: Allowed,
        *,
        max_bytes: int,
        max_request_bytes: int,
        internet: Internet = INTERNET,
        observe: Callable[[float, str | None], None] = lambda seconds, reason: None,
    ) -> None:
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._max_request_bytes = max_request_bytes
        self._internet = internet
        self._observe = observe
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._bulk_turns = asyncio.Semaphore(_AT_ONCE_IN_BULK)
        # A name server that does not answer must not take the threads that read the catalog.
        self._lookups = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, thread_name_prefix="lookup")

    def close(self) -> None:
        """Release the threads."""
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def fetch_all(self, urls: Iterable[str]) -> dict[str, Fetched]:
        """The bytes, or the error, of each of the pictures that one request names: each is asked for once.

        Together they are bounded as the body of a request is, in which they could have come.
        """
        most, patience_s = self._max_request_bytes, self._internet.request_s
        until = asyncio.get_running_loop().time() + patience_s
        turns = asyncio.Semaphore(_AT_ONCE_IN_REQUEST)
        size = 0

        async def fetch(url: str) -> Fetched:
            nonlocal size
            try:
                async with asyncio.timeout_at(until), turns:
                    picture = await self.fetch(url) if size <= most else b""
            except TimeoutError:
                return UrlUnreachable("timeout", f"The request's pictures took more than {patience_s:g} s.")
            except ValueError as error:
                return error
            size += len(picture)
            if size > most:
                return TooManyBytes(f"The request's pictures have more than {most} bytes together.")
            return picture

        wanted = list(dict.fromkeys(urls))
        return dict(zip(wanted, await asyncio.gather(*map(fetch, wanted)), strict=True))

    async def fetch_each(self, urls: Iterable[str]) -> dict[str, Fetched]:
        """The same for pictures that nobody waits for: each on its own, however long its turn takes."""

        async def fetch(url: str) -> Fetched:
            async with self._bulk_turns:
                try:
                    return await self.fetch(url)
                except ValueError as error:
                    return error

        wanted = list(dict.fromkeys(urls))
        return dict(zip(wanted, await asyncio.gather(*map(fetch, wanted)), strict=True))

    async def fetch(self, url: str) -> bytes:
        """The bytes of a picture, if they are one. Raises NotFetched, TooManyBytes."""
        started, reason = time.perf_counter(), None
        try:
            if not self._allowed:
                raise UrlFetchDisabled
            async with asyncio.timeout(self._internet.picture_s), self._turns:
                return await self._follow(url)
        except TimeoutError:
            reason = "timeout"
            raise UrlUnreachable(
                reason, f"The picture did not come within {self._internet.picture_s:g} s."
            ) from None
        except NotFetched as error:
            reason = error.reason
            raise
        except TooManyBytes:
            reason = "size"
            raise
        finally:
            self._observe(time.perf_counter() - started, reason)

    async def _follow(self, url: str) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            target = Target.of(url)
            self._allowed.check(target)
            answer = await self._get(target)
            if answer.location is None:
                return bytes(answer.content)
            url = redirected(url, answer.location)
        raise UrlNotAllowed("redirects", f"The URL is redirected more than {_MAX_REDIRECTS} times.")

    async def _get(self, target: Target) -> "_Answer":
        answer = _Answer(self._max_bytes)
        try:
            reader, writer = await self._connect(target, await self._addresses(target.host))
            try:
                writer.write(target.request)
                while not answer.complete:
                    answer.feed(await reader.read(_MAX_HEAD_BYTES))
            finally:
                writer.transport.abort()
        except OSError as error:  # ssl's errors are of this kind too
            reason = "timeout" if isinstance(error, TimeoutError) else "unreachable"
            raise UrlUnreachable(reason, f"{target.host!r} could not be reached, or broke off.") from error
        return answer

    async def _addresses(self, host: str) -> list[str]:
        """Where a host may be reached. Raises UrlNotAllowed, OSError."""
        if address_of(host):
            found: Sequence[str] = [host]
        else:
            look_up = partial(self._internet.resolve, host)
            async with asyncio.timeout(self._internet.connect_s):
                found = await asyncio.get_running_loop().run_in_executor(self._lookups, look_up)
        for text in found:
            address = address_of(text)
            if address is None or not (self._internet.is_open(address) or self._allowed.includes(address)):
                raise UrlNotAllowed("address", f"{host!r} is not at a public address.")
        return list(found[:_MAX_ADDRESSES])

    async def _connect(
        self, target: Target, addresses: Sequence[str]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        failure: OSError = OSError("the name has no address")
        for address in addresses:
            try:
                async with asyncio.timeout(self._internet.connect_s):
                    return await self._open(target, address)
            except OSError as error:
                failure = error
        raise failure

    async def _open(self, target: Target, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to this very address; TLS is about the name."""
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (address, target.port))
            if target.scheme == "http":
                return await asyncio.open_connection(sock=connection)
            tls = self._internet.tls()
            return await asyncio.open_connection(sock=connection, ssl=tls, server_hostname=target.host)
        except BaseException:
            connection.close()
            raise


class _Answer:
    """An answer as it comes: a picture's bytes, or where else to ask."""

    def __init__(self, max_bytes: int) -> None:
        self.content = bytearray()
        self.location: str | None = None
        self.complete = False
        self._max_bytes = max_bytes
        self._parser = HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._received = 0
        self._begun = False  # its head is known, and is not that of an interim answer

    def feed(self, data: bytes) -> None:
        """Take what came, b"" at the end. Raises UrlUnreachable, UrlNotAllowed, TooManyBytes."""
        if not data:
            if not self._begun or {"content-length", "transfer-encoding"} & set(self._headers):
                raise UrlUnreachable("unreachable", "The answer broke off.")
            self.complete = True  # only the end of the connection tells the end of the content
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise UrlUnreachable("answer", "The answer is not that of an HTTP server.") from error
        self._received += len(data)
        if self._begun:
            self._check_head()
        elif self._received > _MAX_HEAD_BYTES:
            raise UrlUnreachable("answer", f"The answer's head has more than {_MAX_HEAD_BYTES} bytes.")
        # What frames the content comes on top of it, and may itself be endless.
        if len(self.content) > self._max_bytes or self._received > 2 * self._max_bytes + _MAX_HEAD_BYTES:
            raise self._too_many()

    def _check_head(self) -> None:
        status = self._parser.get_status_code()
        if status in _REDIRECTS and "location" in self._headers:
            self.location, self.complete = self._headers["location"], True
        elif status != 200:
            raise UrlUnreachable("status", f"The answer has status {status}.")
        elif self._headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            # A small answer could unpack to a very large one.
            raise UrlNotAllowed("encoding", "The answer is compressed, which was not asked for.")
        elif int(self._headers.get("content-length", 0)) > self._max_bytes:
            raise self._too_many()

    def _too_many(self) -> TooManyBytes:
        return TooManyBytes(f"The picture has more than {self._max_bytes} bytes.")

    # -- what the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._begun:  # what comes behind the content says nothing about it
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._begun = self._parser.get_status_code() >= 200

    def on_body(self, body: bytes) -> None:
        self.content += body

    def on_message_complete(self) -> None:
        self.complete = self._begun
        if not self._begun:
            self._headers.clear()
