"""Files of this machine as the lines of a job: pictures by their names, and lines that may name files.

Only who sits at the command line names these. A request never does: it could name any file of the server.
"""

import base64
import json
import os
import socket
from pathlib import Path
from typing import Any

from service.bulk_lines import SourceUnreadable, upsert_line
from service.images import TooManyBytes
from service.parsing import InvalidBody, InvalidJson, parse_json, validated
from service.schemas_items import ItemRequest
from service.spool import Unread

_FAILURES = (InvalidBody, InvalidJson, SourceUnreadable, TooManyBytes)
_ABOUT_A_PAIR = ("source", "license", "author", "style", "split")


def reader() -> str:
    """Whose files can be read here: another user may not, and another machine has others of the same name."""
    return f"{os.getuid()}@{socket.gethostname()}"


def named_line(file: Path, id: str) -> bytes:
    """What names a picture until ``picture_line`` reads it."""
    return json.dumps({"file": str(file), "id": id}).encode() + b"\n"


def picture_line(named: bytes, max_bytes: int) -> bytes | Unread:
    """The line that writes a picture, its name as the id; the custom_id is where it is."""
    said = json.loads(named)
    file, id = Path(said["file"]), said["id"]
    where = os.fsencode(file).decode(errors="replace")[-512:]
    try:
        validated(ItemRequest, {"id": id, "text": "-"})  # names of files may be no text at all
        item = {"id": id, "image": _read(file, max_bytes), "metadata": {"title": file.stem, "path": id}}
        return upsert_line(item, where)
    except _FAILURES as error:
        return Unread(where, error)


def item_line(line: bytes, folder: Path, max_bytes: int) -> bytes | Unread:
    """The line that writes an ItemRequest, whose ``image`` may be a file in ``folder``, or a line of
    pairs.jsonl (image, captions)."""
    custom_id = None
    try:
        value = parse_json(line)
        if not isinstance(value, dict):
            raise InvalidBody.of([{"pointer": "/", "detail": "a line is a JSON object"}])
        custom_id = value["id"][:512] if isinstance(value.get("id"), str) else None
        file = _file_named(value.get("image"), folder)
        if "captions" in value:
            value = _from_pair(value)
        if file is not None:
            within = file.is_relative_to(folder)
            name = file.relative_to(folder).as_posix() if within else file.name
            value = {"id": name, **value, "image": _read(file, max_bytes)}
        return upsert_line(value)
    except _FAILURES as error:
        return Unread(custom_id, error)


def _from_pair(value: dict[str, Any]) -> dict[str, Any]:
    captions = value["captions"]
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise InvalidBody.of([{"pointer": "/captions", "detail": "captions are a list of texts"}])
    about = {key: value[key] for key in _ABOUT_A_PAIR if value.get(key) is not None}
    item = {
        "text": ". ".join(captions) or None,
        "metadata": {"title": captions[0] if captions else "", **about},
    }
    return item | {key: value[key] for key in ("id", "image") if key in value}


def _file_named(image: Any, folder: Path) -> Path | None:
    if not isinstance(image, str) or len(image) > 1024 or image.startswith("data:"):
        return None
    file = folder / image
    try:
        return file if file.is_file() else None
    except (OSError, ValueError):  # base64 makes strange names
        return None


def _read(file: Path, max_bytes: int) -> str:
    """A picture in base64. Raises TooManyBytes, SourceUnreadable."""
    try:
        if file.stat().st_size > max_bytes:
            raise TooManyBytes(f"The picture has more than {max_bytes} bytes.")
        return base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise SourceUnreadable(f"The file cannot be read: {error.strerror}") from error
