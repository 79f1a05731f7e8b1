"""Merge patches (RFC 7396): what is absent stays, and null removes."""

from collections.abc import Mapping
from typing import Any

from index.records import InvalidItem

_MAX_DEPTH = 64  # of objects in a patch; the catalog takes no deeper ones


def merged(value: Any, patch: Any, depth: int = _MAX_DEPTH) -> Any:
    """A JSON value with a merge patch applied, as RFC 7396 has it: null removes. Raises InvalidItem."""
    if not isinstance(patch, Mapping):
        return patch
    if depth == 0:
        raise InvalidItem(f"the patch is nested more than {_MAX_DEPTH} deep")
    before = value if isinstance(value, Mapping) else {}
    after = {name: member for name, member in before.items() if name not in patch}
    for name, change in patch.items():
        if change is not None:
            after[name] = merged(before.get(name), change, depth - 1)
    return after
