"""How replies leave: the head and the first of the body in one packet."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Wire(HttpToolsProtocol):
    """uvicorn's protocol, which writes a reply's head and its body by themselves.

    Each write is a call of the system, and wakes the client, who takes a core from what encodes if he is on
    this machine.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Talk over this transport from now on."""
        super().connection_made(Joining(transport))


class Joining(asyncio.Transport):
    """A transport on which two writes of one turn of the event loop leave as one. Nothing waits longer."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._held = b""
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, with those before them if they wait for company."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data:
            self._held = bytes(data)
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close the connection once everything was sent."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._held = b""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Let what comes wait."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let it come."""
        self._transport.resume_reading()

    def _flush(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():  # as it is when the client has gone
            self._transport.write(held)
