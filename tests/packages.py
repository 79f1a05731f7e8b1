"""A few drawings in packages of the real shape: npm icon sets, CLDR, emojibase, Debian art and WordNet."""

import colorsys
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from models.data.records import LANGUAGES
from models.data.sources.emoji import ICON_SETS as EMOJI_SETS
from models.data.sources.emoji import RENDERED
from models.data.sources.icons import ICON_SETS
from models.data.sources.packages import PINS

# Emoji by code points: English name, keywords.
EMOJI = {
    "1f34e": ("red apple", ["apple", "fruit", "red"]),
    "1f34f": ("green apple", ["apple", "fruit", "green"]),
    "1f415": ("dog", ["dog", "pet"]),
    "1f436": ("dog face", ["dog", "face", "pet"]),
    "1f600": ("grinning face", ["face", "grin"]),
    "1f622": ("crying face", ["cry", "face", "sad"]),
    "1f468-200d-1f33e": ("man farmer", ["farmer", "man"]),
    "1f469-200d-1f33e": ("woman farmer", ["farmer", "woman"]),
    "0033-fe0f-20e3": ("keycap: 3", ["keycap"]),
    "1f1eb-1f1ee": ("flag: Finland", ["flag"]),
}
# (lemma, number of the lexicographer's file, gloss): first senses only.
NOUNS = [
    ("apple", 13, "fruit with red or yellow or green skin"),
    ("dog", 5, "a member of the genus Canis"),
    ("mouse", 5, "any of numerous small rodents"),
    ("boat", 6, "a small vessel for travel on water"),
    ("card", 6, "one of a set of small pieces of stiff paper"),
    ("truth", 10, "a fact that has been verified"),
]


def install(root: Path) -> tuple[Path, Path]:
    """Lay out every package that a build reads; returns the node_modules folder and the Debian root."""
    npm, debian = root / "node_modules", root / "debian"
    for number, style in enumerate(EMOJI_SETS):
        icons = {_slug(name): _svg(points, number) for points, (name, _) in EMOJI.items()}
        chars = {points.replace("-fe0f", ""): _slug(name) for points, (name, _) in EMOJI.items()}
        icons["red-apple-dark-skin-tone"] = icons["red-apple"]
        chars["1f34e-1f3ff"] = "red-apple-dark-skin-tone"
        if style == "streamline-emojis":
            icons = {"blank-page": "<g/>", "broken": "<path", "twin": icons["dog"]} | icons
        icon_set(npm, f"@iconify-json/{style}", icons, chars, {"Smiley People": ["grinning-face"]})
    for style in ICON_SETS:
        icons = {"alarm-bell-1": _svg(style, 40), "dropbox-logo": _svg("logo", 41)}
        icon_set(npm, f"@iconify-json/{style}", icons, {}, {"InterfaceEssential": ["alarm-bell-1"]})
    package(npm, RENDERED)
    (npm / RENDERED / "assets").mkdir()
    photo((30, 120, 200)).save(npm / RENDERED / "assets" / "1f34e.webp", lossless=True)
    photo((30, 120, 200)).save(npm / RENDERED / "assets" / "1f34e-1f3fb.webp", lossless=True)
    _annotations(npm)
    _debian(debian)
    return npm, debian


def package(npm: Path, name: str, version: str | None = None) -> None:
    """An npm package with nothing but its manifest."""
    (npm / name).mkdir(parents=True, exist_ok=True)
    (npm / name / "package.json").write_text(json.dumps({"name": name, "version": version or PINS[name]}))


def icon_set(
    npm: Path, name: str, bodies: Mapping[str, str], chars: Mapping[str, str], categories: Mapping[str, Any]
) -> None:
    """An Iconify package with icons of 36 x 36."""
    package(npm, name)
    icons = {icon: {"body": body} for icon, body in bodies.items()}
    _json(npm / name / "icons.json", {"prefix": name, "icons": icons, "width": 36, "height": 36})
    _json(npm / name / "chars.json", chars)
    _json(npm / name / "metadata.json", {"categories": categories})


def photo(colour: tuple[int, int, int], side: int = 64) -> Image.Image:
    """Many colours on a transparent ground: what a cut-out photograph has, and a drawing has not."""
    picture = Image.new("RGBA", (side, side))
    for x in range(side):
        for y in range(side):
            if (x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 2.2) ** 2:
                red, green, blue = (
                    (channel + shift) % 256 for channel, shift in zip(colour, (x, y, x + y), strict=True)
                )
                picture.putpixel((x, y), (red * 2 % 256, green, blue, 255))
    return picture


def disc(colour: tuple[int, int, int], side: int = 96) -> Image.Image:
    """A filled circle that touches the four sides."""
    picture = Image.new("RGBA", (side, side))
    ImageDraw.Draw(picture).ellipse((0, 0, side - 1, side - 1), fill=(*colour, 255))
    return picture


