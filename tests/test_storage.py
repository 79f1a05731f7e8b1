"""The catalog among other writers, on full disks and on broken ones."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from index import schema
from index.aliases import find
from index.catalog import Catalog, Change, Delete, StorageFull, StorageUnavailable
from index.transaction import Transaction
from tests.indexing import DIM, ENCODER, filled, upsert

ROOT = Path(__file__).parent.parent


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog with an empty collection "c"."""
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    yield catalog
    catalog.close()


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Another process that runs ``code`` with ``url`` and ``arguments`` in sys.argv."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def log_of(catalog: Catalog) -> list[tuple[int, int | None, float]]:
    """The whole log of collection "c", without vectors: what a later change must not alter."""
    with catalog.reading("c") as reading:
        log: list[Change] = []
        while page := reading.changes(log[-1].seq if log else 0, limit=100):
            log += page
        assert len(log) == reading.watermark
    return [(change.seq, change.replaces, change.at) for change in log]


WRITER = """
import sys, threading
from index.catalog import Catalog, Delete
from index.transaction import Transaction
from tests.indexing import ENCODER, upsert
url, me, commits = sys.argv[1], sys.argv[2], int(sys.argv[3])
catalog = Catalog(url)
seqs = []
def write(thread):
    for number in range(commits):
        mine = [upsert(f"{me}-{thread}-{number}"), upsert("contended", f"{me} {thread} {number}")]
        outcomes = catalog.commit("c", [*mine, Delete("shared"), upsert("shared")], ENCODER)
        seqs.extend(outcome.seq for outcome in outcomes if outcome.seq)
threads = [threading.Thread(target=write, args=(thread,)) for thread in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*seqs)
"""


