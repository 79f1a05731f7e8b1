"""Tux Paint stamps: photographs cut out of their background, and drawings, with a sentence each."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from models.data.records import LANGUAGES, Text
from models.data.sources.drawing import Artwork, Drawing, bare, unique, words_of
from models.data.sources.packages import Package, debian_package

PACKAGE = "tuxpaint-stamps-default"
FOLDER = "usr/share/tuxpaint/stamps"
LICENCE = "GPL-2.0-or-later"
LOCALES = {"zh_CN": "zh", **{language: language for language in LANGUAGES if language not in ("en", "zh")}}
# Folders that hold drawings although their files are raster pictures.
DRAWN = {"cartoon", "symbols", "roadsigns", "flags", "hanukkah", "tux"}
PHOTO_COLOURS = 150  # of 32,768, in a picture of 160 px: drawings have fewer
LONGEST_NAME = 8  # words; a longer sentence describes, and the file gives the name
# What comes after the name in "Mars\N{EM DASH}the red planet." or "A wheelie bin! Give it a push."
AFTER_NAME = re.compile(r"[,.!;:(\N{EM DASH}]|\s[\N{EN DASH}-]\s")


def drawings(root: Path) -> Iterator[Drawing]:
    """Every stamp below `root` (the installed system, or an unpacked package); raises SourceError."""
    package = debian_package(root, PACKAGE)
    folder = root / FOLDER
    for path in sorted([*folder.rglob("*.png"), *folder.rglob("*.svg")]):
        twin = path.suffix == ".png" and path.with_suffix(".svg").exists()  # the same drawing, in pixels
        mirrored = path.stem.endswith(("_mirror", "_flip"))
        if path.with_suffix(".txt").is_file() and not twin and not mirrored:
            yield _drawing(package, folder, path)


def _drawing(package: Package, folder: Path, path: Path) -> Drawing:
    place = path.relative_to(folder)
    folders = place.parts[:-1]
    photo = path.suffix == ".png" and not DRAWN & set(folders) and _colours(path) >= PHOTO_COLOURS
    lines = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    sentence = lines[0].strip()
    name = bare(AFTER_NAME.split(sentence)[0])
    if not 0 < len(name.split()) <= LONGEST_NAME or re.match(r"(this|these|it|that)\b", name, re.IGNORECASE):
        name = words_of(path.stem) or words_of(folders[-1])
    topics = ", ".join(words_of(part) for part in folders if part != "cartoon")
    texts = [Text(name), Text(sentence, "en", "description"), Text(topics, "en", "keywords")]
    for line in lines[1:]:
        locale, _, text = line.partition(".utf8=")
        if locale in LOCALES:
            texts.append(Text(text.strip(), LOCALES[locale], "description"))
    return Drawing(
        style="stamps-photo" if photo else "stamps-drawing",
        key="-".join(re.sub(r"[^\w-]+", "-", part) for part in place.with_suffix("").parts),
        artwork=Artwork(path),
        texts=unique(texts),
        concept=f"stamps/{name.casefold()}",
        source=package.source(path),
        licence=LICENCE,
    )


def _colours(path: Path) -> int:
    """How many different colours the opaque pixels have, five bits a channel."""
    with Image.open(path) as image:
        small = image.convert("RGBA")
    small.thumbnail((160, 160), Image.Resampling.NEAREST)
    pixels = np.asarray(small).astype(np.uint32)
    red, green, blue = (pixels[pixels[..., 3] > 250][:, :3] >> 3).T
    return len(np.unique(red << 10 | green << 5 | blue))
