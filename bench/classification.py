"""Fit how cosines become the scores of POST /v1/classify, and say how good the scores are.

    python -m bench.classification [--bundle DIR]

Fitted on clothing-train and grocery-train (pictures by class) and on the glosses of imagenet-samples (texts
by name), each set counted the same; labels as they are. The numbers belong into service.classify.
"""

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.encoder import Encoder
from models.measures import embed
from models.preprocess import Document
from models.relevance import logistic

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
PICTURES = {"clothing-train": "class", "grocery-train": "class_coarse"}  # the key of the label in each set
TEXTS = {"imagenet-samples": "name"}
COUNT = 500  # of each set

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cosines:
    """Of inputs with every label (inputs, labels), and the number of the right label (inputs,)."""

    values: Floats
    right: NDArray[np.int64]

    @property
    def matching(self) -> Floats:
        """The cosines of inputs with their right labels."""
        found: Floats = self.values[np.arange(len(self.right)), self.right]
        return found

    @property
    def others(self) -> Floats:
        """All other cosines."""
        found: Floats = self.values[np.arange(self.values.shape[1]) != self.right[:, None]]
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=None)
    bundle = parser.parse_args().bundle
    encoder = Encoder.load(bundle or Bundle.default_path(), device="cpu")
    print(encoder.id)
    for kind, sets in (("image", PICTURES), ("text", TEXTS)):
        found = [cosines(encoder, kind, name, key) for name, key in sets.items()]
        scale = best_scale(found)
        slope, offset = logistic(
            np.concatenate([one.matching for one in found]), np.concatenate([one.others for one in found])
        )
        accuracy = [f"{100 * np.mean(one.values.argmax(1) == one.right):.0f} %" for one in found]
        recognised = np.mean([np.mean(one.matching > offset) for one in found])
        false = np.mean([np.mean(one.others > offset) for one in found])
        print(
            f"{kind}: Curve({scale:.1f}, {slope:.1f}, {offset:.3f}); the first label is right in "
            f"{', '.join(accuracy)}; above the offset are {100 * recognised:.0f} % of matching pairs and "
            f"{100 * false:.0f} % of others"
        )


def cosines(encoder: Encoder, kind: str, name: str, key: str) -> Cosines:
    """Some inputs of a set with all its labels."""
    lines = [json.loads(line) for line in (SHARED / name / "pairs.jsonl").read_text().splitlines()]
    random.Random(0).shuffle(lines)
    labels = sorted({line[key] for line in lines})
    chosen = lines[:COUNT]
    inputs = [Document((_content(encoder, kind, SHARED / name, line),)) for line in chosen]
    rows, names = embed(encoder, inputs), embed(encoder, [Document((label,)) for label in labels])
    right = np.array([labels.index(line[key]) for line in chosen])
    return Cosines((rows @ names.T).astype(np.float64), right)


def best_scale(sets: list[Cosines]) -> float:
    """The scale at which the softmax of cosines has the least cross-entropy, each set counted the same."""
    scales = np.arange(2.0, 121.0)
    return float(scales[np.argmin([sum(_cross_entropy(one, scale) for one in sets) for scale in scales])])


def _content(encoder: Encoder, kind: str, folder: Path, line: dict[str, Any]) -> Any:
    if kind == "text":
        return line["gloss"]
    return encoder.preprocessor.picture((folder / line["image"]).read_bytes(), max_pixels=10**8)


def _cross_entropy(one: Cosines, scale: float) -> float:
    logits = scale * one.values
    logits -= logits.max(1, keepdims=True)
    shares = np.log(np.exp(logits).sum(1))
    return float(np.mean(shares - logits[np.arange(len(one.right)), one.right]))


if __name__ == "__main__":
    main()