def test_many_writers_get_distinct_seqs_and_no_reader_sees_a_hole(catalog: Catalog, url: str) -> None:
    commits = 20
    writers = [python(WRITER, url, f"w{number}", str(commits)) for number in range(3)]
    prefix: list[tuple[int, int | None, float]] = []
    reads = 0
    while any(writer.poll() is None for writer in writers):
        log = log_of(catalog)
        assert [seq for seq, *_ in log] == list(range(1, len(log) + 1))
        assert log[: len(prefix)] == prefix
        reads += len(log) > len(prefix)
        prefix = log
        time.sleep(0.001)
    written = [writer.communicate()[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert reads > 3
    seqs = [int(seq) for line in written for seq in line.split()]
    # The very first of them found nothing to delete.
    assert len(seqs) == len(set(seqs)) == catalog.collection("c").last_seq == 3 * 2 * commits * 4 - 1
    assert catalog.count(catalog.collection("c")) == 3 * 2 * commits + 2


def test_processes_that_start_together_make_one_catalog(tmp_path: Path, url: str) -> None:
    code = """
import sys
from index.catalog import Catalog
print("ready", flush=True)
sys.stdin.readline()
print(Catalog(sys.argv[1]).create_collection("c", "e", 8)[0].uid)
"""
    processes = [python(code, url) for _ in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    uids = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 6
    assert len(uids) == 1


def test_a_reading_does_not_see_what_is_committed_later(catalog: Catalog) -> None:
    filled(catalog, "c", 3)
    with catalog.reading("c") as reading:
        catalog.commit("c", [upsert("late"), Delete("item-0"), upsert("item-1", "new words")], ENCODER)
        assert (reading.watermark, reading.count()) == (3, 3)
        assert [change.seq for change in reading.changes(0)] == [1, 2, 3]
        assert all(change.vector is not None for change in reading.changes(0))
        assert [seqs.tolist() for seqs, _, _ in reading.rows(chunk=2)] == [[1, 2], [3]]
        assert reading.backlog(1) == (2, reading.committed_at(2))
        assert reading.committed_at(4) is None
    with catalog.reading("c") as reading:
        assert (reading.watermark, reading.count()) == (6, 3)


def test_an_embedding_that_a_commit_relies_on_is_not_pruned(catalog: Catalog) -> None:
    """A commit leaves an embedding that is in place; pruning must wait until the item that needs it shows."""
    catalog.commit("c", [upsert("a", "words"), Delete("a")], ENCODER)
    pruned = threading.Thread(target=catalog.prune_embeddings)
    with catalog._writing() as connection:
        collection = find(connection, "c", for_update=True)
        Transaction(connection, collection, time.time()).apply([upsert("b", "words")])
        pruned.start()
        pruned.join(0.3)
        assert pruned.is_alive()
    pruned.join()
    assert catalog.vector("c", "b").shape == (DIM,)


def test_commits_that_share_contents_in_other_orders_do_not_block_each_other(catalog: Catalog) -> None:
    catalog.create_collection("d", ENCODER, DIM)
    failures: list[Exception] = []

    def write(name: str, step: int) -> None:
        try:
            for turn in range(20):
                words = [f"turn {turn} word {word}" for word in range(20)][::step]
                catalog.commit(name, [upsert(word) for word in words], ENCODER)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=entry) for entry in (("c", 1), ("d", -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_deleting_a_collection_waits_for_its_writers(catalog: Catalog) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            try:
                number += 1
                catalog.commit("c", [upsert(f"i{number}")], ENCODER)
            except Exception:
                catalog.create_collection("c", ENCODER, DIM)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(20):
        time.sleep(0.005)
        try:
            catalog.delete_collection("c")
        except Exception:
            continue
    stop.set()
    writer.join()
    alive = {collection.uid for collection in catalog.collections()}
    with catalog._engine.connect() as connection:
        for table in (schema.items, schema.changes):
            assert set(connection.execute(sa.select(table.c.collection)).scalars()) <= alive


# -- storage that fails


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A real one: a small file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs to be root")
    try:
        _fill_up(Catalog(f"sqlite:///{disk}/catalog.db"), room=disk / "ballast")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill_up(catalog: Catalog, room: Path) -> None:
    room.write_bytes(bytes(300_000))
    catalog.create_collection("c", ENCODER, DIM)
    kept: list[str] = []
    number = 0

    def commit() -> None:
        nonlocal number
        number += 1
        batch = [upsert(f"i{number}-{n}", metadata={"padding": "x" * 500}) for n in range(20)]
        catalog.commit("c", batch, ENCODER)
        kept.extend(write.id for write in batch)

    with pytest.raises(StorageFull):
        _repeat(commit)
    assert kept
    _assert_whole(catalog, kept)
    room.unlink()
    commit()
    _assert_whole(catalog, kept)
    catalog.close()


def _repeat(action: Callable[[], None]) -> None:
    for _ in range(10_000):
        action()


def _assert_whole(catalog: Catalog, ids: list[str]) -> None:
    assert {item.id for item in catalog.scroll("c", "", 1_000_000)} == set(ids)
    assert len(log_of(catalog)) == len(ids)
    with catalog.reading("c") as reading:
        assert sum(len(seqs) for seqs, _, _ in reading.rows()) == len(ids)


def test_a_database_at_its_size_limit_is_full(tmp_path: Path) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    sa.event.listen(catalog._engine, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count=60"))
    catalog._engine.dispose()
    ids = filled(catalog, "c", 10)
    with pytest.raises(StorageFull, match="disk"):
        filled(catalog, "c", 10_000, prefix="more")
    _assert_whole(catalog, ids)


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_text("not a database at all" * 1000)
    with pytest.raises(StorageUnavailable, match="not a database"):
        Catalog(f"sqlite:///{tmp_path}/catalog.db")


def test_a_place_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="unable to open"):
        Catalog(f"sqlite:///{tmp_path}/nowhere/catalog.db")


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    with pytest.raises(StorageUnavailable, match="No such file"):
        Catalog(f"postgresql+psycopg://postgres@/nowhere?host={tmp_path}")


def test_a_catalog_locked_for_too_long_is_unavailable(tmp_path: Path) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    filled(catalog, "c", 3)
    sa.event.listen(catalog._engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout=50"))
    catalog._engine.dispose()
    other = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    with other._writing(), pytest.raises(StorageUnavailable, match="locked"):
        catalog.commit("c", [upsert("a")], ENCODER)
    assert catalog.item("c", "item-0").seq == 1
    assert catalog.commit("c", [upsert("a")], ENCODER)[0].status == "created"
