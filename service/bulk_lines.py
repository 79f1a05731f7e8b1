"""What the sources of bulk jobs have in common: lines that write items, and how they are found unreadable."""

import json
from typing import Any

from service.parsing import InvalidBody, InvalidJson, parse_json


class SourceUnreadable(ValueError):
    """The file is not of the format, is damaged, or what reads the format is not installed."""


def upsert_line(item: dict[str, Any], custom_id: str | None = None) -> bytes:
    """The line of a job that writes an item, by default under its own id; values that JSON lacks become
    text."""
    id = item.get("id")
    if custom_id is None and isinstance(id, str):
        custom_id = id[:512]
    return json.dumps({"custom_id": custom_id, "item": item}, default=str).encode()


def json_or_text(data: str | bytes) -> Any:
    """JSON, or what is there instead: the line then fails by itself, and says so."""
    try:
        return parse_json(data)
    except (InvalidJson, InvalidBody):
        return data.decode(errors="replace") if isinstance(data, bytes) else data
