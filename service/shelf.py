"""The shelf: where the archives of collections are kept, and what each holds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from index.archive import Archive, ArchiveError
from index.backup import Contents
from index.folders import folder_of

NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"  # nothing that leads elsewhere, and no file that is hidden


class SnapshotNotFound(Exception):
    """There is no archive of this name."""


class SnapshotExists(Exception):
    """There is an archive of this name already."""


@dataclass(frozen=True)
class Entry:
    """An archive as far as was looked; ``contents`` is None if it does not tell them, and ``problem`` why."""

    path: Path
    size_bytes: int
    contents: Contents | None
    state: str  # complete, verified (all of it was read), damaged
    problem: str | None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.path.stem

    @property
    def items(self) -> int | None:
        """How many items it holds."""
        return None if self.contents is None else sum(held.items for held in self.contents.collections)


class Shelf:
    """The archives below a data folder's ``backups``. Names are matched whole before they become a path."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "backups"

    def path(self, collection: str, name: str) -> Path:
        """Where an archive of a collection stands, or would. Raises SnapshotNotFound for what is no name."""
        if not re.fullmatch(NAME_PATTERN, name, re.ASCII):
            raise SnapshotNotFound(f"{name!r} cannot be an archive's name.")
        return self._folder(collection) / f"{name}.tar"

    def found(self, collection: str, name: str) -> Path:
        """Where an archive stands. Raises SnapshotNotFound."""
        path = self.path(collection, name)
        if not path.is_file():
            raise SnapshotNotFound(f"Collection {collection!r} has no snapshot {name!r}.")
        return path

    def has_any(self, collection: str) -> bool:
        """Whether there is an archive of this collection."""
        return any(self._folder(collection).glob("*.tar"))

    def entries(self, collection: str) -> list[Entry]:
        """The archives of a collection, the newest first."""
        found = list(entries_in(self._folder(collection)))
        return sorted(found, key=lambda entry: -(entry.contents.created_at if entry.contents else 0.0))

    def remove(self, collection: str, name: str) -> None:
        """Delete an archive. Raises SnapshotNotFound, OSError."""
        try:
            self.found(collection, name).unlink()
        except FileNotFoundError:
            raise SnapshotNotFound(f"Collection {collection!r} has no snapshot {name!r}.") from None

    def sweep(self, collection: str, name: str) -> None:
        """Delete what was left of an archive whose maker died, and make the folder for another."""
        folder = self._folder(collection)
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f".{self.path(collection, name).name}.*.partial"):
            left.unlink(missing_ok=True)

    def _folder(self, collection: str) -> Path:
        return self.root / "collections" / folder_of(collection)


def entries_in(folder: Path, *, verify: bool = False) -> Iterator[Entry]:
    """The archives in a folder, in order of name."""
    for path in sorted(folder.glob("*.tar")):
        try:
            yield entry_of(path, verify=verify)
        except FileNotFoundError:
            continue  # deleted meanwhile


def entry_of(path: Path, *, verify: bool = False) -> Entry:
    """What an archive tells of itself; ``verify``: after all of it was read. Raises FileNotFoundError."""
    contents, problem = None, None
    size_bytes = path.stat().st_size
    try:
        archive = Archive(path)
        contents = Contents.of(archive)
        if verify:
            archive.verify()
    except FileNotFoundError:
        raise
    except (ArchiveError, OSError) as error:
        problem = str(error)
    state = "damaged" if problem else "verified" if verify else "complete"
    return Entry(path, size_bytes, contents, state, problem)
