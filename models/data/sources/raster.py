"""Drawings to pixels: an SVG or a raster file becomes a trimmed RGBA picture of at most SIDE_PX."""

import io
import json
from functools import cache
from pathlib import Path

from PIL import Image, ImageChops

from models.data.sources.drawing import Artwork

SIDE_PX = 320
PAGE_PX = 384  # the page is drawn this large first
LARGEST_PAGE_PX = 3072
MAX_ENLARGEMENT = 1.25  # of raster files: a small photograph stays small
MAX_SVG_BYTES = 3_000_000  # beyond, traced photographs that take minutes
VISIBLE_ALPHA = 12  # of 255: fainter pixels are the haze of a soft shadow and do not count when trimming
LEAST_INK = 0.004  # of the trimmed picture must differ from white paper
INK = 10  # of 255: how much it must differ
# What an Iconify set or icon may leave unsaid of its view box.
BOX = {"left": 0, "top": 0, "width": 16, "height": 16}


class Unusable(Exception):
    """A drawing that gives no picture: broken, blank, or nearly so."""


def picture_of(artwork: Artwork) -> Image.Image:
    """The picture in RGBA, trimmed to what is visible, longest side at most SIDE_PX px; raises Unusable."""
    try:
        picture = _picture(artwork)
    except Unusable:
        raise
    except Exception as error:  # cairo, the SVG parser and Pillow have no error in common
        raise Unusable(f"{type(error).__name__}: {error}") from error
    if ink(picture) < LEAST_INK:
        raise Unusable("blank")
    return picture


def encoded(picture: Image.Image) -> bytes:
    """The picture as PNG, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def ink(picture: Image.Image) -> float:
    """Which share of an RGBA picture could be seen on white paper."""
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    red, green, blue = paper.convert("RGB").split()
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue).histogram()
    return sum(darkest[: 255 - INK]) / (picture.width * picture.height)


def _picture(artwork: Artwork) -> Image.Image:
    if artwork.icon:
        return _drawn(_icon(artwork.path, artwork.icon))
    if artwork.path.suffix == ".svg":
        return _drawn(artwork.path.read_bytes())
    with Image.open(artwork.path) as image:
        cut = _trimmed(image.convert("RGBA"))
    return _fitted(cut, MAX_ENLARGEMENT)


def _drawn(svg: bytes) -> Image.Image:
    if len(svg) > MAX_SVG_BYTES:
        raise Unusable("too large")
    page = _page(svg, PAGE_PX)
    cut = _trimmed(page)
    longest = max(cut.size)
    if longest < SIDE_PX:  # it fills only a corner of its page: draw the page larger
        larger = min(LARGEST_PAGE_PX, -(-PAGE_PX * SIDE_PX // longest))
        cut = _trimmed(_page(svg, larger))
    return _fitted(cut, MAX_ENLARGEMENT)


def _page(svg: bytes, side: int) -> Image.Image:
    import cairosvg  # a build tool's need only: serving has no cairo

    drawn = cairosvg.svg2png(svg, output_width=side, output_height=side)
    return Image.open(io.BytesIO(drawn)).convert("RGBA")


def _trimmed(picture: Image.Image) -> Image.Image:
    visible = picture.getchannel("A").point(lambda alpha: 255 * (alpha > VISIBLE_ALPHA)).getbbox()
    if visible is None:
        raise Unusable("blank")
    return picture.crop(visible)


def _fitted(picture: Image.Image, enlargement: float) -> Image.Image:
    scale = min(SIDE_PX / max(picture.size), enlargement)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Pillow resizes RGBA with the colour weighted by alpha, so no dark seam appears at the edges.
    return picture.resize(size, Image.Resampling.LANCZOS) if size != picture.size else picture


@cache
def _icon_set(path: Path) -> dict[str, object]:
    icons: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return icons


def _icon(path: Path, name: str) -> bytes:
    icons = _icon_set(path)
    entries = icons["icons"]
    if not isinstance(entries, dict) or name not in entries:
        raise Unusable(f"{path.parent.name} has no icon {name}")
    entry = entries[name]
    box = [entry.get(key, icons.get(key, default)) for key, default in BOX.items()]
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} viewBox="{" ".join(map(str, box))}">{entry["body"]}</svg>'.encode()
