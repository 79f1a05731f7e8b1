"""A catalog with its snapshots in one folder, all of which can be damaged, and what must be found in it."""

import shutil
import sqlite3
import time
from pathlib import Path

from index.catalog import Catalog
from index.engines import Params
from index.filters import parse
from index.folders import store_in
from index.live import LiveIndex, View
from index.policy import Policy
from index.rebuild import Rebuilder
from index.snapshot import SnapshotStore
from tests.indexing import DIM, ENCODER, assert_nearest, contents, unit_rows

QUERIES = unit_rows(3, seed=42)
POLICY = Policy(keep=1)
CERTAIN = Params("high")  # among so few rows as there are in these tests


class House:
    """A catalog, its snapshots and a rebuilder in one folder, with a collection "c"."""

    def __init__(self, folder: Path, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.url = f"sqlite:///{folder}/catalog.db"
        self.root = folder / "snapshots"
        self.reopen()
        self.catalog.create_collection("c", ENCODER, DIM)

    def reopen(self) -> None:
        """Everything that a process holds, anew."""
        self.catalog = Catalog(self.url)
        self.rebuilder = Rebuilder(self.catalog, store_in(self.root), lambda _: QUERIES, self.policy)

    @property
    def store(self) -> SnapshotStore:
        """The snapshots of collection "c"."""
        return store_in(self.root)(self.catalog.collection("c"))

    def live(self) -> LiveIndex:
        """What a process that starts now would search."""
        store = self.store
        return LiveIndex(self.catalog, lambda _: store, "c")

    def rebuild(self) -> int:
        """Publish a generation; its number."""
        report = self.rebuilder.rebuild("c", "the test wants it", time.time())
        assert report.published, report.reason
        return report.generation

    def back_up(self, name: str) -> Path:
        """A copy of the catalog as it stands."""
        copy = self.root.parent / name
        with sqlite3.connect(self.url.removeprefix("sqlite:///")) as connection:
            connection.execute(f"VACUUM INTO '{copy}'")
        connection.close()
        return copy

    def restore(self, copy: Path) -> None:
        """Put a copy in the catalog's place, and open it."""
        self.catalog.close()
        for path in self.root.parent.glob("catalog.db*"):
            path.unlink()
        shutil.copy(copy, self.url.removeprefix("sqlite:///"))
        self.reopen()

    def damage(self, generation: int, name: str = "vectors.faiss") -> None:
        """Flip a bit of a file. It is replaced: the file itself may be mapped."""
        path = self.store.root / f"{generation:06d}" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.unlink()
        path.write_bytes(data)


def assert_is_the_catalog(view: View, catalog: Catalog) -> None:
    """The view holds and finds exactly what the catalog holds now."""
    seqs, rows = contents(catalog, "c")
    assert view.watermark == catalog.collection("c").last_seq
    assert view.count == len(seqs)
    for top_k in (1, 10, len(seqs) + 1):
        for query, hits in zip(QUERIES, view.search(QUERIES, top_k, params=CERTAIN), strict=True):
            assert_nearest(hits, seqs, rows, query, top_k)
    if len(seqs):
        chosen = slice(None, None, max(1, len(seqs) // 7))
        ids = [item.id for item in catalog.scroll("c", "", 1_000_000)][chosen]
        some = parse({"must": [{"has_id": [*ids, "never there"]}]})
        for query, hits in zip(QUERIES, view.search(QUERIES, 5, some, CERTAIN), strict=True):
            assert_nearest(hits, seqs[chosen], rows[chosen], query, 5)
