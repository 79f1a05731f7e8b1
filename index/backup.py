"""Backups: the catalog at one moment, every picture it names and an index of each collection in one file; or
one collection of it.

All of it hangs on one read transaction. Writes go on meanwhile and are not in it; an index is taken only if
all that it holds was in the log by then. Restoring is one write transaction. Pictures, which are named by
their content, are put in place before it commits, and indexes, which are derived, after: a process that dies
leaves the target as it was, or whole. One collection is restored another way (``index.restoring``).

Members: ``catalog/<table>/000000.jsonl`` (rows, see ``index.rows``), and files (see ``index.members``). Rows
come first, so that what is wanted of a collection is known when its files come.
"""

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa

from index import rows, schema
from index.aliases import find
from index.archive import Archive, ArchiveError, ArchiveWriter, Member, writing
from index.catalog import Catalog, Collection, CollectionNotFound, EncoderMismatch, Reading
from index.manifest import SnapshotError
from index.members import (
    STAGING,
    add_index,
    adopt,
    full_disk_is_told,
    is_picture,
    move_pictures,
    name_of,
    uid_of_index,
    write,
)
from index.reading import pictures
from index.snapshot import SnapshotStore

log = logging.getLogger(__name__)

_ROWS = re.compile(r"catalog/(\w+)/\d{6,}\.jsonl", re.ASCII)


class TargetNotEmpty(Exception):
    """Restoring would replace what the target holds."""


@dataclass(frozen=True)
class Held:
    """A collection in a backup: the log up to ``watermark``, which leaves ``items``.

    ``uid`` is the one it had; "": the archive is of a build that did not tell it.
    """

    name: str
    encoder_id: str
    watermark: int
    items: int
    uid: str = ""


@dataclass(frozen=True)
class Contents:
    """What a backup holds, as its manifest says. ``rows`` and ``columns`` are per table of the catalog.

    ``whole``: it is of an installation, and not of one of its collections.
    """

    created_at: float  # seconds since the epoch
    collections: Sequence[Held]
    pictures: int
    rows: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]
    whole: bool = True

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
                whole=bool(about.get("whole", True)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArchiveError(f"manifest.json: describes no backup: {error}") from error

    def collection(self, name: str) -> Held:
        """The collection of this name. Raises CollectionNotFound."""
        for held in self.collections:
            if held.name == name:
                return held
        raise CollectionNotFound(f"the backup holds no collection {name!r}")

    def check_encoder(self, encoder_id: str, name: str | None = None) -> None:
        """Raise EncoderMismatch unless the collections, or that of this name, were embedded by
        ``encoder_id``."""
        for held in self.collections:
            if held.encoder_id != encoder_id and name in (None, held.name):
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

    def table_of(self, member: Member) -> str | None:
        """The name of the table whose rows a member has; None: it has none of a table that is told here."""
        found = _ROWS.fullmatch(member.name)
        return found[1] if found is not None and found[1] in self.columns else None


class Backups:
    """Makes the backups of one installation, and restores those of a whole one."""

    def __init__(
        self, catalog: Catalog, data_dir: Path, store_of: Callable[[Collection], SnapshotStore]
    ) -> None:
        """``data_dir`` has the pictures under ``blobs``; ``store_of`` gives a collection's snapshots."""
        self._catalog = catalog
        self._data_dir = data_dir
        self._store_of = store_of

    def create(
        self,
        path: Path,
        name: str | None = None,
        *,
        skip_damaged: bool = False,
        going_on: Callable[[], None] = lambda: None,
    ) -> Contents:
        """Write a new archive of everything, or of the collection of this name, while others write on.

        ``skip_damaged`` leaves out pictures that are missing or damaged, with a line in the log for each,
        instead of refusing. ``going_on`` is called again and again and may raise to end it. Raises
        ArchiveError (nothing is kept), CollectionNotFound, StorageFull, OSError.
        """
        with full_disk_is_told(path.parent), ExitStack() as cut:
            connection = cut.enter_context(self._catalog.copying())
            one = None if name is None else find(connection, name)
            every = connection.execute(sa.select(schema.collections)).all() if one is None else ()
            chosen = [Collection(**row._mapping) for row in every] if one is None else [one]
            readings = [Reading(connection, collection) for collection in chosen]
            contents, tables = _contents(connection, readings, one), rows.tables(one)
            # The worker deletes pictures that no item names any more, but for those touched within the hour.
            of = rows.belonging(schema.items, one)
            for sha256 in pictures(connection, of):
                with suppress(FileNotFoundError):
                    os.utime(self._data_dir / name_of(sha256))
            with writing(path, asdict(contents)) as archive:
                for table in tables:
                    for number, part in enumerate(rows.dump(connection, tables[table], one)):
                        archive.add(f"catalog/{table}/{number:06d}.jsonl", len(part), [part])
                        going_on()
                for sha256 in pictures(connection, of):
                    self._add_picture(archive, sha256, skip_damaged)
                    going_on()
                for reading in readings:
                    add_index(archive, reading, self._store_of(reading.collection))
                    going_on()
                cut.close()  # what follows reads the archive back, and the catalog need not wait for it
        return contents

    def restore(self, archive: Archive, *, force: bool = False) -> Contents:
        """Make the installation what the archive holds; with ``force`` also if it holds something already.

        Nothing is ever merged: what was there is replaced whole. Raises ArchiveError, TargetNotEmpty,
        StorageFull, StorageUnavailable, OSError; then the installation is as it was.
        """
        contents, staging = Contents.of(archive), self._data_dir / STAGING
        if not contents.whole:
            raise ArchiveError("manifest.json: the archive is of one collection, not of an installation")
        contents.check_tables()
        with full_disk_is_told(self._data_dir), ExitStack() as stack:
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
                move_pictures(staging / "blobs", self._data_dir / "blobs")
                os.sync()  # once, not for each picture; before the rows that name them are there
            self._serve_indexes(staging / "index")
        return contents

    def _add_picture(self, archive: ArchiveWriter, sha256: str, skip_damaged: bool) -> None:
        name = name_of(sha256)
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
                store = self._store_of(collection)
                try:
                    with store.publishing():
                        store.set_current(adopt(store, staged / collection.uid).generation)
                except (SnapshotError, OSError) as error:  # the worker builds one
                    log.warning("the restored index of %s is not used: %s", collection.name, error)


def _contents(connection: sa.Connection, readings: Sequence[Reading], one: Collection | None) -> Contents:
    tables = rows.tables(one)
    held = [
        Held(entry.name, entry.encoder_id, reading.watermark, reading.count(), entry.uid)
        for reading in readings
        for entry in [reading.collection]
    ]
    return Contents(
        created_at=time.time(),
        collections=held,
        pictures=sum(1 for _ in pictures(connection, rows.belonging(schema.items, one))),
        rows={name: rows.count(connection, table, one) for name, table in tables.items()},
        columns={name: rows.columns(table) for name, table in tables.items()},
        whole=one is None,
    )


def _take(
    member: Member, contents: Contents, connection: sa.Connection, staging: Path, inserted: dict[str, int]
) -> None:
    """Put one member where it belongs."""
    name = contents.table_of(member)
    if name is not None:
        part = b"".join(member.chunks)  # all of it, so that only what is undamaged is parsed
        try:
            inserted[name] += rows.insert(connection, rows.tables()[name], contents.columns[name], part)
        except rows.RowsError as error:
            raise ArchiveError(f"{member.name}: {error}") from error
    elif is_picture(member) or uid_of_index(member) is not None:
        write(staging / member.name, member.chunks)
    else:
        raise ArchiveError(f"{member.name!r}: a backup has no such member")
