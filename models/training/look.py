# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Fit the look at drawings beside words: ridge regressions, over a trunk that stays as it is.

    python -m models.training.look --bundle models/bundles/momo-mini --folder training --out DIR

First it tells what the drawings' rows are when they stand alone, then what is still missing from the rows of
composed queries to those of their targets; documents of a drawing and its name shall stay as they are.
Learned by contrast, composed queries that training has read made unseen ones worse: the trunk finds the
targets of nearly all of them already. What is missing from a row can be told from any of them.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.bundle import Bundle
from models.config import ModelConfig
from models.data.records import Record, read_records
from models.data.triplets import Triplets
from models.data.views import plain
from models.image_graph import TOKENS
from models.importing.answers import PROBES
from models.momo import Sequence as Laid
from models.momo_graphs import DOCUMENT_INPUTS, EMBEDDING
from models.preprocess import Picture, Preprocessor
from models.refit import STATES, heads_of, refitted, with_states
from models.sequences import Layout, Parts, Sequences
from models.training import reading
from models.training.features import SIZE_PX, TO_LOOK

RIDGE = 1 / 6  # of the inputs' variance
SHARE = 0.2  # of the row that it tells, beside what the trunk has read
WISH_RIDGE = 0.1
WISH_SHARE = 0.5  # of what is missing
DOCUMENTS = 2000
SEED = 21  # of triplets that no training reads

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Beside:
    """Documents of a drawing and words: what the look reads of each, and its row."""

    read: Floats  # (n, 3 * width)
    rows: Floats  # (n, dim)

    @classmethod
    def joined(cls, parts: Iterable["Beside"]) -> "Beside":
        """All of them, in order."""
        read, rows = zip(*((part.read, part.rows) for part in parts), strict=True)
        return cls(np.concatenate(read), np.concatenate(rows))


