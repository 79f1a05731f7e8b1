import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.formats import jpeg_frame
from models.preprocess import (
    Document,
    EmptyText,
    ImageError,
    ImageTooLarge,
    InvalidText,
    Preprocessing,
    Preprocessor,
    UnreadableImage,
    UnsupportedImageFormat,
    announced_pixels,
    open_image,
)

MAX_PIXELS = 16_000_000
TOKENIZER = Path(__file__).parent.parent / "models" / "bundles" / "momo-mini" / "tokenizer.json"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    rule = Preprocessing(64, "crop", "bicubic", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    return Preprocessor(rule, TOKENIZER, max_tokens=64)


def quarters(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red, green, blue and white quarters: reading order tells which way is up."""
    image = Image.new("RGB", size)
    width, height = size
    for i, colour in enumerate((RED, GREEN, BLUE, WHITE)):
        left, top = (i % 2) * width // 2, (i // 2) * height // 2
        image.paste(colour, (left, top, left + width // 2, top + height // 2))
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def opened(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = open_image(data, max_pixels=MAX_PIXELS)
    assert image.mode == "RGB"
    return np.asarray(image)


def corners(data: bytes) -> list[tuple[int, ...]]:
    """The middles of the four quarters, in reading order, rounded to full on or off."""
    pixels = opened(data)
    height, width = pixels.shape[:2]
    spots = [
        (height // 4, width // 4),
        (height // 4, -width // 4),
        (-height // 4, width // 4),
        (-height // 4, -width // 4),
    ]
    return [tuple(255 * (int(c) > 127) for c in pixels[spot]) for spot in spots]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_every_allowed_format_is_decoded(kind: str) -> None:
    assert corners(encoded(quarters(), kind)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(kind: str) -> None:
    assert corners(encoded(quarters("CMYK"), kind)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_by_its_exif(orientation: int) -> None:
    undo: dict[int, list[Image.Transpose]] = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = quarters()
    for turn in undo[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = encoded(stored, kind, exif=exif)
        assert corners(data) == [RED, GREEN, BLUE, WHITE], kind
        assert open_image(data, max_pixels=MAX_PIXELS).size == (64, 48)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_refuse_a_good_picture() -> None:
    data = encoded(quarters(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert corners(data) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    pixels = opened(encoded(Image.fromarray(ramp), kind))
    assert np.abs(pixels[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_float_and_long_greys_are_scaled_too() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    assert (
        np.abs(opened(encoded(Image.fromarray(ramp), "TIFF"))[0, :, 0].astype(int) - np.arange(256)).max()
        <= 1
    )
    wide = np.linspace(-1e6, 1e6, 256).astype(np.int32)[None]
    assert (
        np.abs(opened(encoded(Image.fromarray(wide), "TIFF"))[0, :, 0].astype(int) - np.arange(256)).max()
        <= 1
    )
    broken = np.array([[np.nan, np.inf, 0.0]], np.float32)
    assert opened(encoded(Image.fromarray(broken), "TIFF")).shape == (1, 3, 3)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert("LA" if mode == "LA" else "RGBA")
    if mode == "PA":
        data = encoded(clear.convert("P"), "PNG", transparency=clear.convert("P").getpixel((0, 0)))
    else:
        data = encoded(clear, "PNG")
    assert (opened(data) == 255).all()


def test_half_transparency_mixes_with_white() -> None:
    assert abs(int(opened(encoded(Image.new("LA", (4, 4), (0, 128)), "PNG"))[0, 0, 0]) - 127) <= 1


def test_palette_and_bilevel_pictures_become_rgb() -> None:
    assert corners(encoded(quarters("P"), "PNG")) == [RED, GREEN, BLUE, WHITE]
    assert (opened(encoded(Image.new("1", (3, 3), 1), "PNG")) == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert corners(data) == [RED] * 4


def test_a_single_pixel_is_a_picture(preprocessor: Preprocessor) -> None:
    picture = preprocessor.picture(encoded(Image.new("RGB", (1, 1), BLUE), "PNG"), max_pixels=MAX_PIXELS)
    assert picture.shape == (64, 64, 3)
    assert (picture == BLUE).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"<!doctype html><html><body>not a photo</body></html>",
        b"plain words",
        b"\xff\xd8\xff",
        b"GIF89a",
    ],
    ids=["empty", "nul", "html", "words", "jpeg-start", "gif-start"],
)
def test_what_is_no_picture_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableImage):
        open_image(data, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_a_truncated_file_is_unreadable(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(UnreadableImage):
        open_image(data[: len(data) // 2], max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("SVG", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn --><svg xmlns='x'/>"),
        ("SVG", b"<svg width='4'/>"),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIF", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("JPEG XL", b"\xff\x0a\0\0"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
        ("PDF", b"%PDF-1.7"),
        ("Photoshop PSD", b"8BPS\0\x01"),
        ("Fujifilm RAF", b"FUJIFILMCCD-RAW 0201"),
        ("Canon CR3", b"\0\0\0\x18ftypcrx \0\0\0\x01"),
        ("ISO media", b"\0\0\0\x18ftypisom\0\0\0\0"),
    ],
)
def test_a_known_format_that_is_not_decoded_is_named(name: str, data: bytes) -> None:
    with pytest.raises(UnsupportedImageFormat, match=name):
        open_image(data + b"\0" * 64, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("size", [(50_000, 50_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_from_the_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge):
        open_image(png_header(*size), max_pixels=MAX_PIXELS)


def test_a_real_picture_of_20000_by_20000_is_refused_undecoded() -> None:
    data = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(ImageTooLarge, match="20000x20000"):
        open_image(data, max_pixels=MAX_PIXELS)


def test_the_limit_is_ours_and_includes_its_own_value() -> None:
    data = encoded(Image.new("RGB", (20, 10)), "PNG")
    assert open_image(data, max_pixels=200).size == (20, 10)
    with pytest.raises(ImageTooLarge):
        open_image(data, max_pixels=199)


def test_a_draft_decodes_a_large_jpeg_at_a_smaller_scale() -> None:
    data = encoded(quarters(size=(1600, 1200)), "JPEG")
    assert open_image(data, max_pixels=MAX_PIXELS, draft=(128, 128)).size == (200, 150)
    assert open_image(data, max_pixels=MAX_PIXELS).size == (1600, 1200)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "BMP"])
def test_mutated_files_give_a_picture_or_an_image_error(kind: str) -> None:
    random = np.random.default_rng(7)
    good = encoded(quarters(size=(40, 30)), kind)
    outcomes = []
    for _ in range(60):
        data = bytearray(good)
        for position in random.integers(0, len(data), size=random.integers(1, 9)):
            data[position] = random.integers(256)
        try:
            outcomes.append(open_image(bytes(data), max_pixels=MAX_PIXELS).mode)
        except ImageError:
            outcomes.append("refused")
    assert set(outcomes) <= {"RGB", "refused"}
    assert "refused" in outcomes or kind in ("BMP", "JPEG", "GIF")


def test_a_crop_keeps_the_central_square(preprocessor: Preprocessor) -> None:
    image = Image.new("RGB", (300, 100), RED)
    image.paste(BLUE, (100, 0, 200, 100))
    assert (preprocessor.picture(encoded(image, "PNG"), max_pixels=MAX_PIXELS)[:, 4:-4] == BLUE).all()


def test_a_squash_keeps_the_whole_picture() -> None:
    rule = Preprocessing(64, "squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    picture = Preprocessor(rule, TOKENIZER, max_tokens=16).picture(
        encoded(quarters(size=(300, 100)), "PNG"), max_pixels=MAX_PIXELS
    )
    assert [tuple(picture[y, x]) for y in (8, 56) for x in (8, 56)] == [RED, GREEN, BLUE, WHITE]


def test_pixels_are_normalised_channels_first(preprocessor: Preprocessor) -> None:
    pictures = [np.full((64, 64, 3), value, np.uint8) for value in (0, 255)]
    pictures[0][..., 2] = 127
    pixels = preprocessor.pixels(pictures)
    assert pixels.dtype == np.float32
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.flags.c_contiguous
    assert pixels[0, :, 5, 5] == pytest.approx([-127 / 128, -127 / 128, 0])
    assert (pixels[1] == 1.0).all()


def test_tokens_fill_the_bucket_that_holds_the_longest_text(preprocessor: Preprocessor) -> None:
    ids, mask = preprocessor.tokens(["a red apple", "word " * 20])
    assert ids.shape == mask.shape == (2, 32)
    assert ids.dtype == mask.dtype == np.int64
    assert mask.sum(axis=1).tolist() == [5, 22]
    assert (ids[mask == 0] == 0).all()
    assert preprocessor.tokens(["short"])[0].shape == (1, 16)


def test_a_long_text_is_cut_at_the_token_limit(preprocessor: Preprocessor) -> None:
    assert preprocessor.tokens(["word " * 500])[0].shape == (1, 64)
    assert preprocessor.count_tokens("word " * 500) == 64
    assert preprocessor.count_tokens("a red apple") == 5


def test_all_tokens_of_a_text_are_counted_read_or_not(preprocessor: Preprocessor) -> None:
    for text, count in (("a red apple", 5), ("word " * 62, 64), ("word " * 63, 65), ("word " * 500, 502)):
        assert preprocessor.count_all_tokens(text) == count
        assert preprocessor.count_tokens(text) == min(count, 64)
    assert (
        preprocessor.count_all_tokens("red" + " " * 100_000 + "apple") == 4
    )  # after the opening that is read
    with pytest.raises(EmptyText):
        preprocessor.count_all_tokens(" \n")
    with pytest.raises(InvalidText):
        preprocessor.count_all_tokens("half \udc00 pair")


def test_words_are_the_tokens_between_the_markers(preprocessor: Preprocessor) -> None:
    first, last = preprocessor.markers
    row = preprocessor.tokens(["a red apple"])[0][0]
    assert [first, *preprocessor.words("a red apple"), last] == row[:5].tolist()
    assert len(preprocessor.words("word " * 500)) == 62
    with pytest.raises(EmptyText):
        preprocessor.words(" ")


def test_a_megabyte_of_text_reads_as_its_opening(preprocessor: Preprocessor) -> None:
    long = "a small dog runs over the wet sand. " * 30_000
    assert len(long) > 1_000_000
    assert (preprocessor.tokens([long])[0] == preprocessor.tokens([long[:3000]])[0]).all()
    assert preprocessor.tokens(["x" * 1_000_000])[0].shape == (1, 16)


@pytest.mark.parametrize(
    "text", ["", "   ", "\n\t\r", "\x00\x01\x02", "\u200b\u200e", " \x07 \n", " " * 1_000_000]
)
def test_a_text_without_anything_to_read_is_empty(preprocessor: Preprocessor, text: str) -> None:
    with pytest.raises(EmptyText):
        preprocessor.check_text(text)


@pytest.mark.parametrize("text", ["\ud83d", "half \udc00 pair"])
def test_a_lone_surrogate_is_invalid(preprocessor: Preprocessor, text: str) -> None:
    with pytest.raises(InvalidText):
        preprocessor.check_text(text)


@pytest.mark.parametrize("text", ["🐱", "👨‍👩‍👧", "赤いりんご", "naïve café", "a\x00b", "!", "١٢٣"])
def test_any_written_language_and_emoji_are_read(preprocessor: Preprocessor, text: str) -> None:
    preprocessor.check_text(text)
    assert preprocessor.count_tokens(text) >= 3


def test_control_characters_do_not_change_a_text(preprocessor: Preprocessor) -> None:
    plain, dirty = (
        preprocessor.tokens(["a red apple"])[0],
        preprocessor.tokens(["\x07a \x00red\x01\tapple\n"])[0],
    )
    assert (plain == dirty).all()


def picture_part() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("parts", "modality"),
    [
        (lambda: ("words",), "text"),
        (lambda: (picture_part(),), "image"),
        (lambda: ("words", picture_part()), "mixed"),
    ],
)
def test_a_document_knows_its_modality(parts: Callable[[], tuple[str, ...]], modality: str) -> None:
    document = Document(parts())
    assert document.modality == modality
    assert len(document.texts) + len(document.pictures) == len(document.parts)


def test_a_document_without_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        Document(())


def test_pixels_are_told_by_the_header_alone() -> None:
    assert announced_pixels(png_header(40_000, 30_000)) == 1_200_000_000
    jpeg = encoded(quarters(size=(64, 48)), "JPEG")
    assert announced_pixels(jpeg) == announced_pixels(jpeg[:-20]) == 3072
    assert announced_pixels(b"no picture") == announced_pixels(b"") == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + bytes(300)}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_size_of_a_jpeg_is_read_without_opening_it(mode: str, options: dict[str, object]) -> None:
    jpeg = encoded(quarters(mode, (64, 48)), "JPEG", comment=b"\xff\xc0" * 9, **options)
    frame = jpeg_frame(jpeg)
    assert frame is not None
    assert (frame.width, frame.height) == Image.open(BytesIO(jpeg)).size == (64, 48)
    assert frame.is_progressive == ("progressive" in options)


def test_what_is_no_usual_jpeg_is_left_to_the_decoder() -> None:
    jpeg = encoded(quarters(size=(64, 48)), "JPEG")
    frame = jpeg.index(b"\xff\xc0")
    length = 2 + int.from_bytes(jpeg[frame + 2 : frame + 4], "big")
    twice = jpeg[:frame] + jpeg[frame : frame + length] + jpeg[frame:]
    others = (b"", b"\xff\xd8", png_header(8, 8), jpeg[:frame], jpeg[: frame + length], twice)
    assert [jpeg_frame(other) for other in others] == [None] * len(others)
    assert jpeg_frame(jpeg.replace(b"\xff\xc0", b"\xff\xc3", 1)) is None  # lossless
