# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Fill the crowd that a match consults: the commonest names of training's drawings, as the trunk reads them.

    python -m models.training.crowd --bundle DIR --folder training --out DIR

Its weights were chosen on 355 drawings of the random split and on 1,465 of the unseen style: not those that
the evaluation asks for, but of their style, so that reranking of that style is no stranger's test of them.
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.bundle import Bundle
from models.config import ModelConfig
from models.data.records import read_records
from models.encoder import Encoder
from models.importing.answers import PROBES
from models.preprocess import Document
from models.refit import heads_of, refitted

# For a drawing agreement counts an eighth of what it does for photographs, and how easily it is found as much
# against it as its cosine counts for it. The last keeps the probability of a true pair what it was.
SCALE = (-14.0, -8.0, 7.5)

Floats = NDArray[np.float32]


def typical(names: Iterable[str], most: int) -> list[str]:
    """The commonest names, so many at most, in whatever order they come."""
    counts = Counter(names)
    return sorted(counts, key=lambda name: (-counts[name], hashlib.sha256(name.encode()).digest()))[:most]


def crowded(rows: Floats, size: int) -> dict[str, Floats]:
    """The weights of a crowd of this size by their names in torch; rows (n, dim) are repeated to fill it."""
    if not len(rows):
        raise ValueError("a crowd needs texts")
    return {
        "crowd": np.resize(rows, (size, rows.shape[1])).astype(np.float32),
        "crowd_scale": np.array(SCALE, np.float32),
    }


@torch.no_grad()
def fill_crowd(model: Any, rows: Floats) -> None:
    """Let a model's matches consult texts of these rows (n, dim)."""
    for name, values in crowded(rows, model.config.crowd).items():
        getattr(model, name).copy_(torch.from_numpy(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("training"))
    parser.add_argument("--out", type=Path, required=True, help="a folder for the new bundle")
    arguments = parser.parse_args()
    bundle, size = Bundle.open(arguments.bundle), ModelConfig().crowd
    names = typical((record.name for record in read_records(arguments.folder, "train")), size)
    encoder = Encoder.load(bundle, device="cpu", threads=1)
    # One at a time: a row must not depend on its neighbours.
    rows = np.concatenate([encoder.embed([Document((name,))]) for name in names])
    heads = heads_of(onnx.load(bundle.file("document.onnx"))) | crowded(rows, size)
    print(len(names), refitted(bundle, heads, arguments.out, PROBES).encoder_id)


if __name__ == "__main__":
    main()
