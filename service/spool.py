"""The spool: the lines of bulk jobs, kept on disk until their job has ended."""

import asyncio
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Protocol, get_args

from service.images import DiskFull, DiskUnavailable

_BUFFER_BYTES = 2**20  # written, and read, at once
CHUNK_LINES = 64  # embedded and committed together
CHUNK_BYTES = 8 * 2**20  # the same; a longer line is a chunk of its own
_CHUNK_BLANKS = 100_000  # so that reading a file of empty lines ends now and then


class SpoolFull(Exception):
    """What waits to be done takes all the room that it may."""


class SpoolMissing(Exception):
    """The lines of a job are no longer there."""


@dataclass(frozen=True)
class Kept:
    """What was kept: how many lines say something, and the sha256 of it all."""

    total: int
    digest: str


@dataclass(frozen=True)
class Unread:
    """A line that says something of which no line can be made: its custom_id, and why."""

    custom_id: str | None
    error: Exception


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines with their numbers, which count from 1; None stands for one that is too long, or of
    which ``unread`` tells more by its number.

    The last byte and line that it covers are ``end`` and ``line``. Empty lines are left out.
    """

    lines: list[tuple[int, bytes | None]]
    end: int
    line: int
    unread: Mapping[int, Unread] = field(default_factory=dict)


class Records(Protocol):
    """What a job reads, as lines. Positions are the reader's own numbers, 0 at the beginning."""

    def chunk(self, start: int, line: int) -> Chunk:
        """What follows ``start``, the end of line ``line``; after the last line a chunk of nothing."""
        ...

    def total(self) -> int:
        """How many lines say something."""
        ...


# The lines themselves; or what names a file that has them, which may be kept beside it.
Kind = Literal["ndjson", "source", "file"]
OpenSource = Callable[[bytes], AbstractContextManager[Records]]


def is_blank(line: bytes) -> bool:
    """Whether a line says nothing."""
    return not line or line.isspace()


class Lines:
    """Lines of JSON, or what ``made`` makes into such; ``is_blank`` tells which say nothing.

    Positions are bytes.
    """

    def __init__(
        self,
        file: IO[bytes],
        max_line_bytes: int,
        made: Callable[[bytes], bytes | Unread] | None = None,
        is_blank: Callable[[bytes], bool] = is_blank,
    ) -> None:
        self._file = file
        self._max_line_bytes = max_line_bytes
        self._made = made
        self._is_blank = is_blank

    def chunk(self, start: int, line: int) -> Chunk:
        """See Records."""
        return self._chunk(start, line, self._made)

    def total(self) -> int:
        """See Records."""
        total = at = line = 0
        while (found := self._chunk(at, line, None)).end > at:
            total, at, line = total + len(found.lines), found.end, found.line
        return total

    def _chunk(self, start: int, line: int, made: Callable[[bytes], bytes | Unread] | None) -> Chunk:
        self._file.seek(start)
        found: list[tuple[int, bytes | None]] = []
        unread: dict[int, Unread] = {}
        size, last = 0, line + _CHUNK_BLANKS
        while len(found) < CHUNK_LINES and size < CHUNK_BYTES and line < last:
            data = self._file.readline(self._max_line_bytes + 1)
            if not data:
                break
            line += 1
            whole = data.endswith(b"\n") or len(data) <= self._max_line_bytes
            blank = self._is_blank(data)
            if not whole:
                blank = self._skip_line() and blank
            if blank:
                continue
            said = made(data) if made is not None and whole else data
            if isinstance(said, Unread):
                unread[line] = said
                found.append((line, None))
            else:
                found.append((line, said if whole else None))
                size += len(said)
        return Chunk(found, self._file.tell(), line, unread)

    def _skip_line(self) -> bool:
        """Go to the end of the line; whether what was passed over is blank."""
        blank = True
        while rest := self._file.readline(_BUFFER_BYTES):
            blank = blank and is_blank(rest)
            if rest.endswith(b"\n"):
                break
        return blank


