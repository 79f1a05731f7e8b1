"""What ``momoseek index`` takes: folders of pictures, files of items, and the sample gallery."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from service.bulk_files import named_line, reader
from service.bulk_sources import Format
from service.bulk_vectors import Made

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm"}
_FORMATS: dict[str, Format] = {
    ".npy": "npy",
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".urls": "url_list",
}
_LOOKED_AT_BYTES = 4096


class SourceError(ValueError):
    """A source cannot be read; the message names it."""


@dataclass(frozen=True)
class Wanted:
    """What becomes one job: a file of items, or all pictures and folders of pictures together."""

    format: Format
    paths: tuple[Path, ...]  # absolute
    made: Made | None = None

    @property
    def key(self) -> str:
        """The same when the same is wanted again: of a file only while it is unchanged, for its lines are
        counted; of pictures also when there are others by then."""
        stats = [] if self.format == "pictures" else [path.stat() for path in self.paths]
        said = [reader(), self.format, *map(str, self.paths), *(s.st_size for s in stats)]
        return json.dumps([*said, *(s.st_mtime_ns for s in stats), str(self.made)])

    def listed(self) -> Iterator[bytes]:
        """The pictures, a line to each. Names of one folder are in memory at a time."""
        for path in self.paths:
            for file in _pictures(path) if path.is_dir() else [path]:
                yield named_line(file, file.relative_to(path if path.is_dir() else path.parent).as_posix())


def gallery() -> Path:
    """The sample gallery that comes with the package."""
    return Path(str(files("service") / "gallery" / "pairs.jsonl"))


def wanted(paths: list[Path], space: str | None) -> list[Wanted]:
    """What these paths ask for, the pictures first; ``space`` is the encoder_id of arrays of vectors.

    Raises SourceError.
    """
    found: list[Wanted] = []
    pictures: list[Path] = []
    for path in map(Path.absolute, paths):
        if path.is_dir() or (path.is_file() and path.suffix.lower() in _PICTURES):
            pictures.append(path)
        else:
            format = _format_of(path)
            if format == "npy" and space is None:
                raise SourceError(f"{path}: vectors need --embedding-space, the encoder_id that made them")
            made = Made(space) if format == "npy" and space is not None else None
            found.append(Wanted(format, (path,), made))
    return ([Wanted("pictures", tuple(pictures))] if pictures else []) + found


def _format_of(path: Path) -> Format:
    """By the end of its name; anything else is lines of JSON, unless it is no text. Raises SourceError."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    if (format := _FORMATS.get(path.suffix.lower())) is not None:
        return format
    with path.open("rb") as file:
        if b"\0" in file.read(_LOOKED_AT_BYTES):
            known = ", ".join(sorted(_FORMATS))
            raise SourceError(f"{path}: neither a picture nor lines of JSON, and no {known} by its name")
    return "items"


def _pictures(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(place, name)
            if file.suffix.lower() in _PICTURES and file.is_file():
                yield file
