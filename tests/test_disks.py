"""Disks that are full, read-only or rotten: what serves goes on serving, and no answer is wrong."""

import logging
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from index.audit import audit
from index.folders import store_in
from index.live import LiveIndex
from index.policy import Policy
from index.rebuild import Rebuilder
from service import gate_reports
from tests.house import QUERIES, House, assert_is_the_catalog
from tests.indexing import filled

GRAPH = Policy(keep=1, index_type="HNSW32,Flat")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A house with two generations of a graph, the second one grown, and a tail."""
    house = House(tmp_path, GRAPH)
    for turn in range(2):
        filled(house.catalog, "c", 20, prefix=f"turn-{turn}")
        house.rebuild()
    filled(house.catalog, "c", 5, prefix="tail")
    yield house
    house.catalog.close()


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at this folder."""
    folder.mkdir()
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting needs to be root: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_a_generation_and_keeps_the_one_that_serves(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=512k", "tmpfs") as disk:
        house = House(tmp_path, GRAPH)
        house.root = disk / "snapshots"
        house.reopen()
        filled(house.catalog, "c", 200)
        assert house.rebuild() == 1
        live = house.live()
        filled(house.catalog, "c", 200, prefix="more")
        for room in range(1, 80, 6):  # the disk is full at another place each time
            ballast = disk / "ballast"
            free = 4096 * int(subprocess.check_output(["stat", "-fc", "%a", str(disk)]))
            ballast.write_bytes(bytes(max(0, free - room * 1024)))
            report = house.rebuilder.rebuild("c", "test", time.time())
            ballast.unlink()
            if report.published:
                break
            assert report.cause in ("disk", "unreadable", "failed")
            assert (live.refresh().generation, live.last_error) == (1, None)
            assert_is_the_catalog(live.view, house.catalog)
        assert room > 1
        if not report.published:
            house.rebuild()
        assert live.refresh().generation == house.store.current() != 1
        assert_is_the_catalog(live.view, house.catalog)
        house.catalog.close()


def test_a_disk_that_cannot_be_written_still_serves(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "locked", "--bind", str(house.root)) as locked:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(locked)], check=True)
        store = store_in(locked)(house.catalog.collection("c"))
        live = LiveIndex(house.catalog, lambda _: store, "c")
        assert (live.view.generation, live.last_error) == (2, None)
        assert_is_the_catalog(live.view, house.catalog)
        filled(house.catalog, "c", 400, prefix="more")
        filled(house.catalog, "another", 3)
        rebuilder = Rebuilder(house.catalog, store_in(locked), lambda _: QUERIES, GRAPH)
        with caplog.at_level(logging.WARNING):
            assert rebuilder.step(time.time()) == []
        assert "collection c was not rebuilt" in caplog.text
        assert "collection another was not rebuilt" in caplog.text
        assert live.refresh().generation == 2
        assert_is_the_catalog(live.view, house.catalog)


@pytest.mark.parametrize("kind", ["a flipped bit", "cut short", "grown", "emptied", "gone"])
def test_no_damage_of_any_file_gives_a_wrong_answer(house: House, kind: str) -> None:
    gate_reports.leave(house.store, house.rebuilder.rebuild("c", "test", time.time()))
    filled(house.catalog, "c", 5, prefix="later")
    dice = random.Random(kind)
    files = [path for path in house.store.root.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {
        *("vectors.faiss", "index.faiss", "ids.npy", "fields.bin", "manifest.json", "CURRENT", "REPORT.json")
    }
    for path in files:
        whole = path.read_bytes()
        for _ in range(6 if len(whole) > 1 else 1):
            path.unlink()
            if kind != "gone":
                path.write_bytes(damaged(whole, kind, dice))  # anew: the file itself may be mapped
            live = house.live()
            assert live.view.generation in (0, 2, 3), path
            assert_is_the_catalog(live.view, house.catalog)
            found = audit(house.catalog, store_in(house.root), "c")
            assert found.items == found.searchable
            assert found.equal or found.problems
            gate_reports.read(house.store)
            path.unlink(missing_ok=True)
            path.write_bytes(whole)
    assert house.live().view.generation == 3
    assert audit(house.catalog, store_in(house.root), "c").equal


def damaged(whole: bytes, kind: str, dice: random.Random) -> bytes:
    """The content as it comes back from a bad disk."""
    if kind == "cut short":
        return whole[: dice.randrange(max(1, len(whole)))]
    if kind == "grown":
        return whole + dice.randbytes(dice.choice([1, 8, 512]))
    if kind == "emptied" or not whole:
        return bytes(len(whole))
    data = bytearray(whole)
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)
