"""Backups: the catalog at one moment, every picture it names and an index of each collection in one file.

All of it hangs on one read transaction. Writes go on meanwhile and are not in it; an index is taken only if
all that it holds was in the log by then. Restoring is one write transaction. Pictures, which are named by
their content, are put in place before it commits, and indexes, which are derived, after: a process that dies
leaves the target as it was, or whole.

Members: ``catalog/<table>/000000.jsonl`` (rows, see ``index.rows``), ``blobs/ab/abcd…`` (pictures by sha256),
``index/<collection uid>/`` (the files of one generation).
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from io import BufferedReader
from pathlib import Path

import sqlalchemy as sa

from index import rows, schema
from index.archive import Archive, ArchiveError, ArchiveWriter, Member, pieces, writing
from index.catalog import Catalog, Collection, EncoderMismatch, Reading, StorageFull
from index.files import fsync, tree_hash
from index.manifest import Manifest, SnapshotError
from index.reading import pictures
from index.snapshot import SnapshotStore

log = logging.getLogger(__name__)

_ROWS = re.compile(r"catalog/(\w+)/\d{6,}\.jsonl", re.ASCII)
_PICTURE = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_INDEX = re.compile(r"index/([0-9a-f]{32})/(\w+\.\w+)", re.ASCII)
_MANIFEST = "manifest.json"  # of a generation
_STAGING = "restoring"


class TargetNotEmpty(Exception):
    """Restoring would replace what the target holds."""


@dataclass(frozen=True)
class Held:
    """A collection in a backup: the log up to ``watermark``, which leaves ``items``."""

    name: str
    encoder_id: str
    watermark: int
    items: int


@dataclass(frozen=True)
class Contents:
    """What a backup holds, as its manifest says. ``rows`` and ``columns`` are per table of the catalog."""

    created_at: float  # seconds since the epoch
    collections: Sequence[Held]
    pictures: int
    rows: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]

    @staticmethod
    def of(archive: Archive) -> "Contents":
        """What this archive holds. Raises ArchiveError when its manifest says something else."""
        about = archive.about
        try:
            return Contents(
                created_at=float(about["created_at"]),
                collections=[Held(**held) for held in about["collections"]],
                pictures=int(about["pictures"]),
                rows={str(name): int(count) for name, count in about["rows"].items()},
                columns={str(name): list(columns) for name, columns in about["columns"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArchiveError(f"manifest.json: describes no backup: {error}") from error

    def check_encoder(self, encoder_id: str) -> None:
        """Raise EncoderMismatch unless every collection was embedded by ``encoder_id``."""
        for held in self.collections:
            if held.encoder_id != encoder_id:
                raise EncoderMismatch(
                    f"the backup's collection {held.name!r} holds embeddings of {held.encoder_id}, "
                    f"not of {encoder_id}"
                )

    def check_tables(self) -> None:
        """Raise ArchiveError unless this release has every table and column of which there are rows."""
        for name, columns in self.columns.items():
            table = rows.tables().get(name)
            if table is None or not set(columns) <= set(rows.columns(table)):
                raise ArchiveError(f"manifest.json: this release has no table {name} with all its columns")


class Backups:
    """Makes and restores the backups of one installation."""

    def __init__(
        self, catalog: Catalog, data_dir: Path, store_of: Callable[[Collection], SnapshotStore]
    ) -> None:
        """``data_dir`` has the pictures under ``blobs``; ``store_of`` gives a collection's snapshots."""
        self._catalog = catalog
        self._data_dir = data_dir
        self._store_of = store_of

    def create(self, path: Path, *, skip_damaged: bool = False) -> Contents:
        """Write a new archive while others write on; what it holds.

        ``skip_damaged`` leaves out pictures that are missing or damaged, with a line in the log for each,
        instead of refusing. Raises ArchiveError (nothing is kept), StorageFull, OSError.
        """
        with _full_disk_is_told(path.parent), ExitStack() as cut:
            connection = cut.enter_context(self._catalog.copying())
            readings = [
                Reading(connection, Collection(**row._mapping))
                for row in connection.execute(sa.select(schema.collections)).all()
            ]
            contents = _contents(connection, readings)
            # The worker deletes pictures that no item names any more, but for those touched within the hour.
            for sha256 in pictures(connection):
                with suppress(FileNotFoundError):
                    os.utime(self._data_dir / _name_of(sha256))
            with writing(path, asdict(contents)) as archive:
                for reading in readings:
                    _add_index(archive, reading, self._store_of(reading.collection))
                for sha256 in pictures(connection):
                    self._add_picture(archive, sha256, skip_damaged)
                for name, table in rows.tables().items():
                    for number, part in enumerate(rows.dump(connection, table)):
                        archive.add(f"catalog/{name}/{number:06d}.jsonl", len(part), [part])
                cut.close()  # what follows reads the archive back, and the catalog need not wait for it
        return contents

    def restore(self, archive: Archive, *, force: bool = False) -> Contents:
        """Make the installation what the archive holds; with ``force`` also if it holds something already.

        Nothing is ever merged: what was there is replaced whole. Raises ArchiveError, TargetNotEmpty,
        StorageFull, StorageUnavailable, OSError; then the installation is as it was.
        """
        contents, staging = Contents.of(archive), self._data_dir / _STAGING
        contents.check_tables()
        with _full_disk_is_told(self._data_dir), ExitStack() as stack:
            with self._catalog.replacing() as connection:  # from here on nobody else restores
                there = rows.count(connection, schema.collections)
                if there and not force:
                    raise TargetNotEmpty(f"the target already holds {there} collections")
                shutil.rmtree(staging, ignore_errors=True)  # of a process that died
                stack.callback(shutil.rmtree, staging, ignore_errors=True)
                rows.clear(connection)
                inserted = dict.fromkeys(contents.columns, 0)
                for member in archive.members():
                    _take(member, contents, connection, staging, inserted)
                if inserted != contents.rows:
                    raise ArchiveError(f"manifest.json: rows are {contents.rows}, the archive has {inserted}")
                _move_pictures(staging / "blobs", self._data_dir / "blobs")
                os.sync()  # once, not for each picture; before the rows that name them are there
            self._serve_indexes(staging / "index")
        return contents

    def _add_picture(self, archive: ArchiveWriter, sha256: str, skip_damaged: bool) -> None:
        name = _name_of(sha256)
        try:
            picture = (self._data_dir / name).read_bytes()
        except OSError:
            picture = b""
        if hashlib.sha256(picture).hexdigest() == sha256:
            archive.add(name, len(picture), [picture])
        elif skip_damaged:
            log.warning("%s cannot be read or is damaged, and is not in the backup", name)
        else:
            raise ArchiveError(f"{name}: cannot be read or is damaged where it is kept")

    def _serve_indexes(self, staged: Path) -> None:
        for collection in self._catalog.every_collection():
            if (staged / collection.uid).is_dir():
                try:
                    _adopt(self._store_of(collection), staged / collection.uid)
                except (SnapshotError, OSError) as error:  # the worker builds one
                    log.warning("the restored index of %s is not used: %s", collection.name, error)


