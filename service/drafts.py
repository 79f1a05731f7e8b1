"""Drafts: items to write, what is embedded of them, and how the catalog takes them."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from index.catalog import Condition, EncoderMismatch, Item, ItemNotFound, Modality, Outcome, Upsert
from index.records import FieldType, Mode
from index.vectors import Vectors
from service.given import Given, VectorInvalid
from service.images import media_type
from service.reading import Content


class MetadataTooLarge(ValueError):
    """An item's metadata is larger than allowed."""


class MetadataMismatch(ValueError):
    """A member of an item's metadata is not of the type that its collection fixes."""


class NothingToRead(ValueError):
    """An item has a vector and no content: there is nothing to read or to explain."""


class ItemExists(Exception):
    """An item is to be written only where there is none, and there is one."""


class VersionConflict(Exception):
    """An item is to be written only in the place of one version, and another stands there."""


@dataclass(frozen=True)
class Draft:
    """An item to write. ``text`` and ``image`` (encoded bytes) are embedded together, the picture first.

    Instead of them it may have ``parts`` in an order of their own; and a vector that is ``given`` is taken in
    place of an embedding. ``modality`` is what that was made of, where there is no content to tell it.
    """

    id: str
    text: str | None = None
    image: bytes | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    condition: Condition | None = None
    parts: Content = ()
    given: Given | None = None
    modality: Modality = "image"
    mode: Mode = "upsert"
    version: str | None = None

    @staticmethod
    def of(id: str, content: Content, **more: Any) -> "Draft":
        """The draft of a content: plain where it is a picture, a text, or both in this order."""
        images = [part for part in content if isinstance(part, bytes)]
        texts = [part for part in content if isinstance(part, str)]
        if len(images) < 2 and len(texts) < 2 and content == (*images, *texts):
            return Draft(id, next(iter(texts), None), next(iter(images), None), **more)
        return Draft(id, parts=content, **more)

    @property
    def content(self) -> Content:
        """What is embedded, unless a vector is given."""
        return self.parts or content_of(self.image, self.text)

    @cached_property
    def hashes(self) -> list[str]:
        """The sha256 of each part of the content: asked for more than once, and pictures are large."""
        return [
            hashlib.sha256(part).hexdigest() if isinstance(part, bytes) else _hash(part)
            for part in self.content
        ]

    @property
    def pictures(self) -> dict[str, bytes]:
        """The pictures of the content in their order, by their sha256."""
        parts = zip(self.hashes, self.content, strict=True)
        return {sha256: part for sha256, part in parts if isinstance(part, bytes)}

    @property
    def fingerprint(self) -> str:
        """The sha256 that names what is embedded: equal contents are encoded once."""
        kinds = ("image" if isinstance(part, bytes) else "text" for part in self.content)
        return _fingerprint(zip(kinds, self.hashes, strict=True))

    def check_metadata(self, max_bytes: int, fields: Mapping[str, FieldType]) -> None:
        """Raise MetadataTooLarge, or MetadataMismatch for a member of another type than in ``fields``."""
        size = len(json.dumps(self.metadata, ensure_ascii=False).encode())
        if size > max_bytes:
            raise MetadataTooLarge(f"The metadata has {size} bytes; at most {max_bytes} are allowed.")
        for name, kind in fields.items():
            value = self.metadata.get(name)
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                if _type_of(one) != kind:
                    raise MetadataMismatch(f"metadata.{name} is a {kind}, or a list of them, here.")

    @property
    def line(self) -> bytes:
        """The line of a bulk job that writes this item, whatever stands in its place."""
        item: dict[str, Any] = {"id": self.id, "metadata": self.metadata}
        if self.parts:
            item["content"] = [_part_as_json(part) for part in self.parts]
        if self.text is not None:
            item["text"] = self.text
        if self.image is not None:
            item["image"] = {"base64": base64.b64encode(self.image).decode()}
        if self.given is not None:
            item |= {"vector": self.given.as_base64(), "embedding_space": self.given.space}
            if not self.content:
                item["modality"] = self.modality
        if self.version is not None:
            item["version"] = self.version
        return json.dumps({"mode": self.mode, "item": item}).encode() + b"\n"

    def upsert(self, fingerprint: str, vector: Vectors) -> Upsert:
        """The change that the catalog commits. Raises InvalidItem."""
        images = self.pictures
        texts = [part for part in self.content if isinstance(part, str)]
        first, data = next(iter(images.items()), (None, b""))
        parts = [*map(_part_as_kept, self.hashes, self.parts)] if self.parts else None
        alone: Modality = "image" if images else "text" if texts else self.modality
        return Upsert(
            id=self.id,
            content=fingerprint,
            vector=vector,
            modality="mixed" if images and texts else alone,
            text="\n".join(texts) if texts else None,
            image=first,
            image_type=None if first is None else media_type(data),
            metadata=self.metadata,
            condition=self.condition,
            parts=parts,
            mode=self.mode,
            version=self.version,
        )