def _slug(name: str) -> str:
    return name.replace(": ", "-").replace(" ", "-").lower()


def _svg(key: str, number: int) -> str:
    """A different drawing for each key and number."""
    hue = (sum(map(ord, key)) * 47 + number * 29) % 360 / 360
    red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.8, 0.8))
    return (
        f'<circle cx="18" cy="18" r="{10 + number % 7}" fill="rgb({red}, {green}, {blue})"/>'
        f'<rect x="{2 + len(key) % 9}" y="4" width="8" height="{9 + sum(map(ord, key)) % 19}" fill="#222"/>'
    )


def _annotations(npm: Path) -> None:
    folders = {"cldr-annotations-full": "annotations", "cldr-annotations-derived-full": "annotationsDerived"}
    for name, folder in folders.items():
        package(npm, name)
        for language in LANGUAGES:
            entries = {
                "".join(chr(int(point, 16)) for point in points.split("-")): {
                    "tts": [text if language == "en" else f"{language}: {text}"],
                    "default": keywords,
                }
                for points, (text, keywords) in EMOJI.items()
            }
            path = npm / name / folder / language / "annotations.json"
            _json(path, {folder: {"annotations": entries if folder == "annotations" else {}}})
    package(npm, "emojibase-data")
    labels = [
        {"label": text, "hexcode": points.upper(), "tags": [*keywords, "emojibase"]}
        for points, (text, keywords) in EMOJI.items()
    ]
    for language in LANGUAGES:
        _json(npm / "emojibase-data" / language / "data.json", labels)


def _debian(root: Path) -> None:
    for name, version in (("tuxpaint-stamps-default", "2022.06.04-1"), ("openclipart-svg", "1:0.18+dfsg-19")):
        changelog = root / "usr/share/doc" / name / "changelog.Debian.gz"
        changelog.parent.mkdir(parents=True)
        changelog.write_bytes(gzip.compress(f"{name} ({version}) unstable; urgency=medium\n".encode()))
    _stamps(root / "usr/share/tuxpaint/stamps")
    _openclipart(root / "usr/share/openclipart/svg")
    wordnet(root / "usr/share/wordnet")


def _stamps(folder: Path) -> None:
    texts = {
        "animals/dog": "A dog.\nde.utf8=Ein Hund.\nxx.utf8=nothing\n",
        "vehicles/boat2": "This boat has seen a storm, many years ago, and was never the same afterwards.\n",
        "symbols/math/plus": "Plus sign: adds numbers.\n",
    }
    for place, text in texts.items():
        path = folder / f"{place}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    photo((200, 90, 20)).save(folder / "animals/dog.png")
    photo((200, 90, 20)).save(folder / "animals/dog_mirror.png")
    photo((10, 90, 160)).save(folder / "vehicles/boat2.png")
    disc((30, 30, 30)).save(folder / "symbols/math/plus.png")


def _openclipart(folder: Path) -> None:
    clipart(folder / "animals/dog_anna_smi_01.svg", "Series", ["animal", "hash"], "Anna Smith")
    for number in range(1, 4):
        clipart(folder / f"animals/mouse_0{number}.svg", "Series", ["animal"], "Anna Smith", 20 + number)
    clipart(folder / "food/mela.svg", "mela", ["apple"], "Bruno", 30)
    clipart(folder / "food/secret.svg", "Truth", ["food"], "Bruno", 31, licence="http://example.org/GPL/2.0/")
    clipart(folder / "shapes/stars/star.svg", "Star", ["stars"], "Bruno", 32)
    clipart(folder / "recreation/games/cards/simple/simple_h_q.svg", "card", ["card"], "Bruno", 33)


def clipart(
    path: Path,
    title: str,
    keywords: Sequence[str],
    author: str,
    number: int = 19,
    licence: str = "http://web.resource.org/cc/PublicDomain",
) -> None:
    """An openclipart file with its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:rdf="r" xmlns:cc="c" xmlns:dc="d" viewBox="0 0 36 36">'
        f"<metadata><dc:title>{title}</dc:title><rdf:Bag>{items}</rdf:Bag>"
        f"<dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>"
        f'<cc:license rdf:resource="{licence}"/></metadata>{_svg(path.stem, number)}</svg>'
    )


def wordnet(folder: Path) -> Path:
    """The three noun files of WordNet with the NOUNS in them."""
    folder.mkdir(parents=True)
    data, index = "  1 licence\n", ["  1 licence"]
    root = len(data)  # every other noun is a kind of the first
    for lemma, topic, gloss in NOUNS:
        offset = len(data)
        parents = "000" if offset == root else f"001 @ {root:08d} n 0000"
        data += f"{offset:08d} {topic:02d} n 01 {lemma} 0 {parents} | {gloss}\n"
        index.append(f"{lemma} n 1 0 1 1 {offset:08d}")
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text("\n".join(index) + "\n")
    (folder / "noun.exc").write_text("mice mouse\nmouses mouse\n")
    return folder


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