def _contents(connection: sa.Connection, readings: Sequence[Reading]) -> Contents:
    tables = rows.tables()
    held = [
        Held(reading.collection.name, reading.collection.encoder_id, reading.watermark, reading.count())
        for reading in readings
    ]
    return Contents(
        created_at=time.time(),
        collections=held,
        pictures=sum(1 for _ in pictures(connection)),
        rows={name: rows.count(connection, table) for name, table in tables.items()},
        columns={name: rows.columns(table) for name, table in tables.items()},
    )


def _name_of(sha256: str) -> str:
    """A picture's member, and its path in a data folder."""
    return f"blobs/{sha256[:2]}/{sha256}"


def _folder(store: SnapshotStore, generation: int) -> Path:
    return store.root / f"{generation:06d}"


def _add_index(archive: ArchiveWriter, reading: Reading, store: SnapshotStore) -> None:
    """Add the best generation that is undamaged and holds nothing that came after the reading, if any."""
    for generation in store.servable():
        with ExitStack() as opened:
            try:
                files = _whole_files(_folder(store, generation), reading, opened)
            except (SnapshotError, FileNotFoundError) as error:  # pruned meanwhile, or worse
                log.warning("generation %d is not backed up: %s", generation, error)
                continue
            for name, file in files.items():
                size_bytes = os.fstat(file.fileno()).st_size
                archive.add(f"index/{reading.collection.uid}/{name}", size_bytes, pieces(file))
            if files:
                return


def _whole_files(folder: Path, reading: Reading, opened: ExitStack) -> dict[str, BufferedReader]:
    """A generation's files, opened and compared with its manifest; none if it holds another log."""
    manifest = Manifest.read(folder / _MANIFEST)
    if not reading.begins_with(manifest.collection_uid, manifest.watermark, manifest.watermark_at):
        return {}
    names = (*manifest.tree_hash, _MANIFEST)
    files = {name: opened.enter_context((folder / name).open("rb")) for name in names}
    for name, expected in manifest.tree_hash.items():
        if tree_hash(files[name]) != expected:
            raise SnapshotError(f"{folder / name}: its content does not match the manifest")
    return files


def _take(
    member: Member, contents: Contents, connection: sa.Connection, staging: Path, inserted: dict[str, int]
) -> None:
    """Put one member where it belongs. Its name is matched whole, so that it leads nowhere else."""
    if (found := _ROWS.fullmatch(member.name)) and found[1] in inserted:
        table, names = rows.tables()[found[1]], contents.columns[found[1]]
        part = b"".join(member.chunks)  # all of it, so that only what is undamaged is parsed
        try:
            inserted[found[1]] += rows.insert(connection, table, names, part)
        except rows.RowsError as error:
            raise ArchiveError(f"{member.name}: {error}") from error
    elif _is_picture(member) or _INDEX.fullmatch(member.name):
        _write(staging / member.name, member.chunks)
    else:
        raise ArchiveError(f"{member.name!r}: a backup has no such member")


def _is_picture(member: Member) -> bool:
    found = _PICTURE.fullmatch(member.name)
    return found is not None and found[2] == member.sha256


def _write(path: Path, chunks: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.writelines(chunks)


def _move_pictures(staged: Path, blobs: Path) -> None:
    for folder in staged.iterdir() if staged.is_dir() else ():
        (blobs / folder.name).mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            os.replace(path, blobs / folder.name / path.name)


def _adopt(store: SnapshotStore, staged: Path) -> None:
    """Let a restored index serve under its own number, or the next one that no snapshot here has had."""
    with store.publishing():
        manifest = Manifest.read(staged / _MANIFEST)
        generation = max(manifest.generation, store.next_generation())
        replace(manifest, generation=generation).write(staged / _MANIFEST)
        staged.rename(_folder(store, generation))
        fsync(store.root)
        store.set_current(generation)


@contextmanager
def _full_disk_is_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"the disk of {folder} is full; nothing was kept") from error
        raise
