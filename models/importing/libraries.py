"""The libraries that read checkpoints, loaded when they are asked for."""

import importlib
import os
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

from models.importing.errors import CheckpointError

Library = Literal["open_clip", "transformers"]


def load(library: Library) -> Any:
    """The library's module, kept off the network; raises CheckpointError where it cannot be had."""
    needed = ("torch", "onnxscript", library)
    if missing := [module for module in needed if find_spec(module) is None]:
        raise CheckpointError(f"not installed: {', '.join(missing)}; pip install 'momoseek[import]'")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        _mend_torchvision()
        found: ModuleType = importlib.import_module(library)
    except Exception as error:
        raise CheckpointError(f"{library} cannot be loaded: {error}") from error
    return found


def _mend_torchvision() -> None:
    """Let torchvision be imported although its compiled half was built for another torch.

    Both libraries import it for transforms written in Python, and would fail with it for want of an operator
    that nobody here calls.
    """
    import torch

    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
