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
from models.sequences import JUDGE, SLOTS

TOKENS = "tokens"
EMBEDDING, MATCH = "embedding", "match"
DOCUMENT_INPUTS = ("input_ids", "word_positions", "word_slots", "picture_tokens", "picture_slots")
_BLOCK = 128  # 8-bit weights that share a scale
_FAR = 1e4  # taken from the attention score of a token that is not read
_FLOOR = 1e-6  # a shorter row is not stretched to length one
_END = np.iinfo(np.int64).max  # of a slice that goes on to the last
# By slot, the last row for padding: the side a token is on (query, candidate, judge), and a one.
_SIDES = np.zeros((JUDGE + 2, 4), np.float32)
_SIDES[:SLOTS, 0] = _SIDES[SLOTS:JUDGE, 1] = _SIDES[JUDGE, 2] = _SIDES[:, 3] = 1
# What a token of each side (a row) adds to the score of what it reads; the last: what all of them take away.
_READS = _FAR * np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, -1]], np.float32)


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
    """pixels (n, 3, S, S) -> tokens (n, picture_tokens, token_width). The stem keeps the precision it has.

    Raises ValueError where the config has a stem and none is given, or the other way round.
    """
    if (stem is None) == (config.front_end == "stem"):
        raise ValueError(f"the front end is {config.front_end!r}, and a stem is {'not ' * (not stem)}given")
    g = GraphBuilder(_BLOCK if quantised else None, prefix="front_")
    tokens = {TOKENS: ("batch", config.picture_tokens, config.token_width)}
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
    sides = g.op("Gather", g.constant(_SIDES), slots)  # (n, T, 4)
    states = _states(g, config, weights, ranges, slots, sides)
    rows = _Rows(g, config, weights, states)
    columns = g.op("Transpose", sides, perm=[0, 2, 1])
    query, candidate, judge = (g.slice(columns, 1, side, side + 1) for side in range(3))  # (n, 1, T) each
    asked = rows.mean(query)
    g.op("Squeeze", asked, g.integers(1), output=EMBEDDING)
    # What follows is of a match alone; embedding does not run it (models.encoder).
    alike = g.op("MatMul", asked, g.op("Transpose", rows.mean(candidate), perm=[0, 2, 1]))
    found = _agreement(g, rows.tokens(), query, candidate)
    read = g.linear(g.op("MatMul", judge, states), weights.affine("itm.0"))
    logit = g.linear(g.op("Gelu", read), weights.affine("itm.2"))
    if config.front_end == "stem":
        logit = g.op("Mul", logit, rows.drawn(g.op("Add", query, candidate)))
    *scales, offset = weights.take("match_scale")
    for part, scale in zip((alike, found), scales, strict=True):
        logit = g.op("Add", logit, g.op("Mul", part, g.number(scale)))
    g.op("Squeeze", g.op("Add", logit, g.number(offset)), g.integers(1, 2), output=MATCH)
    words = (TensorProto.INT64, ("batch", "words"))
    tokens = (TensorProto.FLOAT, ("batch", "tokens", config.token_width))
    token_slots = (TensorProto.INT64, ("batch", "tokens"))
    inputs = zip(DOCUMENT_INPUTS, (words, words, words, tokens, token_slots), strict=True)
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
    seen = g.unit(seen, floor=_FLOOR)
    concepts = g.norm(g.op("Concat", concept, seen, axis=1), weights.affine("front_end.concept_norm"))
    normalised = _normalised(g, "patches", mean, scale)
    every = g.op("ReduceMean", normalised, g.integers(1), keepdims=1)
    photographic = g.op("Sigmoid", g.linear(every, weights.affine("front_end.photograph")))
    photographic = g.op("Add", g.op("Mul", photographic, g.number(1 - DRAWN)), g.number(DRAWN))
    concepts = g.op("Mul", concepts, photographic)
    patches = g.linear(normalised, weights.affine("front_end.patch"))
    shown = g.linear(seen, weights.affine("front_end.patch_concept"))
    patches = g.op("Add", patches, g.constant(weights.take("front_end.positions")))
    patches = g.sum_norm(patches, shown, weights.affine("front_end.patch_norm"))
    tokens = g.op("Concat", g.slice(concepts, 1, 0, 1), patches, axis=1)
    around = g.linear(concepts, weights.affine("front_end.skip"))
    g.op("Concat", tokens, around, output=TOKENS, axis=2)


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
    positions = g.op("Gather", g.constant(weights.take("word_positions.weight")), "word_positions")
    words = g.sum_norm(words, positions, weights.affine("word_norm"))
    pictures = "picture_tokens"
    if config.token_width > config.width:
        pictures = g.slice(pictures, 2, 0, config.width)
    # Padding's slot is -1: it reads the last row, and nothing reads it.
    parts, judge = np.split(weights.take("slots"), [SLOTS])
    placed = g.op("Gather", g.constant(np.concatenate([parts, parts, judge])), slots)
    x = g.op("Add", g.op("Concat", words, pictures, axis=1), placed)
    reads = g.op("MatMul", sides, g.constant(_READS))
    away = g.op("MatMul", reads, g.op("Transpose", sides, perm=[0, 2, 1]))
    away = g.op("Unsqueeze", away, g.integers(1))  # (n, 1, T, T)
    for i in range(config.layers):
        seen = ranges[i] if ranges else None
        x = g.transformer_layer(x, away, weights.layer(f"trunk.{i}"), config.heads, seen)
    return x


