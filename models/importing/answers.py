"""What a new bundle is asked: known answers, typical queries, and texts that tell tokenizers apart."""

from itertools import product

import numpy as np
from PIL import Image

CANARY_TEXT = "a photo of a red apple beside a blue cup"

_THINGS = ("dog", "horse", "bird", "child", "face", "red car", "bicycle", "boat", "train", "house", "beach")
_MORE_THINGS = ("mountain", "flower", "pizza", "cup of coffee", "chair", "laptop", "phone", "map", "shoe")
_WAYS = ("{}", "a {}", "the {} of a friend", "a photo of a {}", "a drawing of a {}", "two people near a {}")
_MORE_WAYS = ("a {} at night", "a {} in the rain", "a small {} from above", "close-up of an old {}")
PROBES = tuple(
    way.format(thing) for way, thing in product(_WAYS + _MORE_WAYS, _THINGS + _MORE_THINGS)
)  # 200 texts

TRIALS = (
    "dog",
    CANARY_TEXT,
    "Two CHILDREN in red-and-white T-shirts don't look; they're 12.5 m away!",
    "naïve café, Straße, 日本の赤いりんご, красное яблоко, تفاحة, 🍎🍏 ½ ﬁve",
    "snake_case & e-mail@example.org <b>#42</b> \t two\nlines   many spaces ...",
    "a very long text about a brown dog that runs along the sea " * 30,
)


def canary_picture() -> Image.Image:
    """Colour ramps and a disc, 320x240: every size, filter and channel order changes it."""
    y, x = np.mgrid[0:240, 0:320]
    picture = np.stack([x * 255 // 319, y * 255 // 239, (x + 2 * y) % 256], axis=-1).astype(np.uint8)
    picture[(x - 210) ** 2 + (y - 90) ** 2 < 60**2] = (200, 30, 40)
    return Image.fromarray(picture)
