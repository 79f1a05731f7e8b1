"""kill -9 at random points of ingest, rebuild and swap: nothing acknowledged is lost, nothing deleted comes back.

``KILLS`` in the environment sets how many (50). A quarter of them hit a real ``momoseek serve`` and its worker, over
HTTP; the others a bare writer and a worker, which start in milliseconds because a warm process forks them.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx2
import numpy as np
import pytest

from index.audit import audit
from index.catalog import Delete, Upsert
from index.rebuild import store_in
from index.snapshot import SnapshotStore
from service import worker
from service.config import Settings
from service.stores import open_bundle, open_catalog, open_index
from tests.conftest import ROOT, clean_environment, start_server
from tests.indexing import row_of, upsert
from tests.ledger import Ledger

KILLS = int(os.environ.get("KILLS", "50"))
SEED = int(os.environ.get("CRASH_SEED", "1"))
FORK = multiprocessing.get_context("forkserver")
# Every change makes a rebuild due, so that the worker builds and publishes without a pause.
EAGER = {
    "rebuild_interval_s": 0.001,
    "rebuild_min_changes": 1,
    "rebuild_tail_share": 0.0,
    "rebuild_max_age_s": 0.0,
}


@dataclass
class Summary:
    """What the kills did. ``unfinished``: how many of them hit a publication half-way."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    resurrected: int = 0
    digest_mismatches: int = 0
    unfinished: int = 0
    generations: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, ledger: Ledger) -> None:
        """Count what a writer's ledger noted."""
        self.acknowledged += ledger.acknowledged
        self.lost += len(ledger.lost)
        self.resurrected += len(ledger.resurrected)


def test_no_kill_loses_or_resurrects_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started, summary = time.monotonic(), Summary()
    of_servers = KILLS // 4
    kill_writers_and_workers(tmp_path / "bare", KILLS - of_servers, summary)
    kill_servers(tmp_path / "served", of_servers, summary)
    with capsys.disabled():
        print(json.dumps(asdict(summary) | {"seconds": round(time.monotonic() - started, 1)}))
    assert summary.kills == KILLS
    assert summary.acknowledged > KILLS
    assert summary.generations > KILLS
    assert summary.problems == []
    assert (summary.lost, summary.resurrected, summary.digest_mismatches) == (0, 0, 0)


# -- a bare writer and a worker


def kill_writers_and_workers(folder: Path, kills: int, summary: Summary) -> None:
    """Kill one or the other, look, start it again."""
    dice, ledger = random.Random(SEED), Ledger()
    settings = Settings(data_dir=folder, **EAGER)
    catalog, bundle = open_catalog(settings), open_bundle(settings)
    collection, _ = catalog.create_collection("c", bundle.encoder_id, bundle.dim)
    store = store_in(settings.snapshots_dir)(collection)
    writer, building = Writer(settings, ledger), start(run_worker, settings)
    for _ in range(kills):
        writer.listen(dice.uniform(0.01, 0.25))
        if dice.random() < 0.5:
            writer.kill()
            look(settings, ledger, summary)
            writer = Writer(settings, ledger)
        else:
            kill(building)
            summary.unfinished += is_unfinished(store)
            building = start(run_worker, settings)
        summary.kills += 1
        note_audit(settings, summary)
    writer.kill()
    time.sleep(0.3)  # the worker catches up
    kill(building)
    look(settings, ledger, summary)
    note_audit(settings, summary)
    summary.generations += store.current() or 0
    summary.add(ledger)
    catalog.close()


def write_forever(settings: Settings, seed: int, channel: Connection) -> None:
    """Commit random batches; say each before and after."""
    dice, catalog = random.Random(seed), open_catalog(settings)
    live = open_index(settings, catalog, "c")
    for number in range(10**9):
        ids = [f"i{dice.randrange(150)}" for _ in range(dice.choice([1, 1, 2, 5, 20]))]
        batch = {item_id: None if dice.random() < 0.3 else f"{item_id} {seed} {number}" for item_id in ids}
        channel.send(batch)
        writes: list[Upsert | Delete] = [
            Delete(item_id)
            if said is None
            else upsert(item_id, said, vector=row_of(said, live.collection.dim))
            for item_id, said in batch.items()
        ]
        catalog.commit("c", writes, live.collection.encoder_id)
        live.refresh()
        channel.send("acknowledged")


def run_worker(settings: Settings) -> None:
    """The worker that ``momoseek worker`` runs."""
    worker.run(settings, until_stdin_closes=False)


class Writer:
    """A process in ``write_forever``, and what it said so far."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._ledger = ledger
        self._channel, theirs = FORK.Pipe(duplex=False)
        self._process = start(write_forever, settings, random.getrandbits(32), theirs)
        theirs.close()

    def listen(self, seconds: float) -> None:
        """Take down what it says for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._channel.poll(left) and not self._take_down():
                raise AssertionError("the writer ended by itself")

    def kill(self) -> None:
        """Kill it, and take down its last words."""
        kill(self._process)
        while self._take_down():
            pass

    def _take_down(self) -> bool:
        try:
            said = self._channel.recv()
        except (EOFError, OSError):  # nothing more, or a word cut short
            return False
        if said == "acknowledged":
            self._ledger.acknowledge()
        else:
            self._ledger.intend(said)
        return True


def start(role: object, *arguments: object) -> ForkServerProcess:
    """A process in this role."""
    FORK.set_forkserver_preload([__name__])
    process = FORK.Process(target=role, args=arguments, daemon=True)  # type: ignore[arg-type]
    process.start()
    return process


def kill(process: ForkServerProcess) -> None:
    """kill -9."""
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it had ended by itself"


def look(settings: Settings, ledger: Ledger, summary: Summary) -> None:
    """What a process that starts now sees: each item by id and by search, and no other by either."""
    catalog = open_catalog(settings)
    view = open_index(settings, catalog, "c").view
    items = catalog.scroll("c", "", 10_000)
    ledger.settle({item.id: item.content for item in items})
    if items:
        rows = np.stack([row_of(item.content, view.collection.dim) for item in items])
        found = view.search(rows, 1)
        summary.lost += sum(
            hits[0].seq != item.seq or hits[0].score < 0.999 for item, hits in zip(items, found, strict=True)
        )
        everything = {hit.seq for hit in view.search(rows[:1], len(items) + 50)[0]}
        summary.resurrected += len(everything - {item.seq for item in items})
    catalog.close()


def note_audit(settings: Settings, summary: Summary) -> None:
    """Compare the digests."""
    catalog = open_catalog(settings)
    found = audit(catalog, store_in(settings.snapshots_dir)(catalog.collection("c")), "c")
    summary.digest_mismatches += not found.equal
    summary.problems += found.problems
    catalog.close()


def is_unfinished(store: SnapshotStore) -> bool:
    """Whether a publication was under way."""
    current = store.current() or 0
    return any(number > current for number in store.generations()) or (store.root / "CURRENT.new").exists()


# -- real servers

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


def kill_servers(folder: Path, kills: int, summary: Summary) -> None:
    """Kill the worker of a server, then the server, start it again, look over HTTP."""
    dice, ledgers = random.Random(SEED), {"left": Ledger(), "right": Ledger()}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in EAGER.items()]
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
    dice = random.Random(f"{SEED} {name} {ledger.acknowledged}")
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
