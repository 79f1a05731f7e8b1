"""The installed packages that drawings are read from, npm and Debian, with their versions and licences."""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PINS: dict[str, str] = json.loads(Path(__file__).with_name("package.json").read_text())["dependencies"]


class SourceError(Exception):
    """A package that training drawings come from is not there, or not the version that is asked for."""


@dataclass(frozen=True)
class Package:
    """An installed package and the folder that its paths are relative to."""

    name: str
    version: str
    root: Path

    def source(self, path: Path, icon: str = "") -> str:
        """How a record names a file of this package, or an icon in it."""
        place = f"{self.name}/{self.version}:{path.relative_to(self.root).as_posix()}"
        return f"{place}#{icon}" if icon else place


def npm_package(node_modules: Path, name: str) -> Package:
    """A package of models/data/sources/package.json at exactly the version it names; raises SourceError."""
    root = node_modules / name
    try:
        version = str(json.loads((root / "package.json").read_text())["version"])
    except OSError as error:
        raise SourceError(f"npm install {name}@{PINS[name]}: {error}") from error
    if version != PINS[name]:
        raise SourceError(f"npm install {name}@{PINS[name]}: version {version} is there")
    return Package(name, version, root)


def debian_package(root: Path, name: str) -> Package:
    """An installed or unpacked Debian package, by its changelog; raises SourceError."""
    changelog = root / "usr/share/doc" / name / "changelog.Debian.gz"
    try:
        with gzip.open(changelog, "rt", encoding="utf-8") as text:
            found = re.search(r"\(([^)]+)\)", text.readline())
    except OSError as error:
        raise SourceError(f"apt-get install {name}: {error}") from error
    if found is None:
        raise SourceError(f"{changelog} names no version")
    return Package(name, found[1], root)


def read_json(package: Package, path: str) -> Any:
    """A JSON file of a package."""
    try:
        return json.loads((package.root / path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{package.name} {package.version}: {path}: {error}") from error
