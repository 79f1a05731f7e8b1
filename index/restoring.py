"""Restoring one collection of a backup: put beside what serves, and then in its place by one transaction.

What is restored gets a uid of its own. So nothing is merged, the one before serves until the last moment, and
a process that dies leaves it as it was, or replaced whole; whatever else it leaves is found by the uid and
deleted. Other collections are written meanwhile. The index comes first: processes that search are told of it
and open it before the collection is theirs.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import sqlalchemy as sa

from index import rows, schema
from index.archive import Archive, ArchiveError, Member
from index.backup import Contents
from index.catalog import Catalog, Collection
from index.engines.milvus import FACTORY
from index.manifest import Manifest, SnapshotError
from index.members import STAGING, adopt, full_disk_is_told, is_picture, move_pictures, uid_of_index, write
from index.reading import pictures
from index.snapshot import SnapshotStore
from index.staging import Staging

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Which collection of an archive is to be restored, under which name and uid.

    ``replaces`` is the uid of the collection of that name, None if there is none: if that has changed when
    all is ready, nothing is replaced.
    """

    source: str
    name: str
    uid: str  # 32 hex digits, of no collection; what an earlier attempt left under it is deleted
    replaces: str | None = None


class Restorer:
    """Restores collections into one installation, while it serves."""

    def __init__(
        self, catalog: Catalog, data_dir: Path, store_of: Callable[[Collection], SnapshotStore]
    ) -> None:
        """As of ``Backups``."""
        self._catalog = catalog
        self._data_dir = data_dir
        self._store_of = store_of

    def restore(
        self,
        archive: Archive,
        plan: Plan,
        *,
        going_on: Callable[[], None] = lambda: None,
        pause: Callable[[float], None] = lambda seconds: None,
        also: Callable[[sa.Connection], None] = lambda connection: None,
    ) -> Collection:
        """Make the collection what the archive holds; it is searched as it was before until this returns.

        ``going_on`` is called again and again and may raise to end it. ``pause`` gives processes that search
        the time to open the index, and is told how many seconds that took here. ``also`` is done in the
        transaction that replaces the collection. Raises CollectionNotFound (the archive has none of this
        name), ArchiveError, TargetChanged, AliasConflict, StagingLost, StorageFull, StorageUnavailable,
        OSError and what those raise; then what was there is as it was.
        """
        staging, folder = self._catalog.staging, self._data_dir / STAGING / plan.uid
        taking = _Taking(staging, archive, plan, folder, going_on)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            with full_disk_is_told(self._data_dir), ExitStack() as serving:
                staging.begin(plan.uid)
                collection = taking.items()
                wanted = self._pictures_of(collection) if Contents.of(archive).whole else None
                useful = taking.rest(collection, wanted)
                move_pictures(folder / "blobs", self._data_dir / "blobs")
                os.sync()  # once, not for each picture; before the rows that name them are there
                if useful and (folder / "index").is_dir():
                    self._open_index(folder / "index", collection, plan, serving, pause)
                going_on()
                staging.put_in_place(collection, plan.replaces, also)
        except BaseException:
            with suppress(Exception):  # whoever tidies up will
                staging.drop(plan.uid)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(Exception):
            staging.drop(plan.replaces or "")
        return collection

    def tidy(self, older_than_s: float) -> None:
        """Delete what restores have replaced, and what those left that died so long ago."""
        for uid in self._catalog.staging.given_up(time.time() - older_than_s):
            self._catalog.staging.drop(uid)
            shutil.rmtree(self._data_dir / STAGING / uid, ignore_errors=True)

    def _pictures_of(self, collection: Collection) -> set[str]:
        with self._catalog.copying() as connection:
            return set(pictures(connection, schema.items.c.collection == collection.uid))

    def _open_index(
        self,
        staged: Path,
        collection: Collection,
        plan: Plan,
        serving: ExitStack,
        pause: Callable[[float], None],
    ) -> None:
        """Let the index serve as soon as its collection does, unless ``serving`` ends with an error."""
        store, started = self._store_of(collection), time.monotonic()
        opened = serving.enter_context(ExitStack())
        try:
            opened.enter_context(store.publishing())
            if Manifest.read(staged / "manifest.json").factory == FACTORY:
                raise SnapshotError("its vectors stand in a cluster, and are another collection's there")
            manifest = adopt(store, staged, plan.uid)
            opened.push(_unless_well(store.folder(manifest.generation)))
            store.load(manifest.generation, plan.uid, collection.encoder_id)
            opened.enter_context(store.announcing(manifest.generation))
            if plan.replaces is not None:
                pause(time.monotonic() - started)
            opened.enter_context(store.serving(manifest.generation))
        except (SnapshotError, OSError) as error:  # the worker builds one
            log.warning("the restored index of %s is not used: %s", collection.name, error)
            opened.__exit__(*sys.exc_info())


