"""Coloured icon sets: everyday objects, tools, signs and interface symbols, named by their files."""

import re
from collections.abc import Iterator
from pathlib import Path

from models.data.records import Text
from models.data.sources.drawing import Artwork, Drawing, unique, words_of
from models.data.sources.packages import npm_package, read_json

ICON_SETS = {
    "flat-color-icons": "MIT",
    "streamline-freehand-color": "CC-BY-4.0",
    "streamline-ultimate-color": "CC-BY-4.0",
}
# Trademarks, and marks that a name does not describe.
LOGO = re.compile(r"(^|-)(logo|linux|wikipedia|stumbleupon|google|android|steam|mind-map)(-|$)")


def drawings(node_modules: Path) -> Iterator[Drawing]:
    """Every icon that is not a trademark, in a fixed order; raises SourceError."""
    for style, licence in ICON_SETS.items():
        package = npm_package(node_modules, f"@iconify-json/{style}")
        categories = read_json(package, "metadata.json").get("categories", {})
        topics = {icon: words_of(category) for category, icons in categories.items() for icon in icons}
        path = package.root / "icons.json"
        for icon, entry in read_json(package, "icons.json")["icons"].items():
            name = words_of(icon)
            if entry.get("hidden") or LOGO.search(icon) or not name:
                continue
            texts = unique([Text(name), Text(topics.get(icon, ""), "en", "keywords")])
            source = package.source(path, icon)
            yield Drawing(style, icon, Artwork(path, icon), texts, f"{style}/{name}", source, licence)
