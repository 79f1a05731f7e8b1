# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""The stem of a small network with the shape of EfficientNet-lite, beside torch."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models import calibration
from models.calibration import int8_convolutions, scenes
from models.graphs import GraphBuilder
from models.preprocess import Picture, Preprocessing, Preprocessor
from models.stem import GRID, convolutions, same_padding, stem
from models.training.torch_stem import TorchStem
from tests.joint_bundle import tokenizer

Floats = NDArray[np.float32]
SIDE = 65  # pixels; the maps have 33, 17 and 9
RULE = Preprocessing(SIDE, "crop", "bicubic", (127.0,) * 3, (128.0,) * 3)
BLOCKS = ((1, 8, 8, 1), (6, 8, 12, 2), (6, 12, 12, 1), (6, 12, 16, 2))  # expansion, in, out, stride


class Block(nn.Module):
    """An inverted residual, with the names that the published package gives its parts."""

    def __init__(self, expansion: int, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        wide = inner * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(inner, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self._depthwise_conv = nn.Conv2d(wide, wide, 3, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide)
        self._project_conv, self._bn2 = nn.Conv2d(wide, outer, 1, bias=False), nn.BatchNorm2d(outer)
        self._block_args = SimpleNamespace(id_skip=True, input_filters=inner, output_filters=outer)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if hasattr(self, "_expand_conv"):
            y = self._bn0(self._expand_conv(y)).clamp(0, 6)
        y = self._bn1(same(self._depthwise_conv, y)).clamp(0, 6)
        y = self._bn2(self._project_conv(y))
        found: Tensor = x + y if x.shape == y.shape else y
        return found


class Network(nn.Module):
    """EfficientNet-lite, small."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self._conv_stem, self._bn0 = nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
        self._blocks = nn.ModuleList(Block(*sizes) for sizes in BLOCKS)
        self._conv_head, self._bn1 = nn.Conv2d(16, 40, 1, bias=False), nn.BatchNorm2d(40)
        for name, tensor in self.state_dict().items():
            if "_bn" in name and tensor.ndim:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
        self.eval()

    def maps(self, pixels: Tensor) -> dict[int, Tensor]:
        """The last feature map of each size, by its side."""
        x = self._bn0(same(self._conv_stem, pixels)).clamp(0, 6)
        last = {}
        for block in self._blocks:
            x = block(x)
            last[x.shape[3]] = x
        last[x.shape[3]] = self._bn1(self._conv_head(x)).clamp(0, 6)
        return last


def same(conv: Any, x: Tensor) -> Tensor:
    top, left, bottom, right = same_padding(x.shape[3], conv.kernel_size[0], conv.stride[0])
    padded: Tensor = conv(F.pad(x, (left, right, top, bottom)))
    return padded


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    file = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    tokenizer().save(str(file))
    return Preprocessor(RULE, file, max_tokens=40)


def pictures(count: int, seed: int) -> list[Picture]:
    """Smooth shades with some grain."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(0, 220, (count, 3, 4, 4)))
    smooth = F.interpolate(coarse, SIDE, mode="bicubic").clamp(0, 220).numpy().transpose(0, 2, 3, 1)
    return [*(smooth + random.uniform(0, 35, smooth.shape)).astype(np.uint8)]


def run(model: onnx.ModelProto, pixels: Floats) -> tuple[Floats, Floats]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    patches, pooled = session.run(["patches", "pooled"], {"pixels": pixels})
    return patches, pooled


def windows(side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of a map that each patch sees, the patches row by row."""
    stride = (side - 1) // GRID
    starts = range(0, GRID * stride, stride)
    width = side - (GRID - 1) * stride
    return ((slice(y, y + width), slice(x, x + width)) for y in starts for x in starts)


def test_patches_are_the_means_of_three_maps_over_a_grid(
    network: Network, preprocessor: Preprocessor
) -> None:
    pixels = preprocessor.normalised(pictures(2, seed=1))
    patches, pooled = run(stem(network, SIDE), pixels)
    with torch.no_grad():
        maps = network.maps(torch.from_numpy(pixels))
    assert [*maps] == [33, 17, 9]
    expected = [
        torch.stack([maps[side][..., rows, columns].mean((2, 3)) for rows, columns in windows(side)], dim=1)
        for side in (9, 17, 33)
    ]
    assert patches == pytest.approx(torch.cat(expected, dim=2).numpy(), abs=1e-4)
    assert pooled == pytest.approx(maps[9].mean((2, 3)).numpy(), abs=1e-4)


@pytest.mark.parametrize("side", [9, 17, 33, 5])
def test_the_windows_of_a_grid_see_every_pixel_of_a_map(side: int) -> None:
    seen = np.zeros((side, side))
    for rows, columns in windows(side):
        seen[rows, columns] += 1
    assert seen.min() == 1
    assert seen.max() <= 4


def test_feature_maps_are_told_with_their_sizes(network: Network) -> None:
    maps = convolutions(GraphBuilder(), network, SIDE)
    assert [(found.side, found.channels) for found in maps] == [(33, 8), (17, 12), (9, 40)]


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(260, 3, 2), (65, 3, 2), (33, 5, 2), (17, 5, 1), (8, 3, 2)]
)
def test_same_padding_gives_a_rounded_up_size_and_the_odd_pixel_at_the_end(
    size: int, kernel: int, stride: int
) -> None:
    top, left, bottom, right = same_padding(size, kernel, stride)
    assert (size + top + bottom - kernel) // stride + 1 == -(-size // stride)
    assert (top, bottom) == (left, right)
    assert bottom - top in (0, 1)


def test_in_int8_the_stem_sees_nearly_the_same(network: Network, preprocessor: Preprocessor) -> None:
    exact = stem(network, SIDE)
    coarse = int8_convolutions(exact, preprocessor, pictures(16, seed=2))
    pixels = preprocessor.normalised(pictures(8, seed=3))
    for wanted, found in zip(run(exact, pixels), run(coarse, pixels), strict=True):
        assert found.dtype == np.float32
        assert not np.array_equal(found, wanted)
        assert (found * wanted).sum() > 0.99 * np.linalg.norm(found) * np.linalg.norm(wanted)
    weights = {tensor.name: tensor for tensor in coarse.graph.initializer}
    convolved = [node for node in coarse.graph.node if node.op_type == "Conv"]
    made = {node.output[0]: node for node in coarse.graph.node}
    stored = [weights[made[node.input[1]].input[0]].data_type for node in convolved]
    assert stored == [onnx.TensorProto.INT8] * len(convolved)


def test_torch_sees_what_the_runtime_sees_but_for_codes_that_lie_between_two(
    network: Network, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    coarse = int8_convolutions(stem(network, SIDE), preprocessor, pictures(16, seed=2))
    onnx.save(coarse, tmp_path / "stem.onnx")
    pixels = preprocessor.normalised(pictures(8, seed=3))
    seen = TorchStem(tmp_path / "stem.onnx", "cpu")(torch.from_numpy(pixels))
    for wanted, found in zip(run(coarse, pixels), seen, strict=True):
        assert found.shape == wanted.shape
        between = np.abs(found.numpy() - wanted).mean()
        other = np.abs(np.roll(found.numpy(), 1, axis=0) - wanted).mean()  # of other pictures
        assert between < other / 20


def test_torch_refuses_a_graph_that_is_no_stem(tmp_path: Path) -> None:
    g = GraphBuilder()
    g.op("Sin", "pixels", output="patches")
    onnx.save(g.model({"pixels": (1, ["n"])}, {"patches": ["n"]}), tmp_path / "sin.onnx")
    with pytest.raises(ValueError, match="a stem has no Sin"):
        TorchStem(tmp_path / "sin.onnx", "cpu")


def test_the_same_calibration_gives_the_same_bytes(network: Network, preprocessor: Preprocessor) -> None:
    one, other = (
        int8_convolutions(stem(network, SIDE), preprocessor, pictures(4, seed=4)).SerializeToString()
        for _ in range(2)
    )
    assert one == other


def test_scenes_need_stamps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(calibration, "STAMPS", tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install tuxpaint-stamps-default"):
        next(scenes(SIDE))


def test_a_seed_fixes_a_scene(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGBA", (50, 40), (200, 30 * number, 40, 255)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(calibration, "STAMPS", tmp_path)
    one, same_seed, other = (list(scenes(SIDE, count=3, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same_seed)
    assert not np.array_equal(one, other)
    assert np.stack(one).shape == (3, SIDE, SIDE, 3)
