"""Sources of bulk jobs: files in a folder of the server, or that the command line named, read where they are
from where a job stands."""

import base64
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from service.bulk_files import item_line, picture_line, reader
from service.bulk_lines import (
    SourceUnreadable,
    json_or_text,
    upsert_line,
)
from service.bulk_tables import (
    Table,
)
from service.bulk_vectors import (
    Made,
    VectorFile,
)
from service.schemas_jobs import SourceFormat
from service.spool import CHUNK_BYTES, CHUNK_LINES, Chunk, Lines, Records, is_blank

_PICTURES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm"}
_TEXTS = {"txt", "text", "caption"}


# What the command line may name besides: lines that may name files beside them, and a list of pictures.
Format = SourceFormat | Literal["items", "pictures"]


class SourcesDisabled(Exception):
    """This server reads no files."""


class SourceNotFound(LookupError):
    """There is no such file in the folder of sources."""


class SourceChanged(Exception):
    """The file is another than when the job was accepted: its lines would be others."""


class SourceElsewhere(Exception):
    """The files are those of another user or machine, whose process has to go on."""


@dataclass(frozen=True)
class Source:
    """A file as it was when a job was accepted. ``uri`` is its path in the folder of sources.

    Vectors say how they were ``made``, and may have ``items`` in a file beside them. One that was ``sent`` is
    in the spool instead. If it was named at a command line, ``reader`` tells who can read it and the files
    that it names; it is anywhere then, unless it was sent.
    """

    uri: str
    format: Format
    size: int
    changed_ns: int
    made: Made | None = None
    items: "Source | None" = None
    sent: bool = False
    reader: str | None = None

    def as_json(self) -> bytes:
        """For ``source_of``."""
        return json.dumps(asdict(self)).encode()


class Sources:
    """A folder whose files may become jobs; None: there is none. A record has at most ``max_bytes``.

    What is sent is in the folder ``spool``.
    """

    def __init__(self, root: Path | None, max_bytes: int, spool: Path) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._spool = spool

    def find(
        self, uri: str, format: SourceFormat, made: Made | None = None, items_uri: str | None = None
    ) -> tuple[Source, int]:
        """The source of this path, and how many records it has.

        Raises SourcesDisabled, SourceNotFound, SourceUnreadable.
        """
        items = None if items_uri is None else self._found(items_uri, "ndjson")
        return self._counted(replace(self._found(uri, format), made=made, items=items))

    def sent(self, name: str, format: Format, made: Made | None = None) -> tuple[Source, int]:
        """The same for a file of this name in the spool. Raises SourceUnreadable."""
        by = reader() if format == "pictures" else None
        return self._counted(replace(self._found(name, format, sent=True, by=by), made=made))

    def here(self, path: Path, format: Format, made: Made | None = None) -> tuple[Source, int]:
        """The same for any file of this machine, which no request may name. Raises SourceNotFound,
        SourceUnreadable."""
        return self._counted(replace(self._found(str(path), format, by=reader()), made=made))

    def _counted(self, source: Source) -> tuple[Source, int]:
        with self.reading(source) as records:
            return source, records.total()

    @contextmanager
    def reading(self, source: Source) -> Iterator[Records]:
        """The records of a source. Raises what ``find`` raises, SourceChanged, and SourceElsewhere; reading
        them raises SourceUnreadable."""
        if source.reader not in (None, reader()):
            raise SourceElsewhere(f"{source.uri!r} is a file of {source.reader}.")
        with ExitStack() as opened:
            file = opened.enter_context(self._opened(source))
            if source.format == "npy":
                items = None
                if source.items is not None:
                    beside = opened.enter_context(self._opened(source.items))
                    items = Lines(beside, self._max_bytes)
                yield VectorFile(file, PurePosixPath(source.uri).stem, source.made or Made(""), items)
            elif source.format == "ndjson":
                yield Lines(file, self._max_bytes)
            elif source.format == "url_list":
                yield Lines(file, self._max_bytes, _address, _is_remark)
            elif source.format == "items":
                made = partial(item_line, folder=Path(source.uri).parent, max_bytes=self._max_bytes)
                yield Lines(file, self._max_bytes, made)
            elif source.format == "pictures":
                yield Lines(file, self._max_bytes, partial(picture_line, max_bytes=self._max_bytes))
            elif source.format == "webdataset":
                yield _Samples(file, self._max_bytes)
            else:
                yield Table(file)

    def _found(self, uri: str, format: Format, *, sent: bool = False, by: str | None = None) -> Source:
        source = Source(uri, format, 0, 0, sent=sent, reader=by)
        try:
            about = self._path(source).stat()
        except OSError as error:
            raise SourceUnreadable(f"{uri!r} cannot be read: {error.strerror}") from error
        return replace(source, size=about.st_size, changed_ns=about.st_mtime_ns)

    def _opened(self, source: Source) -> IO[bytes]:
        now = self._found(source.uri, source.format, sent=source.sent, by=source.reader)
        if now != replace(source, made=None, items=None):
            raise SourceChanged(f"{source.uri!r} has changed since the job was accepted.")
        try:
            return self._path(source).open("rb")
        except OSError as error:
            raise SourceUnreadable(f"{source.uri!r} cannot be read: {error.strerror}") from error

    def _path(self, source: Source) -> Path:
        if source.sent:
            return self._spool / source.uri
        if source.reader is not None:
            if not Path(source.uri).is_file():
                raise SourceNotFound(f"There is no file {source.uri!r} any more.")
            return Path(source.uri)
        if self._root is None:
            raise SourcesDisabled("This server reads no files. Send the lines themselves.")
        root = self._root.resolve()
        try:
            path = (root / source.uri).resolve()
            if path.is_relative_to(root) and path.is_file():
                return path
        except (OSError, ValueError, RuntimeError):  # such as a NUL, or links in a circle
            pass
        raise SourceNotFound(f"There is no file {source.uri!r} in the folder of sources.")


