"""A process may die anywhere: tried not by chance, but at each line of publishing and committing in turn."""

import time
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest

from index import catalog, snapshot, transaction
from index.audit import audit
from index.catalog import Catalog, Delete, Upsert
from index.folders import store_in
from index.rebuild import Rebuilder
from tests.indexing import DIM, ENCODER, filled, upsert
from tests.mortals import dies_at_line


def test_a_publisher_may_die_at_any_line(tmp_path: Path) -> None:
    """What serves is whole, and the next publication goes through."""
    store_of, written = store_in(tmp_path / "snapshots"), Catalog(f"sqlite:///{tmp_path}/catalog.db")
    filled(written, "c", 5)
    rebuild(tmp_path)
    store = store_of(written.collection("c"))
    for line in count(1):
        before = store.current()
        died = dies_at_line(line, str(snapshot.__file__), rebuild, tmp_path)
        assert store.current() in (before, store.generations()[-1])
        found = audit(written, lambda _: store, "c")
        assert (found.equal, found.generation) == (True, store.current())
        if not died:
            break
    assert line > 50
    rebuild(tmp_path)
    assert store.current() == store.generations()[-1]
    assert len(store.generations()) <= 3


def rebuild(folder: Path) -> None:
    """Publish a generation of collection "c"."""
    written = Catalog(f"sqlite:///{folder}/catalog.db")
    Rebuilder(written, store_in(folder / "snapshots"), lambda _: None).rebuild("c", "test", time.time())


@pytest.mark.parametrize("module", [catalog, transaction])
def test_a_writer_may_die_at_any_line(tmp_path: Path, module: ModuleType) -> None:
    """All of a batch is kept or nothing, and the log has no hole."""
    written = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    written.create_collection("c", ENCODER, DIM)
    write(tmp_path, 0)
    said = 0
    for line in count(1):
        died = dies_at_line(line, str(module.__file__), write, tmp_path, line)
        found = {item.text for item in written.scroll("c", "", 10)}
        if found != {f"{name} {said}" for name in "abc"}:
            said = line
        assert found == {f"{name} {said}" for name in "abc"}
        with written.reading("c") as reading:
            assert [change.seq for change in reading.changes(0)] == list(range(1, reading.watermark + 1))
            assert sum(len(seqs) for seqs, _, _ in reading.rows()) == 3
        if not died:
            break
    assert line > 15
    assert said == line


def write(folder: Path, number: int) -> None:
    """Commit a batch that replaces every item, one of them by way of a delete."""
    writes: list[Upsert | Delete] = [Delete("a"), *(upsert(name, f"{name} {number}") for name in "abc")]
    Catalog(f"sqlite:///{folder}/catalog.db").commit("c", writes, ENCODER)
