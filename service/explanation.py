"""Why two documents are near: the regions of a picture, and the words of a text, that make their cosine.

By occlusion, which asks nothing of the encoder but rows (Zeiler and Fergus 2014): a region is worth what the
cosine loses when it is covered, and what it has already when everything else is. A word is worth what the
cosine loses without it.
"""

import asyncio
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.vectors import Vectors
from models.preprocess import Document, Picture
from service.bounds import MAX_WORDS
from service.embedder import Embedder

_SPAN = 2  # cells a side of what is covered at once: larger than a cell, so that things on a border count too
_WORD = re.compile(r"\w+(?:[-']\w+)*")
_RED, _BLUE = np.array([220, 30, 30]), np.array([30, 60, 200])

Side = Literal["query", "item"]
Heat = NDArray[np.float32]  # (g, g): what each region adds to the cosine
Masks = NDArray[np.bool_]  # (n, g, g): true where the picture is covered


@dataclass(frozen=True)
class Token:
    """A word, where it stands in its text, and what it adds to the cosine."""

    token: str
    start: int
    score: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """The cosine of two documents, and what makes it.

    ``heat`` is of the first picture of the item, or else of the query; ``tokens`` of the first text of the
    query, or else of the item. Either is None where there is none. ``picture`` is what the encoder saw.
    """

    score: float
    heat: Heat | None
    heat_of: Side | None
    picture: Picture | None
    tokens: list[Token] | None
    tokens_of: Side | None


class Explainer:
    """Explains cosines by asking the encoder again: about a hundred times, behind smaller requests."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def explain(self, query: Document, item: Document, grid: int) -> Explanation:
        """What makes the cosine of two documents, with ``grid`` regions a side.

        Raises Overloaded, EncodingFailed.
        """
        documents: dict[Side, Document] = {"query": query, "item": item}
        pictured = next((side for side in _sides("item", "query") if documents[side].pictures), None)
        worded = next((side for side in _sides("query", "item") if documents[side].texts), None)
        rows = await self._rows(list(documents.values()))
        score = float(rows[0] @ rows[1])
        facing: dict[Side, Vectors] = {"query": rows[1], "item": rows[0]}
        heat = seen = tokens = None
        if pictured is not None:
            seen, masks = documents[pictured].pictures[0], windows(grid)
            hidden = await asyncio.to_thread(covered, seen, masks)
            others = [_with(documents[pictured], seen, other) for other in hidden]
            heat = heat_of(score, await self._rows(others) @ facing[pictured], masks)
        if worded is not None:
            tokens = await self._tokens(documents[worded], facing[worded], score)
        return Explanation(score, heat, pictured, seen, tokens, worded)

    async def _tokens(self, document: Document, facing: Vectors, score: float) -> list[Token]:
        words = list(_WORD.finditer(document.texts[0]))[:MAX_WORDS]
        left = [_without(document, word) for word in words]
        rows = iter(await self._rows([rest for rest in left if rest is not None]))
        # What says nothing is near to nothing.
        cosines = [0.0 if rest is None else float(next(rows) @ facing) for rest in left]
        return [
            Token(word[0], word.start(), score - cosine) for word, cosine in zip(words, cosines, strict=True)
        ]

    async def _rows(self, documents: Sequence[Document]) -> Vectors:
        """Rows (n, dim), or the first error."""
        rows: Vectors = np.empty((len(documents), self._embedder.encoder.dim), np.float32)
        for place, row in enumerate(await self._embedder.embed_read(documents)):
            if isinstance(row, Exception):
                raise row
            rows[place] = row
        return rows


def windows(grid: int) -> Masks:
    """Every square of 2 x 2 cells that lies on a grid, those over its border included: (n, g, g)."""
    places = list(product(range(1 - _SPAN, grid), repeat=2))
    masks = np.zeros((len(places), grid, grid), np.bool_)
    for mask, (top, left) in zip(masks, places, strict=True):
        mask[max(0, top) : top + _SPAN, max(0, left) : left + _SPAN] = True
    return masks


def covered(picture: Picture, masks: Masks) -> list[Picture]:
    """The picture with each mask covered by its mean colour, then with all but each mask, then with all."""
    size = len(picture)
    mean = picture.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    cells = np.arange(size) * masks.shape[1] // size  # the cell of each line of pixels
    fine = masks[:, cells][:, :, cells, None]
    everything = np.broadcast_to(mean, picture.shape)
    return [
        *(np.where(mask, mean, picture) for mask in fine),
        *(np.where(mask, picture, mean) for mask in fine),
        everything,
    ]


def heat_of(score: float, cosines: Vectors, masks: Masks) -> Heat:
    """What each cell adds: the mean over the masks on it, each being worth the mean of what is lost under it
    and of what it gains alone over nothing. ``cosines`` (2n + 1,) are of what ``covered`` gives."""
    without, alone, nothing = np.split(cosines, [len(masks), 2 * len(masks)])
    worth = ((score - without) + (alone - nothing)) / 2
    heat: Heat = (np.tensordot(worth, masks, 1) / masks.sum(axis=0)).astype(np.float32)
    return heat


def overlay(picture: Picture, heat: Heat) -> bytes:
    """A PNG of the picture with red where a region adds to the cosine, and blue where it takes away."""
    size = len(picture)
    smooth = Image.fromarray(heat / max(float(np.abs(heat).max()), 1e-9)).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    strength = np.clip(np.asarray(smooth), -1, 1)[..., None]
    colour = np.where(strength > 0, _RED, _BLUE)
    mixed = picture + (colour - picture.astype(np.float32)) * 0.7 * np.abs(strength)
    file = io.BytesIO()
    Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _sides(first: Side, second: Side) -> tuple[Side, Side]:
    return first, second


def _with(document: Document, part: str | Picture, other: str | Picture) -> Document:
    """The document with another part in the place of its first one like this."""
    place = next(place for place, given in enumerate(document.parts) if given is part)
    return Document((*document.parts[:place], other, *document.parts[place + 1 :]))


def _without(document: Document, word: re.Match[str]) -> Document | None:
    """The document without a word of its first text; None if nothing is left."""
    text = document.texts[0]
    rest = text[: word.start()] + text[word.end() :]
    if _WORD.search(rest):
        return _with(document, text, rest)
    others = tuple(part for part in document.parts if part is not text)
    return Document(others) if others else None