def fitted(shown: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """Weight (dim, width) and bias (dim,) that tell SHARE of pictures' rows from the means of their tokens.

    shown (n, width) are means of tokens as a front end gives them, rows (n, dim) of the pictures alone.
    """
    weight, bias = _ridge(shown, rows, np.ones(len(rows)), RIDGE)
    return (SHARE * weight).astype(np.float32), (SHARE * bias).astype(np.float32)


def missing(queries: Beside, wanted: Floats, documents: Beside) -> tuple[Floats, Floats]:
    """Weight (dim, 3 * width) and bias (dim,) that tell WISH_SHARE of what queries' rows are short of.

    wanted (n, dim) are rows of their targets. The documents count as much as the queries, and lack nothing.
    """
    read = np.concatenate([queries.read, documents.read])
    lacking = np.concatenate([wanted - queries.rows, np.zeros_like(documents.rows)])
    counts = len(queries.rows), len(documents.rows)
    weights = np.repeat([1.0, counts[0] / counts[1]], counts)
    weight, bias = _ridge(read, lacking, weights, WISH_RIDGE)
    return (WISH_SHARE * weight).astype(np.float32), (WISH_SHARE * bias).astype(np.float32)


def _ridge(read: Floats, wanted: Floats, weights: NDArray[Any], ridge: float) -> tuple[Any, Any]:
    """Weight (dim, inputs) and bias (dim,) of a weighted regression; ridge is of the inputs' variance."""
    x, y, share = read.astype(np.float64), wanted.astype(np.float64), weights / weights.sum()
    middle, mean = share @ x, share @ y
    spread = np.sqrt(share @ (x - middle) ** 2).clip(min=1e-6)
    known = (x - middle) / spread
    gram = known.T @ (known * share[:, None]) + ridge * np.eye(known.shape[1])
    weight = (np.linalg.solve(gram, known.T @ ((y - mean) * share[:, None])) / spread[:, None]).T
    return weight, mean - weight @ middle


@torch.no_grad()
def fit_look(
    model: Any,
    pictures: Iterable[Tensor],
    queries: Iterable[tuple[Laid, Tensor]],
    documents: Iterable[Laid],
) -> None:
    """Fit a model's look to tokens (n, M, token_width) of pictures, and to what it reads beside words.

    Queries come with the tokens of their targets.
    """
    width = model.config.width
    shown, rows = [], []
    for batch in pictures:
        shown.append(_array(batch[..., :width].mean(1)))
        rows.append(_array(model.embed(reading.shown(batch))))
    for parameter in model.look.parameters():
        parameter.zero_()
    weight, bias = fitted(np.concatenate(shown), np.concatenate(rows))
    model.look.weight[:, :width] = torch.from_numpy(weight)
    model.look.bias.copy_(torch.from_numpy(bias))
    asked, wanted = [], []
    for sequence, targets in queries:
        asked.append(_beside(model, sequence))
        wanted.append(_array(model.embed(reading.shown(targets))))
    named = Beside.joined(_beside(model, sequence) for sequence in documents)
    weight, bias = missing(Beside.joined(asked), np.concatenate(wanted), named)
    model.look.weight.add_(torch.from_numpy(weight).to(model.look.weight.device))
    model.look.bias.add_(torch.from_numpy(bias).to(model.look.bias.device))


def _beside(model: Any, sequence: Laid) -> Beside:
    states, present = model.states(sequence), sequence.slots >= 0
    rows = model.embedding(states, sequence, present)
    return Beside(_array(model.looked_at(states, sequence, present)), _array(rows))


def _array(tensor: Tensor) -> Floats:
    found: Floats = tensor.float().cpu().numpy()
    return found


class _Frozen:
    """A bundle's two graphs, one document at a time: a row must not depend on its neighbours."""

    def __init__(self, bundle: Bundle) -> None:
        read = bundle.manifest.tokenizer
        self.preprocessor = Preprocessor(
            bundle.manifest.preprocessing,
            bundle.file(read.file),
            max_tokens=read.max_tokens,
            padding=read.padding,
        )
        self._layout = Layout(*self.preprocessor.markers, read.max_tokens)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        document = with_states(onnx.load(bundle.file("document.onnx"))).SerializeToString()
        self._image, self._document = (
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for model in (str(bundle.file("image.onnx")), document)
        )

    def tokens(self, picture: Picture) -> Floats:
        """Tokens (1, M, token_width)."""
        found: Floats = self._image.run([TOKENS], {"pixels": self.preprocessor.pixels([picture])})[0]
        return found

    def read(self, tokens: Floats, text: str = "") -> Beside:
        """A picture of these tokens, beside a text or alone."""
        parts: Parts = [0, self.preprocessor.words(text)] if text else [0]
        laid_out = Sequences.of([parts], self._layout)
        words = (laid_out.input_ids, laid_out.word_positions, laid_out.word_slots)
        fed = (*words, tokens, laid_out.token_slots(tokens.shape[1]))
        row, states = self._document.run([EMBEDDING, STATES], dict(zip(DOCUMENT_INPUTS, fed, strict=True)))
        length = laid_out.input_ids.shape[1]
        means = (tokens[..., : ModelConfig().width], states[:, :length], states[:, length:])
        return Beside(np.concatenate([part.mean(1) for part in means], axis=1), row)


def _told(what: str, things: Sequence[Any] | range) -> Iterator[Any]:
    for done, thing in enumerate(things):
        if done % 500 == 0:
            print(f"{what}: {done} of {len(things)}", flush=True)
        yield thing


def _named(frozen: _Frozen, folder: Path, record: Record) -> Beside:
    with Image.open(folder / record.image) as picture:
        pixels = plain(picture.convert("RGBA"), SIZE_PX)
    return frozen.read(frozen.tokens(pixels), record.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("training"))
    parser.add_argument("--out", type=Path, required=True, help="a folder for the new bundle")
    parser.add_argument("--triplets", type=int, default=TO_LOOK)
    parser.add_argument(
        "--mute", action="store_true", help="the judge of matches gets no say: cosine and agreement remain"
    )
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    frozen, triplets = _Frozen(bundle), Triplets(arguments.folder)
    texts, references, targets = [], [], []
    for i in _told("triplets", range(arguments.triplets)):
        found = triplets.triplet(SEED, i, SIZE_PX)
        texts.append(found.text)
        references.append(frozen.tokens(found.reference).astype(np.float16))
        targets.append(frozen.tokens(found.target).astype(np.float16))
    pictures = Beside.joined(
        frozen.read(tokens.astype(np.float32)) for tokens in _told("pictures", [*references, *targets])
    )
    heads = heads_of(onnx.load(bundle.file("document.onnx")))
    if arguments.mute:
        heads |= {name: 0 * heads[name] for name in ("itm.2.weight", "itm.2.bias")}
    width = ModelConfig().width
    weight, bias = fitted(pictures.read[:, :width], pictures.rows)
    weight = np.pad(weight, ((0, 0), (0, pictures.read.shape[1] - width)))
    half = refitted(bundle, heads | {"look.weight": weight, "look.bias": bias}, arguments.out, PROBES)
    frozen = _Frozen(half)
    queries = Beside.joined(
        frozen.read(tokens.astype(np.float32), text)
        for tokens, text in _told("queries", list(zip(references, texts, strict=True)))
    )
    records = sorted(read_records(arguments.folder, "train"), key=lambda record: record.sha256)
    named = Beside.joined(
        _named(frozen, arguments.folder, record) for record in _told("documents", records[:DOCUMENTS])
    )
    more, added = missing(queries, pictures.rows[len(targets) :], named)
    heads |= {"look.weight": weight + more, "look.bias": bias + added}
    print(refitted(half, heads, arguments.out, PROBES).encoder_id)


if __name__ == "__main__":
    main()
