"""Snapshots: complete or not at all, never another's, never damaged, and one pointer says which serves."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.engines.faiss import FaissEngine
from index.fields import Fields
from index.files import tree_hash
from index.manifest import Manifest, SnapshotError
from index.snapshot import Snapshot, SnapshotStore
from index.terms import has_id, terms_of
from index.vectors import digest
from tests.indexing import DIM, ENCODER, unit_rows

UID = "a" * 32
IDS = np.array([2, 3, 5, 8, 13, 21])
ROWS = unit_rows(len(IDS))
FIELDS = Fields.of(terms_of(f"item-{seq}", "text", {"seq": seq}) for seq in IDS.tolist())


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    """An empty store."""
    return SnapshotStore(tmp_path / "snapshots")


def accept(snapshot: Snapshot) -> Manifest:
    """A gate that lets everything pass."""
    return replace(snapshot.manifest, recall_at_10={"text": 1.0}, seconds=0.5)


Gate = Callable[[Snapshot], Manifest]


def publish(store: SnapshotStore, gate: Gate = accept, watermark: int = 21) -> Manifest:
    """Publish a snapshot of ROWS as the next generation."""
    with store.publishing():
        draft = Manifest(
            generation=store.next_generation(),
            collection_uid=UID,
            encoder_id=ENCODER,
            watermark=watermark,
            watermark_at=1e9,
            count=len(IDS),
            dim=DIM,
            metric="cosine",
            factory="Flat",
            tuning={},
            digest=f"{digest(IDS, ROWS):016x}",
            recall_at_10={},
            tree_hash={},
            built_at=1e9,
            seconds=0.0,
        )
        return store.publish(draft, FaissEngine.build(ROWS), IDS, FIELDS, gate)


def folder_of(store: SnapshotStore, generation: int) -> Path:
    """Where a generation stands."""
    return store.root / f"{generation:06d}"


def test_what_is_published_is_what_loads(store: SnapshotStore) -> None:
    manifest = publish(store)
    assert (manifest.generation, store.current()) == (1, 1)
    assert (store.root / "CURRENT").read_text() == "000001\n"
    assert {path.name for path in folder_of(store, 1).iterdir()} == {
        "vectors.faiss",
        "ids.npy",
        "fields.bin",
        "manifest.json",
    }
    snapshot = store.load(1, UID, ENCODER)
    assert snapshot.manifest == store.manifest(1) == manifest
    assert manifest.recall_at_10 == {"text": 1.0}
    np.testing.assert_array_equal(snapshot.ids, IDS)
    np.testing.assert_array_equal(snapshot.engine.vectors(np.arange(len(IDS))), ROWS)
    assert list(snapshot.fields.having(has_id("item-8"))) == [3]
    assert snapshot.digest() == digest(IDS, ROWS)
    assert snapshot.digest(np.array([1, 4])) == digest(IDS[[1, 4]], ROWS[[1, 4]])
    assert snapshot.digest(np.array([], np.int64)) == 0


def test_an_empty_store_has_nothing_to_serve(store: SnapshotStore) -> None:
    assert (store.current(), store.generations(), list(store.servable())) == (None, [], [])
    with pytest.raises(SnapshotError, match="not a readable manifest"):
        store.load(1, UID, ENCODER)


@pytest.mark.parametrize("name", ["vectors.faiss", "ids.npy", "fields.bin", "manifest.json"])
@pytest.mark.parametrize("damage", ["bits", "truncated", "longer", "missing"])
def test_a_damaged_file_is_refused(store: SnapshotStore, name: str, damage: str) -> None:
    manifest = publish(store)
    path = folder_of(store, 1) / name
    whole = path.read_bytes()
    for data in damaged(whole, damage):
        path.unlink(missing_ok=True)  # a loaded index is mapped: its file is replaced, never written
        if data is not None:
            path.write_bytes(data)
        assert loaded(store) in ("refused", manifest if name == "manifest.json" else "refused")
    path.write_bytes(whole)
    assert store.load(1, UID, ENCODER).manifest == manifest


def loaded(store: SnapshotStore) -> Manifest | str:
    """The manifest that generation 1 loads with. White space between its members may change; nothing else."""
    try:
        return store.load(1, UID, ENCODER).manifest
    except SnapshotError:
        return "refused"


def damaged(data: bytes, damage: str) -> list[bytes | None]:
    """Versions of a file with this damage."""
    if damage == "bits":
        step = max(1, len(data) // 500)
        return [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(0, len(data), step)]
    if damage == "truncated":
        return [data[: len(data) * part // 10] for part in range(10)]
    return [data + b"x" if damage == "longer" else None]


def test_a_manifest_that_lies_is_refused(store: SnapshotStore) -> None:
    manifest = publish(store)
    path = folder_of(store, 1) / "manifest.json"
    for lie in (
        replace(manifest, count=5),
        replace(manifest, dim=4),
        replace(manifest, tree_hash={}),
        replace(manifest, watermark=20),
        replace(manifest, generation=2),
    ):
        lie.write(path)
        with pytest.raises(SnapshotError):
            store.load(1, UID, ENCODER)
    members = json.loads(path.read_text())
    path.write_text(json.dumps(members | {"unknown": 1}))
    with pytest.raises(SnapshotError, match="manifest"):
        store.manifest(1)


def test_a_snapshot_of_another_collection_or_encoder_is_refused(store: SnapshotStore) -> None:
    publish(store)
    with pytest.raises(SnapshotError, match=UID):
        store.load(1, "b" * 32, ENCODER)
    with pytest.raises(SnapshotError, match=ENCODER):
        store.load(1, UID, "other")


def test_what_the_gate_refuses_leaves_what_serves(store: SnapshotStore) -> None:
    publish(store)

    def refuse(snapshot: Snapshot) -> Manifest:
        assert snapshot.digest() == digest(IDS, ROWS)  # it sees what was really written
        raise RuntimeError("not good enough")

    with pytest.raises(RuntimeError, match="not good enough"):
        publish(store, refuse)
    assert store.current() == 1
    assert list(store.servable()) == [1]
    assert list(folder_of(store, 2).iterdir()) == []
    assert publish(store).generation == 3


def test_what_cannot_be_written_leaves_what_serves(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)

    def fail(self: FaissEngine, folder: Path) -> None:
        (folder / "vectors.faiss").write_bytes(b"half")
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(FaissEngine, "save", fail)
    with pytest.raises(SnapshotError, match="No space left"):
        publish(store)
    assert list(folder_of(store, 2).iterdir()) == []
    assert store.current() == 1


def test_the_hash_of_a_file_is_of_every_byte_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.files._BLOCK_BYTES", 16)
    monkeypatch.setattr("index.files._READ_BYTES", 4)
    whole = bytes(range(50))
    altered = [whole[:-1], whole + b"\0", b"", whole[16:32] + whole[:16] + whole[32:]]
    altered += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(50)]
    hashes = set()
    for number, content in enumerate([whole, whole, *altered]):
        (tmp_path / str(number)).write_bytes(content)
        with (tmp_path / str(number)).open("rb") as file:
            file.seek(7)  # wherever it was read to
            hashes.add(tree_hash(file))
    assert len(hashes) == 1 + len(altered)


@pytest.mark.skipif(sys.platform != "linux", reason="a niceness of threads is Linux's")
def test_hashing_gives_way_to_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def watched(*where: int) -> bytes:
        reading.add(niceness())
        return read(*where)

    read, reading, ours = os.pread, set[int](), niceness()
    monkeypatch.setattr(os, "pread", watched)
    (tmp_path / "file").write_bytes(bytes(100))
    with (tmp_path / "file").open("rb") as file:
        tree_hash(file)
    assert reading == {max(ours, 10)}
    assert niceness() == ours


@pytest.mark.parametrize("missing", ["vectors.faiss", "ids.npy", "fields.bin", "manifest.json"])
def test_a_half_written_folder_never_serves_and_is_pruned(store: SnapshotStore, missing: str) -> None:
    publish(store)
    publish(store)
    (folder_of(store, 2) / missing).unlink()
    if missing == "manifest.json":
        (folder_of(store, 2) / "manifest.json").write_text('{"generation": 2, "collec')
    with pytest.raises(SnapshotError):
        store.load(2, UID, ENCODER)
    store.roll_back(1)
    publish(store)
    with store.publishing():
        store.prune(keep=5)
    expected = [1, 3] if missing == "manifest.json" else [1, 2, 3]  # a finished one may still be mended
    assert store.generations() == expected


def test_pruning_keeps_the_current_one_and_the_newest_before_it(store: SnapshotStore) -> None:
    for _ in range(6):
        publish(store)
    with store.publishing():
        assert store.prune(keep=2) == [1, 2, 3]
        assert store.prune(keep=2) == []
    assert store.generations() == [4, 5, 6]
    with store.publishing():
        assert store.prune(keep=0) == [4, 5]
    assert store.current() == 6


def test_a_rollback_can_be_undone(store: SnapshotStore) -> None:
    for _ in range(3):
        publish(store)
    store.roll_back(2)
    with store.publishing():
        assert store.prune(keep=1) == []
    assert (list(store.servable()), store.is_held()) == ([2, 1], True)
    store.roll_back(3)
    assert list(store.servable()) == [3, 2, 1]
    assert publish(store).generation == 4
    assert (list(store.servable()), store.is_held()) == ([4, 3, 2, 1], False)
    with pytest.raises(SnapshotError, match="not a readable manifest"):
        store.roll_back(9)
    assert store.current() == 4


def test_a_rollback_waits_for_no_publisher_who_then_gives_up(store: SnapshotStore) -> None:
    for _ in range(2):
        publish(store)

    def roll_back(snapshot: Snapshot) -> Manifest:
        assert store.is_publishing()
        store.roll_back(1)
        return accept(snapshot)

    with pytest.raises(SnapshotError, match="generation 1 was made to serve while this one was built"):
        publish(store, roll_back)
    assert (store.current(), store.is_held(), store.is_publishing()) == (1, True, False)


def test_publishers_that_die_at_the_last_moment_do_not_fill_the_disk(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    monkeypatch.setattr(SnapshotStore, "_serve", lambda self, generation: None)
    for _ in range(5):
        publish(store)
        with store.publishing():
            store.prune(keep=2)
    assert store.current() == 1
    assert store.generations() == [1, 5, 6]


def test_numbers_are_never_given_twice(store: SnapshotStore) -> None:
    given = []
    for turn in range(12):
        if turn % 3 == 0:
            with store.publishing():
                given.append(store.next_generation())
                folder_of(store, given[-1]).mkdir()  # and the publisher dies
        elif turn % 3 == 1:
            given.append(store.next_generation())
            with pytest.raises(SnapshotError):
                publish(store, watermark=1)  # its ids go beyond
        else:
            given.append(publish(store).generation)
        with store.publishing():
            store.prune(keep=0)
    assert given == list(range(1, 13))
    assert store.generations() == [12]


def test_numbers_grow_beyond_six_digits(store: SnapshotStore) -> None:
    folder_of(store, 999_999).mkdir(parents=True)
    assert publish(store).generation == 1_000_000
    assert publish(store).generation == 1_000_001
    assert store.current() == 1_000_001


@pytest.mark.parametrize("text", ["", "000", "garbage", "\0\0\0\0\0\0", "-00001", "00000\uff12"])
def test_a_damaged_pointer_leaves_every_finished_generation_to_try(store: SnapshotStore, text: str) -> None:
    publish(store)
    publish(store)
    folder_of(store, 3).mkdir()
    (store.root / "CURRENT").write_text(text)
    assert store.current() is None
    assert list(store.servable()) == [2, 1]
    with store.publishing():
        assert store.prune(keep=0) == []
    assert publish(store).generation == 4
    assert store.current() == 4


def test_the_pointer_is_replaced_in_one_step(store: SnapshotStore) -> None:
    """A reader at any moment sees one whole number, and the generation it names loads."""
    publish(store)
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            current = store.current()
            assert current is not None
            seen.add(store.load(current, UID, ENCODER).manifest.generation)

    readers = [threading.Thread(target=read) for _ in range(3)]
    failures: list[threading.ExceptHookArgs] = []
    before, threading.excepthook = threading.excepthook, failures.append
    for reader in readers:
        reader.start()
    for _ in range(15):
        publish(store)
    stop.set()
    for reader in readers:
        reader.join()
    threading.excepthook = before
    assert failures == []
    assert len(seen) > 1


PUBLISHER = """
import sys
from pathlib import Path
from index.snapshot import SnapshotStore
from tests.test_snapshot import publish
for _ in range(5):
    print(publish(SnapshotStore(Path(sys.argv[1]))).generation)
"""


def test_two_publishers_take_turns(store: SnapshotStore) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", PUBLISHER, str(store.root)]
    others = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    numbers = [int(line) for other in others for line in other.communicate()[0].split()]
    assert [other.returncode for other in others] == [0, 0]
    assert sorted(numbers) == list(range(1, 11))
    assert store.current() == 10
    assert all(store.load(number, UID, ENCODER) for number in numbers)


def test_a_publisher_waits_for_another_one(store: SnapshotStore) -> None:
    order: list[str] = []

    def second() -> None:
        with store.publishing():
            order.append("second")

    with store.publishing():
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
