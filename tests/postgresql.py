"""A real PostgreSQL for the tests that want one: Debian's, started once in a temporary folder."""

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa


def fresh_database() -> str:
    """The SQLAlchemy URL of an empty database; skips the test where there is no server to be had."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not binaries:
        pytest.skip("Debian's package postgresql is not installed")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("the extra `postgres` is not installed")
    url = f"postgresql+psycopg://postgres@/postgres?host={_server(binaries[-1])}"
    name = f"test_{uuid.uuid4().hex}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:  # a schema is as good as a database, and made a hundred times faster
        connection.execute(sa.schema.CreateSchema(name))
    engine.dispose()
    return f"{url}&options=-csearch_path%3D{name}"


@functools.cache
def _server(binaries: Path) -> Path:
    """Start a server that ends with this process and listens on a socket in its folder; the folder."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    cluster = folder / "cluster"
    as_postgres = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        as_postgres += ["--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    initdb = [
        str(binaries / "initdb"),
        "--username",
        "postgres",
        "--auth",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(
        [*as_postgres, *initdb, "--pgdata", str(cluster)], check=True, capture_output=True, cwd="/"
    )
    # Without fsync: what is tested here is what transactions see, not what survives a power cut.
    settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off"]
    flags = [part for setting in settings for part in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        command = [*as_postgres, str(binaries / "postgres"), "-D", str(cluster), *flags]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
    atexit.register(_stop, server, folder)
    ready = [str(binaries / "pg_isready"), "--host", str(folder), "--username", "postgres"]
    for _ in range(600):
        if subprocess.run(ready, capture_output=True).returncode == 0:
            return folder
        time.sleep(0.05)
    raise AssertionError((folder / "log").read_text())


def _stop(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    server.send_signal(signal.SIGQUIT)
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)
