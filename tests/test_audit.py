"""The audit: equal whatever has happened, and each planted damage is named."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index.audit import Audit, audit
from index.catalog import Catalog, CatalogError, Delete
from index.folders import store_in
from index.live import LiveIndex
from index.policy import Policy
from index.rebuild import Rebuilder
from index.snapshot import SnapshotStore
from index.tail import Tail
from index.vectors import digest
from tests.indexing import DIM, ENCODER, contents, filled, upsert


class House:
    """A catalog with 30 items in a snapshot, 10 of them changed since."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(f"sqlite:///{folder}/catalog.db")
        self.root = folder / "snapshots"
        filled(self.catalog, "c", 30)
        self.rebuild()
        self.catalog.commit("c", [Delete(f"item-{n}") for n in range(4)], ENCODER)
        self.catalog.commit("c", [upsert(f"item-{n}", f"new words {n}") for n in range(4, 8)], ENCODER)
        filled(self.catalog, "c", 2, prefix="more")

    @property
    def store(self) -> SnapshotStore:
        """The snapshots of collection "c"."""
        return store_in(self.root)(self.catalog.collection("c"))

    def rebuild(self) -> None:
        """Publish a generation."""
        rebuilder = Rebuilder(self.catalog, store_in(self.root), lambda _: None, Policy())
        assert rebuilder.rebuild("c", "test", time.time()).published

    def audit(self) -> Audit:
        """Audit collection "c"."""
        return audit(self.catalog, store_in(self.root), "c")

    def execute(self, statement: str) -> None:
        """Change the database behind the catalog's back."""
        with self.catalog._writing() as connection:
            assert connection.exec_driver_sql(statement).rowcount > 0


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A house in which all is well."""
    return House(tmp_path)


def test_all_is_equal_when_nothing_is_wrong(house: House) -> None:
    found = house.audit()
    assert (found.equal, found.problems) == (True, ())
    assert (found.collection, found.encoder_id, found.generation) == ("c", ENCODER, 1)
    assert (found.watermark, found.items, found.searchable) == (40, 28, 28)
    seqs, rows = contents(house.catalog, "c")
    assert found.catalog_digest == f"{digest(seqs, rows):016x}"
    parts = (int(part, 16) for part in (found.snapshot_digest, found.hidden_digest, found.tail_digest))
    snapshot, hidden, tail = parts
    assert hidden != 0 != tail
    assert (snapshot - hidden + tail) % 2**64 == int(found.catalog_digest, 16)


def test_a_rebuild_changes_the_parts_but_not_the_sum(house: House) -> None:
    before = house.audit()
    house.rebuild()
    after = house.audit()
    assert after.equal
    assert after.catalog_digest == before.catalog_digest == after.snapshot_digest
    assert after.hidden_digest == after.tail_digest == "0" * 16
    assert after.generation == 2


def test_an_empty_collection_is_equal(house: House) -> None:
    house.catalog.create_collection("empty", ENCODER, DIM)
    found = audit(house.catalog, store_in(house.root), "empty")
    assert (found.equal, found.items, found.catalog_digest) == (True, 0, "0" * 16)


def test_a_collection_made_anew_is_equal(house: House) -> None:
    house.catalog.delete_collection("c")
    filled(house.catalog, "c", 3)
    found = house.audit()
    assert (found.equal, found.items, found.generation) == (True, 3, 0)


def test_an_audit_during_writes_is_equal(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    caught_up = LiveIndex.refresh

    def writing(self: LiveIndex) -> object:
        view = caught_up(self)
        house.catalog.commit("c", [Delete("item-20"), upsert("late")], ENCODER)
        return view

    monkeypatch.setattr(LiveIndex, "refresh", writing)
    found = house.audit()
    assert (found.equal, found.watermark, found.items) == (True, 42, 28)


def flip(house: House, name: str) -> None:
    """Flip a bit in a file of the snapshot."""
    path = house.store.root / "000001" / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.unlink()
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[House], object], str]] = {
    "snapshot vector": (
        lambda house: flip(house, "vectors.faiss"),
        "vectors.faiss: its content does not match",
    ),
    "snapshot id": (lambda house: flip(house, "ids.npy"), "ids.npy: its content does not match"),
    "snapshot field": (lambda house: flip(house, "fields.bin"), "fields.bin: its content does not match"),
    "manifest": (lambda house: flip(house, "manifest.json"), "manifest.json: not a readable manifest"),
    "pointer": (lambda house: (house.store.root / "CURRENT").write_text("x"), "CURRENT names no generation"),
    "a lost embedding": (
        lambda house: house.execute("DELETE FROM embeddings WHERE content = 'item-9'"),
        "1 of 28 items have no embedding",
    ),
    "a lost item": (
        lambda house: house.execute("DELETE FROM items WHERE id = 'item-9'"),
        "27 items are in the catalog, 28 can be found",
    ),
    "a lost deletion": (
        lambda house: house.execute("UPDATE changes SET replaces = NULL WHERE seq = 31"),
        "28 items are in the catalog, 29 can be found",
    ),
    "a hole in the log": (
        lambda house: house.execute("DELETE FROM changes WHERE seq = 39"),
        "28 items are in the catalog, 27 can be found",
    ),
    "a changed vector": (
        lambda house: house.execute(
            "UPDATE embeddings SET vector = (SELECT vector FROM embeddings WHERE content = 'item-10') "
            "WHERE content = 'item-9'"
        ),
        "the digests differ",
    ),
    "two items that changed places": (
        lambda house: house.execute(
            "UPDATE items SET content = CASE id WHEN 'item-9' THEN 'item-10' ELSE 'item-9' END "
            "WHERE id IN ('item-9', 'item-10')"
        ),
        "the digests differ",
    ),
    "a wrong seq": (
        lambda house: house.execute("UPDATE items SET seq = 1000 WHERE id = 'item-9'"),
        "the digests differ",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_named(house: House, damage: str) -> None:
    plant, problem = DAMAGES[damage]
    plant(house)
    found = house.audit()
    assert not found.equal
    assert problem in "; ".join(found.problems)


def test_a_log_with_its_end_torn_off_is_named(house: House) -> None:
    house.execute("DELETE FROM changes WHERE seq > 38")
    with pytest.raises(CatalogError, match="the log of collection 'c' ends too early"):
        house.audit()


def test_a_fault_in_the_tail_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    extended = Tail.extended

    def faulty(self: Tail, changes: list[object]) -> Tail:
        tail = extended(self, changes)  # type: ignore[arg-type]
        tail.vectors[-1] = np.roll(tail.vectors[-1], 1)
        return tail

    monkeypatch.setattr(Tail, "extended", faulty)
    assert "the digests differ" in "; ".join(house.audit().problems)
