"""Where items come from on this machine: folders of pictures, NDJSON files, and the sample gallery."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from service.bodies import image_bytes
from service.drafts import Draft
from service.parsing import InvalidBody, parse_json, validated
from service.schemas_items import (
    ItemRequest,
)

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm"}
_SOURCE_MEMBERS = ("source", "license", "author", "style", "split")


class SourceError(ValueError):
    """A source cannot be read; the message names the file and the line."""


@dataclass(frozen=True)
class Entry:
    """One item to index, or why it could not be read."""

    where: str
    draft: Draft | Exception


def gallery() -> Path:
    """The sample gallery that comes with the package."""
    return Path(str(files("service") / "gallery" / "pairs.jsonl"))


def count(paths: list[Path]) -> int:
    """How many items ``entries`` will give: for a progress bar."""
    return sum(1 for path in paths for _ in _places(path))


def entries(paths: list[Path], max_image_bytes: int) -> Iterator[Entry]:
    """Items of folders (every picture, its relative path as id) and of NDJSON files. Raises SourceError."""
    for path in paths:
        for place in _places(path):
            if isinstance(place, Path):
                yield Entry(
                    str(place), _picture(place, path if path.is_dir() else path.parent, max_image_bytes)
                )
            else:
                number, line = place
                yield Entry(f"{path}:{number}", _line(line, path.parent, max_image_bytes))


def _places(path: Path) -> Iterator[Path | tuple[int, str]]:
    if path.is_dir():
        yield from (
            file for file in sorted(path.rglob("*")) if file.suffix.lower() in _PICTURES and file.is_file()
        )
    elif path.suffix.lower() in _PICTURES:
        yield path
    elif path.is_file():
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
    else:
        raise SourceError(f"{path}: no such file or folder")


def _picture(file: Path, root: Path, max_bytes: int) -> Draft | Exception:
    name = file.relative_to(root).as_posix()
    try:
        validated(ItemRequest, {"id": name, "text": "-"})  # the id must be one that the API takes too
        return Draft(name, None, _read(file, max_bytes), {"title": file.stem, "path": name})
    except (ValueError, OSError) as error:
        return error


def _line(line: str, folder: Path, max_bytes: int) -> Draft | Exception:
    """An API item, whose ``image`` may be a file beside it, or a line of pairs.jsonl (image, captions)."""
    try:
        value = parse_json(line)
        if not isinstance(value, dict):
            raise InvalidBody.of([{"pointer": "/", "detail": "a line is a JSON object"}])
        file = _file_named(value.get("image"), folder)
        if "captions" in value:
            value = _from_pair(value)
        if file is not None:
            value = {key: member for key, member in value.items() if key != "image"}
            value.setdefault(
                "id", file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
            )
            text = value.get("text")
            item = validated(ItemRequest, {**value, "text": "-" if text is None else text})
            return Draft(item.id, text, _read(file, max_bytes), item.metadata)
        item = validated(ItemRequest, value)
        image = None if item.image is None else image_bytes(item.image, {}, max_bytes)
        return Draft(item.id, item.text, image, item.metadata)
    except (ValueError, OSError) as error:
        return error


def _from_pair(value: dict[str, Any]) -> dict[str, Any]:
    captions = value["captions"]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise InvalidBody.of([{"pointer": "/captions", "detail": "captions are a list of texts"}])
    about = {key: value[key] for key in _SOURCE_MEMBERS if value.get(key) is not None}
    item = {
        "text": ". ".join(captions) or None,
        "metadata": {"title": captions[0] if captions else "", **about},
    }
    return item | {key: value[key] for key in ("id", "image") if key in value}


def _file_named(image: Any, folder: Path) -> Path | None:
    if not isinstance(image, str) or len(image) > 1024 or image.startswith("data:"):
        return None
    file = folder / image
    return file if file.is_file() else None


def _read(file: Path, max_bytes: int) -> bytes:
    size = file.stat().st_size
    if size > max_bytes:
        raise ValueError(f"the file has {size} bytes; at most {max_bytes} are allowed")
    return file.read_bytes()


def describe(error: Exception) -> str:
    """An error in one line."""
    return json.dumps(str(error), ensure_ascii=False)[1:-1][:300]
