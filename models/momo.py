"""SharedEncoder: one transformer whose every layer reads words, pictures, and documents of both.

After MoMo (Chada et al. 2023, arXiv 2304.05523): front ends per modality with a modality marker, one trunk
with one set of weights, and heads for contrast (ITC), matching (ITM), masked words (MLM) and masked picture
patches (MIM). Ours: the picture front end may be a pretrained convolutional stem, whose classifier also
gives a concept token: the class probabilities times rows of the classes' texts (ConSE, Norouzi et al. 2014).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.config import DRAWN, MARKERS, ModelConfig

CANDIDATE = 8  # the first slot of a match's candidate
_FAR = -1e4  # added to the attention score of a padding token


class Features(NamedTuple):
    """What a front end reads of pictures: patches (n, grid², features), pooled (n, pooled)."""

    patches: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Sequence:
    """Documents as the trunk reads them: n rows of word tokens followed by picture tokens.

    A slot says which part of its document a token belongs to, -1 that it is padding.
    """

    input_ids: Tensor  # int64 (n, L)
    word_slots: Tensor  # int64 (n, L)
    picture_tokens: Tensor  # (n, P, width)
    picture_slots: Tensor  # int64 (n, P)

    @property
    def slots(self) -> Tensor:
        return torch.cat([self.word_slots, self.picture_slots], dim=1)


class Layer(nn.Module):
    """Self-attention and a feed-forward part, each with a norm after its residual sum (BERT)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.up = nn.Linear(config.width, config.hidden)
        self.down = nn.Linear(config.hidden, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)

    def forward(self, x: Tensor, away: Tensor) -> Tensor:
        """x (n, L, width); away (n, 1, 1, L) is added to the attention scores."""
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Plain products: at these lengths the fused attention of torch is slower in its backward pass.
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5 + away
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)
        x = self.attention_norm(x + self.out(mixed))
        fed: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return fed


