"""Requests and pictures that nobody would send: ``make fuzz CASES=10000``.

A server with a fake encoder, which reads pictures as any other does, meets first what schemathesis makes of
the OpenAPI document (all checks; once open to everybody, once with a key), then mutated pictures of eight
formats as uploads. Ends with one JSON line; exits 1 if a bar is missed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import httpx2
import psutil
import uvicorn

from service.app import create_app
from service.config import Settings
from tests.fakes import FakeEncoder
from tests.mutants import Upload, uploads

ROOT = Path(__file__).resolve().parent.parent
MAX_RSS_GROWTH_MB = 50
_WARM_UP = 500  # pictures before the memory is measured
_KEY = {"name": "fuzz", "scope": "admin"}
# Which collection and item most requests are about, so that they get further than "not found".
_AIMED = """
[parameters]
"path.collection" = "shop"
"path.item_id" = "sku-77"
"path.prefix" = "{spare}"

[[operations]]
include-name = "DELETE /v1/collections/{{collection}}"
parameters = {{ "path.collection" = "gone" }}
"""


@dataclass(frozen=True)
class Fuzzed:
    """A server to fuzz, and the key that opens it; "" while it is open to everybody.

    ``spare`` is the prefix of a key that may be revoked.
    """

    url: str
    process: psutil.Process
    key: str = ""
    spare: str = ""

    def client(self) -> httpx2.Client:
        """With the key."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60)

    def server_errors(self) -> int:
        """How often it answered 5xx, by its own account."""
        with self.client() as client:
            lines = client.get("/metrics").raise_for_status().text.splitlines()
        counted = [line for line in lines if line.startswith("momoseek_http_requests_total{")]
        return sum(int(float(line.rpartition(" ")[2])) for line in counted if 'code="5' in line)


@dataclass(frozen=True)
class Run:
    """What schemathesis found."""

    cases: int
    failures: int


def main() -> int:
    """Fuzz; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="generated requests, at least")
    parser.add_argument("--pictures", type=int, default=5000, help="mutated pictures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schemathesis", type=Path, required=True, help="its command")
    arguments = parser.parse_args()
    runs, errors = list[Run](), 0
    for locked in (False, True):
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder), locked=locked) as server:
            runs.append(requests(server, arguments.schemathesis, arguments.cases // 2, arguments.seed))
            errors += server.server_errors()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), locked=False) as server:
        growth_mb, lane_deaths = pictures(server, arguments.pictures, arguments.seed)
        errors += server.server_errors()
    cases, failures = sum(run.cases for run in runs), sum(run.failures for run in runs)
    print(f"pictures: {arguments.pictures}, lane deaths: {lane_deaths}, RSS growth: {growth_mb:.1f} MB")
    print(json.dumps({"cases": cases, "failures": failures, "server_errors": errors}))
    missed = cases < arguments.cases or failures or errors or lane_deaths or growth_mb > MAX_RSS_GROWTH_MB
    return int(bool(missed))


@contextmanager
def serving(folder: Path, *, locked: bool) -> Iterator[Fuzzed]:
    """A server with an item in the collection "shop", in a process of its own."""
    command = [sys.executable, "-c", f"from bench.fuzz import serve; serve({str(folder)!r})"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx2.Client(base_url=url, timeout=60) as client:
            client.put("/v1/collections/shop").raise_for_status()
            item = {"id": "sku-77", "text": "red", "metadata": {"price": 79.5, "product": "boot"}}
            client.put("/v1/collections/shop/items", json={"items": [item]}).raise_for_status()
        server = Fuzzed(url, psutil.Process(process.pid))
        yield with_keys(server) if locked else server
        assert process.poll() is None, "the server died"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def with_keys(server: Fuzzed) -> Fuzzed:
    """The server, locked."""
    for _ in range(2):  # the second key needs the first
        with server.client() as client:
            made = client.post("/v1/keys", json=_KEY).raise_for_status().json()
        server = replace(server, key=server.key or made["key"], spare=made["about"]["prefix"])
    return server


def serve(folder: str) -> None:
    """Serve from a folder on a free port, and print the address."""
    settings = Settings(data_dir=Path(folder), worker=False, metrics_open=False, log_level="error")
    app = create_app(settings, cast(Any, FakeEncoder()))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    listener = server.config.bind_socket()
    listener.listen()  # whoever connects from now on waits until it serves
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server.run([listener])


def requests(server: Fuzzed, command: Path, cases: int, seed: int) -> Run:
    """Let schemathesis make about so many requests; what fails is printed."""
    with httpx2.Client() as client:
        paths = client.get(f"{server.url}/openapi.json").raise_for_status().json()["paths"]
    operations = sum(map(len, paths.values()))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(
            _AIMED.format(spare=server.spare) if server.key else ""
        )
        arguments = [
            *("run", f"{server.url}/openapi.json", "--checks", "all", "--seed", str(seed)),
            # For each operation; what its schema demands to be covered comes on top, and is about as many.
            *("--max-examples", str(-(-cases // (2 * operations))), "--continue-on-failure", "--no-color"),
            *("--suppress-health-check", "all", "--generation-database", "none", "--warnings", "off"),
            *("--report", "json", "--report-json-path", f"{folder}/report.json"),
        ]
        if server.key:
            arguments += ["--header", f"Authorization: Bearer {server.key}"]
        else:  # nothing is ignored where nothing is asked for; and the first key would lock everybody out
            arguments += ["--exclude-checks", "ignored_auth", "--exclude-name", "POST /v1/keys"]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "bench.fuzz_hooks", "PYTHONPATH": str(ROOT)}
        subprocess.run([command.resolve(), *arguments], cwd=folder, env=environment, check=False)
        report = json.loads((Path(folder) / "report.json").read_text())
    found = report["test_cases"]
    failures = found["unique_failures"] + found["errored"] + sum(error["count"] for error in report["errors"])
    return Run(found["generated"], failures)


def pictures(server: Fuzzed, count: int, seed: int) -> tuple[float, int]:
    """Upload mutated pictures; the growth of memory in MB, and how often nobody was left to encode."""
    started_rss = 0
    deaths = 0
    with server.client() as client:
        for number, upload in enumerate(uploads(seed, _WARM_UP + count)):
            send(client, upload)
            if number % 500 == 499:
                ready = client.get("/readyz").status_code == 200
                deaths += not ready or not finds(client)
            if number == _WARM_UP - 1:
                started_rss = server.process.memory_info().rss
    return (server.process.memory_info().rss - started_rss) / 1e6, deaths


def send(client: httpx2.Client, upload: Upload) -> None:
    """One picture as an item; it is written or refused, and told so."""
    reply = client.put(
        "/v1/collections/shop/items",
        data={"id": f"picture-{upload.number % 50}"},
        files={"file": (upload.name, upload.content)},
    )
    assert reply.status_code == 200, (upload, reply.text)


def finds(client: httpx2.Client) -> bool:
    """Whether a search still finds what is there."""
    reply = client.post("/v1/collections/shop/search", json={"query": "red", "limit": 1, "target": "text"})
    return reply.status_code == 200 and [hit["id"] for hit in reply.json()["results"]] == ["sku-77"]


if __name__ == "__main__":
    sys.exit(main())
