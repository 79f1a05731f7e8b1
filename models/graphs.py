# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""ONNX graphs written node by node, in float32 or with 8-bit weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Shape = Sequence[int | str]
OPSET = 20
BLOCK = 128  # 8-bit weights that share a scale
FLOOR = 1e-6  # a shorter row is not stretched to length one
ZERO = 128  # the code of zero
_SEVEN_BITS, _EIGHT_BITS = 63, 127  # the largest signed code
_BALANCE = 0.7  # share of the outliers among inputs that weights take over
_HEADROOM = 1.2  # beyond what was seen, before values are clipped


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


class LayerRanges(NamedTuple):
    """The largest magnitudes (width,) that three products of a layer read.

    Not those of the fourth, after GELU: 8 bits with fixed ranges cost rows 0.005 of their cosine there.
    """

    qkv: Floats
    out: Floats
    up: Floats


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


@dataclass
class GraphBuilder:
    """Collects nodes and constants; every method returns the name of the value it made."""

    block: int | None = None  # this many weights share a scale in 8 bits; without it they are float32
    prefix: str = ""  # of every name, for a graph that is joined to another
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    _stored: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict, repr=False)
    _numbers: Iterator[int] = field(default_factory=count, repr=False)  # of the values that are made

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A node; `output` names its value where that is an output of the graph."""
        number = next(self._numbers)
        name = "" if output else f"{self.prefix}{kind.lower()}_{number}"
        self.nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    @contextmanager
    def branch(self, condition: str, *, otherwise: str, output: str = "") -> Iterator[str]:
        """What is written under it runs only where the condition (one bool) holds.

        Its last value, float32, is then the value whose name is given, which else is `otherwise`. It may read
        all that was made before, and keeps its constants among all others; nothing of it is read elsewhere.
        """
        start = len(self.nodes)
        name = output or f"{self.prefix}if_{next(self._numbers)}"
        yield name
        inner, self.nodes[start:] = self.nodes[start:], []
        same = helper.make_node("Identity", [otherwise], [f"{name}_otherwise"], name=f"{name}_otherwise")
        branches = {
            kind: helper.make_graph(
                nodes, kind, [], [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
            )
            for kind, nodes in (("then_branch", inner), ("else_branch", [same]))
        }
        self.nodes.append(helper.make_node("If", [condition], [name], name=name, **branches))

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        number = next(self._numbers)
        outputs = [f"{self.prefix}split_{number}_{i}" for i in range(parts)]
        self.nodes.append(helper.make_node("Split", [value], outputs, axis=axis, num_outputs=parts))
        return outputs

    def slice(self, value: str, axis: int, start: int, end: int) -> str:
        return self.op("Slice", value, self.integers(start), self.integers(end), self.integers(axis))

    def constant(self, array: NDArray[Any]) -> str:
        """The array as a value; one that is there already is not stored again."""
        array = np.array(array, order="C")
        name = f"{self.prefix}constant_{len(self.constants)}"
        found = self._stored.setdefault(
            (array.dtype.str, array.shape, sha256(array.tobytes()).digest()), name
        )
        if found == name:
            self.constants.append(numpy_helper.from_array(array, name))
        return found

    def number(self, value: float) -> str:
        return self.constant(np.array([value], np.float32))

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
        codes = (np.rint(blocks / scales) + ZERO).astype(np.uint8)
        weights = self.constant(codes), self.constant(scales.reshape(-1))
        bias = () if layer.bias is None else ("", "", self.constant(layer.bias))
        return self.op(
            "MatMulNBits", x, *weights, *bias, domain="com.microsoft",
            K=inner, N=out, bits=8, block_size=self.block, accuracy_level=4,
        )  # fmt: skip

    def codes(self, x: str, step: float, zero: int) -> str:
        """x in steps, as unsigned 8-bit codes; what is out of their range is clipped."""
        scale, middle = np.array(step, np.float32), np.array(zero, np.uint8)
        return self.op("QuantizeLinear", x, self.constant(scale), self.constant(middle))

    def integer_linear(self, codes: str, zero: int, layer: Affine) -> str:
        """What linear gives for (codes - zero), in 8-bit integers: 2.5 times as fast as MatMulNBits.

        It has one scale per output, and 7 bits, so that CPUs without VNNI find the same (models.calibration).
        """
        scales = _scales(layer.weight, axis=1, codes=_SEVEN_BITS)
        weights = np.rint(layer.weight / scales).astype(np.int8).T
        one, middle = self.constant(np.array(1, np.float32)), self.constant(np.array(zero, np.uint8))
        stored = self.constant(weights), one, self.constant(scales[:, 0]), middle
        bias = () if layer.bias is None else ("", self.constant(layer.bias))
        return self.op("MatMulIntegerToFloat", codes, *stored, *bias, domain="com.microsoft")

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

    def attention(
        self, x: str, away: str, layer: LayerWeights, heads: int, seen: LayerRanges | None = None
    ) -> str:
        """Self-attention of x (n, L, width); away is added to the scores.

        It is (n, 1, L, L), or (n, 1, 1, L) where every token reads the same others.
        """
        width = len(layer.out.weight)

        def to_heads(part: str, *perm: int) -> str:
            shape = self.integers(0, 0, heads, width // heads)
            return self.op("Transpose", self.op("Reshape", part, shape), perm=perm)

        projected = self._ranged(x, _scaled_queries(layer.qkv, heads), seen and seen.qkv)
        query, key, value = self.split(projected, 3, axis=2)
        q, k, v = to_heads(query, 0, 2, 1, 3), to_heads(key, 0, 2, 3, 1), to_heads(value, 0, 2, 1, 3)
        weights = self.op("Softmax", self.op("Add", self.op("MatMul", q, k), away), axis=3)
        mixed = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        joined = self.op("Reshape", mixed, self.integers(0, 0, width))
        return self._ranged(joined, layer.out, seen and seen.out)

    def transformer_layer(
        self, x: str, away: str, layer: LayerWeights, heads: int, seen: LayerRanges | None
    ) -> str:
        """Self-attention and the feed-forward part, each with a norm after its residual sum."""
        x = self.sum_norm(x, self.attention(x, away, layer, heads, seen), layer.attention_norm)
        wide = self.op("Gelu", self._ranged(x, layer.up, seen and seen.up))
        return self.sum_norm(x, self.linear(wide, layer.down), layer.norm)

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

    def _ranged(self, x: str, layer: Affine, seen: Floats | None) -> str:
        """linear, or integer_linear where the ranges (in,) of x are known.

        Outliers among the columns of x are shared with the weights that read them (SmoothQuant, Xiao et al.
        2022, arXiv 2211.10438).
        """
        if seen is None:
            return self.linear(x, layer)
        read = np.abs(layer.weight).max(axis=0)
        shares = np.maximum(seen, 1e-3) ** _BALANCE / np.maximum(read, 1e-5) ** (1 - _BALANCE)
        columns = (shares * (seen / shares).max() * _HEADROOM / _EIGHT_BITS).astype(np.float32)
        codes = self.codes(self.op("Mul", x, self.constant(1 / columns)), 1, ZERO)
        return self.integer_linear(codes, ZERO, Affine(layer.weight * columns, layer.bias))


def _scaled_queries(qkv: Affine, heads: int) -> Affine:
    """The projection with 1/sqrt(width of a head), of the attention scores, multiplied into its queries."""
    width = qkv.weight.shape[1]
    scales = np.ones(3 * width, np.float32)
    scales[:width] = (width // heads) ** -0.5
    return Affine(qkv.weight * scales[:, None], None if qkv.bias is None else qkv.bias * scales)


def _scales(values: Floats, axis: int, codes: int = _EIGHT_BITS) -> Floats:
    """What one step of a signed code is worth where the largest value along the axis just fits."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    scales: Floats = np.where(largest > 0, largest / codes, 1).astype(np.float32)
    return scales
