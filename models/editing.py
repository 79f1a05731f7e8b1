# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Finished ONNX graphs, read and rewritten node by node."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from models.graphs import GraphBuilder


class EditedGraph:
    """A model's nodes by what they read and make."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes: list[NodeProto] = list(model.graph.node)
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._taken = {*self._constants, *(value for node in self.nodes for value in node.output)}

    def users(self, value: str) -> list[NodeProto]:
        return [node for node in self.nodes if value in node.input]

    def only_user(self, value: str) -> NodeProto:
        """The node that reads a value; raises ValueError where that is not exactly one."""
        (node,) = self.users(value)
        return node

    def chain(self, node: NodeProto, length: int) -> list[NodeProto]:
        """The nodes after this one, each the only one that reads what the last has made."""
        found = [node]
        for _ in range(length):
            found.append(self.only_user(found[-1].output[0]))
        return found[1:]

    def before(self, node: NodeProto, length: int) -> list[NodeProto]:
        """The nodes that made the first input of this one, the first of that one, and so on."""
        found: list[NodeProto] = []
        while len(found) < length and self.is_made(node.input[0]):
            node = self.maker(node.input[0])
            found.append(node)
        return found

    def is_made(self, value: str) -> bool:
        return any(value in node.output for node in self.nodes)

    def is_constant(self, value: str) -> bool:
        return value in self._constants

    def maker(self, value: str) -> NodeProto:
        return next(node for node in self.nodes if value in node.output)

    def array(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = numpy_helper.to_array(self._constants[name])
        return found

    def constant(self, array: NDArray[Any]) -> str:
        name = self._name("constant")
        self._constants[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def node(self, kind: str, inputs: Sequence[str], *, output: str = "", **attributes: Any) -> NodeProto:
        """A node for `replace`; `output` names its value where others read it already."""
        name = self._name(kind.lower())
        return helper.make_node(kind, inputs, [output or name], name=name, **attributes)

    def replace(self, old: Sequence[NodeProto], new: Sequence[NodeProto]) -> None:
        """New nodes where the last of the old ones stands: what they read has been made before it."""
        at = 1 + max(self.nodes.index(node) for node in old)
        kept = [[node for node in part if node not in old] for part in (self.nodes[:at], self.nodes[at:])]
        self.nodes = [*kept[0], *new, *kept[1]]

    def builder(self, block: int | None = None) -> GraphBuilder:
        """For what `insert` takes: with names that nothing has yet."""
        prefixes = (f"edited_{number}_" for number in count())
        free = next(p for p in prefixes if not any(name.startswith(p) for name in self._taken))
        return GraphBuilder(block, prefix=free)

    def insert(self, made: GraphBuilder, before: NodeProto) -> None:
        """What was built, its constants too, in front of a node that is there."""
        self._constants |= {tensor.name: tensor for tensor in made.constants}
        self._taken |= {value for node in made.nodes for value in node.output}
        at = self.nodes.index(before)
        self.nodes[at:at] = made.nodes

    def reroute(self, value: str, other: str) -> None:
        """Let all that reads a value read another instead."""
        for node in self.users(value):
            for place, name in enumerate(node.input):
                if name == value:
                    node.input[place] = other

    def finished(self) -> onnx.ModelProto:
        """The model with those of these nodes that something reads, and their constants; checked."""
        graph = self._model.graph
        told, before = {output.name for output in graph.output}, 0
        while len(self.nodes) != before:
            before, read = len(self.nodes), {*_read(self.nodes), *told}
            self.nodes = [node for node in self.nodes if read & {*node.output}]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in read)
        onnx.checker.check_model(self._model)
        return self._model

    def _name(self, kind: str) -> str:
        name = next(name for i in count() if (name := f"fused_{kind}_{i}") not in self._taken)
        self._taken.add(name)
        return name


def _read(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """What nodes read, and those in their branches."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _read(attribute.g.node)
