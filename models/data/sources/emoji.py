"""Emoji drawings in thirteen styles, with names and keywords from CLDR and emojibase.

One emoji has one concept key in every set, whatever the set calls it. Skin-tone twins are left out: they
would be the same picture five times over.
"""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.data.records import LANGUAGES, Text
from models.data.sources.drawing import Artwork, Drawing, unique, words_of
from models.data.sources.emoji_aliases import ALIASES
from models.data.sources.packages import Package, npm_package, read_json

ICON_SETS = {
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "twemoji": "CC-BY-4.0",
    "openmoji": "CC-BY-SA-4.0",
    "fluent-emoji": "MIT",
    "fluent-emoji-flat": "MIT",
    "emojione": "CC-BY-4.0",
    "emojione-v1": "CC-BY-SA-4.0",
    "fxemoji": "Apache-2.0",
    "streamline-emojis": "CC-BY-4.0",
}
RENDERED = "@lobehub/fluent-emoji-3d"  # WebP pictures named by code points
RENDERED_LICENCE = "MIT"
# fxemoji runs its words together, so a name that nobody else knows cannot be read.
UNREADABLE_NAMES = {"fxemoji"}
# The sets that say which code points an icon stands for, in the order they are believed.
WITH_CODE_POINTS = ("noto", "twemoji", "openmoji", "fluent-emoji-flat")
SKIN_TONES = frozenset(f"{tone:x}" for tone in range(0x1F3FB, 0x1F400))
SKIN_TONE_NAME = re.compile(r"skin-tone|-tone\d|-(light|medium|dark|medium-light|medium-dark)$")
VARIATION = "fe0f"


def drawings(node_modules: Path) -> Iterator[Drawing]:
    """Every emoji of every set, in a fixed order; raises SourceError."""
    catalogue = Catalogue(node_modules)
    for style, licence in ICON_SETS.items():
        package = npm_package(node_modules, f"@iconify-json/{style}")
        yield from _icons(style, licence, package, catalogue)
    yield from _rendered(npm_package(node_modules, RENDERED), catalogue)


class Catalogue:
    """Which emoji a name means, and what an emoji is called."""

    def __init__(self, node_modules: Path) -> None:
        self._texts = _annotations(node_modules)
        self._keys: dict[str, str] = {}
        for style in WITH_CODE_POINTS:
            package = npm_package(node_modules, f"@iconify-json/{style}")
            for points, name in read_json(package, "chars.json").items():
                if not SKIN_TONES & set(points.split("-")):
                    self._keys.setdefault(name, concept_key(points))
        for key, texts in self._texts.items():
            for text in texts:
                if text.kind == "name" and text.language == "en":
                    self._keys.setdefault(slug_of(text.text), key)
        sets = [
            read_json(npm_package(node_modules, f"@iconify-json/{style}"), "icons.json")
            for style in ICON_SETS
        ]
        self._learn([pair for icons in sets for pair in _aliases(icons)])
        self._compact = {name.replace("-", ""): key for name, key in reversed(self._keys.items())}

    def _learn(self, pairs: list[tuple[str, str]]) -> None:
        """Take over names that some set holds for the same icon, until there is nothing more to learn."""
        known = -1
        while known != len(self._keys):
            known = len(self._keys)
            for one, other in pairs:
                for new, old in ((one, other), (other, one)):
                    if old in self._keys:
                        self._keys.setdefault(new, self._keys[old])

    def key_of(self, name: str, is_flag: bool = False) -> str | None:
        """The concept key of an icon by its name, or None where nobody knows it."""
        candidates = list(_spellings(name))
        if is_flag:
            candidates = [f"flag-{spelling}" for spelling in candidates] + candidates
        found = next((self._keys[spelling] for spelling in candidates if spelling in self._keys), None)
        return found or self._compact.get(name.replace("-", ""))

    def texts_of(self, key: str) -> tuple[Text, ...]:
        """Names and keywords in every language of LANGUAGES, English first; empty for unknown keys."""
        return self._texts.get(key, ())

    def key_named(self, name: str) -> str | None:
        """The emoji of exactly this English name, if there is one."""
        return self._keys.get(slug_of(name))


def concept_key(points: str) -> str:
    """Code points joined by hyphens, lower case, without skin tones and without the variation selector."""
    kept = (point for point in points.lower().split("-") if point not in SKIN_TONES | {VARIATION})
    return "-".join(f"{int(point, 16):04x}" for point in kept)