class _Taking:
    """Takes one collection out of an archive, into the staged rows of a uid and a folder of files."""

    def __init__(
        self,
        staging: Staging,
        archive: Archive,
        plan: Plan,
        folder: Path,
        going_on: Callable[[], None],
    ) -> None:
        self._staging = staging
        self._archive = archive
        self._contents = Contents.of(archive)
        self._held = self._contents.collection(plan.source)
        self._plan = plan
        self._folder = folder
        self._going_on = going_on
        self._contents.check_tables()
        if not self._held.uid:
            raise ArchiveError("manifest.json: it does not tell collections apart; restore the whole of it")

    def items(self) -> Collection:
        """Take the log and the items, for whose sake the rest is taken; what the collection will be."""
        held, found = self._held, list[rows.Row]()
        logged = there = 0
        for member in self._archive.members():
            self._going_on()
            table = self._contents.table_of(member)
            if table == "collections":
                found += [row for row in self._read(member, table) if row["uid"] == held.uid]
            elif table == "changes":
                logged += self._add(member, schema.changes)
            elif table == "items":
                there += self._add(member, schema.items)
            if found and (logged, there) == (held.watermark, held.items):
                break
        if len(found) != 1 or (logged, there) != (held.watermark, held.items):
            raise ArchiveError(
                f"manifest.json: {held.items} items, {held.watermark} changes of {held.name!r} are not there"
            )
        named = {field.name: found[0][field.name] for field in fields(Collection) if field.name in found[0]}
        return Collection(**named | {"name": self._plan.name, "uid": self._plan.uid})

    def rest(self, collection: Collection, wanted: Set[str] | None) -> bool:
        """Take embeddings, pictures (those ``wanted``; None: all) and the index; False if the index is of no
        use, because other embeddings of the same contents stand in the catalog."""
        same, held = True, self._held
        for member in self._archive.members():
            self._going_on()
            table, uid = self._contents.table_of(member), uid_of_index(member)
            if table == "embeddings":
                read = self._read(member, table)
                with _told(member):
                    same = self._staging.add_embeddings(collection.uid, collection.encoder_id, read) and same
            elif is_picture(member):
                if wanted is None or member.sha256 in wanted:
                    write(self._folder / member.name, member.chunks)
            elif uid == held.uid:
                write(self._folder / "index" / member.name.rpartition("/")[2], member.chunks)
            elif table is None and uid is None:
                raise ArchiveError(f"{member.name!r}: a backup has no such member")
        logged, there, without = self._staging.sizes(collection)
        if (logged, there, without) != (collection.last_seq, held.items, 0):
            raise ArchiveError(
                f"manifest.json: of {there} items {without} have no embedding; {logged} changes of "
                f"{collection.last_seq} are there"
            )
        return same

    def _add(self, member: Member, table: sa.Table) -> int:
        own = [row for row in self._read(member, table.name) if row["collection"] == self._held.uid]
        with _told(member):
            self._staging.add(self._plan.uid, table, [row | {"collection": self._plan.uid} for row in own])
        return len(own)

    def _read(self, member: Member, table: str) -> list[rows.Row]:
        part = b"".join(member.chunks)  # all of it, so that only what is undamaged is parsed
        with _told(member):
            return rows.read(rows.tables()[table], self._contents.columns[table], part)


@contextmanager
def _told(member: Member) -> Iterator[None]:
    try:
        yield
    except rows.RowsError as error:
        raise ArchiveError(f"{member.name}: {error}") from error


def _unless_well(folder: Path) -> Callable[..., None]:
    """Deletes a folder when a block ends with an error."""

    def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(folder, ignore_errors=True)

    return leave
