"""Keep evaluation pictures out of training: refuse records whose picture is one of them, even re-encoded."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.records import Record, UnlicensedRecord

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
SIDE = 16  # px of the thumbnails that are compared
ALIKE = 6.0  # of 255: root mean square difference below which two thumbnails show one picture
_BLOCK = 2048

Floats = NDArray[np.float32]


def refuse_strangers(folder: Path, records: Sequence[Record], strangers: Path) -> int:
    """Compare every record's picture with every picture below `strangers`; returns how many those are.

    Raises UnlicensedRecord for the first record that is byte for byte, or to the eye, one of them.
    """
    paths = sorted(path for path in strangers.rglob("*") if path.suffix.lower() in SUFFIXES)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}
    for record in records:
        if record.sha256 in digests:
            raise UnlicensedRecord(f"{record.id} is {digests[record.sha256]}")
    theirs = _thumbnails(paths)
    for start in range(0, len(records), _BLOCK):
        block = records[start : start + _BLOCK]
        ours = _thumbnails([folder / record.image for record in block])
        for own, other in _alike(ours, theirs):
            raise UnlicensedRecord(f"{block[own].id} looks like {paths[other]}")
    return len(paths)


def _thumbnails(paths: Sequence[Path]) -> Floats:
    """(n, SIDE * SIDE * 3), on white."""
    rows = np.empty((len(paths), SIDE * SIDE * 3), np.float32)
    for row, path in zip(rows, paths, strict=True):
        with Image.open(path) as image:
            picture = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BOX)
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture)
        row[:] = np.asarray(paper.convert("RGB"), np.float32).ravel()
    return rows


def _alike(ours: Floats, theirs: Floats) -> Iterator[tuple[int, int]]:
    """Pairs of rows whose root mean square difference is below ALIKE."""
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None, :] - 2 * ours @ theirs.T
    near = np.argwhere(squares < ALIKE**2 * ours.shape[1])
    yield from ((int(own), int(other)) for own, other in near)
