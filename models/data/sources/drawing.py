"""What a source yields, and how words are made of the names that files and icons carry."""

import re
from dataclasses import dataclass
from pathlib import Path

from models.data.records import Text

ARTICLE = re.compile(r"^(an?|the|some)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class Artwork:
    """A picture as its package has it: a file, or an icon of an Iconify icons.json."""

    path: Path
    icon: str = ""


@dataclass(frozen=True)
class Drawing:
    """A picture to be drawn, with everything a record says about it that needs no pixels."""

    style: str
    key: str  # its file name, without suffix, among the pictures of its style
    artwork: Artwork
    texts: tuple[Text, ...]
    concept: str
    source: str
    licence: str


def words_of(slug: str) -> str:
    """Plain words of a file or icon name: "bigTruck_02-red" -> "big truck red"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", slug)
    tokens = re.split(r"[\s_\-./]+", spaced)
    return " ".join(token for token in tokens if not re.fullmatch(r"\d*|#\d+|v\d+", token)).lower()


def bare(phrase: str) -> str:
    """A phrase as a name: no article in front, no full stop behind."""
    return ARTICLE.sub("", phrase.strip().rstrip(".!").strip())


def unique(texts: list[Text]) -> tuple[Text, ...]:
    """The texts in order, each said once in its language; empty ones left out."""
    first = {(text.language, text.text.casefold()): text for text in reversed(texts) if text.text}
    return tuple(text for text in texts if first.get((text.language, text.text.casefold())) is text)