class Spool:
    """A folder of files, one to a job, of ``max_bytes`` together."""

    def __init__(self, folder: Path, max_bytes: int, max_line_bytes: int, open_source: OpenSource) -> None:
        self._folder = folder
        self._open_source = open_source
        self._max_bytes = max_bytes
        self._max_line_bytes = max_line_bytes

    def check_room(self, size: int) -> None:
        """Raise SpoolFull unless ``size`` more bytes may be kept."""
        if self._used() + size > self._max_bytes:
            raise SpoolFull(
                f"The lines of the jobs that wait may take {self._max_bytes} bytes, and these would not fit. "
                "Send fewer, or wait until others are done."
            )

    async def keep(self, job: str, body: AsyncIterator[bytes], kind: Kind = "ndjson") -> Kept:
        """Keep a body, durably and whole or not at all. Raises SpoolFull, DiskFull, DiskUnavailable."""
        part = self._folder / f"{job}.part"
        tally = _Tally()
        try:
            with _disk_errors():
                self._folder.mkdir(parents=True, exist_ok=True)
                file = part.open("xb", buffering=0)
            with file:
                waiting = bytearray()
                async for piece in body:
                    waiting += piece
                    if len(waiting) >= _BUFFER_BYTES:
                        await asyncio.to_thread(self._write, file, bytes(waiting), tally)
                        waiting.clear()
                await asyncio.to_thread(self._write, file, bytes(waiting), tally)
                await asyncio.to_thread(self._finish, file, part, self._path(job, kind))
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return tally.kept()

    @contextmanager
    def lines(self, job: str) -> Iterator[Records | None]:
        """The lines of a job, for one process at a time: None if another has them.

        Raises SpoolMissing, and what opening a source raises.
        The lock is the operating system's, and ends with the process that holds it, however that ends.
        """
        with _disk_errors():
            kind: Kind = "source" if self._path(job, "source").exists() else "ndjson"
            try:
                file = self._path(job, kind).open("rb", _BUFFER_BYTES)
            except FileNotFoundError:
                raise SpoolMissing("The lines of this job are no longer on the disk.") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            if kind == "ndjson":
                yield Lines(file, self._max_line_bytes)
            else:
                with self._open_source(file.read()) as records:
                    yield records

    def remove(self, job: str) -> None:
        """Forget the lines of a job."""
        with suppress(OSError):  # what stays is pruned
            for kind in get_args(Kind):
                self._path(job, kind).unlink(missing_ok=True)

    def prune(self, unfinished: set[str], older_than_s: float) -> int:
        """Delete files of no unfinished job which nobody wrote for a while; how many."""
        before, deleted = time.time() - older_than_s, 0
        for path in self._folder.glob("job_*"):
            if path.stem in unfinished and path.suffix != ".part":
                continue
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    deleted += 1
        return deleted

    def _path(self, job: str, kind: Kind) -> Path:
        return self._folder / f"{job}.{kind}"

    def _used(self) -> int:
        used = 0
        with _disk_errors(), suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    used += entry.stat().st_size
        return used

    def _write(self, file: IO[bytes], data: bytes, tally: "_Tally") -> None:
        self.check_room(len(data))
        tally.add(data)
        rest = memoryview(data)
        with _disk_errors():
            while rest:
                rest = rest[file.write(rest) :]

    def _finish(self, file: IO[bytes], part: Path, path: Path) -> None:
        with _disk_errors():
            os.fsync(file.fileno())
            part.rename(path)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class _Tally:
    """Counts the lines that say something in pieces of a body."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._total = 0
        self._begun = False  # the line that the next piece goes on with says something

    def add(self, data: bytes) -> None:
        self._sha256.update(data)
        *ends, last = data.split(b"\n")
        for end in ends:
            self._total += self._begun or not is_blank(end)
            self._begun = False
        self._begun = self._begun or not is_blank(last)

    def kept(self) -> Kept:
        return Kept(self._total + self._begun, self._sha256.hexdigest())


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = DiskFull if full else DiskUnavailable
        raise kind(f"The disk that keeps bulk jobs {'is full' if full else 'cannot be used'}.") from error
