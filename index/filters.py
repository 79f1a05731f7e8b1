"""The grammar of filters on items: from JSON to conditions, or to an error that names the part at fault."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from index.conditions import (
    AnyOf,
    AtLeast,
    Condition,
    Empty,
    Except,
    Filter,
    HasId,
    Null,
    OfModality,
    Range,
    Words,
)
from index.records import Modality, is_storable
from index.terms import Scalar, words

__all__ = ["Filter", "InvalidFilter", "of_modalities", "parse"]

_MAX_CONDITIONS = 64  # in one filter, nested ones included; each costs at most some milliseconds
_MAX_VALUES = 4096  # that one filter compares with
_MAX_DEPTH = 8  # of filters in filters
_CLAUSES = ("must", "should", "must_not", "min_should")
_LEAVES = ("match", "range", "is_null", "is_empty")
_MATCHES = ("value", "any", "except", "text")
_BOUNDS = ("gt", "gte", "lt", "lte")
_INT64 = 2**63


class InvalidFilter(ValueError):
    """A filter that is not in the grammar; the message says which part."""


def parse(tree: Any) -> Filter:
    """Read a filter; raises InvalidFilter.

    ``{"must": […], "should": […], "must_not": […], "min_should": {"conditions": […], "min_count": n}}``, all
    optional. A condition is again a filter, ``{"has_id": […]}``, ``{"key", "match": {"value"|"any"|
    "except"|"text": …}}``, ``{"key", "range": {"gt", "gte", "lt", "lte"}}``, ``{"key", "is_null": bool}`` or
    ``{"key", "is_empty": bool}``.
    """
    if not isinstance(tree, Mapping):
        raise InvalidFilter("a filter must be an object")
    return _Parser().filter("", tree, 1)


def of_modalities(filter: Filter | None, modalities: Sequence[Modality]) -> Filter | None:
    """A filter narrowed to items of these modalities; none stand for all."""
    if not modalities:
        return filter
    wanted = OfModality(tuple(modalities))
    return Filter((wanted,) if filter is None else (wanted, filter))


@dataclass
class _Parser:
    """Reads one filter and counts what answering it will cost."""

    conditions: int = 0
    values: int = 0

    def filter(self, where: str, tree: Mapping[str, Any], depth: int) -> Filter:
        if depth > _MAX_DEPTH:
            raise InvalidFilter(f"{where}: filters may be nested {_MAX_DEPTH} deep")
        unknown = sorted(map(str, set(tree) - set(_CLAUSES)))
        if unknown:
            raise InvalidFilter(f"unknown filter member {unknown[0]!r}; known are {', '.join(_CLAUSES)}")
        prefix = where and f"{where}."
        must, should, must_not = (
            self._list(f"{prefix}{name}", tree.get(name, []), depth) for name in _CLAUSES[:3]
        )
        if should:
            must += (AtLeast(1, should),)
        if "min_should" in tree:
            must += (self._min_should(f"{prefix}min_should", tree["min_should"], depth),)
        return Filter(must, must_not)

    def _list(self, where: str, value: Any, depth: int) -> tuple[Condition, ...]:
        if not isinstance(value, list | tuple):
            raise InvalidFilter(f"{where} must be a list of conditions")
        return tuple(self._condition(f"{where}[{i}]", tree, depth) for i, tree in enumerate(value))

    def _min_should(self, where: str, tree: Any, depth: int) -> Condition:
        if not isinstance(tree, Mapping) or set(tree) != {"conditions", "min_count"}:
            raise InvalidFilter(f"{where} must have exactly the members conditions and min_count")
        conditions, min_count = (
            self._list(f"{where}.conditions", tree["conditions"], depth),
            tree["min_count"],
        )
        if not _is_integer(min_count) or not 1 <= min_count <= len(conditions):
            raise InvalidFilter(f"{where}.min_count must be from 1 to the number of conditions")
        return AtLeast(min_count, conditions)

    def _condition(self, where: str, tree: Any, depth: int) -> Condition:
        self.conditions += 1
        if self.conditions > _MAX_CONDITIONS:
            raise InvalidFilter(f"a filter may have at most {_MAX_CONDITIONS} conditions")
        if not isinstance(tree, Mapping):
            raise InvalidFilter(f"{where} must be an object")
        if not set(tree).isdisjoint(_CLAUSES):
            return self.filter(where, tree, depth + 1)
        if set(tree) == {"has_id"}:
            return HasId(self._texts(f"{where}.has_id", tree["has_id"]))
        kind = _only(where, tree, _LEAVES, beside=frozenset({"key"}))
        key, value = tree["key"], tree[kind]
        if not isinstance(key, str) or not is_storable(key):
            raise InvalidFilter(f"{where}.key must be a string of valid text")
        where = f"{where}.{kind}"
        if kind == "match":
            return self._match(where, key, value)
        if kind == "range":
            return _range(where, key, value)
        if not isinstance(value, bool):
            raise InvalidFilter(f"{where} must be true or false")
        condition = Null(key) if kind == "is_null" else Empty(key)
        return condition if value else Filter(must_not=(condition,))

    def _match(self, where: str, key: str, tree: Any) -> Condition:
        kind = _only(where, tree, _MATCHES)
        value = tree[kind]
        where = f"{where}.{kind}"
        if kind == "text":
            if not isinstance(value, str) or not words(value):
                raise InvalidFilter(f"{where} must be a text with at least one word")
            wanted = tuple(sorted(words(value)))
            self._count(len(wanted))
            return Words(key, wanted)
        if kind == "value":
            value = [value]
        if not isinstance(value, list | tuple):
            raise InvalidFilter(f"{where} must be a list of values")
        self._count(len(value))
        for one in value:
            _check_scalar(where, one)
        return (Except if kind == "except" else AnyOf)(key, tuple(value))

    def _texts(self, where: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise InvalidFilter(f"{where} must be a list of strings")
        self._count(len(value))
        for one in value:
            _check_scalar(where, one)
        return tuple(value)

    def _count(self, values: int) -> None:
        self.values += values
        if self.values > _MAX_VALUES:
            raise InvalidFilter(f"a filter may compare with at most {_MAX_VALUES} values")


def _only(where: str, tree: Any, known: Sequence[str], beside: frozenset[str] = frozenset()) -> str:
    """The one member of ``known`` that a tree has, and nothing but those ``beside`` it."""
    names = " and ".join([*sorted(beside), f"one of {', '.join(known)}"])
    if not isinstance(tree, Mapping) or len(tree) != len(beside) + 1 or not beside <= set(tree):
        raise InvalidFilter(f"{where} must have exactly {names}")
    (kind,) = set(tree) - beside
    if kind not in known:
        raise InvalidFilter(f"{where} has the unknown member {kind!r}; it must have {names}")
    return str(kind)


def _range(where: str, key: str, tree: Any) -> Range:
    if not isinstance(tree, Mapping) or not tree:
        raise InvalidFilter(f"{where} must have at least one of {', '.join(_BOUNDS)}")
    for name, bound in tree.items():
        if name not in _BOUNDS:
            raise InvalidFilter(f"{where} has the unknown member {name!r}; known are {', '.join(_BOUNDS)}")
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise InvalidFilter(f"{where}.{name} must be a number")
        _check_scalar(f"{where}.{name}", bound)
    return Range(key, **tree)


def _check_scalar(where: str, value: Any) -> None:
    if not isinstance(value, Scalar):
        raise InvalidFilter(f"{where} compares with a string, a number or a boolean")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise InvalidFilter(f"{where}: the number does not fit in 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidFilter(f"{where}: the number is not finite")
    if isinstance(value, str) and not is_storable(value):
        raise InvalidFilter(f"{where}: the string is not valid text")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
