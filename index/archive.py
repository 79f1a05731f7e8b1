"""The file of a backup: a plain, uncompressed tar that proves its own wholeness member by member.

``manifest.json`` comes first and says what the archive holds; ``SHA256SUMS`` comes last and lists every other
member in its order, as ``sha256sum --check`` reads it. The manifest has the place and the sha256 of that list
and a checksum over itself. It is blank until everything else is on disk: an archive that was cut short by
whatever has no manifest. Nothing here keeps anything per member in memory.
"""

import hashlib
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from index.files import fsync

FORMAT = 1  # of the members and their meaning; a reader refuses any other

_MANIFEST, _SUMS = "manifest.json", "SHA256SUMS"
_BLOCK = 512  # tar's unit: headers are one block, contents are padded to blocks
_MANIFEST_ROOM = 1024  # what the manifest grows by when the archive is finished, at most
_MAX_MANIFEST_BYTES = 64 * 2**20  # more is no manifest of ours, and is not read into memory
_MAX_LINE_BYTES = 1024
_CHUNK_BYTES = 2**20


class ArchiveError(Exception):
    """An archive that cannot be made or must not be restored; the message names the member."""


@dataclass(frozen=True)
class Member:
    """One member as it is read. ``chunks`` ends with ArchiveError when the content is not what was listed."""

    name: str
    size_bytes: int
    sha256: str
    chunks: Iterator[bytes]


class ArchiveWriter:
    """Adds members to a new archive."""

    def __init__(self, file: BinaryIO, sums: BinaryIO, about: Mapping[str, Any]) -> None:
        """Write to ``file``, which can seek, what ``about`` describes; gather the sums in ``sums``."""
        self._file = file
        self._sums = sums
        self._about = about
        self._made_at = int(time.time())
        self._room = len(json.dumps(about)) + _MANIFEST_ROOM
        self._write(_MANIFEST, self._room, [b" " * self._room])

    def add(self, name: str, size_bytes: int, chunks: Iterable[bytes]) -> None:
        """Add a member under a short ASCII name. Raises ArchiveError when ``chunks`` are not of that size."""
        sha256 = self._write(name, size_bytes, chunks)
        self._sums.write(f"{sha256}  {name}\n".encode("ascii"))

    def finish(self) -> None:
        """Write the sums, then the manifest, and flush all to disk."""
        size_bytes, starts_at = self._sums.tell(), self._file.tell() + _BLOCK
        self._sums.seek(0)
        sha256 = self._write(_SUMS, size_bytes, pieces(self._sums))
        self._file.write(bytes(2 * _BLOCK))  # the end of a tar
        _flush(self._file)
        place = {"starts_at": starts_at, "size_bytes": size_bytes, "sha256": sha256}
        manifest = {"format": FORMAT, **self._about, "sums": place}
        encoded = json.dumps(manifest | {"checksum": _checksum(manifest)}).encode()
        self._file.seek(_BLOCK)
        self._file.write(encoded.ljust(self._room))
        _flush(self._file)

    def _write(self, name: str, size_bytes: int, chunks: Iterable[bytes]) -> str:
        header = tarfile.TarInfo(name)
        header.size, header.mtime = size_bytes, self._made_at
        self._file.write(header.tobuf(tarfile.GNU_FORMAT))  # one block, without a bound on the size
        digest, written = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            written += self._file.write(chunk)
        if written != size_bytes:
            raise ArchiveError(f"{name}: changed while it was read, from {size_bytes} bytes to {written}")
        self._file.write(bytes(-size_bytes % _BLOCK))
        return digest.hexdigest()


@contextmanager
def writing(path: Path, about: Mapping[str, Any]) -> Iterator[ArchiveWriter]:
    """A new archive. It gets its name when the block ends well and all of it reads back; else nothing stays.

    A process that dies leaves ``.<name>.….partial``, which is never taken for an archive. Raises ArchiveError
    and OSError.
    """
    if path.exists():
        raise ArchiveError(f"{path} exists already")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file, tempfile.TemporaryFile(dir=path.parent) as sums:
            writer = ArchiveWriter(file, sums, about)
            yield writer
            writer.finish()
        Archive(partial).verify()
        os.replace(partial, path)
        fsync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


