"""Vectors to measure an index with: real embeddings, multiplied until there are enough of them.

Embedded are the sample gallery and, where they are, the shared sets of pictures with captions. An item is a
mixture: an embedding, moved by a part of the difference of two others of its modality and by a little noise.
Embeddings are chosen with very different weight, so that some neighbourhoods are crowded and others empty.
A tenth of the embeddings, at most 1,000 of each modality, make no items: a quarter of them, at most 256, tune
the index, and the others are the queries.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.vectors import Vectors
from models.bundle import Bundle
from models.encoder import Encoder
from models.evaluate import read_pairs
from models.preprocess import Document

ROOT = Path(__file__).resolve().parent.parent
GALLERY, SHARED = ROOT / "service" / "gallery", ROOT.parent / "shared" / "data"
_PICTURES, _TEXTS = 4000, 12_000  # embedded, at most
_QUERIES, _PROBES = 1000, 256  # held out of each modality; of these to tune with
_IN_PICTURES = 0.7  # share of the items
_MOVED, _NOISE = (0.1, 0.7), 0.1  # lengths
_AT_ONCE = 65_536


@dataclass(frozen=True)
class Corpus:
    """Rows (n, dim) of items; which have a picture; and per direction queries, and probes to tune with."""

    rows: Vectors
    is_picture: NDArray[np.bool_]
    queries: dict[str, Vectors]
    probes: dict[str, Vectors]


def corpus(items: int, embeddings: Path) -> Corpus:
    """So many items; the embeddings are read from a file, or computed and written there."""
    if not embeddings.exists():
        made = embedded()
        np.savez(embeddings, image=made["image"], text=made["text"])
    random, queries, probes = np.random.default_rng(0), dict[str, Vectors](), dict[str, Vectors]()
    counts = {"image": round(items * _IN_PICTURES), "text": items - round(items * _IN_PICTURES)}
    real = {name: rows[random.permutation(len(rows))] for name, rows in np.load(embeddings).items()}
    rows: Vectors = np.empty((items, real["text"].shape[1]), np.float32)
    places, filled = random.permutation(items), 0
    for modality, count in counts.items():
        asked = min(_QUERIES, len(real[modality]) // 10)
        probed = min(_PROBES, asked // 4)
        queries[modality], probes[modality] = real[modality][probed:asked], real[modality][:probed]
        for part in mixtures(real[modality][asked:], count, random):
            rows[places[filled : filled + len(part)]] = part
            filled += len(part)
    is_picture = np.zeros(items, np.bool_)
    is_picture[places[: counts["image"]]] = True
    return Corpus(rows, is_picture, queries, probes)


def mixtures(real: Vectors, count: int, random: np.random.Generator) -> Iterator[Vectors]:
    """So many rows like the real ones, some at a time."""
    weights = 1 / np.arange(1, len(real) + 1) ** 0.7
    chosen = random.choice(len(real), count, p=weights / weights.sum())
    for start in range(0, count, _AT_ONCE):
        part = real[chosen[start : start + _AT_ONCE]]
        one, other = real[random.integers(0, len(real), (2, len(part)))]
        moved = random.uniform(*_MOVED, (len(part), 1)).astype(np.float32)
        noise = unit(random.normal(size=part.shape).astype(np.float32))
        yield unit(part + moved * (one - other) + _NOISE * noise)


def unit(rows: Vectors) -> Vectors:
    """The rows at length one."""
    scaled: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def embedded() -> dict[str, Vectors]:
    """Rows of pictures ("image") and of captions ("text") by the packaged encoder."""
    encoder = Encoder.load(Bundle.default_path())
    folders = [GALLERY, *(sorted(SHARED.iterdir()) if SHARED.is_dir() else [])]
    pairs = [pair for folder in folders for pair in read_pairs(folder, None)]
    pairs = [pairs[number] for number in np.random.default_rng(0).permutation(len(pairs))]
    texts = list(dict.fromkeys(caption for pair in pairs for caption in pair.captions))[:_TEXTS]
    pictures = (encoder.preprocessor.picture(pair.image.read_bytes(), max_pixels=10**9) for pair in pairs)
    documents = {
        "image": (Document((picture,)) for picture in islice(pictures, _PICTURES)),
        "text": (Document((text,)) for text in texts),
    }
    return {
        modality: np.concatenate([encoder.embed(part) for part in in_parts(found, 32)])
        for modality, found in documents.items()
    }


def in_parts(documents: Iterator[Document], size: int) -> Iterator[Sequence[Document]]:
    """The documents, so many at a time."""
    while part := list(islice(documents, size)):
        yield part
