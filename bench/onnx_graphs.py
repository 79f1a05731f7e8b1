# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""ONNX graphs written node by node: MiniLM and EfficientNet-lite, with the pooling and the bridge inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
OPSET = 20


@dataclass
class GraphBuilder:
    """Collects nodes and constants; every method returns the name of the value it made."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        outputs = [f"split_{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [value], outputs, axis=axis, num_outputs=parts))
        return outputs

    def constant(self, array: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def unit(self, rows: str) -> str:
        """Rows (n, d) at length one, and named as the graph's output."""
        length = self.op("ReduceL2", rows, self.constant(np.array([1])), keepdims=1)
        floor = self.number(1e-12)
        self.nodes.append(helper.make_node("Div", [rows, self.op("Max", length, floor)], ["embedding"]))
        return "embedding"

    def model(self, inputs: Mapping[str, tuple[int, Sequence[int | str]]], dim: int) -> onnx.ModelProto:
        """The checked model; inputs maps a name to its element type and shape."""
        values = [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()]
        output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])
        graph = helper.make_graph(self.nodes, "graph", values, [output], self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="momoseek")
        onnx.checker.check_model(model)
        return model


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
        self._quantised = quantised
        self._g = g = GraphBuilder()
        mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
        away = g.op("Mul", g.op("Sub", mask, g.number(1)), g.number(1e4))
        away = g.op("Unsqueeze", away, g.constant(np.array([1, 2])))  # (n, 1, 1, L): 0 or -10,000
        x = self._embeddings()
        for i in range(self._layers):
            x = self._layer(f"encoder.layer.{i}.", x, away)
        g.unit(self._mean(x, mask))
        shape = ["batch", "length"]
        return g.model(
            {"input_ids": (TensorProto.INT64, shape), "attention_mask": (TensorProto.INT64, shape)}, self._dim
        )

    def _embeddings(self) -> str:
        g, t = self._g, self._t
        table = t["embeddings.word_embeddings.weight"]
        if self._quantised:
            codes, scales = int8_rows(table)
            words = g.op("Gather", g.constant(codes), "input_ids")
            words = g.op("Cast", words, to=TensorProto.FLOAT)
            words = g.op("Mul", words, g.op("Gather", g.constant(scales), "input_ids"))
        else:
            words = g.op("Gather", g.constant(table), "input_ids")
        places = t["embeddings.position_embeddings.weight"] + t["embeddings.token_type_embeddings.weight"][:1]
        length = g.op("Shape", "input_ids", start=1, end=2)
        start, axis = g.constant(np.array([0])), g.constant(np.array([0]))
        here = g.op("Slice", g.constant(places[: self._max_tokens]), start, length, axis)
        return self._norm("embeddings.LayerNorm.", g.op("Add", words, here))

    def _layer(self, name: str, x: str, away: str) -> str:
        g = self._g
        query, key, value = (
            self._projection(f"{name}attention.self.{part}.") for part in ("query", "key", "value")
        )
        scale = np.float32((self._dim // self._heads) ** -0.5)
        weight = np.concatenate([query[0] * scale, key[0], value[0]])
        bias = np.concatenate([query[1] * scale, key[1], value[1]])
        parts = g.split(self._linear(x, weight, bias), 3, axis=2)
        q, k, v = (self._to_heads(part, order) for part, order in zip(parts, ("q", "k", "q"), strict=True))
        weights = g.op("Softmax", g.op("Add", g.op("MatMul", q, k), away), axis=3)
        mixed = g.op("Transpose", g.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", mixed, g.constant(np.array([0, 0, self._dim])))
        out = self._linear(mixed, *self._projection(f"{name}attention.output.dense."))
        x = self._norm(f"{name}attention.output.LayerNorm.", g.op("Add", x, out))
        wide = g.op("Gelu", self._linear(x, *self._projection(f"{name}intermediate.dense.")))
        out = self._linear(wide, *self._projection(f"{name}output.dense."))
        return self._norm(f"{name}output.LayerNorm.", g.op("Add", x, out))

    def _projection(self, name: str) -> tuple[Floats, Floats]:
        return self._t[f"{name}weight"], self._t[f"{name}bias"]

    def _to_heads(self, x: str, order: str) -> str:
        shape = np.array([0, 0, self._heads, self._dim // self._heads])
        perm = [0, 2, 3, 1] if order == "k" else [0, 2, 1, 3]
        return self._g.op("Transpose", self._g.op("Reshape", x, self._g.constant(shape)), perm=perm)

    def _linear(self, x: str, weight: Floats, bias: Floats) -> str:
        return (int8_linear if self._quantised else linear)(self._g, x, weight, bias)

    def _norm(self, name: str, x: str) -> str:
        weight, bias = (self._g.constant(self._t[f"{name}{part}"]) for part in ("weight", "bias"))
        return self._g.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-12)

    def _mean(self, x: str, mask: str) -> str:
        g = self._g
        column = g.op("Unsqueeze", mask, g.constant(np.array([2])))
        axis = g.constant(np.array([1]))
        total = g.op("ReduceSum", g.op("Mul", x, column), axis, keepdims=0)
        return g.op("Div", total, g.op("ReduceSum", column, axis, keepdims=0))


def int8_rows(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 codes (n, d) and one scale (n, 1) per row."""
    scales = np.abs(table).max(axis=1, keepdims=True) / 127
    return np.rint(table / scales).astype(np.int8), scales.astype(np.float32)


def linear(g: GraphBuilder, x: str, weight: Floats, bias: Floats) -> str:
    """x (…, in) @ weight (out, in) transposed + bias."""
    return g.op("Add", g.op("MatMul", x, g.constant(weight.T)), g.constant(bias))


def int8_linear(g: GraphBuilder, x: str, weight: Floats, bias: Floats, *, block: int = 32) -> str:
    """A linear layer with 8-bit weights, and activations quantised per token and block while it runs.

    MatMulNBits at accuracy level 4 quantises each token's values by themselves, in blocks, so a row does not
    depend on its neighbours in the batch, as it would with one scale per tensor.
    """
    out, inner = weight.shape
    blocks = weight.reshape(out, inner // block, block)
    scales = np.abs(blocks).max(axis=2, keepdims=True) / 127
    codes = (np.rint(blocks / scales) + 128).astype(np.uint8)
    return g.op(
        "MatMulNBits", x, g.constant(codes), g.constant(scales.astype(np.float32).reshape(-1)), "", "",
        g.constant(bias), domain="com.microsoft", K=inner, N=out, bits=8, block_size=block, accuracy_level=4,
    )  # fmt: skip


@dataclass(frozen=True)
class Bridge:
    """From logits to the text space: the expected class row, over the most likely classes only."""

    class_rows: Floats  # (classes, d), already centred
    temperature: float
    top: int

    def append(self, g: GraphBuilder, logits: str) -> str:
        """softmax(logits / temperature) over the top classes, times their rows, at length one."""
        top = [f"top_{i}" for i in range(2)]
        g.nodes.append(helper.make_node("TopK", [logits, g.constant(np.array([self.top]))], top, name="top"))
        last = g.constant(np.array([self.top - 1]))
        least = g.op("Gather", top[0], last, axis=1)
        scaled = g.op("Div", logits, g.number(self.temperature))
        kept = g.op("Where", g.op("GreaterOrEqual", logits, least), scaled, g.number(-1e4))
        rows = g.op("Cast", g.constant(self.class_rows.astype(np.float16)), to=TensorProto.FLOAT)
        return g.unit(g.op("MatMul", g.op("Softmax", kept, axis=1), rows))


def efficientnet(network: Any, bridge: Bridge, image_size: int, *, quantised: bool) -> onnx.ModelProto:
    """pixels (n, 3, S, S) -> embedding (n, d); batch norms are folded into the convolutions before them."""
    g = GraphBuilder()
    size = image_size

    def conv(x: str, layer: Any, norm: Any, *, clip: bool) -> str:
        nonlocal size
        weight, bias = fold(layer.weight, norm)
        stride, kernel = layer.stride[0], weight.shape[2]
        pads = same_padding(size, kernel, stride)
        size = -(-size // stride)
        y = g.op(
            "Conv", x, g.constant(weight), g.constant(bias),
            strides=[stride, stride], pads=pads, group=layer.groups, kernel_shape=[kernel, kernel],
        )  # fmt: skip
        return g.op("Clip", y, zero, six) if clip else y

    zero, six = g.number(0), g.number(6)
    x = conv("pixels", network._conv_stem, network._bn0, clip=True)
    for block in network._blocks:
        y = x
        if hasattr(block, "_expand_conv"):
            y = conv(y, block._expand_conv, block._bn0, clip=True)
        y = conv(y, block._depthwise_conv, block._bn1, clip=True)
        y = conv(y, block._project_conv, block._bn2, clip=False)
        args = block._block_args
        residual = (
            args.id_skip
            and block._depthwise_conv.stride[0] == 1
            and args.input_filters == args.output_filters
        )
        x = g.op("Add", x, y) if residual else y
    x = conv(x, network._conv_head, network._bn1, clip=True)
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x), axis=1)
    weight, bias = network._fc.weight.detach().numpy(), network._fc.bias.detach().numpy()
    bridge.append(g, (int8_linear if quantised else linear)(g, pooled, weight, bias))
    return g.model(
        {"pixels": (TensorProto.FLOAT, ["batch", 3, image_size, image_size])}, bridge.class_rows.shape[1]
    )


def fold(weight: Any, norm: Any) -> tuple[Floats, Floats]:
    """A convolution's weight and bias with the batch norm after it multiplied in."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded: Floats = (weight * gain.reshape(-1, 1, 1, 1)).detach().numpy()
    bias: Floats = (norm.bias - norm.running_mean * gain).detach().numpy()
    return folded, bias


def same_padding(size: int, kernel: int, stride: int) -> list[int]:
    """TensorFlow's "same": the odd pixel goes to the bottom and right."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return [total // 2, total // 2, total - total // 2, total - total // 2]
