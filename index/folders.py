"""Where the snapshots of every collection stand."""

import shutil
from collections.abc import Callable, Iterable, Set
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


def next_generation(store: SnapshotStore) -> int:
    """A number that no snapshot of the collection has had, whichever encoder it was of: what names a
    generation of a collection names its space too."""
    stores = [SnapshotStore(folder) for folder in store.root.parent.iterdir()]
    return max(each.next_generation() for each in [store, *stores])


def unfinished(store: SnapshotStore) -> SnapshotStore:
    """Where builds of a store's next generation are set aside."""
    return SnapshotStore(store.root / "unfinished")


def prune_folders(
    root: Path,
    collections: Iterable[Collection],
    forget: Callable[[Path], None] = lambda _: None,
    kept: Set[str] = frozenset(),
) -> list[Path]:
    """Delete the snapshots below ``root`` of collections that are gone, and those by encoders that they were
    embedded by before, but for the ``kept`` encoder_ids; the folders deleted.

    ``forget`` is told each folder before, to see to what its snapshots have elsewhere.
    """
    encoders = set(map(folder_of, kept))
    serving = {store.root.parent: store.root.name for store in map(store_in(root), collections)}
    doomed = [folder for folder in _folders(root) if folder not in serving]
    for folder, encoder in serving.items():
        doomed += [former for former in _folders(folder) if former.name not in encoders | {encoder}]
    for folder in doomed:
        forget(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return doomed


def _folders(root: Path) -> list[Path]:
    return list(root.iterdir()) if root.is_dir() else []


def folder_of(name: str) -> str:
    """The folder that has what is of a collection or an encoder of this name."""
    # Ordinary names are their own folder; others must neither leave the root nor meet each other.
    quoted = quote(name, safe="")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
