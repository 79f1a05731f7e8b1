"""Classification without training: how near inputs are to names of classes, or to examples of them."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from index.catalog import Item, check_encoder
from index.vectors import Vectors
from service.reading import Content
from service.retriever import Retriever

MAX_SET_ITEMS = 10_000  # of a collection that is used as a label set: 15 MB of rows at 384 dimensions
_MAX_KEPT = 4096  # rows of labels that were embedded before: 6 MB
_MAX_SETS = 8  # label sets that were read before
_MIN_LENGTH = 1e-3  # of a sum of unit rows; a shorter one is rounding noise without a direction

Kind = Literal["text", "image"]
K = TypeVar("K")
V = TypeVar("V")


class LabelSetUnusable(ValueError):
    """A collection that cannot be a label set: with no item, or too many."""


class NothingToChoose(ValueError):
    """One label of which exactly one is to be chosen: it would always score 1."""


@dataclass(frozen=True)
class Curve:
    """How the cosines of one kind of input become scores.

    Of one label among others the score is softmax(scale * cosine). Of a label by itself it is
    1 / (1 + exp(-slope * (cosine - offset))), which is one half where pairs that match are as frequent as
    pairs that do not, when there are as many of each.
    """

    scale: float
    slope: float
    offset: float


# By encoder_id, fitted as docs/decisions/0005-classification.md tells.
_MEASURED: dict[str, Mapping[Kind, Curve]] = {
    "momo-mini-b2c2c5a95419": {"image": Curve(10.0, 7.4, 0.198), "text": Curve(18.0, 15.4, 0.208)},
}
_ASSUMED = _MEASURED["momo-mini-b2c2c5a95419"]  # of encoders that nobody measured


@dataclass(frozen=True, eq=False)
class Labels:
    """Names, and a unit row (labels, dim) for each."""

    names: Sequence[str]
    rows: Vectors


@dataclass(frozen=True)
class Scored:
    """One label's score for one input, from 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class _Set:
    """The labels of a collection as it stood at one moment: its uid and the last seq of its log."""

    version: tuple[str, int]
    labels: Labels


