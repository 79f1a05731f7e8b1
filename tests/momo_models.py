# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Small SharedEncoders with random weights, a stem for them, and torch's own answers for documents."""

from collections.abc import Sequence as Many
from dataclasses import replace
from zlib import crc32

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from models.config import ModelConfig
from models.front_ends import Features
from models.graphs import GraphBuilder
from models.momo import Sequence, SharedEncoder
from models.preprocess import Document, Picture, Preprocessor
from models.sequences import Layout, Part, Sequences
from tests.joint_bundle import tokenizer

Floats = NDArray[np.float32]

# 52 and 40 are no multiples of a block of 32 weights, nor is 30.
SMALL = ModelConfig(
    image_size=40, grid=4, features=52, pooled=40, classes=30, width=32, layers=2, heads=4, hidden=64,
    vocabulary=tokenizer().get_vocab_size(), max_words=40, dim=32, crowd=50,
)  # fmt: skip
PATCHES = replace(SMALL, front_end="patches", features=3 * 10**2, dim=24)


def random_model(config: ModelConfig, seed: int = 0, spread: float = 0.2) -> SharedEncoder:
    """Every weight drawn anew, so that none is zero and each one matters."""
    model = SharedEncoder(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            torch.manual_seed(crc32(f"{seed} {name}".encode()))  # so that a new weight changes no other
            tensor.copy_(torch.randn_like(tensor) * spread + name.endswith(("norm.weight", "scale")))
            if name == "front_end.skip.weight":
                tensor.mul_(0.1)  # a picture is neither quite a photograph nor quite a drawing
            if name == "look.weight":
                tensor.mul_(0.3)  # it adds to a row, and does not drown it
    return model


def small_stem(config: ModelConfig, seed: int = 0) -> onnx.ModelProto:
    """One convolution over squares of the picture; its pooled feature is the mean of the first channels."""
    g, random = GraphBuilder(), np.random.default_rng(seed)
    grid, side = config.grid, config.image_size // config.grid
    kernels = random.normal(size=(config.features, 3, side, side)).astype(np.float32) / side
    shown = g.op("Conv", "pixels", g.constant(kernels), strides=[side, side])
    shown = g.op(
        "Clip", shown, g.constant(np.array(0, np.float32)), g.constant(np.array(6, np.float32))
    )  # ReLU6
    flat = g.op("Reshape", shown, g.integers(0, config.features, grid**2))
    patches = g.op("Transpose", flat, output="patches", perm=[0, 2, 1])
    mean = g.op("ReduceMean", patches, g.integers(1), keepdims=0)
    g.op("Slice", mean, g.integers(0), g.integers(config.pooled), g.integers(1), output="pooled")
    return g.model(
        {"pixels": (TensorProto.FLOAT, ("batch", 3, config.image_size, config.image_size))},
        {"patches": ("batch", grid**2, config.features), "pooled": ("batch", config.pooled)},
    )


class Oracle:
    """What torch itself answers; a document at a time, so that nothing is padded."""

    def __init__(
        self, model: SharedEncoder, stem: onnx.ModelProto | None, preprocessor: Preprocessor
    ) -> None:
        self._model = model
        self._stem = stem and ort.InferenceSession(stem.SerializeToString())
        self._preprocessor = preprocessor
        self._layout = Layout(*preprocessor.markers, model.config.max_words)

    def embed(self, documents: Many[Document]) -> Floats:
        """Unit rows (n, dim)."""
        with torch.no_grad():
            return np.concatenate(
                [self._model.embed(self._sequence([document])).numpy() for document in documents]
            )

    def match(self, query: Document, candidates: Many[Document]) -> Floats:
        """Logits (n,)."""
        with torch.no_grad():
            return np.concatenate(
                [self._model.match(self._sequence([query, other])).numpy() for other in candidates]
            )

    def _sequence(self, sides: Many[Document]) -> Sequence:
        pictures = [picture for document in sides for picture in document.pictures]
        numbers = iter(range(len(pictures)))
        parts: list[list[Part]] = [
            [
                self._preprocessor.words(part) if isinstance(part, str) else next(numbers)
                for part in document.parts
            ]
            for document in sides
        ]
        if len(sides) == 1:
            found = Sequences.of(parts, self._layout)
        else:
            found = Sequences.of_pairs([(parts[0], parts[1])], self._layout)
        return Sequence.of(found, self._tokens(pictures))

    def _tokens(self, pictures: Many[Picture]) -> torch.Tensor:
        if not pictures:
            return torch.zeros(0, 1, self._model.config.token_width)
        tokens: torch.Tensor = self._model.front_end(self._features(self._preprocessor.normalised(pictures)))
        return tokens

    def _features(self, pixels: Floats) -> Features:
        if self._stem is not None:
            found = self._stem.run(["patches", "pooled"], {"pixels": pixels})
            return Features(*map(torch.from_numpy, found))
        side = self._model.config.image_size // self._model.config.grid
        squares = torch.nn.functional.unfold(torch.from_numpy(pixels), side, stride=side)
        return Features(squares.transpose(1, 2), torch.zeros(len(pixels), 0))
