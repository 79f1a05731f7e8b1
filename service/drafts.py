"""Drafts: items to write, what is embedded of them, and how the catalog takes them."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from index.catalog import Condition, Modality, Upsert
from index.vectors import Vectors
from service.images import media_type
from service.reading import Content


class MetadataTooLarge(ValueError):
    """An item's metadata is larger than allowed."""


@dataclass(frozen=True)
class Draft:
    """An item to write. ``text`` and ``image`` (encoded bytes) are embedded together, the picture first."""

    id: str
    text: str | None = None
    image: bytes | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    condition: Condition | None = None

    @property
    def content(self) -> Content:
        """What is embedded."""
        return content_of(self.image, self.text)

    @property
    def fingerprint(self) -> str:
        """The sha256 that names what is embedded: equal contents are encoded once."""
        total = hashlib.sha256()
        for part in self.content:
            data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
            total.update(b"image" if isinstance(part, bytes) else b"text")
            total.update(hashlib.sha256(data).digest())
        return total.hexdigest()

    def check_metadata(self, max_bytes: int) -> None:
        """Raise MetadataTooLarge."""
        size = len(json.dumps(self.metadata, ensure_ascii=False).encode())
        if size > max_bytes:
            raise MetadataTooLarge(f"The metadata has {size} bytes; at most {max_bytes} are allowed.")

    @property
    def line(self) -> bytes:
        """The line of a bulk job that writes this item, whatever stands in its place."""
        item: dict[str, Any] = {"id": self.id, "metadata": self.metadata}
        if self.text is not None:
            item["text"] = self.text
        if self.image is not None:
            item["image"] = {"base64": base64.b64encode(self.image).decode()}
        return json.dumps({"item": item}).encode() + b"\n"

    def upsert(self, fingerprint: str, vector: Vectors) -> Upsert:
        """The change that the catalog commits. Raises InvalidItem."""
        modality: Modality = "text" if self.image is None else "image" if self.text is None else "mixed"
        return Upsert(
            id=self.id,
            content=fingerprint,
            vector=vector,
            modality=modality,
            text=self.text,
            image=None if self.image is None else hashlib.sha256(self.image).hexdigest(),
            image_type=None if self.image is None else media_type(self.image),
            metadata=self.metadata,
            condition=self.condition,
        )


def content_of(image: bytes | None, text: str | None) -> Content:
    """What is embedded of an item: the picture first."""
    return tuple(part for part in (image, text) if part is not None)
