"""A small library of plain shapes: what stands where can be read off the pixels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models.data.colours import profile
from models.data.plans import Thing
from models.data.scenes import Library
from tests.packages import disc

NOUNS = ("apple", "ball", "cup", "dog", "egg", "fish", "goat", "hat", "igloo", "jar", "kite", "lamp")
DULL = (96, 132, 128)  # no colour word, no hue to paint over


def library(folder: Path, nouns: Sequence[str] = NOUNS) -> Library:
    """Discs that can be painted, one for each noun, and a dull square called "box"."""
    things = []
    for number, noun in enumerate(nouns):
        disc((40, 90, 200) if number % 2 else (214, 30, 30)).save(folder / f"{noun}.png")
        things.append(thing(folder, noun))
    square = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(square).rectangle((0, 0, 95, 95), fill=(*DULL, 255))
    square.save(folder / "box.png")
    things.append(replace(thing(folder, "box"), plural="boxes"))
    return Library.of(folder, things)


def thing(folder: Path, noun: str) -> Thing:
    """The picture `noun`.png as a thing, with the colour that its pixels have."""
    with Image.open(folder / f"{noun}.png") as picture:
        seen = profile(picture.convert("RGBA"))
    return Thing(
        id=f"noto/{noun}",
        image=f"{noun}.png",
        style="noto",
        split="train",
        concept=noun,
        noun=noun,
        plural=f"{noun}s",
        synonyms=(),
        countable=True,
        colour=seen.colour,
        hue=seen.hue,
    )


def blobs(mask: NDArray[np.bool_]) -> int:
    """How many separate areas a mask has, of those larger than specks."""
    rest = mask.copy()
    count = 0
    while rest.any():
        start = tuple(np.argwhere(rest)[0])
        area, queue = 0, [start]
        rest[start] = False
        while queue:
            y, x = queue.pop()
            area += 1
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= near[0] < rest.shape[0] and 0 <= near[1] < rest.shape[1] and rest[near]:
                    rest[near] = False
                    queue.append(near)
        count += area > 20
    return count
