# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""The int8 stem run by torch, for a GPU that ONNX Runtime has no build for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_LIMITS = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


class TorchStem:
    """A graph that models.stem wrote, on a torch device.

    Codes are held as the numbers that they stand for, in float32. Where a value lies between two codes it may
    be rounded to the other one, as between any two builds of ONNX Runtime.
    """

    def __init__(self, file: Path, device: str) -> None:
        """Raises ValueError for an operator that no stem has."""
        graph = onnx.load(file).graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._values: dict[str, Tensor] = {}
        self._steps: list[tuple[Callable[..., Tensor], list[str], str, dict[str, Any]]] = []
        # Products of 19 bits would be rounded to other codes.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        for node in graph.node:
            name, given = node.output[0], list(node.input)
            step = getattr(self, f"_{node.op_type.lower()}", None)
            if step is None:
                raise ValueError(f"{file}: a stem has no {node.op_type}")
            if node.op_type == "DequantizeLinear" and given[0] in self._constants:
                self._values[name] = torch.from_numpy(self._decoded(*given)).to(device)
            else:
                attributes = {at.name: onnx.helper.get_attribute_value(at) for at in node.attribute}
                self._steps.append((step, given, name, attributes))
        for name, values in self._constants.items():
            if values.dtype == np.float32 and values.ndim:
                self._values[name] = torch.from_numpy(values.copy()).to(device)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """patches (n, grid², features) and pooled (n, pooled) of normalised pixels (n, 3, S, S)."""
        values = self._values | {"pixels": pixels}
        for step, given, name, attributes in self._steps:
            values[name] = step(*(values.get(one, one) for one in given), **attributes)
        return values["patches"], values["pooled"]

    def _decoded(self, codes: str, scale: str, zero: str) -> Any:
        integers = self._constants[codes].astype(np.float64)
        each = (-1,) + (1,) * (integers.ndim - 1)  # of the first axis
        scales, zeros = (
            value.reshape(each) if value.ndim else value
            for value in (self._constants[scale], self._constants[zero])
        )
        return np.ascontiguousarray((integers - zeros) * scales, np.float32)

    # Operators, by their names in ONNX. What is no float tensor comes as its name.

    def _quantizelinear(self, x: Tensor, scale: str, zero: str) -> Tensor:
        middle = self._constants[zero]
        step = float(self._constants[scale])
        return torch.fake_quantize_per_tensor_affine(x, step, int(middle), *_LIMITS[middle.dtype])

    def _dequantizelinear(self, x: Tensor, scale: str, zero: str) -> Tensor:
        return x  # it was never made codes

    def _conv(
        self, x: Tensor, weight: Tensor, bias: Tensor, *, pads: Any, strides: Any, group: int, **_: Any
    ) -> Tensor:
        top, left, bottom, right = pads
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, tuple(strides), 0, 1, group)

    def _add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def _matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    def _reshape(self, x: Tensor, shape: str) -> Tensor:
        return x.reshape(*x.shape[:2], -1)  # the only kind there is: maps made rows

    def _slice(self, x: Tensor, start: str, end: str, axis: str) -> Tensor:
        first, last, along = (int(self._constants[name].item()) for name in (start, end, axis))
        return x.narrow(along, first, min(last, x.shape[along]) - first)

    def _concat(self, *parts: Tensor, axis: int) -> Tensor:
        return torch.cat(parts, axis)

    def _squeeze(self, x: Tensor, axis: str) -> Tensor:
        return x.squeeze(int(self._constants[axis].item()))

    def _transpose(self, x: Tensor, *, perm: Any) -> Tensor:
        return x.permute(*perm)
