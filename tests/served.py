"""An API around the fake encoder on a real socket, in a thread, which can be told to refuse requests."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app import create_app
from service.config import Settings
from tests.fakes import FakeEncoder

Refusal = tuple[int, dict[str, str], bytes]  # status, headers, content


@dataclass
class Refusing:
    """A server that refuses the first requests as it is told, and notes what comes."""

    app: ASGIApp
    refusals: list[Refusal] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None  # in which it runs
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, path, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            self.loop = asyncio.get_running_loop()
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen.append((scope["method"], scope["path"], headers))
        if not self.refusals:
            await self.app(scope, receive, send)
            return
        status, more, content = self.refusals.pop(0)
        raw = [(name.encode(), value.encode()) for name, value in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})


@dataclass(frozen=True)
class Served:
    """Where it listens, and what stands before it."""

    url: str
    refusing: Refusing


@contextmanager
def serving(data_dir: Path, **options: Any) -> Iterator[Served]:
    """A server without collections, with these settings, stopped when the block is left."""
    settings = Settings(data_dir=data_dir, worker=False, refresh_s=60, **options)
    refusing = Refusing(create_app(settings, cast(Any, FakeEncoder())))
    config = uvicorn.Config(refusing, port=0, log_level="error", ws="none", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Served(f"http://127.0.0.1:{port}", refusing)
    finally:
        server.should_exit = True
        thread.join(20)
