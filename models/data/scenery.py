"""Backgrounds with a name, drawn from numbers: white paper, plain colours, gradients, simple places."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Random = np.random.Generator

# How a caption may say where the things are. Backgrounds without a phrase are not worth a word.
PHRASES: dict[str, tuple[str, ...]] = {
    "white": (),
    "gradient": (),
    "grass": ("on green grass", "on the grass", "in a grassy field", "in a meadow"),
    "beach": ("on the beach", "on a sandy beach", "by the sea"),
    "desert": ("in the desert", "on yellow sand", "on the sand"),
    "snow": ("in the snow", "on snow", "on snowy ground"),
    "road": ("on a road", "on the street", "on a grey street"),
    "sea": ("on the water", "in the sea", "on the blue sea"),
    "sky": ("in the sky", "in a blue sky", "in front of a cloudy sky"),
    "night": ("at night", "under a night sky", "in front of a starry sky"),
    "floor": ("on a wooden floor", "indoors on a wooden floor", "in a room"),
}
PLACES = tuple(name for name, phrases in PHRASES.items() if phrases)
GROUNDED = frozenset({"grass", "beach", "desert", "snow", "road", "sea", "floor"})
# Plain paper in a colour is called by it.
PAPERS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 44),
    "orange": (247, 148, 38),
    "yellow": (250, 221, 72),
    "green": (84, 168, 92),
    "blue": (58, 112, 206),
    "purple": (140, 84, 178),
    "pink": (248, 164, 196),
    "brown": (128, 88, 56),
    "black": (24, 24, 26),
    "grey": (146, 146, 148),
}
HORIZON = 0.5  # of the height: where the ground begins, give or take HORIZON_SPREAD
HORIZON_SPREAD = 0.08


@dataclass(frozen=True)
class Backdrop:
    """A background: a key of PHRASES or PAPERS, and the number that its details come from."""

    name: str
    seed: int

    @property
    def phrases(self) -> tuple[str, ...]:
        """What a caption may say of it; empty for white paper and gradients."""
        if self.name in PAPERS:
            return (
                f"on a {self.name} background",
                f"on {self.name} paper",
                f"against a {self.name} background",
            )
        return PHRASES[self.name]

    @property
    def horizon(self) -> float:
        """The height, as a share from the top, below which things stand on the ground; 0 where they float."""
        if self.name not in GROUNDED:
            return 0.0
        return HORIZON + HORIZON_SPREAD * float(np.random.default_rng(self.seed).uniform(-1, 1))

    def draw(self, size: int) -> NDArray[np.uint8]:
        """The background as (size, size, 3) RGB; the same for the same backdrop and size."""
        rng = np.random.default_rng([self.seed, 1])
        if self.name in PAPERS:
            pixels = _flat(size, PAPERS[self.name]) + rng.uniform(-8, 8)
        else:
            pixels = _DRAWN[self.name](rng, size, self.horizon)
        return pixels.clip(0, 255).astype(np.uint8)


def noise(rng: Random, size: int, cells: int, stretch: int = 1) -> Floats:
    """Smooth noise of about unit variance, (size, size); stretch > 1 makes it run in horizontal bands."""
    coarse = rng.normal(size=(cells, max(2, cells // stretch))).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _flat(size: int, colour: tuple[float, float, float]) -> Floats:
    return np.full((size, size, 3), colour, np.float32)


def _ramp(size: int, top: tuple[float, float, float], bottom: tuple[float, float, float]) -> Floats:
    down = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    column = np.array(top, np.float32) * (1 - down) + np.array(bottom, np.float32) * down
    return np.broadcast_to(column, (size, size, 3)).copy()


def _ground(
    rng: Random,
    size: int,
    horizon: float,
    sky: Floats,
    colour: tuple[float, float, float],
    rough: float,
    stretch: int = 1,
) -> Floats:
    """A sky down to the horizon and a rough ground of one colour below it."""
    texture = noise(rng, size, 8, stretch) * 0.5 + noise(rng, size, min(48, size), stretch)
    ground = _flat(size, colour) + rough * texture[..., None] + rng.uniform(-8, 8, 3).astype(np.float32)
    line = round(horizon * size)
    return np.concatenate([sky[:line], ground[line:]])


def _day(rng: Random, size: int) -> Floats:
    return _ramp(size, (110 + rng.uniform(-20, 20), 175, 238), (212, 232, 246))


def _white(rng: Random, size: int, _: float) -> Floats:
    return _flat(size, (255, 255, 255))


def _gradient(rng: Random, size: int, _: float) -> Floats:
    light, dark = rng.uniform(170, 255, 3), rng.uniform(110, 235, 3)
    ramp = _ramp(size, tuple(light), tuple(dark))
    return np.ascontiguousarray(np.rot90(ramp, int(rng.integers(4))))


def _grass(rng: Random, size: int, horizon: float) -> Floats:
    return _ground(rng, size, horizon, _day(rng, size), (98, 164, 62), 14)


def _desert(rng: Random, size: int, horizon: float) -> Floats:
    return _ground(rng, size, horizon, _day(rng, size), (226, 196, 128), 8, 3)


def _snow(rng: Random, size: int, horizon: float) -> Floats:
    sky = _ramp(size, (168, 190, 212), (222, 230, 238))
    return _ground(rng, size, horizon, sky, (243, 247, 252), 4)


def _beach(rng: Random, size: int, horizon: float) -> Floats:
    shore = _ground(rng, size, horizon, _day(rng, size), (230, 206, 152), 8, 3)
    sea = _flat(size, (42, 132, 186)) + 10 * noise(rng, size, 40, 6)[..., None]
    top = round((horizon - 0.16) * size)
    line = round(horizon * size)
    shore[top:line] = sea[top:line]
    return shore


def _sea(rng: Random, size: int, horizon: float) -> Floats:
    return _ground(rng, size, horizon, _day(rng, size), (36, 112, 172), 14, 6)


def _road(rng: Random, size: int, horizon: float) -> Floats:
    street = _ground(rng, size, horizon, _day(rng, size), (112, 113, 117), 6)
    line = round((horizon + (1 - horizon) * 0.5) * size)
    dash = max(4, size // 9)
    for start in range(int(rng.integers(dash)), size, 2 * dash):
        street[line : line + max(2, size // 50), start : start + dash] = (236, 236, 226)
    return street


def _sky(rng: Random, size: int, _: float) -> Floats:
    clouds = np.clip(noise(rng, size, 4, 2) + 0.5 * noise(rng, size, 10, 2) - 0.5, 0, 1)[..., None]
    blue = _ramp(size, (84, 152, 230), (168, 208, 246))
    return (blue + 0.8 * clouds * (255 - blue)).astype(np.float32)


def _night(rng: Random, size: int, _: float) -> Floats:
    dark = _ramp(size, (8, 10, 36), (30, 34, 84))
    count = 60
    rows, columns = rng.integers(0, size, (2, count))
    dark[rows, columns] = rng.uniform(150, 255, (count, 1))
    return dark


def _floor(rng: Random, size: int, horizon: float) -> Floats:
    wall = _flat(size, (232, 224, 210)) + rng.uniform(-14, 14, 3).astype(np.float32)
    room = _ground(rng, size, horizon, wall, (176, 126, 78), 7, 8)
    step = max(6, size // 12)
    for row in range(round(horizon * size), size, step):
        room[row] *= 0.72
    return room


_DRAWN: dict[str, Callable[[Random, int, float], Floats]] = {
    "white": _white,
    "gradient": _gradient,
    "grass": _grass,
    "beach": _beach,
    "desert": _desert,
    "snow": _snow,
    "road": _road,
    "sea": _sea,
    "sky": _sky,
    "night": _night,
    "floor": _floor,
}
