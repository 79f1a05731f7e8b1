# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Finished graphs, of an export or of a bundle that is there, rewritten to run faster and answer the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from models.editing import EditedGraph
from models.preprocess import Preprocessing

PIXELS = "pixels"
_CHANNELS = 3
_MERGED = 4  # neighbouring pixels that the first convolution reads as one
_PAIRS = _MERGED // 2  # of its outputs, for it has stride 2
_TO_FRONT, _TO_BACK = [0, 3, 1, 2], [0, 2, 3, 1]  # where the channels go
# What GraphBuilder.attention writes between the head-wise queries and the output.
_ATTENTION = ("MatMul", "Add", "Softmax", "MatMul", "Transpose", "Reshape")


def of_bytes(image: onnx.ModelProto, rule: Preprocessing) -> onnx.ModelProto:
    """An image graph of normalised pixels (n, 3, S, S) as one of pictures (n, S, S, 3), uint8.

    A graph that would code its pixels in 8 bits again, as the bytes they came from, reads these.
    """
    given = image.graph.input[0]
    if given.type.tensor_type.elem_type == TensorProto.UINT8:
        return image
    graph, side = EditedGraph(image), rule.image_size
    read = graph.users(PIXELS)
    codes = read[0] if len(read) == 1 and _codes_bytes(graph, read[0], rule) else None
    if codes is None:
        normalised = _normalised(graph, rule)
        for node in read:
            node.input[list(node.input).index(PIXELS)] = normalised[-1].output[0]
        graph.nodes[:0] = normalised
    elif not _merge_first(graph, codes, side):
        turned = graph.node("Transpose", [PIXELS], output=codes.output[0], perm=_TO_FRONT)
        graph.replace([codes], [turned])
    shape: list[str | int | None] = ["batch", side, side, _CHANNELS]
    given.CopyFrom(helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape))
    return graph.finished()


def with_integer_means(image: onnx.ModelProto) -> onnx.ModelProto:
    """An image graph whose means over windows of a coded feature map (models.stem) are sums of its codes.

    So no map becomes float32 or is turned: sums are taken with the channels last, as convolutions leave them.
    """
    graph = EditedGraph(image)
    for product in [node for node in graph.nodes if node.op_type == "MatMul"]:
        before = graph.before(product, 2)
        kinds = [node.op_type for node in before]
        if kinds != ["Reshape", "DequantizeLinear"] or not graph.is_constant(product.input[1]):
            continue
        flat, values = before
        weights, (scale, zero) = graph.array(product.input[1]), values.input[1:]
        shares = weights.max(axis=0)
        if not np.array_equal(weights, (weights != 0) * shares):
            continue
        inside = graph.constant((weights != 0).T.astype(np.uint8))
        none = graph.constant(np.array(0, np.uint8))
        worth = graph.constant((graph.array(scale) * shares[:, None]).astype(np.float32))
        places = graph.constant(np.array([0, len(weights), graph.array(flat.input[1])[1]]))
        made = [
            turned := graph.node("Transpose", [values.input[0]], perm=_TO_BACK),
            rows := graph.node("Reshape", [turned.output[0], places]),
            sums := graph.node("MatMulInteger", [inside, rows.output[0], none, zero]),
            floats := graph.node("Cast", [sums.output[0]], to=TensorProto.FLOAT),
            means := graph.node("Mul", [floats.output[0], worth]),
            graph.node("Transpose", [means.output[0]], output=product.output[0], perm=[0, 2, 1]),
        ]
        graph.replace([flat, product], made)
        if not graph.users(values.output[0]):
            graph.replace([values], [])
    return graph.finished()


def with_fused_attention(document: onnx.ModelProto) -> onnx.ModelProto:
    """A document graph with a single node for each attention that GraphBuilder.attention wrote.

    In 8 bits the shares by which GraphBuilder._ranged takes outliers from the mixed values are multiplied
    into the projection to these values: mixing is linear.
    """
    graph = EditedGraph(document)
    for split in [node for node in graph.nodes if node.op_type == "Split" and len(node.output) == 3]:
        read = [graph.only_user(part) for part in split.output]
        if all(node.op_type == "Reshape" for node in read):
            _fuse_attention(graph, split, read)
    return graph.finished()


