# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""A SharedEncoder's two ONNX graphs: pictures to tokens, and sequences of words and tokens to answers.

The words and the trunk are in the document graph alone, the front end in the image graph alone: each weight
is stored and loaded once, whatever is embedded.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, compose

from models.config import DRAWN, MARKERS, ModelConfig
from models.graphs import Affine, Floats, GraphBuilder, LayerRanges, LayerWeights
from models.sequences import SLOTS

TOKENS = "tokens"
EMBEDDING, MATCH = "embedding", "match"
DOCUMENT_INPUTS = ("input_ids", "word_slots", "picture_tokens", "picture_slots")
_BLOCK = 128  # 8-bit weights that share a scale
_FAR = 1e4  # taken from the attention score of a padding token
_FLOOR = 1e-6  # a shorter row is not stretched to length one
# What a sequence is pooled over, by the slots of its tokens: all of it, the query, the candidate.
_SIDES = np.array([[0, 2 * SLOTS], [0, SLOTS], [SLOTS, 2 * SLOTS]])


class Weights:
    """A model's tensors by their names in torch, each given away once."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self._tensors = dict(tensors)

    @property
    def left(self) -> set[str]:
        """The names of those that no graph took."""
        return set(self._tensors)

    def take(self, name: str) -> Floats:
        """One tensor; raises KeyError where there is none, or a graph has it already."""
        return self._tensors.pop(name)

    def affine(self, name: str) -> Affine:
        """The weight and, where there is one, the bias of a linear layer or a norm."""
        return Affine(self.take(f"{name}.weight"), self._tensors.pop(f"{name}.bias", None))

    def layer(self, name: str) -> LayerWeights:
        """A layer of the trunk."""
        return LayerWeights(*(self.affine(f"{name}.{part}") for part in LayerWeights._fields))


def image_graph(
    config: ModelConfig, weights: Weights, stem: onnx.ModelProto | None, *, quantised: bool
) -> onnx.ModelProto:
    """pixels (n, 3, S, S) -> tokens (n, picture_tokens, width). The stem keeps the precision it has.

    Raises ValueError where the config has a stem and none is given, or the other way round.
    """
    if (stem is None) == (config.front_end == "stem"):
        raise ValueError(f"the front end is {config.front_end!r}, and a stem is {'not ' * (not stem)}given")
    g = GraphBuilder(_BLOCK if quantised else None, prefix="front_")
    tokens = {TOKENS: ("batch", config.picture_tokens, config.width)}
    if stem is None:
        _squares(g, config, weights)
        pixels = ("batch", 3, config.image_size, config.image_size)
        return g.model({"pixels": (TensorProto.FLOAT, pixels)}, tokens)
    _concept_and_patches(g, config, weights)
    features = {
        "patches": (TensorProto.FLOAT, ("batch", config.grid**2, config.features)),
        "pooled": (TensorProto.FLOAT, ("batch", config.pooled)),
    }
    return compose.merge_models(stem, g.model(features, tokens), [(name, name) for name in features])


def document_graph(
    config: ModelConfig, weights: Weights, ranges: Sequence[LayerRanges] | None
) -> onnx.ModelProto:
    """A batch as models.sequences lays it out -> embedding (n, dim), unit rows, and match (n,), logits.

    With what each layer of the trunk has been seen to read the weights have 8 bits, else they are float32.
    """
    g = GraphBuilder(_BLOCK if ranges else None)
    slots = g.op("Concat", "word_slots", "picture_slots", axis=1)
    sides = _sides(g, slots)
    states = _states(g, config, weights, ranges, slots, sides)
    rows = _rows(g, config, weights, states, sides)
    whole, query, candidate = g.split(rows, 3, axis=1)
    g.op("Squeeze", whole, g.integers(1), output=EMBEDDING)
    alike = g.op("ReduceSum", g.op("Mul", query, candidate), g.integers(1, 2), keepdims=0)
    scale, offset = weights.take("match_scale")
    alike = g.op("Add", g.op("Mul", alike, g.number(scale)), g.number(offset))
    first = g.op("Gather", states, g.integers(0), axis=1)
    judged = g.linear(g.op("Gelu", g.linear(first, weights.affine("itm.0"))), weights.affine("itm.2"))
    g.op("Add", g.op("Squeeze", judged, g.integers(1, 2)), alike, output=MATCH)
    words = (TensorProto.INT64, ("batch", "words"))
    tokens = (TensorProto.FLOAT, ("batch", "tokens", config.width))
    token_slots = (TensorProto.INT64, ("batch", "tokens"))
    inputs = zip(DOCUMENT_INPUTS, (words, words, tokens, token_slots), strict=True)
    return g.model(dict(inputs), {EMBEDDING: ("batch", config.dim), MATCH: ("batch",)})


def _squares(g: GraphBuilder, config: ModelConfig, weights: Weights) -> None:
    """PatchFrontEnd, from pixels."""
    grid, side = config.grid, config.image_size // config.grid
    squares = g.op("Reshape", "pixels", g.integers(0, 3, grid, side, grid, side))
    squares = g.op("Transpose", squares, perm=[0, 2, 4, 1, 3, 5])
    squares = g.op("Reshape", squares, g.integers(0, grid**2, config.features))
    mean, scale = weights.take("front_end.mean"), weights.take("front_end.scale")
    patches = g.linear(_normalised(g, squares, mean, scale), weights.affine("front_end.patch"))
    patches = g.op("Add", patches, g.constant(weights.take("front_end.positions")))
    g.norm(patches, weights.affine("front_end.patch_norm"), output=TOKENS)


def _concept_and_patches(g: GraphBuilder, config: ModelConfig, weights: Weights) -> None:
    """StemFrontEnd, from a stem's features."""
    mean, scale = weights.take("front_end.mean"), weights.take("front_end.scale")
    pooled = g.op("Unsqueeze", "pooled", g.integers(1))  # as one more patch
    whole, seen = _expected(g, config, weights, pooled)
    shares = weights.take("front_end.shares")
    direct = _normalised(g, pooled, mean[: config.pooled], scale[: config.pooled])
    direct = g.unit(g.linear(direct, weights.affine("front_end.direct")), floor=_FLOOR)
    parts = g.unit(g.op("ReduceMean", seen, g.integers(1), keepdims=1), floor=_FLOOR)
    concept = g.op("Add", g.unit(whole, floor=_FLOOR), g.op("Mul", parts, g.number(shares[0])))
    concept = g.op("Add", concept, g.op("Mul", direct, g.number(shares[1])))
    concept = g.norm(concept, weights.affine("front_end.concept_norm"))
    normalised = _normalised(g, "patches", mean, scale)
    every = g.op("ReduceMean", normalised, g.integers(1), keepdims=1)
    photographic = g.op("Sigmoid", g.linear(every, weights.affine("front_end.photograph")))
    photographic = g.op("Add", g.op("Mul", photographic, g.number(1 - DRAWN)), g.number(DRAWN))
    concept = g.op("Mul", concept, photographic)
    patches = g.linear(normalised, weights.affine("front_end.patch"))
    shown = g.linear(g.unit(seen, floor=_FLOOR), weights.affine("front_end.patch_concept"))
    patches = g.op("Add", patches, g.constant(weights.take("front_end.positions")))
    patches = g.sum_norm(patches, shown, weights.affine("front_end.patch_norm"))
    g.op("Concat", concept, patches, output=TOKENS, axis=1)


