"""kill -9 of a bare writer and of a worker, which start in milliseconds: a warm process forks them."""

import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from index import rebuild
from index.audit import audit
from index.catalog import Delete, Upsert
from index.engines import Params
from index.folders import store_in
from index.snapshot import SnapshotStore
from service import worker
from service.config import Settings
from service.stores import open_bundle, open_catalog, open_index
from tests.indexing import row_of, upsert
from tests.ledger import EAGER, Ledger, Summary
from tests.mortals import FORK, kill, start


def kill_writers_and_workers(
    folder: Path, bundle: Path, kills: int, dice: random.Random, summary: Summary
) -> None:
    """Kill one or the other, look, start it again. The index is a graph, which grows."""
    ledger = Ledger()
    settings = Settings(data_dir=folder, bundle=str(bundle), flat_limit=20, **EAGER)
    catalog, opened = open_catalog(settings), open_bundle(settings)
    collection, _ = catalog.create_collection("c", opened.encoder_id, opened.dim)
    store = store_in(settings.snapshots_dir)(collection)
    writer, building = Writer(settings, ledger, dice.getrandbits(32)), start(run_worker, settings)
    for _ in range(kills):
        generation, deadline = store.current(), time.monotonic() + 10
        while store.current() == generation and time.monotonic() < deadline:  # the worker is past its start
            writer.listen(0.01)
        writer.listen(dice.uniform(0.0, 0.15))
        if dice.random() < 0.5:
            writer.kill()
            look(settings, ledger, summary)
            note_audit(settings, summary)
            writer = Writer(settings, ledger, dice.getrandbits(32))
        else:
            kill(building)
            summary.unfinished += is_unfinished(store)
            note_audit(settings, summary)  # before the next worker mends anything
            building = start(run_worker, settings)
        summary.kills += 1
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
    """The worker that ``momoseek worker`` runs, but not behind all others on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "MODEST", 0)
        patch.setattr(rebuild, "behind_others", lambda work: work())
        worker.run(settings, until_stdin_closes=False)


class Writer:
    """A process in ``write_forever``, and what it said so far."""

    def __init__(self, settings: Settings, ledger: Ledger, seed: int) -> None:
        self._ledger = ledger
        self._channel, theirs = FORK.Pipe(duplex=False)
        self._process = start(write_forever, settings, seed, theirs)
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


def look(settings: Settings, ledger: Ledger, summary: Summary) -> None:
    """What a process that starts now sees: each item by id and by search, and no other by either."""
    catalog = open_catalog(settings)
    view = open_index(settings, catalog, "c").view
    items = catalog.scroll("c", "", 10_000)
    ledger.settle({item.id: item.content for item in items})
    if items:
        rows = np.stack([row_of(item.content, view.collection.dim) for item in items])
        found = view.search(rows, 1, params=Params(exact=True))
        summary.lost += sum(
            hits[0].seq != item.seq or hits[0].score < 0.999 for item, hits in zip(items, found, strict=True)
        )
        everything = {hit.seq for hit in view.search(rows[:1], len(items) + 50)[0]}
        summary.resurrected += len(everything - {item.seq for item in items})
    catalog.close()


def note_audit(settings: Settings, summary: Summary) -> None:
    """Compare the digests."""
    catalog = open_catalog(settings)
    found = audit(catalog, store_in(settings.snapshots_dir), "c")
    summary.digest_mismatches += not found.equal
    summary.problems += found.problems
    catalog.close()


def is_unfinished(store: SnapshotStore) -> bool:
    """Whether a publication was under way."""
    current = store.current() or 0
    return any(number > current for number in store.generations()) or (store.root / "CURRENT.new").exists()
