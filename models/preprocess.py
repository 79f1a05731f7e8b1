"""From bytes and strings to what the encoder reads: one definition for training, indexing and serving."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, ExifTags, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin
from tokenizers import Encoding, Tokenizer

from models.formats import foreign_format, jpeg_frame

# Importing a plugin registers its format; naming them here keeps Pillow from importing its other forty.
_PLUGINS = (AvifImagePlugin, TiffImagePlugin, WebPImagePlugin)
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")

# open_image has its own limit, read from the header; Pillow's global one would only get in the way.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of broken metadata in a picture it decodes: that is the sender's matter, not the operator's.
warnings.filterwarnings("ignore", module=r"PIL\.")

Picture = NDArray[np.uint8]  # (S, S, 3), RGB
Modality = Literal["text", "image", "mixed"]

TOKEN_BUCKETS = (16, 32, 64, 128, 256, 512)
# A service counts the tokens of a text, embeds it and tells their number: it is cut into tokens once.
_REMEMBERED_TEXTS, _REMEMBERED_CHARS = 4096, 2000
_CHARACTERS_PER_TOKEN = 64  # far above any language's average, so the cut never reaches a token that is kept


class ImageError(ValueError):
    """A picture that cannot be read."""


class UnreadableImage(ImageError):
    """The bytes are no picture: corrupt, truncated, empty, or another kind of file under a picture's name."""


class UnsupportedImageFormat(ImageError):
    """The bytes are a picture in a format that is recognised but not decoded; the message names it."""


class ImageTooLarge(ImageError):
    """The header announces more pixels than allowed; nothing was decoded."""


class TextError(ValueError):
    """A text that cannot be embedded."""


class EmptyText(TextError):
    """Nothing is left once blanks and control characters are dropped."""


class InvalidText(TextError):
    """The string is not valid Unicode, for example it holds half of a surrogate pair."""


