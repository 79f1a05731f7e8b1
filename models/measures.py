"""More that is measured of an encoder: composed queries, reranking, paraphrases. Recalls in percent."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.evaluate import Embedder, PairsError, Rows, read_pairs
from models.preprocess import Document, Picture

TOP_N = 20  # results that are reranked
_CHUNK = 64
_MAX_PIXELS = 200_000_000


class Matcher(Embedder, Protocol):
    """An encoder that also judges pairs."""

    def match(self, query: Document, candidates: Sequence[Document]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Wish:
    """One line of triplets: a reference picture, what should be different, and the picture that is wanted."""

    reference: str
    text: str
    target: str


def paraphrases(directory: Path, encoder: Embedder, split: str | None = None) -> dict[str, float]:
    """Each caption against all others of directory/pairs.jsonl; its picture's other captions are relevant.

    Pictures with one caption ask nothing. Raises PairsError.
    """
    pairs = read_pairs(directory, split)
    captions = [caption for pair in pairs for caption in pair.captions]
    owner = np.array([i for i, pair in enumerate(pairs) for _ in pair.captions])
    rows = embed(encoder, [Document((caption,)) for caption in captions])
    asked = [i for i in range(len(captions)) if (owner == owner[i]).sum() > 1]
    relevant = [set(np.flatnonzero(owner == owner[i]).tolist()) - {i} for i in asked]
    return _recall_without_itself(rows, asked, relevant)


def composed(directory: Path, encoder: Embedder) -> dict[str, dict[str, float]]:
    """R@k of directory/test.jsonl by the joint document, by the mean of the two rows, and by either alone.

    The gallery is every picture of the set but the query's own reference. Raises PairsError.
    """
    wishes = read_wishes(directory / "test.jsonl")
    names = sorted(path.name for path in (directory / "images").iterdir())
    number = {f"images/{name}": i for i, name in enumerate(names)}
    pictures = [_picture(encoder, directory / "images" / name) for name in names]
    gallery = embed(encoder, [Document((picture,)) for picture in pictures])
    references = [number[wish.reference] for wish in wishes]
    targets = [number[wish.target] for wish in wishes]
    joint = embed(
        encoder,
        [Document((pictures[i], wish.text)) for i, wish in zip(references, wishes, strict=True)],
    )
    words = embed(encoder, [Document((wish.text,)) for wish in wishes])
    queries = {
        "joint": joint,
        "mean": unit(gallery[references] + words),
        "picture": gallery[references],
        "text": words,
    }
    return {name: _recall_hiding(rows, gallery, references, targets) for name, rows in queries.items()}


def reranked(
    directory: Path, encoder: Matcher, *, top_n: int = TOP_N, most: int = 1000
) -> dict[str, dict[str, float]]:
    """R@k, text to image, before and after match reorders the first top_n; one caption for each picture.

    At most `most` captions are asked, evenly spread. Raises PairsError.
    """
    pairs = read_pairs(directory)
    pictures = [_picture(encoder, pair.image) for pair in pairs]
    gallery = embed(encoder, [Document((picture,)) for picture in pictures])
    asked = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int))
    captions = [pairs[i].captions[0] for i in asked]
    own = [{i for i, pair in enumerate(pairs) if caption in pair.captions} for caption in captions]
    scores = embed(encoder, [Document((caption,)) for caption in captions]) @ gallery.T
    before, after = [], []
    for caption, relevant, row in zip(captions, own, scores, strict=True):
        first = np.argsort(-row, kind="stable")[:top_n]
        judged = encoder.match(Document((caption,)), [Document((pictures[i],)) for i in first])
        before.append(_rank(first, relevant))
        after.append(_rank(first[np.argsort(-judged, kind="stable")], relevant))
    return {"before": _shares(before), "after": _shares(after)}


def read_wishes(file: Path) -> list[Wish]:
    """The lines of a triplets file; raises PairsError."""
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [Wish(str(line["reference"]), str(line["text"]), str(line["target"])) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PairsError(f"{file}: {error}") from error


def embed(encoder: Embedder, documents: Sequence[Document]) -> Rows:
    """Unit rows (n, dim), some documents at a time."""
    chunks = [encoder.embed(documents[start : start + _CHUNK]) for start in range(0, len(documents), _CHUNK)]
    return np.concatenate(chunks)


def unit(rows: NDArray[np.float32]) -> Rows:
    """Rows at length one."""
    found: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def _picture(encoder: Embedder, file: Path) -> Picture:
    try:
        return encoder.preprocessor.picture(file.read_bytes(), max_pixels=_MAX_PIXELS)
    except (OSError, ValueError) as error:
        raise PairsError(f"{file}: {error}") from error


def _recall_without_itself(rows: Rows, asked: list[int], relevant: list[set[int]]) -> dict[str, float]:
    ranks = []
    for i, own in zip(asked, relevant, strict=True):
        scores = rows @ rows[i]
        scores[i] = -np.inf
        ranks.append(int((scores >= max(scores[j] for j in own)).sum()) - 1)
    return _shares(ranks)


def _recall_hiding(
    queries: Rows, gallery: Rows, hidden: Sequence[int], targets: Sequence[int]
) -> dict[str, float]:
    ranks = []
    for query, own, target in zip(queries, hidden, targets, strict=True):
        scores = gallery @ query
        wanted = scores[target]
        scores[own] = -np.inf
        ranks.append(int((scores >= wanted).sum()) - 1)
    return _shares(ranks)


def _rank(order: NDArray[np.int64], relevant: set[int]) -> int:
    """The place of the first relevant one; beyond the end if there is none."""
    return next((place for place, i in enumerate(order) if int(i) in relevant), len(order))


def _shares(ranks: Sequence[int]) -> dict[str, float]:
    found = np.asarray(ranks)
    return {f"R@{k}": float(100 * np.mean(found < k)) if len(found) else 0.0 for k in (1, 5, 10)}