class _Rows:
    """Unit rows made of the trunk's states (n, T, width), and of the concepts that went around it."""

    def __init__(self, g: GraphBuilder, config: ModelConfig, weights: Weights, states: str) -> None:
        self._g = g
        self._config = config
        self._states = states
        self._itc = weights.affine("itc")
        if config.front_end == "stem":
            self._trust = weights.take("trust")  # of a picture alone, and of one beside words
            self._words = g.op("Shape", "input_ids", start=1, end=2)  # how many of the tokens are words

    def mean(self, side: str) -> str:
        """SharedEncoder.embedding of the tokens where side (n, 1, T) is one: (n, 1, dim), zero for none."""
        g = self._g
        # The sum of the states has the direction of their mean.
        rows = g.unit(g.linear(g.op("MatMul", side, self._states), self._itc), floor=_FLOOR)
        if self._config.front_end == "stem":
            said = g.op("Slice", side, g.integers(0), self._words, g.integers(2))
            words = g.op("ReduceSum", said, g.integers(2), keepdims=1)
            alone = g.op("LessOrEqual", words, g.number(MARKERS))
            trust = g.op("Where", alone, *map(g.number, self._trust))
            rows = g.op("Add", rows, g.op("Mul", self._concept(side), trust))
        return g.unit(rows, floor=_FLOOR)

    def drawn(self, side: str) -> str:
        """SharedEncoder.drawn of the pictures where side (n, 1, T) is one: (n, 1, 1)."""
        g = self._g
        length = g.op("ReduceL2", self._concept(side), g.integers(2), keepdims=1)
        return g.op("Sub", g.number(1), g.op("Min", length, g.number(1)))

    def _concept(self, side: str) -> str:
        """SharedEncoder.concept: (n, 1, dim)."""
        g, step = self._g, self._config.picture_tokens
        shown = g.op("Slice", side, self._words, g.integers(_END), g.integers(2), g.integers(step))
        concepts = g.op(
            "Slice", "picture_tokens", g.integers(0, self._config.width), g.integers(_END, _END),
            g.integers(1, 2), g.integers(step, 1),
        )  # fmt: skip
        pictures = g.op("Max", g.op("ReduceSum", shown, g.integers(2), keepdims=1), g.number(1))
        return g.op("Div", g.op("MatMul", shown, concepts), pictures)

    def tokens(self) -> str:
        """SharedEncoder.token_rows: (n, T, dim)."""
        g = self._g
        rows = g.unit(g.linear(self._states, self._itc), floor=_FLOOR)
        if self._config.front_end == "stem":
            dim, start, last = self._config.dim, g.integers(0), g.integers(_END)
            words = g.op("Slice", rows, start, self._words, g.integers(1))
            patches = g.op("Slice", rows, self._words, last, g.integers(1))
            concepts = g.slice("picture_tokens", 2, self._config.width, _END)
            concepts = g.op("Reshape", concepts, g.integers(0, -1, self._config.picture_tokens, dim))
            concepts = g.op("Add", concepts, g.slice(concepts, 2, 0, 1))
            concepts = g.op(
                "Mul", g.op("Reshape", concepts, g.integers(0, -1, dim)), g.number(self._trust[0])
            )
            rows = g.op("Concat", words, g.op("Add", patches, concepts), axis=1)
        return g.unit(rows, floor=_FLOOR)


def _agreement(g: GraphBuilder, tokens: str, query: str, candidate: str) -> str:
    """momo.agreement (n, 1, 1) of token rows (n, T, dim); query, candidate (n, 1, T) say which count."""
    cosines = g.op("MatMul", tokens, g.op("Transpose", tokens, perm=[0, 2, 1]))
    shown = g.op("Cast", candidate, to=TensorProto.BOOL)
    nearest = g.op("ReduceMax", g.op("Where", shown, cosines, g.number(-1)), g.integers(2), keepdims=1)
    count = g.op("Max", g.op("ReduceSum", query, g.integers(2), keepdims=1), g.number(1))
    return g.op("Div", g.op("MatMul", query, nearest), count)
