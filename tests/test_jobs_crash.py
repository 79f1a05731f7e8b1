"""kill -9 in the middle of a bulk job: whoever goes on loses no line and does none again."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import httpx2

from index.catalog import Catalog
from index.vectors import Vectors
from models.preprocess import Document
from service.compose import running
from service.config import Settings
from service.jobs import Job, JobDesk
from service.metrics import Metrics
from service.stores import open_catalog, open_sources, open_spool
from tests.conftest import start_server
from tests.fakes import FakeEncoder
from tests.mortals import kill, start

LINES = 1500
KILLS = 6


class Telling(FakeEncoder):
    """Appends every text that it embedded to a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def embed(self, documents: Sequence[Document]) -> Vectors:
        time.sleep(0.003)
        rows = super().embed(documents)
        texts = [str(part) for document in documents for part in document.parts]
        os.write(self._file, "".join(f"{text}\n" for text in texts).encode())
        return rows


def carry_out(settings: Settings, told: Path) -> None:
    """Do all jobs there are."""

    async def run() -> None:
        async with running(settings, Metrics(), cast(Any, Telling(told))) as service:
            while await service.runner.step():
                pass

    asyncio.run(run())


def line(number: int) -> str:
    """Mostly an item to write; now and then nothing, a delete of an earlier item, or what cannot be done."""
    if number % 50 == 7:
        return ""
    if number % 50 == 17:
        return json.dumps({"op": "delete", "id": f"i{number - 11}"})
    if number % 50 == 27:
        return "{broken"
    text = "poison" if number % 50 == 37 else ""
    return json.dumps({"custom_id": f"l{number}", "item": {"id": f"i{number}", "text": f"w{number} {text}"}})


def failing(number: int) -> bool:
    return number % 50 in (27, 37)


def submitted(settings: Settings, catalog: Catalog) -> Job:
    """A job on all lines."""

    async def body() -> AsyncIterator[bytes]:
        yield "\n".join(map(line, range(1, LINES + 1))).encode()

    async def run() -> Job:
        desk = JobDesk(catalog, open_spool(settings), open_sources(settings), FakeEncoder().id, lambda: None)
        return (await desk.submit("c", body(), 0, None, None))[0]

    return asyncio.run(run())


def test_a_server_that_is_killed_goes_on_with_the_job_when_it_starts_again(tmp_path: Path) -> None:
    server = start_server(tmp_path, "--no-worker")
    httpx2.put(f"{server.url}/v1/collections/c").raise_for_status()
    items = [{"item": {"id": f"i{n}", "text": f"a drawing of {n} things"}} for n in range(1000)]
    reply = httpx2.post(
        f"{server.url}/v1/collections/c/bulk", content="\n".join(map(json.dumps, items)), timeout=30
    )
    assert reply.status_code == 202
    job = reply.json()
    deadline = time.monotonic() + 60
    while job["counts"]["done"] == 0:
        assert time.monotonic() < deadline
        job = httpx2.get(f"{server.url}{reply.headers['location']}").json()
    server.stop(signal.SIGKILL)
    server = start_server(tmp_path, "--no-worker")
    job = again = httpx2.get(f"{server.url}{reply.headers['location']}").json()
    assert 0 < again["counts"]["done"] < 1000
    while job["state"] == "running":
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
        job = httpx2.get(f"{server.url}{reply.headers['location']}").json()
    assert (job["state"], job["counts"]["done"], job["started_at"]) == (
        "succeeded",
        1000,
        again["started_at"],
    )
    collection = httpx2.get(f"{server.url}/v1/collections/c").json()
    assert collection["count"] == 1000
    assert server.stop() == 0


def test_every_line_is_accounted_for_once_however_often_the_process_is_killed(
    url: str, tmp_path: Path
) -> None:
    settings, told = Settings(data_dir=tmp_path, catalog_url=url, worker=False), tmp_path / "told"
    catalog, dice = open_catalog(settings), random.Random(7)
    catalog.create_collection("c", FakeEncoder().id, FakeEncoder().dim)
    told.touch()
    job = submitted(settings, catalog)
    checkpoints: list[tuple[int, int]] = []  # the line, and how much had been told by then
    for _ in range(KILLS):
        process, before = start(carry_out, settings, told), job.at_line
        deadline = time.monotonic() + 20
        while catalog.jobs.get(job.id).at_line == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(dice.uniform(0.0, 0.05))
        kill(process)
        job = catalog.jobs.get(job.id)
        assert (job.state, before < job.at_line < LINES) == ("running", True)
        checkpoints.append((job.at_line, told.stat().st_size))
    process = start(carry_out, settings, told)
    process.join(60)
    assert process.exitcode == 0

    numbers = range(1, LINES + 1)
    job = catalog.jobs.get(job.id)
    assert (job.state, job.at_line) == ("succeeded", LINES)
    said = [number for number in numbers if line(number)]
    bad = [number for number in said if failing(number)]
    assert (job.total, job.failed, job.skipped) == (len(said), len(bad), 0)
    assert job.done == len(said) - len(bad)
    assert [failure.line for failure in catalog.jobs.failures(job.id, 0, 10_000)] == bad
    gone = {number - 11 for number in numbers if number % 50 == 17} | set(bad)
    here = {f"i{number}" for number in said if number not in gone and number % 50 != 17}
    assert {item.id for item in catalog.scroll("c", "", 10_000)} == here
    assert catalog.collection("c").last_seq == job.done  # each item was written once
    everything = told.read_text()
    for done, size in checkpoints:
        again = {int(text.split()[0][1:]) for text in everything[size:].splitlines() if text.startswith("w")}
        assert min(again) > done
    assert list((tmp_path / "spool").glob("*")) == []
    catalog.close()
