"""The members of a backup that are files: how pictures and indexes go into an archive and out of it.

``blobs/ab/abcd…`` is a picture by its sha256, ``index/<collection uid>/`` has the files of one generation.
"""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from index.archive import ArchiveWriter, Member, pieces
from index.catalog import Reading, StorageFull
from index.files import fsync, tree_hash
from index.manifest import Manifest, SnapshotError
from index.snapshot import SnapshotStore

log = logging.getLogger(__name__)

_PICTURE = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_INDEX = re.compile(r"index/([0-9a-f]{32})/(\w+\.\w+)", re.ASCII)
_MANIFEST = "manifest.json"  # of a generation
STAGING = "restoring"  # the folder of files that are not in place yet


def name_of(sha256: str) -> str:
    """A picture's member, and its path in a data folder."""
    return f"blobs/{sha256[:2]}/{sha256}"


def is_picture(member: Member) -> bool:
    """Whether a member is a picture under the name of its content, matched whole: it leads nowhere else."""
    found = _PICTURE.fullmatch(member.name)
    return found is not None and found[2] == member.sha256


def uid_of_index(member: Member) -> str | None:
    """The uid of the collection whose index a member is of; None: of none."""
    found = _INDEX.fullmatch(member.name)
    return None if found is None else found[1]


def write(path: Path, chunks: Iterator[bytes]) -> None:
    """Write a new file, and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.writelines(chunks)


def move_pictures(staged: Path, blobs: Path) -> None:
    """Put pictures in place, which are on the same file system."""
    for folder in staged.iterdir() if staged.is_dir() else ():
        (blobs / folder.name).mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            os.replace(path, blobs / folder.name / path.name)


def add_index(archive: ArchiveWriter, reading: Reading, store: SnapshotStore) -> None:
    """Add the best generation that is undamaged and holds nothing that came after the reading, if any."""
    for generation in store.servable():
        with ExitStack() as opened:
            try:
                files = _whole_files(store.folder(generation), reading, opened)
            except (SnapshotError, FileNotFoundError) as error:  # pruned meanwhile, or worse
                log.warning("generation %d is not backed up: %s", generation, error)
                continue
            for name, file in files.items():
                size_bytes = os.fstat(file.fileno()).st_size
                archive.add(f"index/{reading.collection.uid}/{name}", size_bytes, pieces(file))
            if files:
                return


def adopt(store: SnapshotStore, staged: Path, uid: str | None = None) -> Manifest:
    """Put a restored index among a store's generations under its own number, or the next one that no snapshot
    here has had; as that of collection ``uid``, if given. The caller holds ``publishing``.

    Raises SnapshotError, OSError.
    """
    manifest = Manifest.read(staged / _MANIFEST)
    generation = max(manifest.generation, store.next_generation())
    manifest = replace(manifest, generation=generation, collection_uid=uid or manifest.collection_uid)
    manifest.write(staged / _MANIFEST)
    staged.rename(store.folder(generation))
    fsync(store.root)
    return manifest


@contextmanager
def full_disk_is_told(folder: Path) -> Iterator[None]:
    """An OSError that says so, as StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"the disk of {folder} is full; nothing was kept") from error
        raise


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
