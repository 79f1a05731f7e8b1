"""Filters on item metadata: the grammar, and its meaning as a SQL condition."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from index.records import is_storable

Scalar = str | int | float | bool

_MAX_CONDITIONS = 64  # each one reads the metadata of every item that passed those before it
_MAX_VALUES = 4096  # in one filter
_INT64 = 2**63


class InvalidFilter(ValueError):
    """A filter that is not in the grammar; the message says which part."""


@dataclass(frozen=True)
class Match:
    """Metadata ``key`` equals one of ``values``, or is a list that holds one of them.

    The key names a member of the metadata itself, whatever characters it has. 1 equals 1.0; true, 1 and "1"
    all differ; null and objects equal nothing.
    """

    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Filter:
    """Every leaf of ``must`` matches and no leaf of ``must_not`` does."""

    must: tuple[Match, ...] = ()
    must_not: tuple[Match, ...] = ()


def parse(tree: Mapping[str, Any]) -> Filter:
    """Read ``{"must": [{"key", "match": {"value" | "any"}}], "must_not": [...]}``; raises InvalidFilter."""
    if not isinstance(tree, Mapping):
        raise InvalidFilter("a filter must be an object")
    unknown = sorted(set(tree) - {"must", "must_not"})
    if unknown:
        raise InvalidFilter(f"unknown filter member {unknown[0]!r}; known are must and must_not")
    must, must_not = (_leaves(name, tree.get(name, [])) for name in ("must", "must_not"))
    leaves = must + must_not
    if len(leaves) > _MAX_CONDITIONS:
        raise InvalidFilter(f"a filter may have at most {_MAX_CONDITIONS} conditions")
    if sum(len(leaf.values) for leaf in leaves) > _MAX_VALUES:
        raise InvalidFilter(f"a filter may compare with at most {_MAX_VALUES} values")
    return Filter(must, must_not)


def condition(filter: Filter, metadata: sa.Column[Any], dialect: str) -> sa.ColumnElement[bool]:
    """The filter as a SQL condition on a JSON column; ``dialect`` is "sqlite" or "postgresql"."""
    leaf = _postgresql_leaf if dialect == "postgresql" else _sqlite_leaf
    return sa.and_(
        sa.true(),
        *(leaf(match, metadata) for match in filter.must),
        *(sa.not_(leaf(match, metadata)) for match in filter.must_not),
    )


def _leaves(name: str, value: Any) -> tuple[Match, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidFilter(f"{name} must be a list of conditions")
    return tuple(_leaf(f"{name}[{i}]", leaf) for i, leaf in enumerate(value))


def _leaf(where: str, leaf: Any) -> Match:
    if not isinstance(leaf, Mapping) or set(leaf) != {"key", "match"}:
        raise InvalidFilter(f"{where} must have exactly the members key and match")
    key, match = leaf["key"], leaf["match"]
    if not isinstance(key, str) or not is_storable(key):
        raise InvalidFilter(f"{where}.key must be a string of valid text")
    if not isinstance(match, Mapping) or set(match) not in ({"value"}, {"any"}):
        raise InvalidFilter(f"{where}.match must have exactly one of the members value and any")
    values = [match["value"]] if "value" in match else match["any"]
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InvalidFilter(f"{where}.match.any must be a list of values")
    for value in values:
        _check_value(f"{where}.match", value)
    return Match(key, tuple(values))


def _check_value(where: str, value: Any) -> None:
    if not isinstance(value, Scalar):
        raise InvalidFilter(f"{where} compares with a string, a number or a boolean")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise InvalidFilter(f"{where}: the number does not fit in 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidFilter(f"{where}: the number is not finite")
    if isinstance(value, str) and not is_storable(value):
        raise InvalidFilter(f"{where}: the string is not valid text")


def _sqlite_leaf(match: Match, metadata: sa.Column[Any]) -> sa.ColumnElement[bool]:
    # json_each gives keys decoded, which a JSON path would compare in their escaped form.
    member = sa.func.json_each(metadata).table_valued("key", "value", "type", name="member")
    element = sa.func.json_each(member.c.value).table_valued("value", "type", name="element")
    in_list = sa.exists(sa.select(sa.literal(1)).select_from(element).where(_sqlite_equal(element, match)))
    here = sa.or_(_sqlite_equal(member, match), sa.and_(member.c.type == "array", in_list))
    return sa.exists(sa.select(sa.literal(1)).select_from(member).where(member.c.key == match.key, here))


def _sqlite_equal(each: sa.TableValuedAlias, match: Match) -> sa.ColumnElement[bool]:
    # The type is compared too: SQLite gives JSON true as 1, and compares "1" with 1 as its columns please.
    booleans = ["true" if value else "false" for value in match.values if isinstance(value, bool)]
    numbers = [v for v in match.values if isinstance(v, int | float) and not isinstance(v, bool)]
    strings = [value for value in match.values if isinstance(value, str)]
    return sa.or_(
        sa.false(),
        each.c.type.in_(booleans),
        sa.and_(each.c.type.in_(["integer", "real"]), each.c.value.in_(numbers)),
        sa.and_(each.c.type == "text", each.c.value.in_(strings)),
    )


def _postgresql_leaf(match: Match, metadata: sa.Column[Any]) -> sa.ColumnElement[bool]:
    # jsonb containment: a list contains a scalar, and a scalar contains itself.
    member = sa.cast(metadata, JSONB)[match.key]
    contains = (member.bool_op("@>")(sa.cast(sa.literal(value, JSONB), JSONB)) for value in match.values)
    return sa.func.coalesce(sa.or_(sa.false(), *contains), sa.false())
