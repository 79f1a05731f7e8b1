"""kill -9 of a restore: afterwards everything is as it was before, or as the archive has it."""

import random
import time
from pathlib import Path

from index.archive import Archive
from index.audit import audit
from index.catalog import Delete, Upsert
from tests.indexing import DIM, ENCODER, upsert
from tests.installations import Installation
from tests.ledger import Ledger, Summary
from tests.mortals import start

_ITEMS = 400


def kill_restores(folder: Path, kills: int, dice: random.Random, summary: Summary) -> None:
    """Restore one of two archives over whatever is there, kill it, look, and again; the last one may end."""
    target = Installation.on_sqlite(folder / "target")
    ledger, archives = Ledger(), dict[str, dict[str, str]]()
    target.catalog.create_collection("c", ENCODER, DIM)
    for name in ("left", "right"):
        ledger.intend({f"i{n}": f"{name} {n}" for n in range(0, _ITEMS, 1 + (name == "left"))})
        commit(target, ledger)
        target.put("c", *(("red", "green") if name == "left" else ("blue", "white")))
        target.rebuild()
        ledger.intend({f"i{n}": None for n in range(0, _ITEMS, 7)})
        commit(target, ledger)
        target.backups.create(folder / f"{name}.tar")
        archives[name] = contents(target)
    ledger.said = contents(target)
    longest_s = seconds_of(folder, target)
    for number in range(kills + 1):
        before = ledger.said
        others = [name for name, held in sorted(archives.items()) if held != before]
        name = dice.choice(others)
        held = archives[name]
        ledger.intend({item_id: held.get(item_id) for item_id in ledger.said.keys() | held.keys()})
        process = start(restore, folder / "target", folder / f"{name}.tar")
        if number < kills:
            time.sleep(dice.uniform(0, 1.3 * longest_s))
            process.kill()
            summary.kills += 1
        process.join()
        if process.exitcode == 0:
            ledger.acknowledge()
        look(target, ledger, summary)
        summary.restored += ledger.said != before
    summary.add(ledger)
    target.catalog.close()


def restore(data_dir: Path, path: Path) -> None:
    """What ``momoseek snapshot restore --force`` does."""
    Installation.on_sqlite(data_dir).backups.restore(Archive(path), force=True)


def commit(target: Installation, ledger: Ledger) -> None:
    """Write what is intended."""
    writes: list[Upsert | Delete] = [
        Delete(name) if said is None else upsert(name, said) for name, said in ledger.intended.items()
    ]
    target.catalog.commit("c", writes, ENCODER)
    ledger.acknowledge()


def contents(target: Installation) -> dict[str, str]:
    """Every item with what it says."""
    return {item.id: item.content for item in target.catalog.scroll("c", "", 10_000)}


def seconds_of(folder: Path, target: Installation) -> float:
    """How long a restore takes in a process of its own that nobody kills."""
    started = time.monotonic()
    process = start(restore, folder / "target", folder / "right.tar")
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


def look(target: Installation, ledger: Ledger, summary: Summary) -> None:
    """Compare items, pictures and digests with what they may be."""
    ledger.settle(contents(target))
    for sha256 in target.catalog.images():
        target.pictures.get(sha256)
    found = audit(target.catalog, target.store_of, "c")
    summary.digest_mismatches += not found.equal
    summary.problems += found.problems
