# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Other heads over the trunk of a bundle: what its trunk reads stays bit for bit the same.

The fp32 weights of a trunk are no part of its bundle, and 8-bit codes of what was 8-bit codes would be worse.
So the nodes and constants of the trunk are kept as they are, and only what reads its states is written anew.
"""

import argparse
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.config import CROWD_SHARPNESS, MET, ModelConfig
from models.editing import EditedGraph
from models.export import answered
from models.fusing import of_bytes, with_fused_attention, with_integer_means
from models.graphs import BLOCK, ZERO, Affine, Floats, Weights
from models.image_graph import plus_mean
from models.importing.answers import PROBES
from models.momo_graphs import last_of_trunk, with_other_heads

STATES = "states"


def refitted(
    bundle: Bundle,
    weights: Mapping[str, Floats],
    out: Path,
    probes: Sequence[str],
    tables: tuple[Floats, Floats] | None = None,
) -> Bundle:
    """Write a bundle with these heads, named as in torch, into a folder; what else it has is the bundle's.

    Its graphs are as an export of today would write them. ``tables`` are the class rows (classes, dim) of
    pictures and of patches, if they are others. Raises ValueError for weights that no head takes.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in (*bundle.manifest.files, "MODEL_CARD.md"):
        if not (out / file).exists() and (bundle.path / file).exists():
            shutil.copyfile(bundle.path / file, out / file)
    given = Weights(weights)
    image, document = (onnx.load(bundle.file(name)) for name in ("image.onnx", "document.onnx"))
    document = with_other_heads(document, ModelConfig(), given)
    if given.left:
        raise ValueError(f"no head takes {', '.join(sorted(given.left))}")
    if tables is not None:
        image = with_tables_in(image, *tables)
    rule = replace(bundle.manifest.preprocessing, in_graph=True)
    onnx.save(with_integer_means(of_bytes(image, rule)), out / "image.onnx")
    onnx.save(with_fused_attention(document), out / "document.onnx")
    return answered(out, replace(bundle.manifest, files={}, preprocessing=rule), probes)


def with_tables_in(image: onnx.ModelProto, whole: Floats, patch: Floats) -> onnx.ModelProto:
    """An image graph that expects these rows (classes, dim) of each class, in pictures and in patches.

    One of before, where the picture's were stretched to length one, and where things are met was no part of
    its concept, becomes as those of today.
    """
    graph, products = EditedGraph(image), _expecting(image)
    quantised = any(node.op_type == "MatMulNBits" for node in products)
    g = graph.builder(BLOCK if quantised else None)
    made = [
        g.linear(product.input[0], Affine(table.T, None))
        for product, table in zip(products, (whole, patch), strict=True)
    ]
    graph.insert(g, products[1])
    for product, table in zip(products, made, strict=True):
        graph.reroute(product.output[0], table)
    stretched = next((node for node in graph.users(made[0]) if node.op_type == "Div"), None)
    if stretched is not None:
        graph.reroute(stretched.output[0], made[0])
        norm = next(node for node in graph.nodes if node.op_type == "LayerNormalization")
        both = graph.maker(norm.input[0])
        g = graph.builder()
        concept = plus_mean(g, both.input[0], graph.maker(both.input[1]).input[1], MET)
        graph.insert(g, both)
        both.input[0] = concept
    return graph.finished()


def tables_of(image: onnx.ModelProto) -> tuple[Floats, Floats]:
    """What a quantised image graph makes expect of each class, in pictures and in patches: (classes, dim)."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in image.graph.initializer}
    whole, patch = (_weight_of(product, constants).T for product in _expecting(image))
    return whole, patch


def concept_head_of(image: onnx.ModelProto) -> tuple[Affine, Floats]:
    """The norm of concepts, and the weight (dim, dim) by which they go around the trunk."""
    graph = EditedGraph(image)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in image.graph.initializer}
    norm = next(node for node in graph.nodes if node.op_type == "LayerNormalization")
    around = graph.maker(graph.maker(image.graph.output[0].name).input[1])
    return Affine(*(constants[name] for name in norm.input[1:])), _weight_of(around, constants)


def _expecting(image: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The products of class probabilities and tables, of the picture and of its patches."""
    (shares,) = (node.output[0] for node in image.graph.node if node.op_type == "Softmax")
    parts = [node.output[0] for node in image.graph.node if shares in node.input]
    return [next(node for node in image.graph.node if part in node.input) for part in parts]


def with_states(document: onnx.ModelProto) -> onnx.ModelProto:
    """The document graph with the trunk's states (n, T, width) as one more output."""
    document.graph.node.append(
        helper.make_node("Identity", [document.graph.node[last_of_trunk(document)].output[0]], [STATES])
    )
    shape = ["batch", "all", None]
    document.graph.output.append(helper.make_tensor_value_info(STATES, TensorProto.FLOAT, shape))
    return document


