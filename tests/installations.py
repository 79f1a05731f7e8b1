"""An installation on disk, as large as a backup's tests need it: catalog, pictures, snapshots."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from index import rows, schema
from index.audit import audit
from index.backup import Backups
from index.catalog import Catalog, Delete
from index.folders import store_in
from index.live import Hit, LiveIndex
from index.reading import pictures
from index.rebuild import Rebuilder
from index.restoring import Restorer
from index.snapshot import SnapshotStore
from service.images import ImageStore
from tests.fakes import COLOUR_NAMES, striped
from tests.indexing import ENCODER, filled, unit_rows, upsert
from tests.postgresql import fresh_database

KINDS = ["sqlite", "postgresql"]
QUERIES = unit_rows(5, seed=42)


@dataclass
class Installation:
    """Its catalog is at ``url``, everything else in ``data_dir``."""

    data_dir: Path
    url: str

    def __post_init__(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog(self.url)
        self.pictures = ImageStore(self.data_dir, 1_000_000)
        self.store_of = store_in(self.data_dir / "snapshots")
        self.backups = Backups(self.catalog, self.data_dir, self.store_of)
        self.restorer = Restorer(self.catalog, self.data_dir, self.store_of)

    @staticmethod
    def on_sqlite(data_dir: Path) -> "Installation":
        """One whose catalog lies in its own folder."""
        return Installation(data_dir, f"sqlite:///{data_dir}/catalog.db")

    def fill(self) -> None:
        """Two collections with updates, deletes and pictures; an index of "c", and a tail after it."""
        filled(self.catalog, "c", 30)
        filled(self.catalog, "of another é", 2)
        self.put("c", *COLOUR_NAMES)
        self.catalog.commit("c", [Delete("item-3"), upsert("item-4", "new words")], ENCODER)
        self.rebuild()
        odd = {"b": [1, 1.0, True, None, "ü\n\"'"], "a": {"deep": -0.5}, "": 2**63 - 1}
        self.catalog.commit(
            "c", [Delete("item-5"), upsert("née 猫", metadata=odd), upsert("none", text=None)], ENCODER
        )
        self.put("c", "red", "white")
        held = [self.pictures.put(striped(*colours)) for colours in (["red"], ["green", "white"])]
        parts = [{"text": "page"}, *({"image": image, "type": "image/png"} for image in held)]
        page = upsert("page", modality="mixed", image=held[0], image_type="image/png", parts=parts)
        self.catalog.commit("c", [page], ENCODER)

    def put(self, name: str, *colours: str) -> None:
        """Write pictures of these stripes, alone and all together."""
        for picture in {*colours, "-".join(colours)}:
            sha256 = self.pictures.put(striped(*picture.split("-")))
            item = upsert(picture, sha256, modality="image", text=None, image=sha256, image_type="image/png")
            self.catalog.commit(name, [item], ENCODER)

    def rebuild(self, name: str = "c") -> int:
        """Publish a generation; its number."""
        rebuilder = Rebuilder(self.catalog, self.store_of, lambda _: QUERIES)
        return rebuilder.rebuild(name, "the test wants it", time.time()).generation

    def store(self, name: str = "c") -> SnapshotStore:
        """The snapshots of a collection."""
        return self.store_of(self.catalog.collection(name))

    def answers(self, name: str = "c") -> tuple[int, list[list[Hit]]]:
        """What a process that starts now finds, and in which generation."""
        view = LiveIndex(self.catalog, self.store_of, name).view
        return view.generation, view.search(QUERIES, 10)

    def everything(self) -> dict[str, Any]:
        """Every row and every picture."""
        with self.catalog.copying() as connection:
            found: dict[str, Any] = {
                name: sorted(repr(row) for row in connection.execute(table.select()))
                for name, table in rows.tables().items()
            }
        paths = sorted(self.data_dir.glob("blobs/*/*"))
        return found | {str(path.relative_to(self.data_dir)): path.read_bytes() for path in paths}

    def images(self) -> list[str]:
        """The sha256 of every picture of an item that is in a collection."""
        with self.catalog.copying() as connection:
            return sorted(pictures(connection, rows.belonging(schema.items)))

    def problems(self) -> list[str]:
        """What an audit of every collection, and a look at every picture, finds wrong."""
        for sha256 in self.images():
            self.pictures.get(sha256)
        return [
            problem
            for collection in self.catalog.every_collection()
            for problem in audit(self.catalog, self.store_of, collection.name).problems
        ]


Make = Callable[..., Installation]  # (name, kind="sqlite")


@contextmanager
def installations(root: Path) -> Iterator[Make]:
    """Makes empty installations below ``root``, and closes them."""
    made = list[Installation]()

    def make(name: str, kind: str = "sqlite") -> Installation:
        folder = root / name
        on_sqlite = kind == "sqlite"
        made.append(Installation.on_sqlite(folder) if on_sqlite else Installation(folder, fresh_database()))
        return made[-1]

    yield make
    for installation in made:
        installation.catalog.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes empty installations on either kind of database."""
    with installations(tmp_path) as make:
        yield make


@pytest.fixture
def source(make: Make) -> Installation:
    """A filled installation."""
    installation = make("source")
    installation.fill()
    return installation
