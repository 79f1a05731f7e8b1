"""Bring your own encoder: a local dual-encoder checkpoint becomes a bundle.

Nothing is downloaded and no code of the checkpoint runs. The libraries that read checkpoints (torch and more)
are needed here and nowhere else: a bundle is served without them.
"""

import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from models.bundle import Bundle
from models.importing.errors import CheckpointError
from models.importing.libraries import Library

if TYPE_CHECKING:
    from models.importing.checkpoint import Checkpoint

__all__ = ["CheckpointError", "Library", "Precision", "import_checkpoint"]

Precision = Literal["fp32", "fp16"]


def import_checkpoint(
    library: Library,
    folder: Path,
    out: Path,
    *,
    name: str | None = None,
    precision: Precision = "fp32",
    report: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Make the bundle `out` of a checkpoint in a folder that `library` has written.

    Before it stands there it is compared with the library: where a number in a row differs by more than 1e-4
    (fp16: 5e-3), there is no bundle. Raises CheckpointError, and leaves nothing behind then.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder")
    if out.exists():
        raise CheckpointError(f"{out}: there is something already")
    title = folder.resolve().name
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", name or title).strip("-")
    if not called:
        raise CheckpointError(f"{name or title!r} cannot be a name: no letter or digit of English in it")
    with _draft_of(out) as draft, _quiet():
        report(f"reading {folder}")
        checkpoint = _read(library, folder)
        from models.importing.writing import write

        source = f"{library}: {title}"
        write(draft, checkpoint, name=called, source=source, precision=precision, report=report)
    return Bundle.open(out)


def _read(library: Library, folder: Path) -> "Checkpoint":
    if library == "open_clip":
        from models.importing.from_open_clip import read
    else:
        from models.importing.from_transformers import read
    return read(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries warn and log: it is about their own future, not about a checkpoint."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def _draft_of(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when all went well, and else is gone."""
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
