"""Shared fixtures: the real encoder, a real server with the gallery, and an API around the computing fake."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from fastapi.testclient import TestClient

from models.bundle import Bundle
from models.encoder import Encoder
from service.app import create_app
from service.config import Settings
from tests import clusters
from tests.fakes import FakeEncoder
from tests.postgresql import fresh_database

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


@dataclass
class Server:
    """A running ``momoseek serve``."""

    url: str
    data_dir: Path
    process: subprocess.Popen[str]
    output: list[str]
    reader: threading.Thread

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.reader.join(20)
        return status


def start_server(data_dir: Path, *flags: str, timeout_s: float = 120.0) -> Server:
    """Start a server on a free port and wait until it is ready."""
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
        *flags,
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_environment(),
    )
    output: list[str] = []
    reader = threading.Thread(target=_collect, args=(process, output), daemon=True)
    reader.start()
    server = Server("", data_dir, process, output, reader)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        server.url = _address(output)
        if server.url and httpx2.get(f"{server.url}/readyz").status_code == 200:
            return server
        time.sleep(0.05)
    server.stop(signal.SIGKILL)
    raise AssertionError("the server did not become ready:\n" + "".join(server.output))


def _collect(process: subprocess.Popen[str], output: list[str]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        output.extend(lines)


def _address(output: list[str]) -> str:
    found = re.search(r"momoseek is at (http://\S+)", "".join(output))
    return found[1] if found else ""


def clean_environment() -> dict[str, str]:
    """The environment without our own variables, so that a developer's settings do not change a test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MOMOSEEK_")}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty catalog."""
    return fresh_database() if request.param == "postgresql" else f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The packaged bundle on the CPU."""
    return Encoder.load(Bundle.default_path(), device="cpu")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with the gallery indexed. Tests may add collections and items of their own."""
    running = start_server(tmp_path_factory.mktemp("server"), "--gallery")
    yield running
    assert running.stop() == 0, "".join(running.output)


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    """An encoder that computes colours."""
    return FakeEncoder()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings in a folder of the test's own, without a worker, watcher or recall sample that interferes."""
    return Settings(
        data_dir=tmp_path / "data",
        worker=False,
        refresh_s=60,
        allowed_hosts="testserver",
        recall_sample_share=0,
    )


@pytest.fixture
def client(settings: Settings, fake_encoder: FakeEncoder) -> Iterator[TestClient]:
    """An API around the fake encoder, with an empty collection "c"."""
    with TestClient(create_app(settings, cast(Any, fake_encoder))) as api:
        assert api.put("/v1/collections/c").status_code == 201
        yield api


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Server]:
    """A standalone Milvus server; one for all tests that need it."""
    server = clusters.Server(tmp_path_factory.mktemp("milvus") / "files")
    server.start()
    yield server
    server.kill()
