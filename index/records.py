"""What goes into the catalog and comes out of it, and the ways in which it refuses."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

import orjson

from index.vectors import Vectors

Modality = Literal["text", "image", "mixed"]
JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
Mode = Literal["upsert", "insert_only", "update_only"]  # what a write may do where an item stands, or none
Refusal = Literal["exists", "missing", "changed"]  # why an upsert was not done
Status = Literal["created", "updated", "unchanged", "deleted", "not_found", Refusal]
FieldType = Literal["string", "number", "boolean"]
# Whether a write may replace what stands in its place, known by its version; None: nothing stands there.
Condition = Callable[[str | None], bool]

_MAX_DEPTH = 64  # of lists and objects in metadata; databases refuse JSON that is nested without end
_INT64 = 2**63


class CatalogError(Exception):
    """Base of what the catalog refuses."""


class CollectionNotFound(CatalogError):
    """There is no collection of this name."""


class ItemNotFound(CatalogError):
    """There is no item of this id in the collection."""


class InvalidItem(CatalogError):
    """An item that no database can keep as it is; the message says which part."""


class CollectionFull(CatalogError):
    """The collection would have more items than it may; nothing of the transaction was kept."""


class ConditionFailed(CatalogError):
    """A write's condition does not hold of what it would replace; nothing of the transaction was kept."""


class EncoderMismatch(CatalogError):
    """The collection's embeddings come from another encoder: comparing them would give wrong answers."""


class StorageFull(CatalogError):
    """The disk is full; nothing of the transaction was kept."""


class StorageUnavailable(CatalogError):
    """The database cannot be reached or written; nothing of the transaction was kept."""


@dataclass(frozen=True)
class Space:
    """Where vectors can be compared with each other: those of one encoder, which have so many numbers."""

    encoder_id: str
    dim: int


@dataclass(frozen=True)
class Collection:
    """A named set of items embedded by one encoder. ``uid`` tells it from a deleted one of the same name.

    What it sets itself: of its ``index`` "type", "memory_budget_bytes" and "target_recall"; the ``fields`` of
    its items' metadata whose type is fixed; and ``limits``, "max_items".
    """

    name: str
    uid: str
    encoder_id: str
    dim: int
    last_seq: int
    created_at: float
    index: Mapping[str, Any] | None = None
    fields: Mapping[str, FieldType] | None = None
    limits: Mapping[str, int] | None = None

    def version(self, count: int) -> str:
        """A hash of the collection with so many items: it changes with everything in it."""
        return _hash([*vars(self).values(), count])

    @property
    def space(self) -> Space:
        """Where its embeddings are."""
        return Space(self.encoder_id, self.dim)

    def within(self, space: Space) -> "Collection":
        """The same collection, embedded by another encoder."""
        return replace(self, encoder_id=space.encoder_id, dim=space.dim)


@dataclass(frozen=True)
class Upsert:
    """Write an item whole. ``content`` is the sha256 of what was embedded; ``vector`` is its (dim,) unit row.

    ``parts`` are what was embedded where that is more than a picture and a text after it: ``{"text"}`` or
    ``{"image", "type"}`` each, in their order. A write that its ``mode`` or ``version`` (of the item that it
    replaces) does not allow is refused alone; one whose ``condition`` fails takes all others with it.

    Raises InvalidItem: one row of malformed JSON would break every later filter on the collection.
    """

    id: str
    content: str
    vector: Vectors
    modality: Modality
    text: str | None = None
    image: str | None = None  # sha256 of the original bytes
    image_type: str | None = None  # media type
    metadata: Mapping[str, Any] = field(default_factory=dict)
    condition: Condition | None = None
    parts: Sequence[Mapping[str, str]] | None = None
    mode: Mode = "upsert"
    version: str | None = None

    def __post_init__(self) -> None:
        if not self.id or not is_storable(self.id):
            raise InvalidItem("the item's id is empty or not valid text")
        if self.text is not None and not is_storable(self.text):
            raise InvalidItem(f"the text of item {self.id!r} is not valid text")
        if not all(is_storable(text) for part in self.parts or () for text in part.values()):
            raise InvalidItem(f"the content of item {self.id!r} is not valid text")
        _check_json("metadata", self.metadata, _MAX_DEPTH)


@dataclass(frozen=True)
class Delete:
    """Remove an item."""

    id: str
    condition: Condition | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one write; ``seq`` is the version now current (0 for an item that is not there)."""

    id: str
    status: Status
    seq: int

    @property
    def refused(self) -> bool:
        """Whether the write was not done, because of its mode or its version."""
        return self.status in get_args(Refusal)


class Item(NamedTuple):  # of which every search makes some: a dataclass takes longer
    """An item as it stands."""

    id: str
    seq: int
    content: str
    modality: Modality
    text: str | None
    image: str | None
    image_type: str | None
    metadata: dict[str, Any]
    created_at: float
    updated_at: float
    parts: list[dict[str, str]] | None = None  # as of an Upsert

    @property
    def version(self) -> str:
        """A hash of all of it. Not of ``seq`` alone: after a restored backup numbers are given out again."""
        return _hash(list(self))


@dataclass(frozen=True)
class Change:
    """One entry of the log, committed ``at`` (in seconds since the epoch), superseding seq ``replaces``.

    ``vector`` is None for a delete and for an upsert that a later change has superseded. ``terms`` are what
    the item can be found by.
    """

    seq: int
    replaces: int | None
    at: float
    vector: Vectors | None
    terms: Set[bytes] = frozenset()


def is_storable(text: str) -> bool:
    """Whether every database can keep this text: no lone surrogates, no NUL."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text))


def check_condition(condition: Condition | None, version: str | None, what: str) -> None:
    """Raise ConditionFailed unless there is no condition, or it holds of this version."""
    if condition is not None and not condition(version):
        raise ConditionFailed(f"{what} {'does not exist' if version is None else 'has another version'}")


def _hash(members: list[Any]) -> str:
    # Ten in each page of results: Python's own encoder takes a tenth of a millisecond for them.
    return hashlib.sha256(orjson.dumps(members, dict)).hexdigest()[:32]


def _check_json(where: str, value: Any, depth: int) -> None:
    if depth == 0:
        raise InvalidItem(f"{where[:80]}… is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        for key, member in value.items():
            if not isinstance(key, str) or not is_storable(key):
                raise InvalidItem(f"{where} has a key that is not valid text")
            _check_json(f"{where}.{key}", member, depth - 1)
    elif isinstance(value, list | tuple):
        for member in value:
            _check_json(f"{where}[]", member, depth - 1)
    elif isinstance(value, str):
        if not is_storable(value):
            raise InvalidItem(f"{where} is not valid text")
    elif isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise InvalidItem(f"{where} does not fit in 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidItem(f"{where} is not a finite number")
    elif value is not None and not isinstance(value, int | float):
        raise InvalidItem(f"{where} is a {type(value).__name__}, which JSON does not know")
