"""Photographs that no one took: features of one, dimmed, and pushed along the classifier's class rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.captions import article

COUPLES = 4_000
_TOGETHER = ("{} and {}", "{} next to {}", "{} beside {}", "a photo of {} and {}", "{} with {}")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Subject:
    """A class by its number, and ones (side, side) where it is seen."""

    number: int
    where: Floats


@dataclass(frozen=True)
class Couple:
    """Two classes in one picture, by number, and what to say of it."""

    first: int
    second: int
    text: str

    def side_by_side(self, rng: np.random.Generator, side: int) -> list[Subject]:
        """Each in one half, left and right or above and below."""
        half = np.zeros((side, side), np.float32)
        half[:, : side // 2] = 1
        half = np.rot90(half, int(rng.integers(4)))
        return [Subject(self.first, half), Subject(self.second, 1 - half)]


def couples(names: Sequence[str], count: int = COUPLES) -> list[Couple]:
    """Random couples of classes; always the same ones."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice(len(names), 2, replace=False) for _ in range(count)]
    texts = [str(rng.choice(_TOGETHER)) for _ in drawn]
    return [
        Couple(int(one), int(other), text.format(*(f"{article(names[i])} {names[i]}" for i in (one, other))))
        for (one, other), text in zip(drawn, texts, strict=True)
    ]


def pushed(
    patches: Tensor, subjects: Sequence[Sequence[Subject]], classifier: Tensor, rng: np.random.Generator
) -> Tensor:
    """Patches (n, grid², pooled) of photographs, dimmed, that now show their subjects, one or two each.

    classifier (classes, pooled) holds the class weights; features are those of ReLU6.
    """
    most = max(map(len, subjects))
    numbers = np.zeros((len(subjects), most), np.int64)
    strengths = np.zeros((len(subjects), most, patches.shape[1]), np.float32)
    for i, few in enumerate(subjects):
        for k, subject in enumerate(few):
            numbers[i, k] = subject.number
            # This much on the class's logit, if unclipped.
            strengths[i, k] = rng.uniform(6, 18) * subject.where.reshape(-1)
    dimmed = torch.from_numpy(rng.uniform(0, 1, (len(subjects), 1, 1)).astype(np.float32))
    weights = classifier[torch.from_numpy(numbers).to(classifier.device)]
    weights = weights / weights.square().sum(-1, keepdim=True)
    pushes = torch.from_numpy(strengths).to(patches.device).transpose(1, 2) @ weights
    return (patches * dimmed.to(patches.device) + pushes).clamp(0, 6)


def block(rng: np.random.Generator, side: int) -> Floats:
    """A rectangle of ones in a (side, side) of zeros; half the time all of it."""
    where = np.zeros((side, side), np.float32)
    if rng.random() < 0.5:
        return where + 1
    top, left = rng.integers(0, side - 1, 2)
    high, wide = rng.integers(1, side + 1, 2)
    where[top : top + high, left : left + wide] = 1
    return where
