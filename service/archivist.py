"""The archivist: makes archives of collections and restores them, as tasks of the worker."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from index.aliases import AliasConflict
from index.archive import Archive, ArchiveError
from index.backup import Backups, Contents
from index.catalog import Catalog, Collection, CollectionNotFound, EncoderMismatch, StorageFull
from index.jobs import Job
from index.restoring import Plan, Restorer
from index.snapshot import SnapshotStore
from index.staging import TargetChanged
from index.tasks import in_one_with
from service.shelf import Shelf, entry_of
from service.tokens import write_token

_LONGEST_PAUSE_S = 60.0


class TaskFailed(Exception):
    """A task came to its end without success; the message says why."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Archivist:
    """``refresh_s`` is how often processes that search look for news, and ``wait`` sleeps for so many
    seconds, unless the process ends."""

    def __init__(
        self,
        catalog: Catalog,
        data_dir: Path,
        store_of: Callable[[Collection], SnapshotStore],
        refresh_s: float,
        wait: Callable[[float], object],
    ) -> None:
        self._catalog = catalog
        self._shelf = Shelf(data_dir)
        self._backups = Backups(catalog, data_dir, store_of)
        self._restorer = Restorer(catalog, data_dir, store_of)
        self._refresh_s = refresh_s
        self._wait = wait

    def make(self, job: Job, name: str, going_on: Callable[[], None]) -> None:
        """Write the archive of this name of the job's collection. Raises TaskFailed and what ``going_on``
        raises."""
        path = self._shelf.path(job.name, name)
        with _told():
            self._shelf.sweep(job.name, name)
            if not self._is_made(path, job):
                self._backups.create(path, job.name, going_on=going_on)
            entry = entry_of(path)
        found = {
            "snapshot": name,
            "items": entry.items,
            "pictures": entry.contents and entry.contents.pictures,
            "size_bytes": entry.size_bytes,
        }
        self._catalog.tasks.advance(job, 1, 1, [found])

    def restore(self, job: Job, request: dict[str, Any], going_on: Callable[[], None]) -> None:
        """Put an archive's collection in place of the job's. Raises as ``make``."""
        if job.at_line:  # it is in place, and whoever put it there has died since
            return
        source, name = request["of"], request["snapshot"]
        with _told():
            archive = Archive(self._shelf.path(source, name))
            contents = Contents.of(archive)
            contents.check_encoder(request["encoder_id"], source)
            held = contents.collection(source)
            uid = hashlib.sha256(job.id.encode()).hexdigest()[:32]
            found = {"collection": job.name, "items": held.items, "write_token": write_token(held.watermark)}
            plan, also = Plan(source, job.name, uid, job.uid or None), in_one_with(job, [found])
            self._restorer.restore(archive, plan, going_on=going_on, pause=self._pause, also=also)

    def _pause(self, seconds: float) -> None:
        """Long enough for a process that is half as fast as this one."""
        self._wait(min(_LONGEST_PAUSE_S, 2 * seconds + 2 * self._refresh_s))

    def _is_made(self, path: Path, job: Job) -> bool:
        """Whether it was made since it was asked for: by somebody who died before he could tell."""
        if not path.exists():
            return False
        contents = entry_of(path).contents
        return contents is not None and contents.created_at >= job.created_at


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
        if code is None:
            raise
        raise TaskFailed(str(error), code) from error


_CODES: dict[type[Exception], str] = {
    AliasConflict: "alias_conflict",
    ArchiveError: "snapshot_damaged",
    CollectionNotFound: "collection_not_found",
    EncoderMismatch: "encoder_mismatch",
    FileNotFoundError: "snapshot_not_found",
    StorageFull: "storage_full",
    TargetChanged: "collection_changed",
}