def slug_of(name: str) -> str:
    """A name as icon sets spell it: "man's shoe" -> "mans-shoe"."""
    plain = unicodedata.normalize("NFKD", name.replace("&", "and")).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"['.:]", "", plain)).strip("-")


def _icons(style: str, licence: str, package: Package, catalogue: Catalogue) -> Iterator[Drawing]:
    icons = read_json(package, "icons.json")["icons"]
    points = {name: points for points, name in reversed(read_json(package, "chars.json").items())}
    categories = read_json(package, "metadata.json").get("categories", {})
    flags = set(categories.get("Flags", ()))
    # streamline-emojis numbers its skin tones; a second face is another face.
    people = {name for name in categories.get("Smiley People", ()) if "face" not in name}
    path = package.root / "icons.json"
    for name, icon in icons.items():
        twin = SKIN_TONE_NAME.search(name) or (name in people and re.search(r"-[2-9]$", name))
        if icon.get("hidden") or twin:
            continue
        key = concept_key(points[name]) if name in points else catalogue.key_of(name, is_flag=name in flags)
        texts = catalogue.texts_of(key) if key else ()
        if not texts:
            plain = words_of(name)
            if not plain or style in UNREADABLE_NAMES:
                continue
            texts = (Text(plain),)
        concept = key or f"{style}/{slug_of(name)}"
        yield Drawing(style, name, Artwork(path, name), texts, concept, package.source(path, name), licence)


def _rendered(package: Package, catalogue: Catalogue) -> Iterator[Drawing]:
    for path in sorted((package.root / "assets").glob("*.webp")):
        points = path.stem.split("-")
        key = concept_key(path.stem)
        texts = catalogue.texts_of(key)
        if texts and not SKIN_TONES & set(points):
            style = package.name.rpartition("/")[2]
            yield Drawing(style, path.stem, Artwork(path), texts, key, package.source(path), RENDERED_LICENCE)


def _aliases(icons: Any) -> Iterator[tuple[str, str]]:
    yield from ((alias, entry["parent"]) for alias, entry in icons.get("aliases", {}).items())


def _spellings(name: str) -> Iterator[str]:
    """How other sets may write the same name, the likeliest first."""
    if name in ALIASES:
        yield ALIASES[name]
    flag = re.sub(r"^flag-for-(flag-)?", "flag-", name)
    plain = re.sub(r"-\d$", "", flag)
    yield from (flag, plain, plain.removesuffix("-face"), f"{plain}-face", plain.replace("-face-", "-"))
    yield plain.removeprefix("flag-")


def _annotations(node_modules: Path) -> dict[str, tuple[Text, ...]]:
    """By concept key: CLDR's short name, its keywords, then emojibase's label and tags where they differ."""
    texts: dict[str, list[Text]] = {}
    for language in LANGUAGES:
        for package, folder in (
            ("cldr-annotations-full", "annotations"),
            ("cldr-annotations-derived-full", "annotationsDerived"),
        ):
            file = read_json(npm_package(node_modules, package), f"{folder}/{language}/annotations.json")
            for emoji, entry in file[folder]["annotations"].items():
                _add(
                    texts,
                    [f"{ord(point):x}" for point in emoji],
                    language,
                    entry["tts"][:1],
                    entry.get("default"),
                )
        for entry in read_json(npm_package(node_modules, "emojibase-data"), f"{language}/data.json"):
            _add(texts, entry["hexcode"].lower().split("-"), language, [entry["label"]], entry.get("tags"))
    return {key: unique(found) for key, found in texts.items() if found[0].language == "en"}


def _add(
    texts: dict[str, list[Text]],
    points: list[str],
    language: str,
    names: list[str],
    keywords: list[str] | None,
) -> None:
    # A skin tone by itself is an emoji of its own, a small patch of colour.
    if SKIN_TONES & set(points):
        return
    found = texts.setdefault(concept_key("-".join(points)), [])
    for name in names:
        found.append(Text(name, language))
        if language == "en" and ": " in name:
            found.append(Text(sentence(name), language, "description"))
    said = {word for text in found if text.language == language for word in text.text.split(", ")}
    if keywords and not said.issuperset(keywords):
        found.append(Text(", ".join(keywords), language, "keywords"))


def sentence(name: str) -> str:
    """CLDR's "man: red hair" in the words of a sentence: "man with red hair"."""
    head, _, tail = name.partition(": ")
    joint = {"flag": "of", "family": "of", "keycap": "of"}.get(head, "with")
    tail = re.sub(r", ([^,]+)$", r" and \1", tail)
    return f"{head} {joint} {tail}"
