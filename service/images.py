"""Pictures as they come in and as they are kept: bytes from a request, blobs by sha256, thumbnails."""

import binascii
import errno
import hashlib
import io
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import pybase64

from index.files import fsync_all
from models.preprocess import announced_pixels, open_image

log = logging.getLogger(__name__)

_DATA_URI = re.compile(r"data:image/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,", re.ASCII)
_THUMBNAIL_SIZES = (128, 256, 512)
_QUALITY = 82


class InvalidBase64(ValueError):
    """What should be base64 is not."""


class TooManyBytes(ValueError):
    """An encoded picture is larger than allowed."""


class UploadMissing(ValueError):
    """A request names a multipart part that it does not have."""


class DiskUnavailable(OSError):
    """The disk that keeps the pictures cannot be written; nothing was kept."""


class DiskFull(DiskUnavailable):
    """The disk that keeps the pictures is full; nothing was kept."""


class ImageNotFound(LookupError):
    """There is no such picture."""


def from_base64(text: str, max_bytes: int) -> bytes:
    """The bytes of base64 text or a data: URI. Raises InvalidBase64, TooManyBytes."""
    prefix = _DATA_URI.match(text[:200])
    encoded = text[prefix.end() :] if prefix else text
    if len(encoded) // 4 * 3 - 2 > max_bytes:
        raise TooManyBytes(f"The picture has more than {max_bytes} bytes.")
    with suppress(ValueError):  # as nearly all of it is: in one piece
        return pybase64.b64decode(encoded, validate=True)
    try:
        return pybase64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidBase64(f"The picture is not valid base64: {error}") from error


def media_type(data: bytes) -> str:
    """The media type of a picture that ``open_image`` accepts, by its first bytes."""
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return "image/avif" if data[4:8] == b"ftyp" else "application/octet-stream"


_SIGNATURES: Mapping[bytes, str] = {
    b"\xff\xd8": "image/jpeg",
    b"\x89PNG": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"P5": "image/x-portable-anymap",
    b"P6": "image/x-portable-anymap",
}


def pixels_of(pictures: Iterable[bytes]) -> int:
    """Width times height of all pictures, by their headers."""
    return sum(map(announced_pixels, pictures))


class ImageStore:
    """Original bytes under ``<root>/blobs/ab/abcd…`` and derived thumbnails under ``<root>/thumbnails``."""

    def __init__(self, root: Path, max_pixels: int) -> None:
        self._blobs = root / "blobs"
        self._thumbnails = root / "thumbnails"
        self._max_pixels = max_pixels

    def put(self, data: bytes) -> str:
        """Keep bytes durably; their sha256. Raises DiskFull, DiskUnavailable."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.put_all({sha256: data})
        return sha256

    def put_all(self, pictures: Mapping[str, bytes]) -> None:
        """Keep pictures, by their sha256, durably. Raises DiskFull, DiskUnavailable."""
        paths = {_sharded(self._blobs, sha256): data for sha256, data in pictures.items()}
        _write_durably({path: data for path, data in paths.items() if not _is_kept(path, len(data))})

    def get(self, sha256: str) -> bytes:
        """The bytes of a kept picture. Raises ImageNotFound."""
        try:
            data = _sharded(self._blobs, sha256).read_bytes()
        except FileNotFoundError:
            raise ImageNotFound("The picture is not kept here.") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            log.error("blob %s is damaged", sha256)
            raise ImageNotFound("The picture is damaged where it is kept; send it again.")
        return data

    def thumbnail(self, sha256: str, size: int) -> bytes:
        """A WebP of at most ``size`` (128, 256 or 512) pixels a side. Raises ImageNotFound, ImageError."""
        side = next((step for step in _THUMBNAIL_SIZES if step >= size), _THUMBNAIL_SIZES[-1])
        path = _sharded(self._thumbnails, sha256).with_suffix(f".{side}.webp")
        if path.exists():
            return path.read_bytes()
        picture = open_image(self.get(sha256), max_pixels=self._max_pixels, draft=(2 * side, 2 * side))
        picture.thumbnail((side, side))
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=_QUALITY)
        with suppress(DiskUnavailable):  # it can be made again
            _write_durably({path: file.getvalue()})
        return file.getvalue()

    def prune(self, used: set[str], older_than_s: float) -> int:
        """Delete pictures that no item refers to and nobody put for a while; how many."""
        before, deleted = time.time() - older_than_s, 0
        for folder in (self._blobs, self._thumbnails):
            for path in folder.glob("*/*"):
                if path.name.split(".")[0] in used:
                    continue
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:  # asked last: a put makes it young again
                        path.unlink()
                        deleted += 1
        return deleted


def _sharded(folder: Path, sha256: str) -> Path:
    return folder / sha256[:2] / sha256


def _is_kept(path: Path, size: int) -> bool:
    try:
        if path.stat().st_size == size:
            os.utime(path)  # young again, so that prune leaves it alone until its item is committed
            return True
    except FileNotFoundError:
        pass
    return False


def _write_durably(files: Mapping[Path, bytes]) -> None:
    """Each complete or not at all, also when the machine stops half-way.

    All are written before the first is flushed, and their folders after the last, at once: the disk has much
    less to wait for than with one after another.
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            descriptor, name = _temporary(path.parent)
            temporary[path] = Path(name)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
        fsync_all(temporary.values())
        for path, written in temporary.items():
            os.replace(written, path)
        fsync_all({folder for path in files for folder in (path.parent, path.parent.parent)})
    except OSError as error:
        for left in temporary.values():
            left.unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = DiskFull if full else DiskUnavailable
        raise kind(
            f"The disk that keeps the pictures {'is full' if full else 'cannot be written'}."
        ) from error


def _temporary(folder: Path) -> tuple[int, str]:
    """A new file, in a folder that is nearly always there."""
    try:
        return tempfile.mkstemp(dir=folder, prefix=".")
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.mkstemp(dir=folder, prefix=".")
