"""What is asked of files: their hash, that they are on disk, and that one process at a time goes on."""

import ctypes
import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from index.priority import give_way

_BLOCK_BYTES = 1 << 24  # of a file, hashed by one core
_READ_BYTES = 1 << 20  # at once: larger buffers would stay with the process
_MANY = 16  # files: to flush all that is written costs less than to flush each
_FLUSHED_AT_ONCE = 8  # files: the disk flushes several in hardly more time than one
# File systems whose syncfs waits for the disk as their fsync does; one in user space may not.
_KNOWN_FLUSHED_WHOLE = ("ext4", "xfs")
_MOUNTS = Path("/proc/self/mountinfo")


def tree_hash(file: BinaryIO) -> str:
    """The sha256 of the sha256 of every 16 MiB of an open file: all cores compute it, in little memory."""

    def hashed(start: int) -> bytes:
        block = hashlib.sha256()
        for at in range(start, start + _BLOCK_BYTES, _READ_BYTES):
            block.update(os.pread(file.fileno(), _READ_BYTES, at))
        return block.digest()

    with ThreadPoolExecutor(os.cpu_count(), initializer=give_way) as pool:
        blocks = pool.map(hashed, range(0, os.fstat(file.fileno()).st_size, _BLOCK_BYTES))
        return hashlib.sha256(b"".join(blocks)).hexdigest()


def tree_hash_at(path: Path) -> str:
    """The tree_hash of the file at a path. Raises OSError."""
    with path.open("rb") as file:
        return tree_hash(file)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_all(paths: Collection[Path]) -> None:
    """The same of files and folders that are in one file system, with fewer calls where they are many."""
    some = next(iter(paths), None)
    if some is not None and len(paths) >= _MANY and _is_flushed_whole(os.stat(some).st_dev):
        _syncfs(some)
        return
    with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as threads:
        list(threads.map(fsync, paths))  # raises what one of them raised


def _syncfs(path: Path) -> None:
    """Wait until all of a file system is on disk. Raises OSError, also for earlier writes that failed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(descriptor)


@cache
def _is_flushed_whole(device: int) -> bool:
    """Whether the file system on a device is one that ``_syncfs`` can be trusted with."""
    if not _MOUNTS.exists():
        return False
    name = f"{os.major(device)}:{os.minor(device)}"
    mounts = (line.split() for line in _MOUNTS.read_text().splitlines())
    return any(
        fields[2] == name and fields[fields.index("-") + 1] in _KNOWN_FLUSHED_WHOLE for fields in mounts
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at a path, waiting for whoever holds it; a holder that dies lets go of it."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
