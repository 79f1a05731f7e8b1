# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""ONNX graphs written node by node, in float32 or with 8-bit weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Shape = Sequence[int | str]
OPSET = 20
_CODES = 127  # the largest of an 8-bit weight, and of a 7-bit activation
_GELU_LEAST = -0.17
_BELOW_ZERO = 32  # codes for the negative outputs of GELU


class Affine(NamedTuple):
    """A linear layer's weight (out, in) and bias (out,), or a norm's two vectors (width,)."""

    weight: Floats
    bias: Floats | None


class LayerWeights(NamedTuple):
    """One layer of a BERT encoder; qkv holds query, key and value one above the other."""

    qkv: Affine
    out: Affine
    attention_norm: Affine
    up: Affine
    down: Affine
    norm: Affine


@dataclass
class GraphBuilder:
    """Collects nodes and constants; every method returns the name of the value it made."""

    block: int | None = None  # this many weights share a scale in 8 bits; without it they are float32
    prefix: str = ""  # of every name, for a graph that is joined to another
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node; `output` names its value where that is an output of the graph."""
        name = "" if output else f"{self.prefix}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        outputs = [f"{self.prefix}split_{len(self.nodes)}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [value], outputs, axis=axis, num_outputs=parts))
        return outputs

    def constant(self, array: NDArray[Any]) -> str:
        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Axes, or a shape."""
        return self.constant(np.array(values))

    def table(self, rows: Floats, numbers: str) -> str:
        """The rows (n, d) at these numbers (…); in 8 bits each row has a scale of its own."""
        if self.block is None:
            return self.op("Gather", self.constant(rows), numbers)
        scales = _scales(rows, axis=1)
        codes = self.constant(np.rint(rows / scales).astype(np.int8))
        found = self.op("Cast", self.op("Gather", codes, numbers), to=TensorProto.FLOAT)
        return self.op("Mul", found, self.op("Gather", self.constant(scales), numbers))

    def linear(self, x: str, layer: Affine) -> str:
        """x (…, in) @ weight transposed + bias; a single output is never quantised.

        MatMulNBits at accuracy level 4 quantises each row's values by themselves, in blocks, so a row does
        not depend on its neighbours in the batch, as it would with one scale per tensor.
        """
        if self.block is None or len(layer.weight) == 1:
            product = self.op("MatMul", x, self.constant(layer.weight.T))
            return product if layer.bias is None else self.op("Add", product, self.constant(layer.bias))
        out, inner = layer.weight.shape
        blocks = np.pad(layer.weight, ((0, 0), (0, -inner % self.block))).reshape(out, -1, self.block)
        scales = _scales(blocks, axis=2)
        codes = (np.rint(blocks / scales) + 128).astype(np.uint8)
        weights = self.constant(codes), self.constant(scales.reshape(-1))
        bias = () if layer.bias is None else ("", "", self.constant(layer.bias))
        return self.op(
            "MatMulNBits", x, *weights, *bias, domain="com.microsoft",
            K=inner, N=out, bits=8, block_size=self.block, accuracy_level=4,
        )  # fmt: skip

    def norm(self, x: str, layer: Affine, *, output: str = "") -> str:
        """Layer normalisation over the last axis."""
        constants = [self.constant(values) for values in layer if values is not None]
        return self.op("LayerNormalization", x, *constants, output=output, axis=-1, epsilon=1e-12)

    def sum_norm(self, x: str, y: str, layer: Affine) -> str:
        """Layer normalisation of x + y: one node, and four times as fast as two."""
        constants = [self.constant(values) for values in layer if values is not None]
        return self.op("SkipLayerNormalization", x, y, *constants, domain="com.microsoft", epsilon=1e-12)

    def unit(self, rows: str, *, axis: int = -1, floor: float = 1e-12, output: str = "") -> str:
        """Length one along the axis; what is shorter than floor is divided by floor."""
        length = self.op("ReduceL2", rows, self.integers(axis), keepdims=1)
        return self.op("Div", rows, self.op("Max", length, self.number(floor)), output=output)

    def attention(self, x: str, away: str, layer: LayerWeights, heads: int) -> str:
        """Self-attention of x (n, L, width); away (n, 1, 1, L) is added to the scores."""
        width = len(layer.out.weight)

        def to_heads(part: str, *perm: int) -> str:
            shape = self.integers(0, 0, heads, width // heads)
            return self.op("Transpose", self.op("Reshape", part, shape), perm=perm)

        query, key, value = self.split(self.linear(x, _scaled_queries(layer.qkv, heads)), 3, axis=2)
        q, k, v = to_heads(query, 0, 2, 1, 3), to_heads(key, 0, 2, 3, 1), to_heads(value, 0, 2, 1, 3)
        weights = self.op("Softmax", self.op("Add", self.op("MatMul", q, k), away), axis=3)
        mixed = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self.linear(self.op("Reshape", mixed, self.integers(0, 0, width)), layer.out)

    def transformer_layer(self, x: str, away: str, layer: LayerWeights, heads: int) -> str:
        """Self-attention and the feed-forward part, each with a norm after its residual sum."""
        x = self.sum_norm(x, self.attention(x, away, layer, heads), layer.attention_norm)
        return self.sum_norm(x, self._feed_forward(x, layer), layer.norm)

    def model(self, inputs: Mapping[str, tuple[int, Shape]], outputs: Mapping[str, Shape]) -> onnx.ModelProto:
        """The checked model; inputs are element types and shapes by name, outputs (float32) are shapes."""
        fed = [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()]
        read = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, spec) for name, spec in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "graph", fed, read, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="momoseek")
        onnx.checker.check_model(model)
        return model

    def _feed_forward(self, x: str, layer: LayerWeights) -> str:
        """Two thirds of a layer's work: in 8 bits by the fastest product there is, not the most exact one."""
        if self.block is None:
            return self.linear(self.op("Gelu", self.linear(x, layer.up)), layer.down)
        largest = self.op("ReduceMax", self.op("Abs", x), self.integers(-1), keepdims=1)
        wide = self.op("Gelu", self._integer_linear(x, largest, layer.up, zero=_CODES // 2 + 1))
        shares = _balance(layer.up.weight, layer.down.weight)
        wide = self.op("Mul", wide, self.constant(shares))
        # As many codes as lie below zero must reach to the least value.
        least = -_GELU_LEAST * shares.max()
        largest = self.op("ReduceMax", wide, self.integers(-1), keepdims=1)
        largest = self.op("Max", largest, self.number(least * (_CODES - _BELOW_ZERO) / _BELOW_ZERO))
        down = Affine(layer.down.weight / shares, layer.down.bias)
        return self._integer_linear(wide, largest, down, zero=_BELOW_ZERO)

    def _integer_linear(self, x: str, largest: str, layer: Affine, *, zero: int) -> str:
        """x (…, in) @ weight transposed + bias, with one scale for each row of x and each output.

        largest (…, 1) gets the highest code of its row. Codes of x have 7 bits, those of weights 8: on CPUs
        with AVX2 but no VNNI, products are summed in pairs in 16 bits, which 2 · 127 · 127 does not overflow.
        Products of 19 rows take 0.45 of the time of MatMulNBits (one core with VNNI).
        """
        scales = _scales(layer.weight, axis=1)
        weights = np.rint(layer.weight / scales).astype(np.int8).T
        levels = _CODES - zero
        steps = self.op("Mul", x, self.op("Div", self.number(levels), largest))
        codes = self.op("Cast", self.op("Add", steps, self.number(zero + 0.5)), to=TensorProto.UINT8)
        product = self.op(
            "MatMulIntegerToFloat", codes, self.constant(weights), self.number(1 / levels),
            self.constant(scales[:, 0]), self.constant(np.array(zero, np.uint8)), domain="com.microsoft",
        )  # fmt: skip
        scaled = self.op("Mul", product, largest)
        return scaled if layer.bias is None else self.op("Add", scaled, self.constant(layer.bias))


def _scaled_queries(qkv: Affine, heads: int) -> Affine:
    """The projection with 1/sqrt(width of a head), of the attention scores, multiplied into its queries."""
    width = qkv.weight.shape[1]
    scales = np.ones(3 * width, np.float32)
    scales[:width] = (width // heads) ** -0.5
    return Affine(qkv.weight * scales[:, None], None if qkv.bias is None else qkv.bias * scales)


def _balance(up: Floats, down: Floats) -> Floats:
    """What to multiply hidden units (hidden,) with, and to divide the weights that read them by.

    SmoothQuant (Xiao et al. 2022, arXiv 2211.10438) at one half: a unit's range is shared between its values
    and its weights. The length of the weights that make a unit stands for its values, which were not seen.
    """
    made = np.linalg.norm(up, axis=1)
    read = np.abs(down).max(axis=0)
    shares: Floats = np.sqrt(np.maximum(read, 1e-6) / np.maximum(made, 1e-6)).astype(np.float32)
    return shares / np.median(shares)


def _scales(values: Floats, axis: int) -> Floats:
    """What one step of a signed 8-bit code is worth where the largest value along the axis just fits."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales: Floats = np.where(largest > 0, largest / _CODES, 1).astype(np.float32)
    return scales
