"""Pictures that went wrong: files of eight formats, changed as no encoder would write them."""

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image

from tests.fakes import COLOURS

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
_MODES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "RGBA", "P", "L", "1"), "GIF": ("RGB", "P")}
_EXTREME = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff")


@dataclass(frozen=True)
class Upload:
    """One file; its name says what it was made of."""

    number: int
    name: str
    content: bytes = field(repr=False)


def uploads(seed: int, count: int) -> Iterator[Upload]:
    """So many files, each format in turn; a seed fixes them. One in sixteen is left as it is."""
    dice = random.Random(seed)
    originals = {
        format: [_original(format, mode) for mode in _MODES.get(format, ("RGB",))] for format in FORMATS
    }
    everything = [file for files in originals.values() for file in files]
    for number in range(count):
        format = FORMATS[number % len(FORMATS)]
        data = bytearray(dice.choice(originals[format]))
        for _ in range(dice.choice((0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 8, 8, 30, 30))):
            dice.choice(_CHANGES)(data, dice, everything)
        yield Upload(number, f"{number}.{format.lower()}", bytes(data))


def _original(format: str, mode: str) -> bytes:
    """Stripes with a gradient across; of formats that can, an animation of two frames."""
    picture = Image.new("RGB", (48, 32))
    for i, colour in enumerate(COLOURS.values()):
        picture.paste(colour, (0, 6 * i, 48, 6 * i + 6))
    picture.paste(Image.linear_gradient("L").resize((16, 32)), (16, 0))
    file = io.BytesIO()
    several = {"save_all": True, "append_images": [picture.rotate(90).convert(mode)]}
    options = several if format in ("GIF", "WEBP", "TIFF") else {}
    picture.convert(mode).save(file, format, **options)
    return file.getvalue()


def _place(data: bytearray, dice: random.Random) -> int:
    """Anywhere, but as often in the header, where sizes and offsets are."""
    return dice.randrange(1 + min(len(data), 64 if dice.random() < 0.5 else len(data)))


def _flip(data: bytearray, dice: random.Random, others: list[bytes]) -> None:
    if data:
        data[min(_place(data, dice), len(data) - 1)] ^= 1 << dice.randrange(8)


def _put_extreme(data: bytearray, dice: random.Random, others: list[bytes]) -> None:
    place, value = _place(data, dice), dice.choice(_EXTREME)
    data[place : place + len(value)] = value


def _cut(data: bytearray, dice: random.Random, others: list[bytes]) -> None:
    del data[_place(data, dice) :]


def _leave_out(data: bytearray, dice: random.Random, others: list[bytes]) -> None:
    place = _place(data, dice)
    del data[place : place + dice.choice((1, 2, 4, 64, 500))]


def _repeat(data: bytearray, dice: random.Random, others: list[bytes]) -> None:
    start = _place(data, dice)
    part = data[start : start + dice.choice((1, 4, 16, 200))]
    data[start:start] = part * dice.choice((1, 2, 50))


def _insert(data: bytearray, dice: random.Random, others: list[bytes]) -> None:
    place = _place(data, dice)
    data[place:place] = dice.randbytes(dice.choice((1, 2, 8, 100)))


def _graft(data: bytearray, dice: random.Random, others: list[bytes]) -> None:
    place, other = _place(data, dice), dice.choice(others)
    data[place:] = other[min(place, len(other)) :]


_Change = Callable[[bytearray, random.Random, list[bytes]], None]
_CHANGES: tuple[_Change, ...] = (
    _flip,
    _flip,
    _put_extreme,
    _put_extreme,
    _cut,
    _leave_out,
    _repeat,
    _insert,
    _graft,
)