def _normalised(g: GraphBuilder, x: str, mean: Floats, scale: Floats) -> str:
    return g.op("Mul", g.op("Sub", x, g.constant(mean)), g.constant(scale))


def _expected(g: GraphBuilder, config: ModelConfig, weights: Weights, pooled: str) -> tuple[str, str]:
    """Expected class rows of the whole picture (n, 1, dim) and of each patch (n, grid², dim).

    The classifier reads pooled (n, 1, pooled) as one more patch: its weights are there once.
    """
    features = g.op("Concat", pooled, g.slice("patches", 2, 0, config.pooled), axis=1)
    classifier = Affine(weights.take("front_end.class_weight"), weights.take("front_end.class_bias"))
    whole_scale, patch_scale = weights.take("front_end.logit_scale")
    scales = np.full((config.picture_tokens, 1), patch_scale, np.float32)
    scales[0] = whole_scale
    shares = g.op("Softmax", g.op("Mul", _classified(g, features, classifier), g.constant(scales)), axis=2)
    whole, patches = g.slice(shares, 1, 0, 1), g.slice(shares, 1, 1, config.picture_tokens)
    tables = (weights.take(f"front_end.{name}_rows") for name in ("whole", "patch"))
    rows = [
        g.linear(part, Affine(table.T, None)) for part, table in zip((whole, patches), tables, strict=True)
    ]
    return rows[0], rows[1]


