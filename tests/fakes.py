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
from models.relevance import Relevance
from service.encoding import Probabilities

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
COLOUR_NAMES = list(COLOURS)
DIM = 16
_FIRST_HASHED = len(COLOURS)


def square(colour: str, side: int = 16, format: str = "PNG") -> bytes:
    """An encoded picture of one colour."""
    return striped(colour, side=side, format=format)


def striped(*colours: str, side: int = 16, format: str = "PNG") -> bytes:
    """An encoded picture of stripes of equal height, the first colour uppermost."""
    picture = Image.new("RGB", (side, side))
    for i, colour in enumerate(colours):
        picture.paste(COLOURS[colour], (0, i * side // len(colours), side, side))
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()


def _nearest(pixel: Any) -> int:
    return int(np.argmin([np.linalg.norm(pixel - np.array(colour)) for colour in COLOURS.values()]))


class FakePreprocessor:
    """Pictures become 8 x 8; words are the tokens, of which 64 are read."""

    max_tokens = 64

    def picture(self, data: bytes, *, max_pixels: int) -> Picture:
        return np.asarray(open_image(data, max_pixels=max_pixels).resize((8, 8)), np.uint8)

    def check_text(self, text: str) -> None:
        if not text.strip():
            raise EmptyText("the text is empty")

    def count_tokens(self, text: str) -> int:
        return min(self.count_all_tokens(text), self.max_tokens)

    def count_all_tokens(self, text: str) -> int:
        self.check_text(text)
        return len(text.split())


@dataclass(frozen=True)
class FakeCanary:
    document: Document
    expected_row: Vectors


@dataclass
class FakeEncoder:
    """Adds up one axis per colour and a hashed axis for every other word. ``poison`` makes a batch fail.

    A match looks closer than an embedding: at which words and colours there are, every pixel's, and not how
    often.
    """

    id: str = "fake-000000000000"
    dim: int = DIM
    providers: list[str] = field(default_factory=lambda: ["FakeExecutionProvider"])
    precision: str = "exact"
    modalities: tuple[str, ...] = ("text", "image", "mixed")
    fusion: str = "mean"
    matches: bool = True
    workers: int = 2
    relevance: Relevance | None = None
    batches: list[int] = field(default_factory=list)
    matched: list[int] = field(default_factory=list)
    poison: str = "poison"
    preprocessor: FakePreprocessor = field(default_factory=FakePreprocessor)

    def embed(self, documents: Sequence[Document]) -> Vectors:
        self.batches.append(len(documents))
        rows: Vectors = np.stack(
            [sum(map(self._part, d.parts), np.zeros(self.dim)) for d in documents]
        ).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def match(self, query: Document, candidates: Sequence[Document]) -> Probabilities:
        self.matched.append(len(candidates))
        asked = self._seen(query)
        seen = [self._seen(candidate) for candidate in candidates]
        return np.array([len(asked & there) / len(asked | there) for there in seen], np.float32)

    def probes(self) -> Vectors:
        return np.eye(len(COLOURS), self.dim, dtype=np.float32)  # those of the colours

    def canaries(self) -> list[FakeCanary]:
        document = Document(("red",))
        return [FakeCanary(document, self.embed([document])[0])]

    def _seen(self, document: Document) -> set[str]:
        seen: set[str] = set()
        for part in document.parts:
            if isinstance(part, str):
                self._choke(part)
                seen.update(part.split())
            else:
                seen.update(COLOUR_NAMES[_nearest(pixel)] for pixel in part.reshape(-1, 3))
        return seen

    def _choke(self, text: str) -> None:
        if self.poison in text:
            raise RuntimeError("the encoder choked on the poison")

    def _part(self, part: str | Picture) -> Any:
        row = np.zeros(self.dim)
        if not isinstance(part, str):
            row[_nearest(part.reshape(-1, 3).mean(axis=0))] = 1.0
            return row
        self._choke(part)
        for word in part.split():
            hashed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
            axis = (
                COLOUR_NAMES.index(word)
                if word in COLOURS
                else _FIRST_HASHED + hashed % (self.dim - _FIRST_HASHED)
            )
            row[axis] += 1.0
        return row
