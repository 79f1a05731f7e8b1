"""``momoseek serve``: check the machine, index the gallery, serve, and say where."""

import asyncio
import gc
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing

import uvicorn
import uvloop
from rich.table import Table

from service.app import create_app
from service.compose import open_encoder
from service.config import Settings, as_environment, without_password
from service.console import CommandError, err, out
from service.sources import gallery
from service.stores import open_catalog, open_tokens
from service.supervisor import own_command
from service.wire import Wire

_STEP_ASIDE_S = 0.0005


def serve(settings: Settings, origins: dict[str, str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    _print_settings(settings, origins)
    # What may be wrong with the machine is found here, before anything serves.
    tokens = open_tokens(settings)
    with closing(open_catalog(settings)) as catalog:
        locked = tokens is not None or len(catalog.keys.ring()) > 0
    listener = bound(settings, locked)
    # Until uvicorn takes over, a signal must also end the process that indexes the gallery.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if settings.gallery:
        _index_gallery(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listener.getsockname()[1]}"
    app = create_app(settings, open_encoder(settings))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=Wire,
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=10,
            server_header=False,
        )
    )

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not (server.started or serving.done()):
            await asyncio.sleep(0.02)
        if server.started:
            # What is here now stays: looking through it again and again would halt every request.
            gc.collect()
            gc.freeze()
            _print_address(address, settings, locked)
        while not (server.should_exit or serving.done()):
            await asyncio.sleep(0.1)
        app.state.intake.drain()
        await serving

    # Who answers requests waits so long, and no longer, for a thread that encodes or decodes to step aside.
    sys.setswitchinterval(_STEP_ASIDE_S)
    # uvicorn raises the signal again once it has drained; by then it has done its work.
    signal.signal(signal.SIGTERM, lambda *_: None)
    uvloop.run(run())
    return 0 if server.started else 1


def bound(settings: Settings, locked: bool) -> socket.socket:
    """A socket that listens. Raises CommandError if it cannot, or if it would give everybody everything."""
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. Else the body of a reply waits 40 ms for the client to acknowledge its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((settings.host, settings.port))
        own = ipaddress.ip_address(listener.getsockname()[0])
        if not (locked or settings.open_to_everybody or own.is_loopback):
            raise CommandError(
                f"{settings.host} can be reached from other machines, and without an API key everybody could "
                "read, write and delete. Make a key with `momoseek key create NAME --scope admin`, or listen "
                "on 127.0.0.1, or say --open-to-everybody."
            )
        listener.listen(1024)
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        raise CommandError(f"cannot listen on {where}: {error.strerror}; try --port") from error
    except CommandError:
        listener.close()
        raise
    return listener


def _index_gallery(settings: Settings) -> None:
    """On the first start; in a process of its own, so that the memory it took is not kept while serving."""
    done = settings.data_dir / "gallery.indexed"
    if not done.exists():
        command = [*own_command(), "index", str(gallery()), "--collection", "gallery"]
        if subprocess.run(command, env={**os.environ, **as_environment(settings)}).returncode:
            raise CommandError("the sample gallery could not be indexed")
        done.touch()


def _print_settings(settings: Settings, origins: dict[str, str]) -> None:
    table = Table("setting", "value", "from", box=None, title="settings", title_justify="left")
    for name, value in settings.model_dump().items():
        shown = "***" if name == "milvus_token" and value else without_password(str(value))
        table.add_row(name, shown, origins[name], style=None if origins[name] != "default" else "dim")
    err.print(table)


def _print_address(address: str, settings: Settings, locked: bool) -> None:
    collection = "gallery" if settings.gallery else "COLLECTION"
    key = "-H 'Authorization: Bearer KEY' " if locked else ""
    out.print(f"\nmomoseek is at [bold]{address}[/]  (API: {address}/docs)\n")
    out.print(
        f"curl -s {address}/v1/collections/{collection}/search {key}"
        '-H \'Content-Type: application/json\' -d \'{"query": "a sailing ship", "limit": 3}\'\n',
        soft_wrap=True,
        markup=False,
    )