def _classified(g: GraphBuilder, features: str, classifier: Affine) -> str:
    """Logits of means of what ReLU6 gave, so that 8 bits have a range to rely on: the stem's own."""
    if g.block is None:
        return g.linear(features, classifier)
    step = 6 / 255
    weight, bias = classifier
    return g.integer_linear(g.codes(features, step, 0), 0, Affine(weight * np.float32(step), bias))


def _states(
    g: GraphBuilder,
    config: ModelConfig,
    weights: Weights,
    ranges: Sequence[LayerRanges] | None,
    slots: str,
    sides: str,
) -> str:
    """SharedEncoder.states: (n, T, width)."""
    words = g.table(weights.take("words.weight"), "input_ids")
    length = g.op("Shape", "input_ids", start=1, end=2)
    positions = g.constant(weights.take("word_positions.weight"))
    words = g.op("Add", words, g.op("Slice", positions, g.integers(0), length, g.integers(0)))
    words = g.norm(words, weights.affine("word_norm"))
    places = g.constant(weights.take("slots"))
    placed = g.op("Gather", places, g.op("Max", slots, g.integers(0)))
    x = g.op("Add", g.op("Concat", words, "picture_tokens", axis=1), placed)
    away = g.op("Mul", g.op("Sub", g.slice(sides, 1, 0, 1), g.number(1)), g.number(_FAR))
    away = g.op("Unsqueeze", away, g.integers(1))  # (n, 1, 1, T)
    for i in range(config.layers):
        seen = ranges[i] if ranges else None
        x = g.transformer_layer(x, away, weights.layer(f"trunk.{i}"), config.heads, seen)
    return x


def _rows(g: GraphBuilder, config: ModelConfig, weights: Weights, states: str, sides: str) -> str:
    """SharedEncoder.embedding of the three sides at once: (n, 3, dim), zero for a side without tokens."""
    count = g.op("Max", g.op("ReduceSum", sides, g.integers(2), keepdims=1), g.number(1))
    pooled = g.op("Div", g.op("MatMul", sides, states), count)
    rows = g.unit(g.linear(pooled, weights.affine("itc")), floor=_FLOOR)
    if config.front_end == "stem":
        every = (g.integers(0), g.integers(np.iinfo(np.int64).max), g.integers(1))
        step = g.integers(config.picture_tokens)
        present = _sides(g, g.op("Slice", "picture_slots", *every, step))
        concepts = g.op("MatMul", present, g.op("Slice", "picture_tokens", *every, step))
        pictures = g.op("Max", g.op("ReduceSum", present, g.integers(2), keepdims=1), g.number(1))
        concepts = g.linear(g.op("Div", concepts, pictures), weights.affine("skip"))
        words = g.op("ReduceSum", _sides(g, "word_slots"), g.integers(2), keepdims=1)
        trust = g.number(MARKERS * float(weights.take("trust")))
        weight = g.op("Div", trust, g.op("Max", words, g.number(MARKERS)))
        rows = g.op("Add", rows, g.op("Mul", concepts, weight))
    return g.unit(rows, floor=_FLOOR)


def _sides(g: GraphBuilder, slots: str) -> str:
    """Which side each token is on, of its slot (n, T): ones and zeros (n, 3, T)."""
    slots = g.op("Unsqueeze", slots, g.integers(1))
    low, high = (g.constant(bound[:, None]) for bound in _SIDES.T)
    inside = g.op("And", g.op("GreaterOrEqual", slots, low), g.op("Less", slots, high))
    return g.op("Cast", inside, to=TensorProto.FLOAT)
