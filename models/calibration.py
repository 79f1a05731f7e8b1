# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Static int8 for a convnet, calibrated on pictures of clean licence: scenes of Tux Paint stamps."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

from models.preprocess import Picture, Preprocessor

# Debian's tuxpaint-stamps-default; its PNGs are photographs, mostly
STAMPS = Path("/usr/share/tuxpaint/stamps")

_QUANTISED = ("Conv", "Clip", "GlobalAveragePool")


class _Pixels(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, preprocessor: Preprocessor, pictures: Iterable[Picture]) -> None:
        self._batches = ({"pixels": preprocessor.normalised([picture])} for picture in pictures)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def int8_convolutions(
    model: onnx.ModelProto, preprocessor: Preprocessor, pictures: Iterable[Picture]
) -> onnx.ModelProto:
    """The model with its convolutions and residual sums in int8 (QDQ, one weight scale per channel).

    The pictures (S, S, 3) show what ranges the values between layers have; `scenes` are the ones to use.
    Dense weights use 7 bits. On CPUs with AVX2 but no VNNI, products of unsigned activations and signed
    weights are summed in pairs in 16 bits, which 8-bit weights overflow, and the same file would give other
    rows there; 7 bits cannot. Depthwise kernels multiply in wider integers, and need the eighth bit most.
    """
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    outputs = {node.output[0] for node in convolutions}
    depthwise = [
        node.input[1] for node in convolutions if any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]
    eight_bits = {"quant_type": QuantType.QInt8, "axis": 0, "symmetric": True, "reduce_range": False}
    residuals = [node for node in model.graph.node if node.op_type == "Add" and node.input[1] in outputs]
    chosen = [node.name for node in model.graph.node if node.op_type in _QUANTISED or node in residuals]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            _Pixels(preprocessor, pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=chosen,
            extra_options={"TensorQuantOverrides": {name: [eight_bits] for name in depthwise}},
        )
        return onnx.load(target)


def scenes(size: int, *, count: int = 96, seed: int = 0) -> Iterator[Picture]:
    """Pictures (size, size, 3) of one to four stamps each on a shaded ground; a seed fixes them.

    Stamps are cut-outs: on bare white they would show a network narrower ranges than photographs do.
    """
    files = sorted(STAMPS.rglob("*.png"))
    files = [file for file in files if not file.stem.endswith("_mirror")]
    if not files:
        raise FileNotFoundError(f"{STAMPS} is missing: apt-get install tuxpaint-stamps-default")
    random = np.random.default_rng(seed)
    for _ in range(count):
        scene = _ground(size, random)
        for index in random.choice(len(files), size=random.integers(1, 5), replace=False):
            with Image.open(files[index]) as stamp:
                _paste(scene, stamp.convert("RGBA"), random)
        yield np.asarray(scene, np.uint8)


def _ground(size: int, random: np.random.Generator) -> Image.Image:
    """A smooth shade between four random corner colours, with grain."""
    corners = Image.fromarray(random.integers(0, 256, (2, 2, 3), np.uint8))
    shade = np.asarray(corners.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    grain = random.normal(0, random.uniform(0, 25), (size, size, 1))
    return Image.fromarray(np.clip(shade + grain, 0, 255).astype(np.uint8))


def _paste(scene: Image.Image, stamp: Image.Image, random: np.random.Generator) -> None:
    side = int(scene.width * random.uniform(0.4, 1.2))
    stamp.thumbnail((side, side))
    left = int(random.integers(-side // 4, max(scene.width - stamp.width, 0) + side // 4))
    top = int(random.integers(-side // 4, max(scene.height - stamp.height, 0) + side // 4))
    scene.paste(stamp, (left, top), stamp)
