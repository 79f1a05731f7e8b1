# mypy: disable-error-code="import-not-found"
"""Fit what a cosine says of relevance, for any bundle, and say how true it is: ``make calibrate``.

    python -m bench.relevance --bundle DIR [--write] [--plot docs/relevance.png]

Entries of sets with pictures and captions are queries and items by turns, as text, picture, or both. Two
belong together if they are one entry in different words, or of one class. Of every query one document that
belongs to it counts, and twenty that do not, both kinds weighing the same. Every other entry's queries are
fitted to; the rest are what the diagram and the errors are of.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.classification import SHARED, Floats
from bench.explanation import GALLERY
from models.bundle import Bundle
from models.encoder import Encoder
from models.evaluate import Rows
from models.measures import embed
from models.preprocess import Document, Modality
from models.relevance import KINDS, Curve, Direction, Relevance, logistic

# The sets, each with the member that names an entry's class; without one every entry is a class of its own.
SETS: dict[Path, str | None] = {
    SHARED / "flickr8k-train": None,
    SHARED / "clothing-train": "class",
    SHARED / "grocery-train": "class_fine",
    GALLERY: None,
}
COUNT = 250  # entries of a set
STRANGERS = 20  # documents that do not belong to a query, drawn for it
BINS = 10
_LEAST = 50  # queries of a direction; with fewer it gets no curve
_MAX_PIXELS = 200_000_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Cosines of pairs that belong together, and of those that do not, with whether they are held out."""

    matching: Floats
    matching_held: NDArray[np.bool_]
    others: Floats
    others_held: NDArray[np.bool_]


@dataclass(frozen=True)
class Bin:
    """Pairs of like relevance: its mean, the share that belong together, and the weight of them all."""

    said: float
    true: float
    weight: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Bundle.default_path())
    parser.add_argument("--write", action="store_true", help="put relevance.json beside the bundle")
    parser.add_argument("--plot", type=Path, default=None, help="draw the reliability diagram into this file")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.bundle, device="cpu")
    found = [pairs_of(encoder, folder, key) for folder, key in SETS.items() if folder.is_dir()]
    curves: dict[Direction, Curve] = {}
    diagrams: dict[str, list[Bin]] = {}
    for direction in sorted({direction for each in found for direction in each}):
        pairs = merged([each[direction] for each in found if direction in each])
        slope, offset = logistic(pairs.matching[~pairs.matching_held], pairs.others[~pairs.others_held])
        if len(pairs.matching) < _LEAST or slope <= 0:
            continue
        curves[direction] = Curve(round(slope, 2), round(offset, 4))
        diagrams[" to ".join(direction)] = reliability(pairs, curves[direction])
    errors = {name: round(calibration_error(bins), 3) for name, bins in diagrams.items()}
    for (query, item), curve in curves.items():
        print(f"{query} to {item}: slope {curve.slope}, offset {curve.offset}")
    if arguments.write:
        Relevance(encoder.id, curves).write(arguments.bundle)
    if arguments.plot is not None:
        plot(diagrams, encoder.id, arguments.plot)
    print(json.dumps({"encoder_id": encoder.id, "calibration_error": errors}))


def pairs_of(encoder: Encoder, folder: Path, key: str | None) -> dict[Direction, Pairs]:
    """The pairs of one set, by direction; without those that it has none of."""
    lines = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    random.Random(0).shuffle(lines)
    lines = lines[:COUNT]
    pictures = [
        encoder.preprocessor.picture((folder / line["image"]).read_bytes(), max_pixels=_MAX_PIXELS)
        for line in lines
    ]
    asked, told = [line["captions"][0] for line in lines], [line["captions"][-1] for line in lines]
    sides: list[dict[Modality, Rows]] = [
        {
            "text": embed(encoder, [Document((text,)) for text in texts]),
            "image": embed(encoder, [Document((picture,)) for picture in pictures]),
            "mixed": embed(encoder, [Document(parts) for parts in zip(pictures, texts, strict=True)]),
        }
        for texts in (asked, told)
    ]
    labels = np.array([str(line[key]) if key else str(number) for number, line in enumerate(lines)])
    together = labels[:, None] == labels
    found = {}
    for query in KINDS:
        for item in KINDS:
            usable = np.ones_like(together)
            if {query, item} <= {"image", "mixed"}:  # one picture on both sides proves nothing
                np.fill_diagonal(usable, False)
            if {query, item} <= {"text", "mixed"}:  # nor do the same words
                usable &= np.array(asked)[:, None] != np.array(told)
            cosines = (sides[0][query] @ sides[1][item].T).astype(np.float64)
            pairs = chosen(cosines, together & usable, ~together & usable)
            if len(pairs.matching):
                found[query, item] = pairs
    return found


def chosen(cosines: Floats, together: NDArray[np.bool_], apart: NDArray[np.bool_]) -> Pairs:
    """Of each query that something belongs to, one such document and some that do not, drawn by lot."""
    rng = np.random.default_rng(0)
    queries = np.flatnonzero(together.any(axis=1) & (apart.sum(axis=1) >= STRANGERS))
    matching = [cosines[query, rng.choice(np.flatnonzero(together[query]))] for query in queries]
    others = [
        cosines[query, rng.choice(np.flatnonzero(apart[query]), STRANGERS, replace=False)]
        for query in queries
    ]
    held = queries % 2 == 1
    return Pairs(np.array(matching), held, np.array(others).reshape(-1), np.repeat(held, STRANGERS))


def merged(pairs: Sequence[Pairs]) -> Pairs:
    """The pairs of several sets."""
    return Pairs(
        *(
            np.concatenate([getattr(each, name) for each in pairs])
            for name in ("matching", "matching_held", "others", "others_held")
        )
    )


def reliability(pairs: Pairs, curve: Curve) -> list[Bin]:
    """The held-out pairs in bins of relevance; both kinds weigh the same."""
    matching, others = pairs.matching[pairs.matching_held], pairs.others[pairs.others_held]
    said = np.array([curve.relevance(float(cosine)) for cosine in (*matching, *others)])
    true = np.repeat([1.0, 0.0], [len(matching), len(others)])
    weight = np.repeat([0.5 / len(matching), 0.5 / len(others)], [len(matching), len(others)])
    bins = np.minimum((said * BINS).astype(int), BINS - 1)
    found = []
    for number in range(BINS):
        here = bins == number
        if here.any():
            share = weight[here] / weight[here].sum()
            found.append(Bin(float(said[here] @ share), float(true[here] @ share), float(weight[here].sum())))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance between what was said and what is true."""
    return sum(each.weight * abs(each.said - each.true) for each in bins)


def plot(diagrams: dict[str, list[Bin]], encoder_id: str, file: Path) -> None:
    """One small diagram for each direction: on the line, relevance is what it says it is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    axes: Any = figure.subplots(3, 3, sharex=True, sharey=True)
    for place, (name, bins) in zip(axes.flat, diagrams.items(), strict=False):
        place.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        sizes = [20 + 400 * each.weight for each in bins]
        place.scatter([each.said for each in bins], [each.true for each in bins], sizes, alpha=0.8)
        place.set_title(f"{name}, error {calibration_error(bins):.3f}", fontsize=9)
    for place in axes.flat[len(diagrams) :]:
        place.set_visible(False)
    figure.supxlabel("relevance")
    figure.supylabel("share of held-out pairs that belong together")
    figure.suptitle(encoder_id, fontsize=10)
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
