"""What is asked of files: their hash, that they are on disk, and that one process at a time goes on."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from index.priority import give_way

_BLOCK_BYTES = 1 << 24  # of a file, hashed by one core
_READ_BYTES = 1 << 20  # at once: larger buffers would stay with the process


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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at a path, waiting for whoever holds it; a holder that dies lets go of it."""
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
