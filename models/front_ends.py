"""Front ends: pictures, as a stem or plain squares give them, to tokens of the trunk's width."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.config import DRAWN, MET, ModelConfig


class Features(NamedTuple):
    """What a front end reads of pictures: patches (n, grid², features), pooled (n, pooled)."""

    patches: Tensor
    pooled: Tensor


class StemFrontEnd(nn.Module):
    """A stem's features to tokens (n, 1 + grid², width + dim): one of the whole picture, then the patches.

    The first width numbers are for the trunk. The rest is the concept, which goes around the trunk into the
    embedding: what the classifier expects to read, of the whole picture, the more the surer it is, and of its
    patches, plus a linear map of the pooled feature, plus where such things are met; or of one patch, with
    where such a thing is met. It is the shorter the less the picture looks like a photograph, which is all
    that the classifier knows. The classifier stays as it was trained.
    """

    class_weight: Tensor
    class_bias: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, dim = config.width, config.dim
        self.pooled = config.pooled
        self.register_buffer("class_weight", torch.zeros(config.classes, config.pooled))
        self.register_buffer("class_bias", torch.zeros(config.classes))
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("scale", torch.ones(config.features))
        self.whole_rows = nn.Parameter(torch.zeros(config.classes, dim))
        self.patch_rows = nn.Parameter(torch.zeros(config.classes, dim))
        self.logit_scale = nn.Parameter(torch.tensor([1.3, 1.2]))  # whole picture, patch
        self.shares = nn.Parameter(torch.tensor([1.5, 1.0, MET]))  # of patches, the map, the scene
        self.direct = nn.Linear(config.pooled, dim, bias=False)
        self.scene = nn.Linear(config.pooled, dim, bias=False)
        self.patch = nn.Linear(config.features, width)
        self.patch_concept = nn.Linear(dim, width, bias=False)
        self.positions = nn.Parameter(torch.randn(config.grid**2, width) * 0.02)
        self.concept_norm = nn.LayerNorm(width, eps=1e-12)
        self.photograph = nn.Linear(config.features, 1)
        self.patch_norm = nn.LayerNorm(width, eps=1e-12)
        self.skip = nn.Linear(width, dim, bias=False)

    def forward(self, features: Features) -> Tensor:
        patches, pooled = features
        rows = self._expected(patches[..., : self.pooled], self.logit_scale[1], self.patch_rows)
        whole = self._expected(pooled, self.logit_scale[0], self.whole_rows)
        normalised = (patches - self.mean) * self.scale
        direct = self.direct((pooled - self.mean[: self.pooled]) * self.scale[: self.pooled])
        met = unit(self.scene(normalised[..., : self.pooled]))
        concept = whole + torch.stack([unit(rows.mean(1)), unit(direct), unit(met.mean(1))], -1) @ self.shares
        photographic = DRAWN + (1 - DRAWN) * self.photograph(normalised.mean(1)).sigmoid()
        concepts = torch.cat([concept[:, None], unit(rows) + met], dim=1)
        concepts = self.concept_norm(concepts) * photographic[:, None]
        tokens = self.patch_norm(self.patch(normalised) + self.patch_concept(unit(rows)) + self.positions)
        tokens = torch.cat([concepts[:, :1], tokens], dim=1)
        return torch.cat([tokens, self.skip(concepts)], dim=2)

    def _expected(self, pooled: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
        logits = F.linear(pooled, self.class_weight, self.class_bias)
        return (logits * scale).softmax(-1) @ rows


class PatchFrontEnd(nn.Module):
    """Square patches of pixels to tokens (n, grid², width), without any pretrained part.

    Features.patches are (n, grid², 3 · side²) pixel values, channel by channel; pooled is not read.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("scale", torch.ones(config.features))
        self.patch = nn.Linear(config.features, config.width)
        self.positions = nn.Parameter(torch.randn(config.grid**2, config.width) * 0.02)
        self.patch_norm = nn.LayerNorm(config.width, eps=1e-12)

    def forward(self, features: Features) -> Tensor:
        normalised = (features.patches - self.mean) * self.scale
        tokens: Tensor = self.patch_norm(self.patch(normalised) + self.positions)
        return tokens


def unit(rows: Tensor) -> Tensor:
    """Rows at length one; a zero row stays zero."""
    return F.normalize(rows, dim=-1, eps=1e-6)
