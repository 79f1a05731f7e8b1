"""Fakes that compute: a colour word and a square of that colour have the same unit row."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from index.vectors import Vectors
from models.preprocess import Document, EmptyText, Picture, open_image

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
DIM = 16
_FIRST_HASHED = len(COLOURS)
_ZERO = np.zeros(DIM)


def square(colour: str, side: int = 16, format: str = "PNG") -> bytes:
    """An encoded picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), COLOURS[colour]).save(file, format)
    return file.getvalue()


class FakePreprocessor:
    """Pictures become 8 x 8; words are the tokens."""

    def picture(self, data: bytes, *, max_pixels: int) -> Picture:
        return np.asarray(open_image(data, max_pixels=max_pixels).resize((8, 8)), np.uint8)

    def check_text(self, text: str) -> None:
        if not text.strip():
            raise EmptyText("the text is empty")

    def count_tokens(self, text: str) -> int:
        return len(text.split())


@dataclass(frozen=True)
class FakeCanary:
    document: Document
    expected_row: Vectors


@dataclass
class FakeEncoder:
    """Adds up one axis per colour and a hashed axis for every other word. ``poison`` makes a batch fail."""

    id: str = "fake-000000000000"
    dim: int = DIM
    providers: list[str] = field(default_factory=lambda: ["FakeExecutionProvider"])
    precision: str = "exact"
    batches: list[int] = field(default_factory=list)
    poison: str = "poison"
    preprocessor: FakePreprocessor = field(default_factory=FakePreprocessor)

    def embed(self, documents: Sequence[Document]) -> Vectors:
        self.batches.append(len(documents))
        rows: Vectors = np.stack([sum(map(self._part, d.parts), _ZERO) for d in documents]).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def canaries(self) -> list[FakeCanary]:
        document = Document(("red",))
        return [FakeCanary(document, self.embed([document])[0])]

    def _part(self, part: str | Picture) -> Any:
        row = np.zeros(DIM)
        if not isinstance(part, str):
            mean = part.reshape(-1, 3).mean(axis=0)
            distances = [np.linalg.norm(mean - np.array(colour)) for colour in COLOURS.values()]
            row[int(np.argmin(distances))] = 1.0
            return row
        if self.poison in part:
            raise RuntimeError("the encoder choked on the poison")
        for word in part.split():
            hashed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            axis = (
                list(COLOURS).index(word)
                if word in COLOURS
                else _FIRST_HASHED + hashed % (DIM - _FIRST_HASHED)
            )
            row[axis] += 1.0
        return row
