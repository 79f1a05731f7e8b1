"""Colour words and pixels: naming the colour of a drawing, and giving it another one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]

# Hue in degrees, saturation and value in [0, 1]: what a drawing's main colour becomes.
TARGETS: dict[str, tuple[float, float, float]] = {
    "red": (2, 0.85, 0.85),
    "orange": (27, 0.92, 0.97),
    "yellow": (52, 0.85, 0.98),
    "green": (125, 0.70, 0.65),
    "blue": (220, 0.80, 0.85),
    "purple": (282, 0.65, 0.66),
    "pink": (335, 0.45, 0.98),
    "brown": (24, 0.65, 0.47),
    "black": (0, 0.04, 0.15),
    "white": (0, 0.02, 0.97),
    "grey": (0, 0.02, 0.55),
}
COLOUR_WORDS = frozenset(TARGETS) | {
    "gray",
    "violet",
    "golden",
    "silver",
    "beige",
    "turquoise",
    "cyan",
    "magenta",
}

# Where a word is beyond doubt: lowest and highest hue, saturation and value. The gaps have no name.
_CERTAIN: dict[str, tuple[float, float, float, float, float, float]] = {
    "red": (345, 372, 0.60, 1.0, 0.50, 1.0),
    "orange": (21, 36, 0.70, 1.0, 0.80, 1.0),
    "yellow": (45, 62, 0.50, 1.0, 0.80, 1.0),
    "green": (85, 160, 0.35, 1.0, 0.25, 0.95),
    "blue": (200, 240, 0.45, 1.0, 0.40, 1.0),
    "purple": (265, 298, 0.35, 1.0, 0.30, 0.95),
    "pink": (315, 352, 0.20, 0.58, 0.80, 1.0),
    "brown": (12, 36, 0.45, 1.0, 0.20, 0.60),
}
_WINDOW = 20  # of 256: how far from the main hue still counts as it
_CHROMATIC = 64  # of 255: saturation from which a pixel has a hue
_DARK = 40  # of 255: value below which a pixel has none


@dataclass(frozen=True)
class Profile:
    """The colour of a drawing: its name where that is beyond doubt, and its main hue where it has but one."""

    colour: str | None
    hue: int | None  # 0..255; a drawing with a hue can be recoloured


def profile(picture: Image.Image) -> Profile:
    """Look at the opaque pixels of an RGBA picture."""
    hue, saturation, value = _opaque(picture)
    if len(hue) == 0:
        return Profile(None, None)
    coloured = (saturation >= _CHROMATIC) & (value >= _DARK)
    share = float(coloured.mean())
    if share < 0.35:
        return Profile(_without_hue(saturation, value), None)
    main = _main_hue(hue[coloured])
    near = coloured & (_distance(hue, main) <= _WINDOW)
    alone = float(near.sum() / coloured.sum())
    if alone < 0.80:
        return Profile(None, None)
    middle = (main, float(np.median(saturation[near])), float(np.median(value[near])))
    named = share >= 0.55 and alone >= 0.88
    return Profile(_word(*middle) if named else None, main if share >= 0.5 and alone >= 0.85 else None)


def recoloured(picture: Image.Image, hue: int, colour: str) -> Image.Image:
    """The RGBA picture with the pixels of its main hue (0..255) in another colour, light and shade kept."""
    degrees, saturation, value = TARGETS[colour]
    hsv = np.asarray(picture.convert("RGB").convert("HSV")).astype(np.int16)
    h, s, v = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    visible = np.asarray(picture.getchannel("A")) > 0
    # A soft edge of the hue's window would leave a fringe in the old colour.
    mine = visible & (s >= _CHROMATIC // 2) & (v >= _DARK) & (_distance(h, hue) <= _WINDOW + 8)
    if not mine.any():
        return picture
    spread = (h[mine] - hue + 128) % 256 - 128
    new_hue = (round(degrees / 360 * 256) + spread // 2) % 256
    new_saturation = s[mine] * (saturation * 255 / max(1.0, float(np.median(s[mine]))))
    new_value = v[mine] * (value * 255 / max(1.0, float(np.median(v[mine]))))
    out = hsv.copy()
    out[mine] = np.stack([new_hue, new_saturation, new_value], axis=1).clip(0, 255)
    painted = Image.fromarray(out.astype(np.uint8), "HSV").convert("RGB")
    painted.putalpha(picture.getchannel("A"))
    return painted


def _opaque(picture: Image.Image) -> tuple[Bytes, Bytes, Bytes]:
    small = picture.copy()
    small.thumbnail((96, 96))
    hsv = np.asarray(small.convert("RGB").convert("HSV"))
    pixels = hsv[np.asarray(small.getchannel("A")) > 200]
    return pixels[:, 0], pixels[:, 1], pixels[:, 2]


def _main_hue(hue: Bytes) -> int:
    """The middle of the fullest window of hues."""
    counts = np.bincount(hue, minlength=256)
    reach = np.arange(-_WINDOW, _WINDOW + 1)
    windows = counts[(np.arange(256)[:, None] + reach) % 256]  # (256, 2 * _WINDOW + 1)
    fullest = int(windows.sum(axis=1).argmax())
    middle = float((windows[fullest] * reach).sum() / windows[fullest].sum())
    return round(fullest + middle) % 256


def _distance(hue: NDArray[np.integer], main: int) -> NDArray[np.integer]:
    return np.abs((hue.astype(np.int16) - main + 128) % 256 - 128)


def _word(hue: float, saturation: float, value: float) -> str | None:
    degrees, s, v = hue * 360 / 256, saturation / 255, value / 255
    for word, (low, high, s_low, s_high, v_low, v_high) in _CERTAIN.items():
        on_hue = low <= degrees <= high or low <= degrees + 360 <= high
        if on_hue and s_low <= s <= s_high and v_low <= v <= v_high:
            return word
    return None


def _without_hue(saturation: Bytes, value: Bytes) -> str | None:
    dull = saturation < 40
    shares = {
        "black": (value < 60),
        "white": dull & (value > 228),
        "grey": dull & (value > 85) & (value < 205),
    }
    word, share = max(((word, float(mask.mean())) for word, mask in shares.items()), key=lambda pair: pair[1])
    return word if share >= 0.72 else None
