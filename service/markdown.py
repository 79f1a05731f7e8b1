"""Parts of Markdown pages: tables, lists of codes, JSON that people read."""

import json
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

_LINE = 100  # characters of JSON that stay on one line


def listed(codes: Collection[tuple[str, str]]) -> str:
    """Pairs of a status and a code in one line."""
    grouped = groupby(sorted(codes), key=itemgetter(0))
    return (
        " · ".join(f"{status} {', '.join(f'`{code}`' for _, code in found)}" for status, found in grouped)
        + "."
    )


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A table, line by line."""
    lines = [head, ("---",) * len(head), *rows]
    yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    yield ""


def pretty(value: Any, indent: str = "") -> str:
    """JSON in which whatever fits stays on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= _LINE or not isinstance(value, dict | list):
        return line
    deeper = indent + "  "
    if isinstance(value, list):
        return f"[\n{deeper}" + f",\n{deeper}".join(pretty(one, deeper) for one in value) + f"\n{indent}]"
    members = (f"{json.dumps(name)}: {pretty(one, deeper)}" for name, one in value.items())
    return f"{{\n{deeper}" + f",\n{deeper}".join(members) + f"\n{indent}}}"
