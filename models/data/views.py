"""One drawing as a model sees it: plainly on white paper, or varied so that no two views are the same."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from models.data.scenery import PLACES, Backdrop

MARGIN = 0.06  # of the side: white around a plain view

Pixels = NDArray[np.uint8]
Random = np.random.Generator


def plain(picture: Image.Image, size: int) -> Pixels:
    """An RGBA picture in the middle of white paper, (size, size, 3) RGB: what evaluation looks at."""
    return _pasted(picture, np.full((size, size, 3), 255, np.uint8), 1 - 2 * MARGIN, (0.5, 0.5))


def view(
    picture: Image.Image, rng: Random, size: int, strong: bool = False, keep_colours: bool = True
) -> Pixels:
    """A random view of an RGBA picture, (size, size, 3) RGB: another background, scale, place, tilt, light.

    A strong view also changes the manner it is drawn in: outlines, few tones, blur, a line drawing. Hues
    shift and colours fade only without keep_colours, which texts that name a colour need. Never mirrored.
    """
    drawn = picture.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BICUBIC, expand=True)
    if strong and rng.random() < 0.6:
        drawn = _restyled(drawn, rng, keep_colours)
    scale = float(rng.uniform(0.5, 1.0))
    place = (float(rng.uniform()), float(rng.uniform()))
    pixels = _pasted(drawn, _background(rng, size), scale, place)
    image = Image.fromarray(pixels)
    for enhancer, reach in (
        (ImageEnhance.Brightness, 0.2),
        (ImageEnhance.Contrast, 0.2),
        (ImageEnhance.Color, 0.25),
    ):
        image = enhancer(image).enhance(float(rng.uniform(1 - reach, 1 + reach)))
    return np.asarray(image)


def _pasted(picture: Image.Image, background: Pixels, scale: float, place: tuple[float, float]) -> Pixels:
    size = background.shape[0]
    factor = scale * size / max(picture.size)
    wide, high = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    small = picture.resize((wide, high), Image.Resampling.BICUBIC)
    canvas = Image.fromarray(background)
    canvas.paste(small, (round((size - wide) * place[0]), round((size - high) * place[1])), small)
    return np.asarray(canvas)


def _background(rng: Random, size: int) -> Pixels:
    kind = str(rng.choice(["white", "paper", "gradient", "place"], p=[0.5, 0.2, 0.15, 0.15]))
    if kind == "paper":
        return np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)
    name = str(rng.choice(PLACES)) if kind == "place" else kind
    return Backdrop(name, int(rng.integers(2**31))).draw(size)


def _restyled(picture: Image.Image, rng: Random, keep_colours: bool) -> Image.Image:
    manners = ["posterised", "outlined", "blurred", "coarse"]
    if not keep_colours:
        manners += ["hue", "faded", "lines", "negative"]
    manner = str(rng.choice(manners))
    alpha = picture.getchannel("A")
    colours = picture.convert("RGB")
    if manner == "posterised":
        colours = ImageOps.posterize(colours, int(rng.integers(2, 4)))
    elif manner == "outlined":
        colours, alpha = _outlined(colours, alpha, int(rng.integers(1, 4)))
    elif manner == "blurred":
        radius = float(rng.uniform(1, 4))
        colours, alpha = (
            layer.filter(ImageFilter.GaussianBlur(radius)) for layer in (_filled(picture), alpha)
        )
    elif manner == "coarse":
        cells = int(rng.integers(40, 90))
        small = picture.resize((cells, max(1, round(cells * picture.height / picture.width))))
        big = small.resize(picture.size, Image.Resampling.NEAREST)
        colours, alpha = big.convert("RGB"), big.getchannel("A")
    elif manner == "hue":
        hue, saturation, value = colours.convert("HSV").split()
        turn = int(rng.integers(256))
        turned = hue.point(lambda h: (h + turn) % 256)
        colours = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    elif manner == "faded":
        colours = ImageEnhance.Color(colours).enhance(float(rng.uniform(0, 0.3)))
    elif manner == "lines":
        colours = _lines(_filled(picture))
    else:
        colours = ImageOps.invert(colours)
    colours.putalpha(alpha)
    return colours


def _filled(picture: Image.Image) -> Image.Image:
    """On white, so that what lies under transparent pixels does not show."""
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    return paper.convert("RGB")


def _outlined(colours: Image.Image, alpha: Image.Image, width: int) -> tuple[Image.Image, Image.Image]:
    """A black line around the shape and along its inner edges."""
    grown = alpha.filter(ImageFilter.MaxFilter(2 * width + 1))
    edges = colours.convert("L").filter(ImageFilter.FIND_EDGES).point(lambda edge: 255 if edge > 60 else 0)
    inner = ImageChops.multiply(edges.filter(ImageFilter.MaxFilter(3)), alpha)
    black = Image.new("RGB", colours.size)
    under = Image.composite(colours, black, alpha)
    return Image.composite(black, under, inner), grown


def _lines(colours: Image.Image) -> Image.Image:
    """A drawing in grey lines on white."""
    grey = colours.convert("L")
    edges = ImageChops.difference(grey.filter(ImageFilter.MaxFilter(5)), grey)
    return ImageOps.invert(ImageOps.autocontrast(edges)).convert("RGB")
