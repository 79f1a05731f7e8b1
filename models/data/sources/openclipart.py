"""Openclipart 0.18: drawings in the public domain with the titles and keywords that their authors gave them.

Titles are uneven, so a title counts only where it says something of its own: collective ones ("Map Symbols")
and those of series whose titles do not fit their files give way to the file's name.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.data.records import Text
from models.data.sources.drawing import Artwork, Drawing, unique, words_of
from models.data.sources.packages import debian_package
from models.data.sources.wordnet import WordNet

PACKAGE = "openclipart-svg"
FOLDER = "usr/share/openclipart/svg"
LICENCE = "LicenseRef-PublicDomain"
STYLE = "openclipart"

# Shapes without a subject, desktop themes, fills, and what nobody wants to find.
DROPPED_FOLDERS = (
    "computer/buttons",
    "computer/folders",
    "computer/icons",
    "people/clothing/pantyhose",
    "shapes/stars",
    "special/gradients",
    "special/patterns",
    "unsorted/duplicates",
)
UNWANTED = re.compile(r"\b(stripper|nude|naked|sex|sexy|porn|erotic|pantyhose|blots?|test|untitled)\b")
DROPPED_KEYWORDS = re.compile(
    r"hash|0x|unsorted|magick|clip ?art|openclipart|inkscape|svg|\bico?n?s?\b|theme|signs_and_symbols|mapsym"
    r"|map_symbol|^special$|^menu$|^sign$|^shape$|^shapes$|architetto|united_nations|bw\b|@|_icon"
)
NO_DESCRIPTION = re.compile(
    r"@|https?:|www\.|clip ?art|openclipart|inkscape|svg|upload|convert|licen[cs]e|domain", re.I
)
AUTHORED_SERIES = re.compile(r"^clipart by|jarno|architetto", re.I)
COLLECTIVE = 4  # this many files with one title, and the title names the series
LONGEST_NAME = 7  # words

PUBLIC_DOMAIN = re.compile(r'license[^>]*rdf:resource="http://[\w./]*public ?domain/?"', re.IGNORECASE)
METADATA = re.compile(r"<metadata.*?</metadata>", re.DOTALL)
AGENTS = re.compile(r"<(?:dc:)?(publisher|creator|rights|contributor)\b.*?</(?:dc:)?\1>", re.DOTALL)
AUTHOR = re.compile(r"creator\b.*?title[^>]*>([^<]*)<", re.DOTALL)
TITLE = re.compile(r"<(?:dc:)?title[^>]*>([^<]*)<")
DESCRIPTION = re.compile(r"<(?:dc:)?description[^>]*>([^<]*)<")
KEYWORD = re.compile(r"<rdf:li[^>]*>([^<]*)<")
CARD = re.compile(r"(?:bordered|ornamental|simple|white)_([cdhs])_(\w+)")
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
RANKS = {"a": "ace", "j": "jack", "q": "queen", "k": "king"}


@dataclass(frozen=True)
class Clipart:
    """What a file says about itself."""

    path: Path
    place: Path  # below FOLDER
    title: str
    description: str
    author: str
    keywords: tuple[str, ...]


def drawings(root: Path, wordnet: WordNet) -> Iterator[Drawing]:
    """Every drawing with a subject and a usable name below `root`; raises SourceError.

    Some titles are Italian, French or Spanish: where no word is an English noun, the first keyword names it.
    """
    package = debian_package(root, PACKAGE)
    cliparts = list(_cliparts(root / FOLDER))
    titles = Counter(clipart.title for clipart in cliparts)
    for clipart in cliparts:
        name = name_of(clipart, titles[clipart.title] >= COLLECTIVE)
        if not name or UNWANTED.search(f"{name} {words_of(clipart.place.stem)}"):
            continue
        more = list(_more(clipart))
        if not any(map(wordnet.knows, name.split())):
            name = more[0].text.partition(",")[0] or name
        texts = [Text(name), *more]
        yield Drawing(
            style=STYLE,
            key="-".join(re.sub(r"[^\w-]+", "-", part) for part in clipart.place.with_suffix("").parts),
            artwork=Artwork(clipart.path),
            texts=unique(texts),
            concept=f"{STYLE}/{name}",
            source=package.source(clipart.path),
            licence=LICENCE,
        )


def name_of(clipart: Clipart, collective: bool) -> str:
    """The name of a drawing in plain words, or nothing where neither title nor file has one."""
    if card := CARD.fullmatch(clipart.place.stem):
        return f"{RANKS.get(card[2].lower(), card[2])} of {SUITS[card[1]]} playing card"
    folders = clipart.place.parts
    from_file = collective or AUTHORED_SERIES.search(clipart.title) is not None
    name = _unsigned(words_of(clipart.place.stem), clipart.author) if from_file else words_of(clipart.title)
    name = re.sub(r"\b(clip ?art|openclipart|svg|aiga|rpg map elements?|icon)\b", "", name)
    name = re.sub(r"\bb ?(and|&|n)? ?w\b", "black and white", name)
    name = " ".join(re.sub(r"[^\w\s'\N{RIGHT SINGLE QUOTATION MARK}&-]|\d", " ", name).split()).strip(" -'&")
    if "flags" in folders and "flag" not in name:
        name = f"flag of {name}"
    usable = 2 < len(name) <= 60 and len(name.split()) <= LONGEST_NAME and "@" not in clipart.title
    return name if usable else ""


def _unsigned(name: str, author: str) -> str:
    """A file's words without the author's, often cut short, at their end: "heart jon phill" -> "heart"."""
    authors = words_of(author).split()
    words = name.split()
    while len(words) > 1 and any(word.startswith(words[-1]) for word in authors):
        words.pop()
    return " ".join(words)


def _more(clipart: Clipart) -> Iterator[Text]:
    keywords = [word.replace("_", " ") for word in clipart.keywords if not DROPPED_KEYWORDS.search(word)]
    topics = [words_of(part) for part in clipart.place.parts[:-1] if not DROPPED_KEYWORDS.search(part)]
    said = dict.fromkeys(keywords + topics)
    yield Text(", ".join(said), "en", "keywords")
    words = clipart.description.split()
    if 3 <= len(words) <= 40 and not NO_DESCRIPTION.search(clipart.description):
        yield Text(" ".join(words), "en", "description")


def _cliparts(folder: Path) -> Iterator[Clipart]:
    for path in sorted(folder.rglob("*.svg")):
        place = path.relative_to(folder)
        if path.is_symlink() or place.as_posix().startswith(DROPPED_FOLDERS):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        metadata = METADATA.search(text)
        about = AGENTS.sub("", metadata[0]) if metadata else ""
        if PUBLIC_DOMAIN.search(about):
            title, description = TITLE.search(about), DESCRIPTION.search(about)
            author = AUTHOR.search(metadata[0]) if metadata else None
            yield Clipart(
                path,
                place,
                title[1].strip() if title else "",
                description[1].strip() if description else "",
                author[1].strip() if author else "",
                tuple(keyword.strip().lower() for keyword in KEYWORD.findall(about) if keyword.strip()),
            )