def _fuse_attention(graph: EditedGraph, split: NodeProto, headed: Sequence[NodeProto]) -> None:
    turned = [graph.only_user(node.output[0]) for node in headed]
    chain = graph.chain(turned[0], len(_ATTENTION))
    if (kinds := tuple(node.op_type for node in chain)) != _ATTENTION:
        raise ValueError(f"no attention but {', '.join(kinds)} after {split.output[0]}")
    away, gone = chain[1].input[1], [*headed, *turned, *chain]
    shares, projection = graph.only_user(chain[-1].output[0]), graph.maker(split.input[0])
    if shares.op_type == "Mul" and projection.op_type == "MatMulIntegerToFloat":
        factors = graph.array(shares.input[1])
        for place in (3, 6):  # the scale of each output, and what is added to it
            values = graph.array(projection.input[place]).copy()
            values[-len(factors) :] *= factors
            projection.input[place] = graph.constant(values)
        gone.append(shares)
    fused = graph.node(
        "MultiHeadAttention",
        [*split.output, "", "", away],
        output=gone[-1].output[0],
        domain="com.microsoft",
        num_heads=int(graph.array(headed[0].input[1])[2]),
        scale=1.0,  # the queries bring theirs
    )
    graph.replace(gone, [fused])


def _codes_bytes(graph: EditedGraph, first: NodeProto, rule: Preprocessing) -> bool:
    """Whether a node makes of normalised pixels the very bytes that they were."""
    if first.op_type != "QuantizeLinear":
        return False
    scale, zero = (graph.array(name) for name in first.input[1:])
    return zero.dtype == np.uint8 and all(
        mean == zero and std * scale == 1 for mean, std in zip(rule.mean, rule.std, strict=True)
    )


def _merge_first(graph: EditedGraph, codes: NodeProto, side: int) -> bool:
    """Let the first convolution read four pixels as one; False where it is not 3 x 3 with stride 2.

    Over 3 channels it spends its time on gathering 3 bytes nine times. A row of pixels (S, 3) is a row of
    fours (S / 4, 12) as it lies in memory. At each of these 3 x 2 kernels, zero where they have nothing to
    read, give two neighbouring outputs: the same integer sums in a third of the time.
    """
    values, conv, coded = graph.chain(codes, 3)
    if conv.op_type != "Conv" or coded.op_type != "QuantizeLinear" or side % _MERGED:
        return False
    weight, bias = (graph.maker(name) for name in conv.input[1:3])
    kernels = graph.array(weight.input[0])
    sizes = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    if kernels.shape[1:] != (_CHANNELS, 3, 3) or sizes["strides"] != [2, 2] or sizes["pads"] != [0, 0, 1, 1]:
        return False
    outputs = len(kernels)
    merged = np.zeros((_PAIRS, outputs, _MERGED, _CHANNELS, 3, 2), kernels.dtype)
    for pair in range(_PAIRS):
        for column in range(3):
            place, within = divmod(2 * pair + column, _MERGED)
            merged[pair, :, within, :, :, place] = kernels[..., column]
    merged = merged.reshape(_PAIRS * outputs, _MERGED * _CHANNELS, 3, 2)

    def decoded(node: NodeProto, stored: NDArray[Any]) -> NodeProto:
        rest = [np.tile(graph.array(name), _PAIRS) for name in node.input[1:]]
        return graph.node(node.op_type, [graph.constant(array) for array in (stored, *rest)], axis=0)

    def shaped(node: str, *shape: int) -> NodeProto:
        return graph.node("Reshape", [node, graph.constant(np.array(shape))])

    made = [
        fours := shaped(PIXELS, 0, 0, side // _MERGED, _MERGED * _CHANNELS),
        turned := graph.node("Transpose", [fours.output[0]], perm=_TO_FRONT),
        shown := graph.node(values.op_type, [turned.output[0], *values.input[1:]]),
        kernel := decoded(weight, merged),
        added := decoded(bias, np.tile(graph.array(bias.input[0]), _PAIRS)),
        wide := graph.node(
            "Conv", [shown.output[0], kernel.output[0], added.output[0]],
            kernel_shape=[3, 2], strides=[2, 1], pads=[0, 0, 1, 1],
        ),
        written := graph.node(coded.op_type, [wide.output[0], *coded.input[1:]]),
        last := graph.node("Transpose", [written.output[0]], perm=_TO_BACK),
        apart := shaped(last.output[0], 0, 0, side // 2, outputs),
        graph.node("Transpose", [apart.output[0]], output=coded.output[0], perm=_TO_FRONT),
    ]  # fmt: skip
    graph.replace([codes, values, weight, bias, conv, coded], made)
    return True


def _normalised(graph: EditedGraph, rule: Preprocessing) -> list[NodeProto]:
    """Preprocessor.normalised, in the graph."""
    mean, std = (graph.constant(np.array(values, np.float32)) for values in (rule.mean, rule.std))
    floats = graph.node("Cast", [PIXELS], to=TensorProto.FLOAT)
    centred = graph.node("Sub", [floats.output[0], mean])
    scaled = graph.node("Div", [centred.output[0], std])
    return [floats, centred, scaled, graph.node("Transpose", [scaled.output[0]], perm=_TO_FRONT)]