def content_of(image: bytes | None, text: str | None) -> Content:
    """What is embedded of an item: the picture first."""
    return tuple(part for part in (image, text) if part is not None)


def content_of_item(item: Item, picture: Callable[[str], bytes]) -> Content:
    """What was embedded of a written item; ``picture`` gives the bytes of one by its sha256.

    Raises NothingToRead and what ``picture`` raises.
    """
    if item.parts is not None:
        return tuple(picture(part["image"]) if "image" in part else part["text"] for part in item.parts)
    content = content_of(None if item.image is None else picture(item.image), item.text)
    if not content:
        raise NothingToRead(f"Item {item.id!r} was written as a vector, without a text or a picture.")
    return content


def fingerprint_of(item: Item) -> str:
    """The fingerprint of a written item's content: it is the item's ``content``, unless the item came with a
    vector, which names that."""
    if item.parts is not None:
        return _fingerprint(
            ("image", part["image"]) if "image" in part else ("text", _hash(part["text"]))
            for part in item.parts
        )
    image = [] if item.image is None else [("image", item.image)]
    text = [] if item.text is None else [("text", _hash(item.text))]
    return _fingerprint(image + text)


def refusal_of(outcome: Outcome) -> Exception:
    """Why a write was refused, as an error."""
    if outcome.status == "exists":
        return ItemExists(f"There is an item {outcome.id!r} already.")
    if outcome.status == "missing":
        return ItemNotFound(f"There is no item {outcome.id!r} to write in place of.")
    return VersionConflict(f"Item {outcome.id!r} has another version.")


def named(
    drafts: Sequence[object], encoder_id: str, dim: int
) -> tuple[dict[int, str], dict[str, Vectors | Exception]]:
    """What names the content of each draft, by its place, and the vectors that came with some.

    Those have names of their own: what a client says of a text must not become the embedding of others.
    """
    names, given = dict[int, str](), dict[str, Vectors | Exception]()
    for place, draft in enumerate(drafts):
        if not isinstance(draft, Draft):
            continue
        if draft.given is None:
            names[place] = draft.fingerprint
            continue
        try:
            row = draft.given.row(encoder_id, dim)
            names[place] = hashlib.sha256(b"vector" + row.tobytes()).hexdigest()
            given[names[place]] = row
        except (EncoderMismatch, VectorInvalid) as error:
            names[place] = f"refused {place}"
            given[names[place]] = error
    return names, given


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _fingerprint(parts: Iterable[tuple[str, str]]) -> str:
    """The sha256 of parts, each "image" or "text" and its own sha256."""
    total = hashlib.sha256()
    for kind, sha256 in parts:
        total.update(kind.encode() + bytes.fromhex(sha256))
    return total.hexdigest()


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number" if isinstance(value, int | float) else "other"


def _part_as_json(part: str | bytes) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_base64", "image_base64": base64.b64encode(part).decode()}


def _part_as_kept(sha256: str, part: str | bytes) -> dict[str, str]:
    if isinstance(part, str):
        return {"text": part}
    return {"image": sha256, "type": media_type(part)}
