"""Pictures, texts and documents of both as the model's input, and what a model has read of them."""

from collections.abc import Sequence as Numbers
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from models.momo import Sequence, agreement
from models.sequences import Layout, Parts, Sequences

CLS, SEP = 101, 102
# Few different lengths: every new shape costs the CPU's matrix library a compilation.
WIDTHS = (2, 8, 16, 24, 40, 64, 80)
_LAYOUT = Layout(CLS, SEP, WIDTHS[-1], WIDTHS)
_MARKERS = torch.tensor([[[CLS, SEP]], [[0, 1]]])  # and their positions


def shown(tokens: Tensor) -> Sequence:
    """One picture each, of which tokens (n, M, token_width) are given."""
    count, length, _ = tokens.shape
    zeros = torch.zeros(count, length, dtype=torch.int64, device=tokens.device)
    markers, positions = _MARKERS.to(tokens.device).expand(2, count, 2)
    return Sequence(markers, positions, zeros[:, :2], tokens, zeros)


def documents(parts: Numbers[Parts], tokens: Tensor) -> Sequence:
    """Documents to embed; tokens (k, M, token_width) are of the pictures that their parts number."""
    return Sequence.of(Sequences.of(parts, _LAYOUT), tokens)


def pairs(sides: Numbers[tuple[Parts, Parts]], tokens: Tensor) -> Sequence:
    """Queries and candidates to match; tokens as for documents."""
    return Sequence.of(Sequences.of_pairs(sides, _LAYOUT), tokens)


@dataclass(frozen=True)
class Read:
    """Documents as a model has read them, each by itself."""

    rows: Tensor  # (n, dim)
    tokens: Tensor  # (n, L, dim)
    present: Tensor  # bool (n, L)

    @classmethod
    def by(cls, model: Any, sequence: Sequence) -> Self:
        """What the model makes of a sequence of n documents."""
        states, present = model.states(sequence).float(), sequence.slots >= 0
        rows = model.embedding(states, sequence, present).float()
        return cls(rows, model.token_rows(states, sequence).float(), present)

    def found_in(self, candidates: Self) -> Tensor:
        """How well each (n) agrees with each candidate (m): (n, m)."""
        (n, length, _), (m, others, _) = self.tokens.shape, candidates.tokens.shape
        cosines = self.tokens.flatten(0, 1) @ candidates.tokens.flatten(0, 1).T
        cosines = cosines.view(n, length, m, others).transpose(1, 2)
        return agreement(cosines, self.present[:, None], candidates.present[None])
