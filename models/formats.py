"""What the first bytes of a picture tell: its format, if it is not decoded here, and a JPEG's frame."""

from typing import NamedTuple

from PIL import AvifImagePlugin

_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis"), "HEIC"),
    **dict.fromkeys((b"mif1", b"msf1"), "HEIF"),
    b"crx ": "Canon CR3",
    **dict.fromkeys((b"avif", b"avis"), None if AvifImagePlugin.SUPPORTED else "AVIF"),
}
_MAGIC = (
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 0, b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("PDF", 0, b"%PDF-"),
    ("PostScript", 0, b"%!PS"),
    ("Photoshop PSD", 0, b"8BPS"),
    ("GIMP XCF", 0, b"gimp xcf"),
    ("Fujifilm RAF", 0, b"FUJIFILMCCD-RAW"),
    ("Olympus ORF", 0, b"IIRO"),
    ("Olympus ORF", 0, b"IIRS"),
    ("Panasonic RW2", 0, b"IIU\0"),
    ("OpenEXR", 0, b"v/1\x01"),
    ("Radiance HDR", 0, b"#?RADIANCE"),
    ("DirectDraw DDS", 0, b"DDS "),
    ("QOI", 0, b"qoif"),
    ("Windows icon", 0, b"\0\0\x01\0"),
)
_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)  # baseline, extended
_SCAN = 0xDA
_PASSED_OVER = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))  # tables, comments, applications' own


class JpegFrame(NamedTuple):
    """What a JPEG says of itself. A progressive one may hide any number of scans in few bytes."""

    width: int
    height: int
    is_progressive: bool


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """The frame of a usual JPEG by the markers before its first scan; None if it is another file."""
    at, found = 2, None
    if data[:2] != b"\xff\xd8":
        return None
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SCAN:
            return found
        if marker in _FRAMES and found is None and data[at + 4] == 8:  # bits of a sample
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            size = int.from_bytes(width, "big"), int.from_bytes(height, "big")
            found = JpegFrame(*size, is_progressive=marker == _PROGRESSIVE)
        elif marker not in _PASSED_OVER or length < 2:
            return None
        at += 2 + length
    return None


def foreign_format(data: bytes) -> str | None:
    """The name of a picture format that is recognised by its first bytes but not decoded here."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "ISO media (video or HEIF)")
    for name, offset, magic in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return name
    opening = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if opening.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in opening:
        return "SVG"
    return None
