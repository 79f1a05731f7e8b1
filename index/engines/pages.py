"""Pages of mapped files: which a process has at hand from the start, and which it lets go."""

import ctypes
import logging
import mmap
import os
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

log = logging.getLogger(__name__)

GROWTH_BYTES = 128 * 2**20
_POPULATE_READ = 22  # of Linux 5.14; Python has no name for it yet
_MAPS, _STATM = Path("/proc/self/maps"), Path("/proc/self/statm")
_PAGE = mmap.PAGESIZE


def populate(file: Path) -> None:
    """Have every page of a mapped file at hand, so that no search pays for being the first to touch one.

    Nothing happens where the system cannot do that.
    """
    if _MAPS.exists():
        for low, high in _mappings(file):
            _advise(low, high - low, _POPULATE_READ)


class MappedPages:
    """The pages of an array that lies in a mapped file.

    Who touches a row has its page mapped, and with it as many of its cached neighbours as the kernel sees
    fit: up to 2 MiB, all of which count as resident. The page cache keeps what is let go here, so that the
    next touch costs microseconds and no reading.
    """

    def __init__(self, array: NDArray[Any], file: Path, growth_bytes: int | None = None) -> None:
        """So many bytes of mapped files may become resident before these pages are let go.

        Raises ValueError unless the array is mapped from ``file``: what lies elsewhere would be lost.
        """
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        if not any(low <= start and end <= high for low, high in _mappings(file)):
            raise ValueError(f"the array is not mapped from {file}")
        self._start = -(-start // _PAGE) * _PAGE
        self._size = max(0, end // _PAGE * _PAGE - self._start)
        self._growth = (GROWTH_BYTES if growth_bytes is None else growth_bytes) // _PAGE
        self._least = _resident()

    @staticmethod
    def of(array: NDArray[Any], file: Path) -> "MappedPages | None":
        """The same; None where the system does not tell that the array is mapped from there.

        macOS tells nothing, and some file systems of containers name other files. Such pages stay.
        """
        if not array.size or not _MAPS.exists():
            return None
        try:
            return MappedPages(array, file)
        except ValueError as error:
            log.warning("%s; its pages stay in memory", error)
            return None

    def trim(self) -> None:
        """Let all go if more of mapped files is resident than was, by what may be."""
        resident = _resident()
        if resident - self._least > self._growth:
            _advise(self._start, self._size, mmap.MADV_DONTNEED)
            self._least = _resident()
        else:
            self._least = min(self._least, resident)


def _advise(start: int, size: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def _mappings(file: Path) -> list[tuple[int, int]]:
    """From which address to which a file is mapped."""
    name = str(file.resolve())
    lines = (line.split(maxsplit=5) for line in _MAPS.read_text().splitlines())
    spans = (line[0].split("-") for line in lines if line[5:] == [name])
    return [(int(low, 16), int(high, 16)) for low, high in spans]


def _resident() -> int:
    """Pages of mapped files in the memory of this process."""
    return int(os.pread(_statm(), 128, 0).split()[2])


@cache
def _statm() -> int:
    return os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)  # kept open: 1 microsecond a look instead of 30
