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
BLOCK = 32  # weights that share a scale


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

    quantised: bool = False  # 8-bit weights in linear layers and tables
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
        """The rows (n, d) at these numbers (…); quantised, each row has a scale of its own."""
        if not self.quantised:
            return self.op("Gather", self.constant(rows), numbers)
        scales = _scales(rows, axis=1)
        codes = self.constant(np.rint(rows / scales).astype(np.int8))
        found = self.op("Cast", self.op("Gather", codes, numbers), to=TensorProto.FLOAT)
        return self.op("Mul", found, self.op("Gather", self.constant(scales), numbers))

    def linear(self, x: str, layer: Affine) -> str:
        """x (…, in) @ weight transposed + bias; a single output is never quantised."""
        if self.quantised and len(layer.weight) > 1:
            return self._int8_linear(x, layer)
        product = self.op("MatMul", x, self.constant(layer.weight.T))
        return product if layer.bias is None else self.op("Add", product, self.constant(layer.bias))

    def norm(self, x: str, layer: Affine, *, output: str = "") -> str:
        """Layer normalisation over the last axis."""
        constants = [self.constant(values) for values in layer if values is not None]
        return self.op("LayerNormalization", x, *constants, output=output, axis=-1, epsilon=1e-12)

    def unit(self, rows: str, *, axis: int = -1, floor: float = 1e-12, output: str = "") -> str:
        """Length one along the axis; what is shorter than floor is divided by floor."""
        length = self.op("ReduceL2", rows, self.integers(axis), keepdims=1)
        return self.op("Div", rows, self.op("Max", length, self.number(floor)), output=output)

    def transformer_layer(self, x: str, away: str, layer: LayerWeights, heads: int) -> str:
        """Self-attention and the feed-forward part on x (n, L, width); scores get away (n, 1, 1, L) added."""
        width = len(layer.out.weight)
        parts = self.split(self.linear(x, _with_scaled_queries(layer.qkv, heads)), 3, axis=2)
        q, k, v = (self._to_heads(part, heads, width, flip=part == parts[1]) for part in parts)
        weights = self.op("Softmax", self.op("Add", self.op("MatMul", q, k), away), axis=3)
        mixed = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        mixed = self.op("Reshape", mixed, self.integers(0, 0, width))
        x = self.norm(self.op("Add", x, self.linear(mixed, layer.out)), layer.attention_norm)
        wide = self.op("Gelu", self.linear(x, layer.up))
        return self.norm(self.op("Add", x, self.linear(wide, layer.down)), layer.norm)

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

    def _to_heads(self, x: str, heads: int, width: int, *, flip: bool) -> str:
        """(n, L, width) -> (n, heads, L, width of a head), or with the last two exchanged."""
        shape = self.integers(0, 0, heads, width // heads)
        return self.op("Transpose", self.op("Reshape", x, shape), perm=[0, 2, 3, 1] if flip else [0, 2, 1, 3])

    def _int8_linear(self, x: str, layer: Affine) -> str:
        """A linear layer with 8-bit weights, and activations quantised per token and block while it runs.

        MatMulNBits at accuracy level 4 quantises each token's values by themselves, in blocks, so a row does
        not depend on its neighbours in the batch, as it would with one scale per tensor.
        """
        out, inner = layer.weight.shape
        blocks = np.pad(layer.weight, ((0, 0), (0, -inner % BLOCK))).reshape(out, -1, BLOCK)
        scales = _scales(blocks, axis=2)
        codes = (np.rint(blocks / scales) + 128).astype(np.uint8)
        weights = self.constant(codes), self.constant(scales.reshape(-1))
        bias = () if layer.bias is None else ("", "", self.constant(layer.bias))
        return self.op(
            "MatMulNBits", x, *weights, *bias, domain="com.microsoft",
            K=inner, N=out, bits=8, block_size=BLOCK, accuracy_level=4,
        )  # fmt: skip


def _with_scaled_queries(qkv: Affine, heads: int) -> Affine:
    """The projection with 1/sqrt(width of a head), of the attention scores, multiplied into its queries."""
    width = qkv.weight.shape[1]
    scales = np.ones(3 * width, np.float32)
    scales[:width] = (width // heads) ** -0.5
    return Affine(qkv.weight * scales[:, None], None if qkv.bias is None else qkv.bias * scales)


def _scales(values: Floats, axis: int) -> Floats:
    """What one step of a signed 8-bit code is worth where the largest value along the axis just fits."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales: Floats = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return scales
