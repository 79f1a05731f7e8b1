"""kill -9 of a real ``momoseek serve`` and of its worker, with writers on HTTP."""

import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image

from tests.conftest import ROOT, Server, clean_environment, start_server
from tests.ledger import EAGER, Ledger, Summary

WORDS = [
    "apple",
    "boat",
    "cat",
    "dog",
    "egg",
    "fish",
    "goat",
    "hat",
    "ice",
    "jar",
    "kite",
    "lamp",
    "moon",
    "nut",
    "owl",
    "pear",
    "queen",
    "rose",
    "sun",
    "tree",
]
IDS = 25  # of each writer


def kill_servers(folder: Path, bundle: Path, kills: int, dice: random.Random, summary: Summary) -> None:
    """Kill the worker of a server, then the server, start it again, look over HTTP."""
    ledgers = {"left": Ledger(), "right": Ledger()}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in EAGER.items()]
    flags.append(f"--bundle={bundle}")
    servers = [start_server(folder, *flags)]
    httpx2.put(f"{servers[-1].url}/v1/collections/c").raise_for_status()
    for left in range(kills, 0, -2):
        with writing(servers[-1], ledgers):
            time.sleep(dice.uniform(0.2, 1.0))
            if left > 1:
                os.kill(worker_of(servers[-1]), signal.SIGKILL)
                time.sleep(dice.uniform(0.0, 1.5))  # the supervisor starts another one
            servers[-1].process.kill()
        summary.kills += min(left, 2)
        servers.append(start_server(folder, *flags))
        for name, ledger in ledgers.items():
            look_over_http(servers[-1], name, ledger, summary)
    statuses = [server.stop() for server in servers]
    assert statuses == [-signal.SIGKILL] * (len(servers) - 1) + [0]
    for ledger in ledgers.values():
        summary.add(ledger)
    audit_by_command(folder, summary)


@contextmanager
def writing(server: Server, ledgers: Mapping[str, Ledger]) -> Iterator[None]:
    """Writers at work, until the server dies under them."""
    writers = [threading.Thread(target=write_over_http, args=(server, *entry)) for entry in ledgers.items()]
    for writer in writers:
        writer.start()
    yield
    for writer in writers:
        writer.join()


def write_over_http(server: Server, name: str, ledger: Ledger) -> None:
    """Put and delete items until the connection breaks."""
    dice = random.Random(f"{name} {ledger.acknowledged}")
    with (
        httpx2.Client(base_url=f"{server.url}/v1/collections/c", timeout=30) as client,
        suppress(httpx2.TransportError),
    ):
        while True:
            ids = dice.sample([f"{name}-{number}" for number in range(IDS)], dice.choice([1, 1, 3]))
            if dice.random() < 0.3:
                ledger.intend({ids[0]: None})
                assert client.delete(f"items/{ids[0]}").status_code in (200, 404)
            else:
                batch = {item_id: said_by(dice) for item_id in ids}
                ledger.intend(batch)
                items = [
                    {"id": item_id, "metadata": {"said": said}} | content_of(said)
                    for item_id, said in batch.items()
                ]
                reply = client.put("items", json={"items": items}).raise_for_status().json()
                assert not reply["errors"], reply
            ledger.acknowledge()


def said_by(dice: random.Random) -> str:
    """Words, or the name of a tiny picture."""
    if dice.random() < 0.25:
        return f"picture {dice.getrandbits(32)}"
    return " ".join(dice.sample(WORDS, 5)) + f" {dice.randrange(1000)}"


def content_of(said: str) -> dict[str, str]:
    """A text, or a picture of random colours, as the API takes it."""
    if not said.startswith("picture "):
        return {"text": said}
    pixels = np.random.default_rng(int(said.split()[1])).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(file, "PNG")
    return {"image": base64.b64encode(file.getvalue()).decode()}


def look_over_http(server: Server, name: str, ledger: Ledger, summary: Summary) -> None:
    """GET every item that there may be, and search for those there are by what they say."""
    with httpx2.Client(base_url=f"{server.url}/v1/collections/c", timeout=30) as client:
        replies = {f"{name}-{number}": client.get(f"items/{name}-{number}") for number in range(IDS)}
        assert {reply.status_code for reply in replies.values()} <= {200, 404}
        found = {
            i: reply.json()["metadata"]["said"] for i, reply in replies.items() if reply.status_code == 200
        }
        ledger.settle(found)
        for item_id, said in found.items():
            hits = (
                client.post("search", json={"query": content_of(said), "limit": 200})
                .raise_for_status()
                .json()["results"]
            )
            first = {hit["id"] for hit in hits if hit["score"] > 0.99}
            summary.lost += item_id not in first
            ours = {hit["id"] for hit in hits if hit["id"].startswith(name)}
            summary.resurrected += len(ours - found.keys())


def worker_of(server: Server) -> int:
    """The process id of a server's worker, as soon as there is one."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    for _ in range(1000):
        if pids := children.read_text().split():
            return int(pids[0])
        time.sleep(0.01)
    raise AssertionError("the server has no worker")


def audit_by_command(folder: Path, summary: Summary) -> None:
    """``momoseek audit``, after all is over."""
    command = [sys.executable, "-m", "service.cli", "audit", "--json", "--data-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
    [found] = json.loads(done.stdout)
    summary.digest_mismatches += not found["equal"]
    summary.problems += found["problems"]
    summary.generations += found["generation"]