@dataclass(frozen=True, eq=False)
class Document:
    """Texts and pictures in reading order that share one embedding; raises ValueError when there is none."""

    parts: tuple[str | Picture, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a document needs at least one part")

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return tuple(part for part in self.parts if not isinstance(part, str))

    @property
    def modality(self) -> Modality:
        if not self.pictures:
            return "text"
        return "mixed" if self.texts else "image"


@dataclass(frozen=True)
class Preprocessing:
    """The constants a picture passes through; they are part of the encoder's identity."""

    image_size: int  # pixels, the side of the square the image graph reads
    resize: Literal["squash", "crop"]  # squash changes the aspect; crop keeps the central square
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    mean: tuple[float, float, float]  # per channel, in pixel values 0 to 255
    std: tuple[float, float, float]
    crop_fraction: float = 1.0  # the middle share of each side that is kept (of the square, for crop)
    in_graph: bool = False  # mean and std are the image graph's own matter: it reads bytes


class Preprocessor:
    """Turns bytes into pictures and strings into tokens, by the constants of one bundle."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        tokenizer_file: Path,
        *,
        max_tokens: int,
        padding: Literal["bucket", "fixed"] = "bucket",
    ) -> None:
        self.image_size = preprocessing.image_size
        self.max_tokens = max_tokens
        self._rule = preprocessing
        self._mean = np.asarray(preprocessing.mean, np.float32).reshape(1, 3, 1, 1)
        self._std = np.asarray(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        if padding == "bucket":
            self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._remembered = lru_cache(_REMEMBERED_TEXTS)(self._ids)

    def picture(self, data: bytes, *, max_pixels: int) -> Picture:
        """Decode one file into an (S, S, 3) RGB picture; raises ImageError."""
        size = self.image_size
        image = open_image(data, max_pixels=max_pixels, draft=(2 * size, 2 * size))
        box = _central_box(image.size, square=self._rule.resize == "crop", share=self._rule.crop_fraction)
        resample = Image.Resampling[self._rule.interpolation.upper()]
        return np.asarray(image.resize((size, size), resample, box=box), np.uint8)

    def pixels(self, pictures: Sequence[Picture]) -> NDArray[np.uint8] | NDArray[np.float32]:
        """What the image graph reads: normalised, or uint8 (n, S, S, 3) where it does that itself."""
        return np.stack(pictures) if self._rule.in_graph else self.normalised(pictures)

    def normalised(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Values less the mean, in units of the deviation: float32 (n, 3, S, S)."""
        channels_first = np.stack(pictures).transpose(0, 3, 1, 2)
        normalised: NDArray[np.float32] = (channels_first - self._mean) / self._std
        return np.ascontiguousarray(normalised)

    def tokens(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids and attention mask, int64 (n, L); L is the bucket that holds the longest text."""
        rows = [self._encode(text) for text in texts]
        width = min(self.max_tokens, _bucket(max(len(row) for row in rows), TOKEN_BUCKETS))
        ids = np.zeros((len(rows), width), np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row.ids
            mask[i, : len(row)] = row.attention_mask
        return ids, mask

    @property
    def markers(self) -> tuple[int, int]:
        """The ids that the tokenizer puts before and after a text's words."""
        first, last = self._tokenizer.encode("").ids
        return first, last

    def words(self, text: str) -> list[int]:
        """The ids of a text's word pieces, at most max_tokens with the markers; raises TextError."""
        return list(self._known(text)[1:-1])

    def count_tokens(self, text: str) -> int:
        """How many tokens of this text the encoder reads, markers included and after truncation."""
        return len(self._known(text))

    def count_all_tokens(self, text: str) -> int:
        """How many tokens a text has, markers included, those included that the encoder does not read.

        Where that is at most max_tokens, all of it is read. Raises TextError.
        """
        # Not of its opening alone: what is read is the same, but this tells whether anything comes after it.
        encoding = self._encoded(text)
        cut = sum(len(part.ids) - sum(part.special_tokens_mask) for part in encoding.overflowing)
        return sum(encoding.attention_mask) + cut

    def check_text(self, text: str) -> None:
        """Raise EmptyText or InvalidText where there is nothing to embed."""
        self._encode(text)

    def _known(self, text: str) -> tuple[int, ...]:
        return (self._remembered if len(text) <= _REMEMBERED_CHARS else self._ids)(text)

    def _ids(self, text: str) -> tuple[int, ...]:
        """The ids that the encoder reads, markers included, without padding; raises TextError."""
        encoding = self._encode(text)
        return tuple(encoding.ids[: sum(encoding.attention_mask)])

    def _encode(self, text: str) -> Encoding:
        # Truncation comes after tokenising, so a megabyte is cut first: only its opening can matter.
        return self._encoded(text.lstrip()[: _CHARACTERS_PER_TOKEN * self.max_tokens])

    def _encoded(self, text: str) -> Encoding:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidText(f"the text is not valid Unicode: {error.reason}") from error
        encoding = self._tokenizer.encode(text)
        if all(encoding.special_tokens_mask):
            raise EmptyText("the text holds nothing but blanks and control characters")
        return encoding


def open_image(data: bytes, *, max_pixels: int, draft: tuple[int, int] | None = None) -> Image.Image:
    """Decode the first frame of a picture file to upright RGB, transparency laid on white; raises ImageError.

    The format comes from the bytes, never from a name. The pixel limit is checked on the header, before any
    decoding. With draft=(width, height) a JPEG is decoded at the smallest scale that still covers that size.
    """
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            _check_size(image.size, max_pixels)
            if draft is not None:
                image.draft("RGB", draft)
            image.load()
            _check_size(image.size, max_pixels)
            return _rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        if name := foreign_format(data):
            raise UnsupportedImageFormat(f"{name} is not decoded; send JPEG, PNG, WebP or AVIF") from error
        raise UnreadableImage("the bytes are not a picture in a known format") from error
    except Exception as error:
        # Hostile bytes reach every corner of every decoder: whatever one raises, the picture is unreadable.
        raise UnreadableImage(f"the picture cannot be decoded: {error}") from error


def announced_pixels(data: bytes) -> int:
    """Width times height of a picture by its header; 0 where there is none to go by."""
    if (frame := jpeg_frame(data)) is not None:  # opening it would read its tables too
        return frame.width * frame.height
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            return image.width * image.height
    except Exception:
        return 0


def is_plain_jpeg(data: bytes, max_pixels: int) -> bool:
    """Whether a picture is by its header a JPEG of no more pixels, and decoded as soon as they allow."""
    frame = jpeg_frame(data)
    return frame is not None and not frame.is_progressive and frame.width * frame.height <= max_pixels


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}x{height} is more than {max_pixels} pixels")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return image  # broken metadata is no reason to refuse a picture that decodes
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale deep greys to 8 bits; Pillow's own conversion clips them to white."""
    values = np.nan_to_num(np.asarray(image, np.float64))
    low, high = float(values.min()), float(values.max())
    usual = 1.0 if image.mode == "F" and high <= 1 else 65535.0
    if image.mode.startswith("I;16") or (low >= 0 and high <= usual):
        low, high = 0.0, usual
    scaled = (np.clip(values, low, high) - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _central_box(size: tuple[int, int], *, square: bool, share: float) -> tuple[float, float, float, float]:
    width, height = (share * side for side in ((min(size),) * 2 if square else size))
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _bucket(count: int, buckets: Sequence[int]) -> int:
    return next((bucket for bucket in buckets if bucket >= count), count)
