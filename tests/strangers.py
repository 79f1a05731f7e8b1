"""Other people's servers on loopback addresses, which answer with given bytes or with a function that talks.

In the internet of these tests 127.0.0.2 is a public address. 127.0.0.1 stays what it is: this very machine.
"""

import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from service.fetch import Internet
from service.urls import Address, is_public

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
Talk = Callable[[socket.socket], None]


def answer(content: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def redirect(location: str, status: str = "302 Found") -> bytes:
    """An answer that leads elsewhere."""
    return answer(b"", f"Location: {location}", status=status)


@dataclass
class Stranger:
    """A server that notes the heads of the requests that it gets."""

    port: int
    answers: dict[str, bytes | Talk] = field(default_factory=dict)  # by path
    heads: list[str] = field(default_factory=list)
    connections: int = 0

    def talk(self, connection: socket.socket) -> None:
        """Answer one request, by its path."""
        self.connections += 1
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := connection.recv(65536)):
                return
            head += data
        self.heads.append(head.decode())
        said = self.answers.get(head.split()[1].decode(), answer(b"", status="404 Not Found"))
        if isinstance(said, bytes):
            connection.sendall(said)
        else:
            said(connection)


@contextmanager
def stranger(
    address: str, wrap: Callable[[socket.socket], socket.socket] = lambda raw: raw
) -> Iterator[Stranger]:
    """A server at this loopback address, until the block is left; ``wrap`` may add TLS."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), wrap(self.request) as connection:  # whom it talks to may have had enough
                found.talk(connection)

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        request_queue_size = 64
        daemon_threads = True
        block_on_close = False

    with Server((address, 0), Handler) as server:
        found = Stranger(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join(5)


@dataclass
class Names:
    """A name server: each name has a list of answers, the last of which it gives for ever."""

    answers: Mapping[str, Sequence[Sequence[str]]]
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str) -> Sequence[str]:
        told = self.asked.count(host)
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        answers = self.answers[host]
        return answers[min(told, len(answers) - 1)]


def is_open(address: Address) -> bool:
    """As in the real internet, but for the one address that stands for all public ones."""
    return is_public(address) or address == ipaddress.ip_address(PUBLIC)


def internet(names: Callable[[str], Sequence[str]], **more: Any) -> Internet:
    """One in which these names lead to strangers."""
    return Internet(resolve=names, is_open=is_open, **more)
