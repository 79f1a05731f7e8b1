"""Rebuild the sample gallery's pictures from the packages they come from.

`pairs.jsonl` is both catalogue and recipe: every line names a package, its version and a file in it, which
is drawn again. The result is bit-equal with the same Pillow and cairo, and equal to the eye with others.

    apt-get install tuxpaint-stamps-default openclipart-svg
    npm install --no-save PACKAGE@VERSION …
    python -m service.gallery.build --debian / --npm node_modules
"""

import argparse
import gzip
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SIDE_PX = 320
MARGIN_PX = 14
RENDER_PX = 1024  # drawings are drawn this wide, then trimmed: many fill only a corner of their page
MAX_ENLARGEMENT = 2.5  # a small photo stays small on its square rather than turning to mush
# A Debian version may hold a colon, a path here never does.
SOURCE = re.compile(r"(?P<package>@[^/]+/[^/]+|[^/@]+)/(?P<version>[^/]+):(?P<path>[^:#]+)(#(?P<icon>.+))?")
VISIBLE_ALPHA = 12  # of 255: fainter pixels are the haze of a soft shadow and do not count when trimming


class SourceError(Exception):
    """A package, or a file in it, that the gallery is made of is not where it was said to be."""


@dataclass(frozen=True)
class Source:
    """Where a picture comes from, written as `package/version:path` or `package/version:icons.json#name`."""

    package: str
    version: str
    path: str
    icon: str

    @classmethod
    def parse(cls, text: str) -> "Source":
        found = SOURCE.fullmatch(text)
        if found is None:
            raise SourceError(f"not of the form package/version:path: {text}")
        return cls(found["package"], found["version"], found["path"], found["icon"] or "")

    @property
    def from_npm(self) -> bool:
        return self.package.startswith("@")


def rebuild(pairs: Path, out: Path, debian: Path, npm: Path) -> Iterator[tuple[Path, bool]]:
    """Write each picture that `pairs` names below `out`; yield its path and whether its bytes changed."""
    for line in pairs.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        source = Source.parse(pair["source"])
        picture = square(artwork(source, npm if source.from_npm else debian))
        target = out / pair["image"]
        target.parent.mkdir(parents=True, exist_ok=True)
        data = encoded(picture)
        changed = not target.exists() or target.read_bytes() != data
        if changed:
            target.write_bytes(data)
        yield target, changed


def artwork(source: Source, root: Path) -> Image.Image:
    """The picture as its package has it, in RGBA. Raises SourceError when it is not there."""
    check_version(source, root)
    path = root / source.package / source.path if source.from_npm else root / source.path
    if not path.is_file():
        raise SourceError(f"{source.package} {source.version} has no file {source.path} below {root}")
    if source.icon:
        return drawn(icon_svg(path, source.icon))
    if path.suffix == ".svg":
        return drawn(path.read_bytes())
    with Image.open(path) as image:
        return image.convert("RGBA")


def check_version(source: Source, root: Path) -> None:
    found = npm_version(root / source.package) if source.from_npm else debian_version(root, source.package)
    if found == source.version:
        return
    wanted = f"{source.package}@{source.version}" if source.from_npm else f"{source.package}={source.version}"
    install = f"npm install --no-save {wanted}" if source.from_npm else f"apt-get install {wanted}"
    state = f"but version {found} is there" if found else "but it is not there"
    raise SourceError(f"{source.package} {source.version} is needed below {root}, {state}: {install}")


@cache
def npm_version(package: Path) -> str | None:
    manifest = package / "package.json"
    return str(json.loads(manifest.read_text())["version"]) if manifest.is_file() else None


@cache
def debian_version(root: Path, package: str) -> str | None:
    """The version by the package's own changelog, there whether it was installed or only unpacked."""
    changelog = root / "usr/share/doc" / package / "changelog.Debian.gz"
    if not changelog.is_file():
        return None
    with gzip.open(changelog, "rt", encoding="utf-8") as text:
        found = re.search(r"\(([^)]+)\)", text.readline())
    return found.group(1) if found else None


@cache
def icon_set(path: Path) -> dict[str, object]:
    icons: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return icons


def icon_svg(path: Path, name: str) -> bytes:
    icons = icon_set(path)
    entries = icons["icons"]
    if not isinstance(entries, dict) or name not in entries:
        raise SourceError(f"{path} has no icon {name}")
    box = f"0 0 {icons.get('width', 16)} {icons.get('height', 16)}"
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{head} viewBox="{box}">{entries[name]["body"]}</svg>'.encode()


def drawn(svg: bytes) -> Image.Image:
    import cairosvg  # a build tool's need only: serving has no cairo

    return Image.open(io.BytesIO(cairosvg.svg2png(svg, output_width=RENDER_PX))).convert("RGBA")


def square(picture: Image.Image) -> Image.Image:
    """Trim to what is visible and centre it on a white square, (SIDE_PX, SIDE_PX) RGB."""
    visible = picture.getchannel("A").point(lambda alpha: 255 * (alpha > VISIBLE_ALPHA)).getbbox()
    if visible is None:
        raise SourceError("the picture is fully transparent")
    cut = picture.crop(visible)
    scale = min((SIDE_PX - 2 * MARGIN_PX) / max(cut.size), MAX_ENLARGEMENT)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    # Pillow resizes RGBA with the colour weighted by alpha, so no dark seam appears at the edges.
    cut = cut.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    canvas.paste(cut, ((SIDE_PX - size[0]) // 2, (SIDE_PX - size[1]) // 2), cut)
    return canvas


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=84, method=6)
    return buffer.getvalue()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Rebuild the sample gallery from Debian and npm packages.")
    parser.add_argument("--debian", type=Path, default=Path("/"), help="root of the unpacked Debian packages")
    parser.add_argument("--npm", type=Path, default=Path("node_modules"), help="the node_modules folder")
    parser.add_argument("--out", type=Path, default=HERE, help="where images/ goes (this folder)")
    options = parser.parse_args(arguments)
    try:
        states = list(rebuild(HERE / "pairs.jsonl", options.out, options.debian, options.npm))
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(states)} pictures, {sum(changed for _, changed in states)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
