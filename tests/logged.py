"""The log of a test, as a formatter writes it."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logged(formatter: logging.Formatter) -> Iterator[io.StringIO]:
    """What is logged at level info and above while the block lasts."""
    written = io.StringIO()
    shown = logging.StreamHandler(written)
    shown.setFormatter(formatter)
    root = logging.getLogger()
    before = root.level
    root.addHandler(shown)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(shown)
    root.setLevel(before)
