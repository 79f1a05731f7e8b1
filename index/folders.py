"""Where the snapshots of every collection stand."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from index.engines import OpenEngine
from index.engines.faiss import FaissEngine
from index.records import Collection
from index.snapshot import SnapshotStore


def store_in(root: Path, open_engine: OpenEngine = FaissEngine.load) -> Callable[[Collection], SnapshotStore]:
    """Where each collection's snapshots stand below ``root``: ``<collection>/<encoder_id>``."""
    return lambda collection: SnapshotStore(
        root / folder_of(collection.name) / folder_of(collection.encoder_id), open_engine
    )


def unfinished(store: SnapshotStore) -> SnapshotStore:
    """Where builds of a store's next generation are set aside."""
    return SnapshotStore(store.root / "unfinished")


def prune_folders(
    root: Path, collections: Iterable[Collection], forget: Callable[[Path], None] = lambda _: None
) -> list[Path]:
    """Delete the snapshots below ``root`` of collections that are gone; the folders deleted.

    ``forget`` is told each folder before, to see to what its snapshots have elsewhere.
    """
    kept = {store_in(root)(collection).root.parent for collection in collections}
    doomed = [folder for folder in root.iterdir() if folder not in kept] if root.is_dir() else []
    for folder in doomed:
        forget(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return doomed


def folder_of(name: str) -> str:
    """The folder that has what is of a collection or an encoder of this name."""
    # Ordinary names are their own folder; others must neither leave the root nor meet each other.
    quoted = quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