class Archive:
    """An archive whose manifest and sums are whole; its members are checked as they are read.

    ``about`` is what its maker said of it. Members are regular files, one after the other, exactly those
    listed: a name is compared and never made a path of here.
    """

    def __init__(self, path: Path) -> None:
        """Open an archive. Raises ArchiveError, OSError."""
        self._path = path
        with path.open("rb") as file:
            self.about = _read_manifest(file)
            try:
                place = self.about["sums"]
                self._sums_at, self._sums_bytes = int(place["starts_at"]), int(place["size_bytes"])
                file.seek(self._sums_at)
                digest = hashlib.sha256()
                for chunk in _content(file, _SUMS, self._sums_bytes):
                    digest.update(chunk)
            except (KeyError, TypeError, ValueError) as error:
                raise ArchiveError(f"{_MANIFEST}: does not say where the sums are") from error
            if digest.hexdigest() != place["sha256"]:
                raise ArchiveError(f"{_SUMS}: is not what was written")

    def members(self) -> Iterator[Member]:
        """Every member but the manifest and the sums, in order. What the caller leaves unread is read too.

        Raises ArchiveError at the first member that is damaged, missing or too many.
        """
        with self._path.open("rb") as file, self._path.open("rb") as sums:
            _skip(file, _next_header(file, _MANIFEST))
            sums.seek(self._sums_at)
            while sums.tell() < self._sums_at + self._sums_bytes:
                line = sums.readline(_MAX_LINE_BYTES).decode("ascii", "replace")
                sha256, _, name = line.rstrip("\n").partition("  ")
                size_bytes = _next_header(file, name)
                starts_at = file.tell()
                chunks = _checked(_content(file, name, size_bytes), name, sha256)
                yield Member(name, size_bytes, sha256, chunks)
                for _ in chunks:
                    pass
                file.seek(starts_at)
                _skip(file, size_bytes)
            _next_header(file, _SUMS)
            if file.tell() != self._sums_at:
                raise ArchiveError(f"{_SUMS}: is not where it was written")

    def verify(self) -> None:
        """Read all of it. Raises ArchiveError."""
        for _ in self.members():
            pass


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, in pieces that fit in memory."""
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _read_manifest(file: BinaryIO) -> dict[str, Any]:
    size_bytes = _next_header(file, _MANIFEST)
    if size_bytes > _MAX_MANIFEST_BYTES:
        raise ArchiveError(f"{_MANIFEST}: {size_bytes} bytes are too many")
    try:
        manifest = json.loads(b"".join(_content(file, _MANIFEST, size_bytes)))
        if manifest.pop("checksum") != _checksum(manifest):
            raise ValueError("its checksum does not match")
        version = manifest["format"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{_MANIFEST}: damaged, or the archive was never finished: {error}") from error
    if version != FORMAT:
        raise ArchiveError(f"{_MANIFEST}: the archive has format {version}, this release reads {FORMAT}")
    about: dict[str, Any] = manifest
    return about


def _next_header(file: BinaryIO, expected: str) -> int:
    """The size in bytes of the next member, which must be the ``expected`` one. Raises ArchiveError."""
    try:
        header = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ArchiveError(f"{expected}: its header is damaged or missing: {error}") from error
    if header.name != expected or header.type != tarfile.REGTYPE or header.size < 0:
        raise ArchiveError(f"{expected}: {header.name!r} of type {header.type!r} is in its place")
    return header.size


def _skip(file: BinaryIO, size_bytes: int) -> None:
    """Go from the start of a content to the next header."""
    file.seek(size_bytes + -size_bytes % _BLOCK, os.SEEK_CUR)


def _content(file: BinaryIO, name: str, size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise ArchiveError(f"{name}: the archive ends within it")
        left -= len(chunk)
        yield chunk


def _checked(chunks: Iterator[bytes], name: str, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != sha256:
        raise ArchiveError(f"{name}: is not what was written")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