def source_of(data: bytes) -> Source:
    """From what ``as_json`` gave."""
    said = json.loads(data)
    made, items = said.pop("made", None), said.pop("items", None)
    return Source(**said, made=made and Made(**made), items=items and Source(**items))


_Member = tuple[str, bytes | None]  # the end of its name, and what it holds; None: too much


class _Samples:
    """A WebDataset: a plain tar in which neighbours that share a name up to its first dot are one sample.

    Its picture, its text (.txt, .text, .caption) and its .json, which becomes the metadata, make an item. The
    name is its id. Positions are bytes.
    """

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes

    def chunk(self, start: int, line: int) -> Chunk:
        """See Records."""
        found: list[tuple[int, bytes | None]] = []
        size, at = 0, start
        for name, members, end in self._samples(start, self._max_bytes):
            line, at = line + 1, end
            data = self._line(name, members)
            found.append((line, data))
            size += len(data or b"")
            if len(found) == CHUNK_LINES or size >= CHUNK_BYTES:
                break
        return Chunk(found, at, line)

    def total(self) -> int:
        """See Records."""
        return sum(1 for _ in self._samples(0, -1))

    def _samples(self, start: int, max_bytes: int) -> Iterator[tuple[str, list[_Member], int]]:
        """From a byte on: names, what is in them by the end of its name, and the byte where they end."""
        try:
            yield from self._members(start, max_bytes)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise SourceUnreadable(f"The file is no tar, or is damaged: {error}") from error

    def _members(self, start: int, max_bytes: int) -> Iterator[tuple[str, list[_Member], int]]:
        self._file.seek(start)
        name, members, end = "", list[_Member](), start
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would remember them all
                if not member.isfile():
                    continue
                path = PurePosixPath(member.name)
                stem, _, kind = path.name.partition(".")
                of = str(path.with_name(stem or path.name))
                if members and of != name:
                    yield name, members, end
                    members = []
                name = of
                file = tar.extractfile(member)
                assert file is not None
                members.append((kind.lower(), file.read() if member.size <= max_bytes else None))
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            if members:
                yield name, members, end
            self._file.seek(tar.offset)
        # The library takes what it cannot read for the end, which is blocks of zeros.
        if self._file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a member nor the end is at byte {tar.offset}")

    def _line(self, name: str, members: list[_Member]) -> bytes | None:
        item: dict[str, Any] = {"id": name}
        for kind, data in members:
            ending = kind.rpartition(".")[2]
            if ending not in _PICTURES | _TEXTS | {"json"}:
                continue
            if data is None:
                return None
            if ending == "json":
                item["metadata"] = json_or_text(data)
            else:
                item["image" if ending in _PICTURES else "text"] = (
                    base64.b64encode(data).decode() if ending in _PICTURES else data.decode(errors="replace")
                )
        return upsert_line(item)


def _address(line: bytes) -> bytes:
    """The item of the picture at a URL, which is its id as well."""
    url = line.decode(errors="replace").strip()
    return upsert_line({"id": url, "image": {"url": url}})


def _is_remark(line: bytes) -> bool:
    """Whether a line of a list of URLs is blank or a comment (RFC 2483)."""
    return is_blank(line) or line.startswith(b"#")
