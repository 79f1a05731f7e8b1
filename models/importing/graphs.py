"""From a torch tower to an ONNX graph with its weights beside it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from models.bundle import Graph
from models.importing.checkpoint import Tower

OUTPUT = "unit_rows"
OPSET = 20
_HALF_FROM = 1024  # numbers: below this, half of a tensor is not worth its lost digits


def export(
    tower: Tower,
    inputs: Mapping[str, torch.Tensor],
    folder: Path,
    name: str,
    *,
    max_length: int | None,
    half: bool,
) -> Graph:
    """Write name.onnx and name.weights into folder, for any batch size and, up to max_length, any length.

    The inputs are examples, (2, ...). The weights lie beside the graph whatever their size: an ONNX file ends
    at 2 GB. With half they are stored as 16-bit floats; the arithmetic stays 32-bit, as a CPU likes it.
    """
    axes = {0: torch.export.Dim("batch")}
    if max_length is not None:
        axes[1] = torch.export.Dim("length", max=max_length)
    program = torch.onnx.export(
        tower.eval(),
        tuple(inputs.values()),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=[OUTPUT],
        dynamic_shapes=((axes,) * len(inputs),),
    )
    assert program is not None
    model = program.model
    ClearMetadataAndDocStringPass()(model)  # it holds the paths of this machine
    if half:
        _store_as_half(model.graph)
    ir.save(model, folder / f"{name}.onnx", external_data=f"{name}.weights")
    return Graph(f"{name}.onnx", tuple(inputs), OUTPUT, (f"{name}.weights",))


def _store_as_half(graph: ir.Graph) -> None:
    """Large weights as 16-bit floats that are widened when the graph is loaded."""
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _HALF_FROM:
            continue
        numbers = tensor.numpy().astype(np.float16)
        if not np.isfinite(numbers).all():
            continue
        stored = ir.Value(name=f"{name}.half", const_value=ir.tensor(numbers, name=f"{name}.half"))
        stored.shape, stored.dtype = value.shape, ir.DataType.FLOAT16
        widen = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"widen {name}")
        widened = widen.outputs[0]
        widened.shape, widened.dtype = value.shape, ir.DataType.FLOAT
        value.replace_all_uses_with(widened)
        del graph.initializers[name]
        graph.register_initializer(stored)
        graph.insert_before(graph[0], widen)
