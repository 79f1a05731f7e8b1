"""A real PostgreSQL for the tests that want one: Debian's, started once in a temporary folder."""

import atexit
import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
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
    """Start a server that listens on a socket in its own folder only; the folder."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    cluster = folder / "cluster"
    _run(
        binaries / "initdb",
        "--pgdata",
        str(cluster),
        "--username",
        "postgres",
        "--auth",
        "trust",
        "-E",
        "UTF8",
    )
    # Without fsync: what is tested here is what transactions see, not what survives a power cut.
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    pg_ctl = (binaries / "pg_ctl", "--pgdata", str(cluster), "--wait")
    _run(*pg_ctl, "--log", str(folder / "log"), "--options", options, "start")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(_run, *pg_ctl, "--mode", "immediate", "stop")
    return folder


def _run(binary: Path, *arguments: str) -> None:
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*user, str(binary), *arguments], check=True, capture_output=True, cwd="/")
