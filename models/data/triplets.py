"""Composed queries to learn from: (reference picture, modifying text, target picture).

Half of them change one thing about an emoji in its own style ("but a woman"), half one thing in a composed
scene ("with a dog next to it"). They are drawn on the fly: triplet i of a seed is a pure function, and
there is no end of them.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.edits import Edit, edited
from models.data.plans import Plan
from models.data.records import Record, Split, read_records
from models.data.scenes import SIZE_PX, Library, draw, planned
from models.data.variants import TEMPLATES, families
from models.data.views import plain, view

VARIANT_SHARE = 0.5
VARIED_SHARE = 0.5  # of emoji pairs that stand before a background rather than on white paper

Pixels = NDArray[np.uint8]
Random = np.random.Generator


@dataclass(frozen=True)
class Triplet:
    """Pixels are (S, S, 3) RGB; `kind` is what is changed: "who", "colour", "count" …"""

    reference: Pixels
    text: str
    target: Pixels
    kind: str


@dataclass(frozen=True)
class VariantPair:
    """Two records of one style whose emoji differ in one thing, and the wish that leads to the target."""

    kind: str
    reference: Record
    wish: str
    target: Record


class Triplets:
    """Triplets made of the records of one split of a training folder."""

    def __init__(self, folder: Path, split: Split = "train") -> None:
        """Raises RecordError."""
        self._folder = folder
        self._library = Library.read(folder, (split,))
        records = read_records(folder, split)
        pairs: dict[str, list[VariantPair]] = defaultdict(list)
        for pair in variant_pairs(records, records):
            pairs[pair.kind].append(pair)
        self._pairs = dict(pairs)
        # Moods alone would be nine in ten.
        weights = np.sqrt([len(alike) for alike in pairs.values()])
        self._weights = weights / weights.sum()

    def triplet(self, seed: int, index: int, size: int = SIZE_PX) -> Triplet:
        """Triplet number `index` of a seed, the same whenever it is asked for."""
        rng = np.random.default_rng([seed, index, 3])
        if self._pairs and rng.random() < VARIANT_SHARE:
            return self._variant(rng, size)
        plan, edit = scene_edit(self._library, rng)
        before, after = (draw(self._library, stage, size) for stage in (plan, edit.plan))
        return Triplet(before, edit.text, after, edit.kind)

    def _variant(self, rng: Random, size: int) -> Triplet:
        alike = self._pairs[str(rng.choice(list(self._pairs), p=self._weights))]
        pair = alike[int(rng.integers(len(alike)))]
        text = TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(pair.wish)
        varied = rng.random() < VARIED_SHARE
        before, after = (
            view(picture, rng, size) if varied else plain(picture, size)
            for picture in (self._opened(pair.reference), self._opened(pair.target))
        )
        return Triplet(before, text, after, pair.kind)

    def _opened(self, record: Record) -> Image.Image:
        with Image.open(self._folder / record.image) as picture:
            return picture.convert("RGBA")


def scene_edit(library: Library, rng: Random, kind: str | None = None) -> tuple[Plan, Edit]:
    """A random plan and a change to it, of this kind or of any; raises NothingFits."""
    while True:
        plan = planned(library, rng)
        edit = edited(plan, library, rng, kind)
        if edit is not None:
            return plan, edit


def variant_pairs(references: Sequence[Record], targets: Sequence[Record]) -> Iterator[VariantPair]:
    """Every reference and target of the same style that belong to one family, in a fixed order."""
    of_concept: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in references:
        of_concept[record.concept].setdefault(record.style, record)
    wanted: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in targets:
        wanted[record.concept].setdefault(record.style, record)
    names = {record.concept: record.name for record in [*references, *targets]}
    for family in families(names):
        for target in family.variants:
            for reference in family.variants:
                if target.wish is None or target.wish == reference.wish:
                    continue
                for style, record in wanted[target.concept].items():
                    if style in of_concept[reference.concept]:
                        yield VariantPair(
                            family.kind, of_concept[reference.concept][style], target.wish, record
                        )
