"""Cursors: where the next page begins, and of a search, which state of which collection it belongs to."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from index.records import Collection

MAX_OFFSET = 10_000  # results before a page; who wants all items lists them, which costs nothing extra
_CURSOR = re.compile(r"c_([0-9a-f]{32})_([0-9a-f]{1,12})_([0-9a-f]{1,8})(?:_(ada_[0-9a-f]{24}))?")

_PLACE = re.compile(r"s_[0-9a-f]{1,16}")


class CursorInvalid(ValueError):
    """This is no cursor."""


class CursorExpired(Exception):
    """The pages before were of another generation, another collection of this name, or another encoder or
    adapter."""


def read_place(text: str) -> int:
    """The seq behind which a page of a list begins; "" is its beginning. Raises CursorInvalid."""
    if text and not _PLACE.fullmatch(text):
        raise CursorInvalid("The cursor is none that this list gave.")
    return int(text[2:] or "0", 16)


def place_of(seq: int) -> str:
    """The inverse of read_place."""
    return f"s_{seq:x}"


@dataclass(frozen=True)
class Pin:
    """What the pages of a search are read from: rows that one encoder has made of one collection, the
    generation of their snapshot, and the adapter that the query is adapted by."""

    index: str
    generation: int
    adapter: str | None = None

    @classmethod
    def of(cls, collection: Collection, generation: int, adapter: str | None = None) -> Self:
        """The pin of what serves."""
        name = f"{collection.uid} {collection.encoder_id}"
        return cls(hashlib.sha256(name.encode()).hexdigest()[:32], generation, adapter)

    def check(self, serving: Self) -> None:
        """Raise CursorExpired unless this is what serves."""
        if self != serving:
            raise CursorExpired(
                "The index was rebuilt or replaced since the first page, or another adapter answers, so that "
                "the order may be another: search again without the cursor."
            )


@dataclass(frozen=True)
class Cursor:
    """The next page begins behind ``offset`` results."""

    pin: Pin
    offset: int

    def __str__(self) -> str:
        adapter = "" if self.pin.adapter is None else f"_{self.pin.adapter}"
        return f"c_{self.pin.index}_{self.pin.generation:x}_{self.offset:x}{adapter}"

    @staticmethod
    def read(text: str) -> "Cursor":
        """The inverse of str. Raises CursorInvalid."""
        found = _CURSOR.fullmatch(text)
        if found is None or int(found[3], 16) > MAX_OFFSET:
            raise CursorInvalid("The cursor is none that a search of this server gave.")
        return Cursor(Pin(found[1], int(found[2], 16), found[4]), int(found[3], 16))
