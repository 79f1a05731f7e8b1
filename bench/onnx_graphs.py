# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""The graphs of `concept-bridge`: MiniLM, and EfficientNet-lite with the bridge to MiniLM's space inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.graphs import Affine, Floats, GraphBuilder, LayerWeights
from models.stem import convolutions

BLOCK = 32  # 8-bit weights that share a scale
_KINDS = ("weight", "bias")


class MiniLM:
    """A BERT encoder with mean pooling, from its published tensors (safetensors names)."""

    def __init__(self, tensors: Mapping[str, Floats], *, layers: int, heads: int, max_tokens: int) -> None:
        self._t = tensors
        self._layers = layers
        self._heads = heads
        self._max_tokens = max_tokens
        self._dim = tensors["embeddings.word_embeddings.weight"].shape[1]

    def model(self, *, quantised: bool) -> onnx.ModelProto:
        """input_ids, attention_mask (n, L) -> embedding (n, d)."""
        g = GraphBuilder(BLOCK if quantised else None)
        mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        away = g.op("Mul", g.op("Sub", mask, g.number(1)), g.number(1e4))
        away = g.op("Unsqueeze", away, g.integers(1, 2))  # (n, 1, 1, L): 0 or -10,000
        x = self._embeddings(g)
        for i in range(self._layers):
            layer = self._layer(f"encoder.layer.{i}.")
            attended = g.attention(x, away, layer, self._heads)
            x = g.norm(g.op("Add", x, attended), layer.attention_norm)
            wide = g.op("Gelu", g.linear(x, layer.up))
            x = g.norm(g.op("Add", x, g.linear(wide, layer.down)), layer.norm)
        g.unit(_mean(g, x, mask), axis=1, output="embedding")
        tokens = (TensorProto.INT64, ["batch", "length"])
        return g.model({"input_ids": tokens, "attention_mask": tokens}, {"embedding": ["batch", self._dim]})

    def _embeddings(self, g: GraphBuilder) -> str:
        t = self._t
        words = g.table(t["embeddings.word_embeddings.weight"], "input_ids")
        places = t["embeddings.position_embeddings.weight"] + t["embeddings.token_type_embeddings.weight"][:1]
        length = g.op("Shape", "input_ids", start=1, end=2)
        start, axis = g.integers(0), g.integers(0)
        here = g.op("Slice", g.constant(places[: self._max_tokens]), start, length, axis)
        return g.norm(g.op("Add", words, here), self._pair("embeddings.LayerNorm."))

    def _layer(self, name: str) -> LayerWeights:
        parts = [f"{name}attention.self.{part}." for part in ("query", "key", "value")]
        weight, bias = (np.concatenate([self._t[f"{part}{kind}"] for part in parts]) for kind in _KINDS)
        return LayerWeights(
            qkv=Affine(weight, bias),
            out=self._pair(f"{name}attention.output.dense."),
            attention_norm=self._pair(f"{name}attention.output.LayerNorm."),
            up=self._pair(f"{name}intermediate.dense."),
            down=self._pair(f"{name}output.dense."),
            norm=self._pair(f"{name}output.LayerNorm."),
        )

    def _pair(self, name: str) -> Affine:
        weight, bias = (self._t[f"{name}{kind}"] for kind in _KINDS)
        return Affine(weight, bias)


def _mean(g: GraphBuilder, x: str, mask: str) -> str:
    column = g.op("Unsqueeze", mask, g.integers(2))
    axis = g.integers(1)
    total = g.op("ReduceSum", g.op("Mul", x, column), axis, keepdims=0)
    return g.op("Div", total, g.op("ReduceSum", column, axis, keepdims=0))


@dataclass(frozen=True)
class Bridge:
    """From logits to the text space: the expected class row, over the most likely classes only."""

    class_rows: Floats  # (classes, d), already centred
    temperature: float
    top: int

    def append(self, g: GraphBuilder, logits: str) -> str:
        """softmax(logits / temperature) over the top classes, times their rows, at length one."""
        top = [f"top_{i}" for i in range(2)]
        g.nodes.append(helper.make_node("TopK", [logits, g.integers(self.top)], top, name="top"))
        last = g.integers(self.top - 1)
        least = g.op("Gather", top[0], last, axis=1)
        scaled = g.op("Div", logits, g.number(self.temperature))
        kept = g.op("Where", g.op("GreaterOrEqual", logits, least), scaled, g.number(-1e4))
        rows = g.op("Cast", g.constant(self.class_rows.astype(np.float16)), to=TensorProto.FLOAT)
        return g.unit(g.op("MatMul", g.op("Softmax", kept, axis=1), rows), axis=1, output="embedding")


def efficientnet(network: Any, bridge: Bridge, image_size: int, *, quantised: bool) -> onnx.ModelProto:
    """pixels (n, 3, S, S) -> embedding (n, d)."""
    g = GraphBuilder(BLOCK if quantised else None)
    head = convolutions(g, network, image_size)[-1]
    pooled = g.op("Flatten", g.op("GlobalAveragePool", head.value), axis=1)
    classifier = Affine(network._fc.weight.detach().numpy(), network._fc.bias.detach().numpy())
    bridge.append(g, g.linear(pooled, classifier))
    return g.model(
        {"pixels": (TensorProto.FLOAT, ["batch", 3, image_size, image_size])},
        {"embedding": ["batch", bridge.class_rows.shape[1]]},
    )
