# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""A SharedEncoder's first ONNX graph: pixels to the tokens that its trunk reads."""

import numpy as np
import onnx
from onnx import TensorProto, compose

from models.config import DRAWN, ModelConfig
from models.graphs import BLOCK, FLOOR, Affine, Floats, GraphBuilder, Weights

TOKENS = "tokens"


def image_graph(
    config: ModelConfig, weights: Weights, stem: onnx.ModelProto | None, *, quantised: bool
) -> onnx.ModelProto:
    """pixels (n, 3, S, S) -> tokens (n, picture_tokens, token_width). The stem keeps the precision it has.

    Raises ValueError where the config has a stem and none is given, or the other way round.
    """
    if (stem is None) == (config.front_end == "stem"):
        raise ValueError(f"the front end is {config.front_end!r}, and a stem is {'not ' * (not stem)}given")
    g = GraphBuilder(BLOCK if quantised else None, prefix="front_")
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
    direct = g.unit(g.linear(direct, weights.affine("front_end.direct")), floor=FLOOR)
    concept = plus_mean(g, whole, seen, shares[0])
    concept = g.op("Add", concept, g.op("Mul", direct, g.number(shares[1])))
    seen = g.unit(seen, floor=FLOOR)
    features = g.slice("patches", 2, 0, config.pooled)
    features = _normalised(g, features, mean[: config.pooled], scale[: config.pooled])
    met = g.unit(g.linear(features, weights.affine("front_end.scene")), floor=FLOOR)
    concept = plus_mean(g, concept, met, shares[2])
    concepts = g.op("Concat", concept, g.op("Add", seen, met), axis=1)
    concepts = g.norm(concepts, weights.affine("front_end.concept_norm"))
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


def plus_mean(g: GraphBuilder, concept: str, patches: str, share: float) -> str:
    """A concept (n, 1, dim) and a share of the unit mean of what patches (n, grid², dim) say."""
    mean = g.unit(g.op("ReduceMean", patches, g.integers(1), keepdims=1), floor=FLOOR)
    return g.op("Add", concept, g.op("Mul", mean, g.number(share)))


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
