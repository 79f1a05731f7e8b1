"""Retrieval measured: recall at k over labelled pairs, in both directions."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Document, ImageError, Picture, TextError

KS = (1, 5, 10)
_BLOCK = 1024  # queries scored at a time, to bound memory
_CHUNK = 32  # documents embedded at a time, to report progress
_TIE = 1e-6  # scores this close are one score: rounding must not decide a rank
_MAX_PIXELS = 200_000_000  # the pairs are one's own pictures, not a stranger's

Rows = NDArray[np.float32]


class PairsError(ValueError):
    """A pairs.jsonl that cannot be used; the message names the line."""


class Reader(Protocol):
    """What evaluation needs of a preprocessor."""

    def picture(self, data: bytes, *, max_pixels: int) -> Picture: ...
    def check_text(self, text: str) -> None: ...


class Embedder(Protocol):
    """What evaluation needs of an encoder."""

    @property
    def id(self) -> str: ...
    @property
    def preprocessor(self) -> Reader: ...
    def embed(self, documents: Sequence[Document]) -> Rows: ...


@dataclass(frozen=True)
class Pair:
    """One line of pairs.jsonl."""

    line: int
    image: Path
    captions: tuple[str, ...]


def recall_at_k(
    queries: Rows, gallery: Rows, relevant: Sequence[Collection[int]], ks: Sequence[int] = KS
) -> dict[str, float]:
    """Percent of queries (q, dim) with a relevant row of gallery (n, dim) among the k of highest score.

    Ties count against the query: an irrelevant row that scores the same as the best relevant one comes
    first, so a constant embedding scores nothing.
    """
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ gallery.T
        for offset, row in enumerate(scores):
            ranks[start + offset] = _rank(row, relevant[start + offset])
    return {f"R@{k}": float(100 * np.mean(ranks < k)) if len(ranks) else 0.0 for k in ks}


def evaluate_pairs(
    directory: Path,
    encoder: Embedder,
    *,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Recall in percent over directory/pairs.jsonl, text to image and image to text.

    Images that carry the very same caption are all relevant to it; an image hits if any of its captions is
    found. split keeps the lines of that split only; progress is called with (done, total) documents. Raises
    PairsError.
    """
    pairs = read_pairs(directory, split)
    captions = [caption for pair in pairs for caption in pair.captions]
    texts = {caption: pair.line for pair in reversed(pairs) for caption in pair.captions}
    number = {text: i for i, text in enumerate(texts)}
    report = _counter(len(texts) + len(pairs), progress)
    image_rows = _embed(encoder, (_picture(encoder, pair) for pair in pairs), report)
    text_rows = _embed(encoder, (_caption(encoder, text, line) for text, line in texts.items()), report)
    texts_of = [{number[caption] for caption in pair.captions} for pair in pairs]
    images_of: list[list[int]] = [[] for _ in texts]
    for image, own in enumerate(texts_of):
        for text in own:
            images_of[text].append(image)
    asked = [number[caption] for caption in captions]
    return {
        "t2i": recall_at_k(text_rows[asked], image_rows, [images_of[text] for text in asked]),
        "i2t": recall_at_k(image_rows, text_rows, texts_of),
        "images": len(pairs),
        "captions": len(captions),
        "encoder_id": encoder.id,
    }


def read_pairs(directory: Path, split: str | None = None) -> list[Pair]:
    """The lines of directory/pairs.jsonl, of one split or of all; raises PairsError."""
    file = directory / "pairs.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PairsError(f"{file}: {error}") from error
    pairs = [
        pair
        for number, line in enumerate(lines, start=1)
        if line.strip() and (pair := _pair(file, number, line, split)) is not None
    ]
    if not pairs:
        raise PairsError(f"{file}: no pairs" + (f" of split {split!r}" if split else ""))
    return pairs


def _pair(file: Path, number: int, line: str, split: str | None) -> Pair | None:
    where = f"{file}, line {number}"
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise PairsError(f"{where}: not JSON: {error}") from error
    image, captions = (
        (fields.get("image"), fields.get("captions")) if isinstance(fields, dict) else (None, None)
    )
    if not isinstance(image, str) or not image:
        raise PairsError(f"{where}: no image")
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise PairsError(f"{where}: captions is not a list of strings")
    if split is not None and fields.get("split") != split:
        return None
    return Pair(number, file.parent / image, tuple(captions))


def _rank(scores: NDArray[Any], relevant: Collection[int]) -> int:
    """How many irrelevant rows score at least as high as the best relevant one."""
    own = list(relevant)
    if not own:
        return len(scores)
    best = scores[own].max()
    return int(np.count_nonzero(scores >= best - _TIE) - np.count_nonzero(scores[own] >= best - _TIE))


def _picture(encoder: Embedder, pair: Pair) -> Document:
    try:
        return Document((encoder.preprocessor.picture(pair.image.read_bytes(), max_pixels=_MAX_PIXELS),))
    except (OSError, ImageError) as error:
        raise PairsError(f"line {pair.line}: {pair.image.name}: {error}") from error


def _caption(encoder: Embedder, text: str, line: int) -> Document:
    try:
        encoder.preprocessor.check_text(text)
    except TextError as error:
        raise PairsError(f"line {line}: {text[:40]!r}: {error}") from error
    return Document((text,))


def _embed(encoder: Embedder, documents: Iterator[Document], report: Callable[[int], None]) -> Rows:
    rows: list[Rows] = []
    while chunk := list(islice(documents, _CHUNK)):
        rows.append(encoder.embed(chunk))
        report(len(chunk))
    return np.concatenate(rows)


def _counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return report