class Classifier:
    """Scores labels for inputs by the cosine of their rows."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._embedder = retriever.embedder
        self._kept: OrderedDict[tuple[str, ...], Vectors] = OrderedDict()
        self._sets: OrderedDict[str, _Set] = OrderedDict()
        self._reading = asyncio.Lock()

    @property
    def calibrated(self) -> bool:
        """Whether the curves were measured for the encoder that runs."""
        return self._retriever.encoder.id in _MEASURED

    async def labels(self, names: Sequence[str], templates: Sequence[str]) -> Labels:
        """Labels from what they are called: the unit mean of the rows of all templates, with the name for {}.

        A label's row is kept, so that the next request does not embed it again. Raises TooManyItems if there
        are more names times templates than texts may be sent, and what the embedder raises.
        """
        prompts = {name: tuple(template.replace("{}", name) for template in templates) for name in names}
        self._embedder.check_count(list(prompts.values()))
        rows = {name: self._kept[key] for name, key in prompts.items() if key in self._kept}
        missing = [name for name in prompts if name not in rows]
        found = iter(await self._embedder.embed([(text,) for name in missing for text in prompts[name]]))
        for name in missing:
            parts = []
            for _ in templates:
                row = next(found)
                if isinstance(row, Exception):
                    raise row
                parts.append(row)
            rows[name] = _mean(parts)
        _put(self._kept, {prompts[name]: rows[name] for name in names}, _MAX_KEPT)
        return Labels(names, np.stack([rows[name] for name in names]))

    async def label_set(self, collection: str) -> Labels:
        """Labels from a collection, whose items are examples of them: texts, pictures, or both.

        An item's label is its metadata's ``label`` or else its id; items of one label share the unit mean of
        their rows. Kept until the collection changes. Raises CollectionNotFound, EncoderMismatch,
        LabelSetUnusable.
        """
        async with self._reading:
            kept = await asyncio.to_thread(self._read, collection)
            _put(self._sets, {collection: kept}, _MAX_SETS)
        return kept.labels

    async def classify(
        self, contents: Sequence[Content], labels: Labels, *, multi_label: bool, min_score: float, top_k: int
    ) -> list[list[Scored] | Exception]:
        """For each content the first top_k labels that score min_score or more, or its own error.

        Without ``multi_label`` the scores of one content add up to 1 over all labels; raises NothingToChoose
        if there is one label only. Raises what Embedder.embed raises.
        """
        if len(labels.names) < 2 and not multi_label:
            raise NothingToChoose("One label alone always scores 1: give more, or ask for multi_label.")
        rows = await self._embedder.embed(contents)
        curves = _MEASURED.get(self._retriever.encoder.id, _ASSUMED)

        def best(content: Content, row: Vectors | Exception) -> list[Scored] | Exception:
            if isinstance(row, Exception):
                return row
            curve = curves["image" if any(isinstance(part, bytes) for part in content) else "text"]
            cosines = labels.rows @ row
            scores = each(cosines, curve) if multi_label else among(cosines, curve)
            first = np.argsort(-scores, kind="stable")[:top_k]
            return [Scored(labels.names[i], float(scores[i])) for i in first if scores[i] >= min_score]

        # On a thread: there may be millions of cosines.
        return await asyncio.to_thread(lambda: list(map(best, contents, rows)))

    async def similarities(
        self, source: Content, targets: Sequence[Content]
    ) -> tuple[Exception | None, list[float | Exception]]:
        """What is wrong with the source, and the cosine with each target or what is wrong with that."""
        first, *others = await self._embedder.embed([source, *targets])
        if isinstance(first, Exception):
            return first, []
        return None, [row if isinstance(row, Exception) else float(first @ row) for row in others]

    def _read(self, collection: str) -> _Set:
        with self._retriever.index(collection).reading() as (_, reading):
            check_encoder(reading.collection, self._retriever.encoder.id)
            version = (reading.collection.uid, reading.watermark)
            kept = self._sets.get(collection)
            if kept is not None and kept.version == version:
                return kept
            count = reading.count()
            if not 0 < count <= MAX_SET_ITEMS:
                raise LabelSetUnusable(
                    f"Collection {collection!r} has {count} items; a label set has 1 to {MAX_SET_ITEMS}."
                )
            rows = {
                int(seq): row for seqs, part, _ in reading.rows() for seq, row in zip(seqs, part, strict=True)
            }
            items = reading.items_at(list(rows))
        by_label: dict[str, list[Vectors]] = {}
        for seq, row in rows.items():
            by_label.setdefault(_label_of(items[seq]), []).append(row)
        names = sorted(by_label)
        return _Set(version, Labels(names, np.stack([_mean(by_label[name]) for name in names])))


def among(cosines: Vectors, curve: Curve) -> NDArray[np.float64]:
    """The softmax of cosines (labels,): how the labels share what is certain to be one of them."""
    logits = curve.scale * cosines.astype(np.float64)
    weights = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def each(cosines: Vectors, curve: Curve) -> NDArray[np.float64]:
    """The sigmoid of each of the cosines (labels,), whatever the others are."""
    logits = curve.slope * (cosines.astype(np.float64) - curve.offset)
    halves: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * logits))  # exp would overflow
    return halves


def _put(kept: OrderedDict[K, V], entries: Mapping[K, V], most: int) -> None:
    """Add what was used now; what was not used for longest makes room."""
    for key, value in entries.items():
        kept[key] = value
        kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _label_of(item: Item) -> str:
    named = item.metadata.get("label")
    return named if isinstance(named, str) and named else item.id


def _mean(rows: Sequence[Vectors]) -> Vectors:
    """The unit mean of unit rows; the first of them where they cancel out."""
    total = np.sum(rows, axis=0, dtype=np.float32)
    length = float(np.linalg.norm(total))
    return np.asarray(total / length, np.float32) if length > _MIN_LENGTH else rows[0]