class StemFrontEnd(nn.Module):
    """A stem's features to tokens (n, 1 + grid², width): one concept token, then the patches.

    The concept token is what the classifier expects to read, over the whole picture and per patch, plus a
    linear map of the pooled feature; it is the shorter the less the picture looks like a photograph, which is
    all that the classifier knows. The classifier stays as it was trained.
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
        self.logit_scale = nn.Parameter(torch.tensor([1.0, 0.8]))  # whole picture, patch
        self.shares = nn.Parameter(torch.tensor([1.5, 1.0]))  # of the patches' concepts, of the linear map
        self.direct = nn.Linear(config.pooled, dim, bias=False)
        self.patch = nn.Linear(config.features, width)
        self.patch_concept = nn.Linear(dim, width, bias=False)
        self.positions = nn.Parameter(torch.randn(config.grid**2, width) * 0.02)
        self.concept_norm = nn.LayerNorm(width, eps=1e-12)
        self.photograph = nn.Linear(config.features, 1)
        self.patch_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, features: Features) -> Tensor:
        patches, pooled = features
        rows = self._expected(patches[..., : self.pooled], self.logit_scale[1], self.patch_rows)
        whole = self._expected(pooled, self.logit_scale[0], self.whole_rows)
        normalised = (patches - self.mean) * self.scale
        direct = self.direct((pooled - self.mean[: self.pooled]) * self.scale[: self.pooled])
        concept = unit(whole) + self.shares[0] * unit(rows.mean(1)) + self.shares[1] * unit(direct)
        photographic = self.photograph(normalised.mean(1)).sigmoid()
        tokens = self.patch_norm(self.patch(normalised) + self.patch_concept(unit(rows)) + self.positions)
        return torch.cat(
            [(self.concept_norm(concept) * (DRAWN + (1 - DRAWN) * photographic))[:, None], tokens], dim=1
        )

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


class SharedEncoder(nn.Module):
    """Embeds and matches sequences of words and picture tokens with one trunk."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, dim = config.width, config.dim
        self.words = nn.Embedding(config.vocabulary, width)
        self.word_positions = nn.Embedding(config.max_words, width)
        self.word_norm = nn.LayerNorm(width, eps=1e-12)
        self.front_end = StemFrontEnd(config) if config.front_end == "stem" else PatchFrontEnd(config)
        self.slots = nn.Parameter(torch.zeros(config.slots, width))
        self.trunk = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.itc = nn.Linear(width, dim, bias=False)
        self.skip = nn.Linear(width, dim, bias=False)  # from the concept token around the trunk
        self.trust = nn.Parameter(torch.tensor(10.0))  # weight of a photograph's concept beside the trunk
        self.itm = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.match_scale = nn.Parameter(torch.tensor([10.0, -3.0]))  # of the sides' cosine, and its offset
        self.mlm = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.hidden_patch = nn.Parameter(torch.randn(width) * 0.02)
        target = (
            config.features if config.front_end == "stem" else 3 * (config.image_size // config.grid) ** 2
        )
        self.mim = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, target))
        self.logit_scale = nn.Parameter(torch.tensor(2.66))  # log of 1 / 0.07

    def states(self, sequence: Sequence) -> Tensor:
        """The trunk's last states (n, L + P, width)."""
        length = sequence.input_ids.shape[1]
        words = self.word_norm(self.words(sequence.input_ids) + self.word_positions.weight[:length])
        slots = sequence.slots
        x = torch.cat([words, sequence.picture_tokens], dim=1) + self.slots[slots.clamp(min=0)]
        away = (slots < 0).to(x.dtype)[:, None, None] * _FAR
        for layer in self.path(sequence):
            x = layer(x, away)
        return x

    def path(self, sequence: Sequence) -> nn.ModuleList:
        """The layers that read a sequence: the same for every one."""
        return self.trunk

    def embed(self, sequence: Sequence) -> Tensor:
        """Unit rows (n, dim)."""
        return self.embedding(self.states(sequence), sequence, sequence.slots >= 0)

    def match(self, sequence: Sequence) -> Tensor:
        """Logits (n,) that the candidate, in slots from CANDIDATE on, is what the query asks for."""
        states, slots = self.states(sequence), sequence.slots
        query = self.embedding(states, sequence, (slots >= 0) & (slots < CANDIDATE))
        candidate = self.embedding(states, sequence, slots >= CANDIDATE)
        alike = (query * candidate).sum(-1)
        judged: Tensor = self.itm(states[:, 0])[:, 0]
        return judged + self.match_scale[0] * alike + self.match_scale[1]

    def embedding(self, states: Tensor, sequence: Sequence, chosen: Tensor) -> Tensor:
        """Unit rows (n, dim) of the chosen (n, L + P) tokens: their mean, plus concepts past the trunk.

        The more words are said beside a picture, the less weighs what its photograph alone would mean.
        """
        pooled = mean_of(states, chosen)
        row = unit(self.itc(pooled))
        if self.config.front_end == "stem":
            step, length = self.config.picture_tokens, sequence.input_ids.shape[1]
            concepts = sequence.picture_tokens[:, ::step]
            present = chosen[:, length::step].to(states.dtype)[..., None]
            concept = (self.skip(concepts) * present).sum(1) / present.sum(1).clamp(min=1)
            words = chosen[:, :length].to(states.dtype).sum(1, keepdim=True)
            row = row + self.trust * concept * (MARKERS / words.clamp(min=MARKERS))
        return unit(row)

    def word_logits(self, states: Tensor) -> Tensor:
        """Logits (…, vocabulary) of states of word tokens, for MLM; the word table is read again."""
        return F.linear(self.mlm(states), self.words.weight, self.mlm_bias)


def mean_of(states: Tensor, chosen: Tensor) -> Tensor:
    """The mean (n, width) of the states (n, L, width) of the tokens chosen (n, L)."""
    weight = chosen.to(states.dtype)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def unit(rows: Tensor) -> Tensor:
    """Rows at length one; a zero row stays zero."""
    return F.normalize(rows, dim=-1, eps=1e-6)
