"""Small files that name a generation, each replaced as a whole."""

import os
import re
from pathlib import Path

from index.files import fsync

GENERATION = re.compile(r"\d{6,}")


def named_in(pointer: Path) -> int | None:
    """The generation that is named; None where there is no such file, or it is damaged."""
    try:
        text = pointer.read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return None
    return int(text) if GENERATION.fullmatch(text) else None


def point(pointer: Path, generation: int) -> None:
    """Name another generation, durably and at once. Raises OSError."""
    fresh = pointer.with_name(f"{pointer.name}.new")
    fresh.write_text(f"{generation:06d}\n")
    fsync(fresh)
    os.replace(fresh, pointer)
    fsync(pointer.parent)
