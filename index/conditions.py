"""Conditions: what a filter is made of, each answered by the rows of a ``Fields`` that it holds of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from index import terms
from index.fields import Fields, RowSet, marked, numbers
from index.records import Modality
from index.terms import Scalar


class Condition(Protocol):
    """What holds of some items and not of others."""

    def rows(self, fields: Fields) -> RowSet:
        """The rows of which it holds, as a set that the caller may change."""
        ...


@dataclass(frozen=True)
class AnyOf:
    """Metadata ``key`` equals one of ``values``, or is a list that holds one of them.

    The key names a member of the metadata itself, whatever characters it has. 1 equals 1.0; true, 1 and "1"
    all differ; null and objects equal nothing.
    """

    key: str
    values: tuple[Scalar, ...]

    def rows(self, fields: Fields) -> RowSet:
        return _union(_each(self.key, self.values, fields))


@dataclass(frozen=True)
class Except:
    """Metadata ``key`` is a scalar other than ``values``, or a list that holds such a one."""

    key: str
    values: tuple[Scalar, ...]

    def rows(self, fields: Fields) -> RowSet:
        listed = _each(self.key, self.values, fields)
        either = _union(listed)
        found = fields.having(terms.holds(self.key, 1)) - either
        several = fields.having(terms.holds(self.key, 2)) & either
        if several:  # how many different scalars each of them holds, and how many of these are listed
            holding, count = [several], 2
            while holding[-1]:
                holding.append(fields.having(terms.holds(self.key, count)) & several)
                count += 1
            held, known = (_counts(sets, fields.count) for sets in (holding, [s & several for s in listed]))
            found |= marked(held > known)
        return found


@dataclass(frozen=True)
class Words:
    """Metadata ``key`` is a text that has all of these words, or a list of texts that have them together."""

    key: str
    words: tuple[str, ...]

    def rows(self, fields: Fields) -> RowSet:
        return _intersection(fields.having(terms.word(self.key, word)) for word in self.words)


@dataclass(frozen=True)
class Range:
    """Metadata ``key`` is a number within all bounds, or a list that holds one; a bound of None is none."""

    key: str
    gt: int | float | None = None
    gte: int | float | None = None
    lt: int | float | None = None
    lte: int | float | None = None

    def rows(self, fields: Fields) -> RowSet:
        first, end = terms.numbers(self.key)
        if self.gte is not None:
            first = max(first, terms.equals(self.key, self.gte))
        if self.gt is not None:
            first = max(first, terms.after(terms.equals(self.key, self.gt)))
        if self.lte is not None:
            end = min(end, terms.after(terms.equals(self.key, self.lte)))
        if self.lt is not None:
            end = min(end, terms.equals(self.key, self.lt))
        return fields.between(first, end)


@dataclass(frozen=True)
class Null:
    """Metadata ``key`` is null."""

    key: str

    def rows(self, fields: Fields) -> RowSet:
        return fields.having(terms.is_null(self.key))


@dataclass(frozen=True)
class Empty:
    """Metadata ``key`` is missing, null or an empty list."""

    key: str

    def rows(self, fields: Fields) -> RowSet:
        return _without(fields, [fields.having(terms.is_filled(self.key))])


@dataclass(frozen=True)
class HasId:
    """The item's id is one of these."""

    ids: tuple[str, ...]

    def rows(self, fields: Fields) -> RowSet:
        return _union(fields.having(terms.has_id(item_id)) for item_id in set(self.ids))


@dataclass(frozen=True)
class OfModality:
    """The item has one of these modalities."""

    modalities: tuple[Modality, ...]

    def rows(self, fields: Fields) -> RowSet:
        return _union(fields.having(terms.of_modality(modality)) for modality in self.modalities)


@dataclass(frozen=True)
class AtLeast:
    """At least ``min_count`` of the conditions hold."""

    min_count: int
    conditions: tuple[Condition, ...]

    def rows(self, fields: Fields) -> RowSet:
        found = [condition.rows(fields) for condition in self.conditions]
        if self.min_count == 1:
            return _union(found)
        return marked(_counts(found, fields.count) >= self.min_count)


@dataclass(frozen=True)
class Filter:
    """Every condition of ``must`` holds and none of ``must_not`` does."""

    must: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()

    def rows(self, fields: Fields) -> RowSet:
        excluded = (condition.rows(fields) for condition in self.must_not)
        if not self.must:
            return _without(fields, excluded)
        found = _intersection(condition.rows(fields) for condition in self.must)
        for rows in excluded if found else ():
            found -= rows
        return found


def _each(key: str, values: Sequence[Scalar], fields: Fields) -> list[RowSet]:
    """For each different value the rows that have it."""
    return [fields.having(term) for term in {terms.equals(key, value) for value in values}]


def _union(sets: Iterable[RowSet]) -> RowSet:
    return BitMap.union(BitMap(), *sets)


def _intersection(sets: Iterable[RowSet]) -> RowSet:
    """What is in all of the sets, of which there is at least one; none is looked at once nothing is left."""
    rest = iter(sets)
    found = next(rest)
    while found and (rows := next(rest, None)) is not None:
        found &= rows
    return found


def _without(fields: Fields, sets: Iterable[RowSet]) -> RowSet:
    return _union(sets).flip(0, fields.count)


def _counts(sets: Sequence[RowSet], count: int) -> NDArray[np.int64]:
    """For each of ``count`` rows in how many of the sets it is."""
    return np.bincount(np.concatenate([numbers(one) for one in sets]), minlength=count)
