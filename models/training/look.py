# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Fit what a drawing looks like by itself: a ridge regression, over a trunk that stays as it is.

    python -m models.training.look --bundle models/bundles/momo-mini --folder training --out DIR

Composed queries that training has read are no use for it: it finds the targets of nearly all of them already,
and a look that learned by contrast on them made unseen ones worse. That a picture alone has a row is another
matter, and it can be had for pictures of any kind.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from models.bundle import Bundle
from models.config import ModelConfig
from models.data.triplets import Triplets
from models.image_graph import TOKENS
from models.importing.answers import PROBES
from models.momo_graphs import DOCUMENT_INPUTS, EMBEDDING
from models.preprocess import Picture, Preprocessor
from models.refit import heads_of, refitted
from models.sequences import Layout, Sequences
from models.training import reading
from models.training.features import SEED, SIZE_PX

RIDGE = 1 / 6  # of the inputs' variance
SHARE = 0.35  # of the row that it tells, beside what the trunk has read
TRIPLETS = 2400  # whose references and targets are looked at
_CHUNK = 64

Floats = NDArray[np.float32]


def fitted(shown: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Weight (dim, width) and bias (dim,) that tell SHARE of pictures' rows from the means of their tokens.

    shown (n, width) are means of tokens as a front end gives them, rows (n, dim) of the pictures alone.
    """
    read, wanted = shown.astype(np.float64), rows.astype(np.float64)
    middle, spread, mean = read.mean(0), read.std(0).clip(min=1e-6), wanted.mean(0)
    known = (read - middle) / spread
    gram = known.T @ known + RIDGE * len(known) * np.eye(known.shape[1])
    weight = (np.linalg.solve(gram, known.T @ (wanted - mean)) / spread[:, None]).T
    return (SHARE * weight).astype(np.float32), (SHARE * (mean - weight @ middle)).astype(np.float32)


@torch.no_grad()
def fit_look(model: Any, tokens: Iterator[torch.Tensor]) -> None:
    """Fit a model's look to pictures, of which batches of tokens (n, M, token_width) are given."""
    shown, rows = [], []
    for batch in tokens:
        shown.append(batch[..., : model.config.width].mean(1).float().cpu().numpy())
        rows.append(model.embed(reading.shown(batch)).float().cpu().numpy())
    weight, bias = fitted(np.concatenate(shown), np.concatenate(rows))
    model.look.weight.copy_(torch.from_numpy(weight))
    model.look.bias.copy_(torch.from_numpy(bias))


class _Frozen:
    """A bundle's two graphs, one picture at a time: a row must not depend on its neighbours."""

    def __init__(self, bundle: Bundle) -> None:
        read = bundle.manifest.tokenizer
        self._preprocessor = Preprocessor(
            bundle.manifest.preprocessing,
            bundle.file(read.file),
            max_tokens=read.max_tokens,
            padding=read.padding,
        )
        self._layout = Layout(*self._preprocessor.markers, read.max_tokens)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._image, self._document = (
            ort.InferenceSession(str(bundle.file(name)), options, providers=["CPUExecutionProvider"])
            for name in ("image.onnx", "document.onnx")
        )

    def tokens(self, pictures: Sequence[Picture]) -> Floats:
        """Tokens (n, M, token_width)."""
        found = (
            self._image.run([TOKENS], {"pixels": self._preprocessor.pixels([each])})[0] for each in pictures
        )
        return np.concatenate(list(found))

    def rows(self, tokens: Floats) -> Floats:
        """Unit rows (n, dim) of the pictures alone."""
        read = Sequences.of([[0]], self._layout)
        words = (read.input_ids, read.word_positions, read.word_slots)
        slots = read.token_slots(tokens.shape[1])
        found = (
            self._document.run(
                [EMBEDDING], dict(zip(DOCUMENT_INPUTS, (*words, each[None], slots), strict=True))
            )[0]
            for each in tokens
        )
        return np.concatenate(list(found))


def _pictures(folder: Path, count: int) -> Iterator[list[Picture]]:
    """References and targets of the triplets that training reads."""
    triplets = Triplets(folder)
    for start in range(0, count, _CHUNK):
        found = [triplets.triplet(SEED, i, SIZE_PX) for i in range(start, min(start + _CHUNK, count))]
        yield [picture for each in found for picture in (each.reference, each.target)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("training"))
    parser.add_argument("--out", type=Path, required=True, help="a folder for the new bundle")
    parser.add_argument("--triplets", type=int, default=TRIPLETS)
    parser.add_argument(
        "--mute", action="store_true", help="the judge of matches gets no say: cosine and agreement remain"
    )
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    frozen = _Frozen(bundle)
    shown, rows = [], []
    for pictures in _pictures(arguments.folder, arguments.triplets):
        tokens = frozen.tokens(pictures)
        shown.append(tokens[..., : ModelConfig().width].mean(1))
        rows.append(frozen.rows(tokens))
        print(f"{sum(map(len, rows)) // 2} of {arguments.triplets} triplets", flush=True)
    heads = heads_of(onnx.load(bundle.file("document.onnx")))
    heads["look.weight"], heads["look.bias"] = fitted(np.concatenate(shown), np.concatenate(rows))
    if arguments.mute:
        heads |= {name: 0 * heads[name] for name in ("itm.2.weight", "itm.2.bias")}
    print(refitted(bundle, heads, arguments.out, list(PROBES)).encoder_id)


if __name__ == "__main__":
    main()