def heads_of(document: onnx.ModelProto) -> dict[str, Floats]:
    """The heads' weights by their names in torch, read back from a quantised document graph."""
    return _Reader(document).heads()


def _unfolded(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, each branch in the place of what chooses it."""
    for node in nodes:
        if node.op_type == "If":
            for attribute in node.attribute:
                yield from _unfolded(attribute.g.node)
        else:
            yield node


class _Reader:
    def __init__(self, document: onnx.ModelProto) -> None:
        self._constants = {t.name: numpy_helper.to_array(t) for t in document.graph.initializer}
        heads = document.graph.node[last_of_trunk(document) + 1 :]
        self._nodes = list(_unfolded(heads))
        (self._match,) = (a.g.output[0].name for a in heads[-1].attribute if a.name == "then_branch")
        self._makers = {output: node for node in self._nodes for output in node.output}

    def heads(self) -> dict[str, Floats]:
        first, second = [node for node in self._nodes if node.op_type == "MatMulNBits"][:2]
        found = {"itc.weight": self._weight(first), "look.weight": self._weight(second)}
        found["look.bias"] = self._constants[second.input[5]]
        gelu = next(node for node in self._nodes if node.op_type == "Gelu")
        up = self._makers[gelu.input[0]]
        down = next(node for node in self._nodes if gelu.output[0] in node.input)
        added = next(node for node in self._nodes if down.output[0] in node.input)
        found["itm.0.weight"], found["itm.0.bias"] = self._weight(up), self._constants[up.input[5]]
        found["itm.2.weight"] = self._constants[down.input[1]].T
        found["itm.2.bias"] = self._constants[added.input[1]]
        trusted = next(
            node
            for node in self._nodes
            if node.op_type == "Where" and set(node.input[1:]) <= set(self._constants)
        )
        found["trust"] = np.concatenate([self._constants[name] for name in trusted.input[1:]])
        # The logit is a sum from right to left: what is added, the agreement, the cosine.
        offset = self._makers[self._makers[self._match].input[0]]
        agreed = self._makers[offset.input[0]]
        alike = self._makers[agreed.input[0]]
        scales = [self._constants[self._makers[part.input[1]].input[1]] for part in (alike, agreed)]
        found["match_scale"] = np.concatenate([*scales, self._constants[offset.input[1]]])
        return found | self._crowd() | self._scene(self._makers[alike.input[0]])

    def _crowd(self) -> dict[str, Floats]:
        """Nothing for a graph of before there was one."""
        near = next((node for node in self._nodes if node.op_type == "ReduceLogSumExp"), None)
        if near is None:
            return {}
        crowd = self._weight(self._makers[self._makers[near.input[0]].input[0]])
        easily = self._reader(near.output[0])
        gained = self._reader(easily.output[0])
        agreeing = self._makers[gained.input[1]]
        parts = [
            self._constants[node.input[1]] for node in (agreeing, easily, self._reader(gained.output[0]))
        ]
        parts[1] = parts[1] * np.float32(CROWD_SHARPNESS)
        return {"crowd": crowd, "crowd_scale": np.concatenate(parts)}

    def _scene(self, logit: onnx.NodeProto) -> dict[str, Floats]:
        """Of what is added last before the cosine; none for a graph of before there was one."""
        told = self._makers[self._makers[logit.input[1]].input[0]]
        if told.op_type != "Mul":
            return {"scene_scale": np.zeros(2, np.float32)}
        added = self._makers[self._makers[told.input[0]].input[0]]
        names = (self._makers[added.input[0]].input[1], added.input[1])
        return {"scene_scale": np.concatenate([self._constants[name] for name in names])}

    def _reader(self, value: str) -> onnx.NodeProto:
        return next(node for node in self._nodes if value in node.input)

    def _weight(self, product: onnx.NodeProto) -> Floats:
        return _weight_of(product, self._constants)


def _weight_of(product: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]) -> Floats:
    """The weight (out, in) of a MatMulNBits."""
    sizes = {attribute.name: attribute.i for attribute in product.attribute}
    codes, scales = (constants[name] for name in product.input[1:3])
    blocks = (codes.astype(np.float32) - ZERO) * scales.reshape(sizes["N"], -1, 1)
    weight: Floats = blocks.reshape(sizes["N"], -1)[:, : sizes["K"]]
    return np.ascontiguousarray(weight)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a bundle as an export of today would.")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for the new bundle")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    heads = heads_of(onnx.load(bundle.file("document.onnx")))
    print(refitted(bundle, heads, arguments.out, PROBES).encoder_id)


if __name__ == "__main__":
    main()
