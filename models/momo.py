"""SharedEncoder: one transformer whose every layer reads words, pictures, and documents of both.

After MoMo (Chada et al. 2023, arXiv 2304.05523): front ends per modality with a modality marker, one trunk
with one set of weights, and heads for contrast (ITC), matching (ITM), masked words (MLM) and masked picture
patches (MIM). Ours: the picture front end may be a pretrained convolutional stem, whose classifier also
gives concepts: the class probabilities times rows of the classes' texts (ConSE, Norouzi et al. 2014).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from models.config import CROWD_SHARPNESS, MARKERS, NAME, SENTENCE, ModelConfig
from models.front_ends import PatchFrontEnd, StemFrontEnd, unit
from models.sequences import JUDGE, SLOTS, Sequences

CANDIDATE = SLOTS  # the first slot of a match's candidate
_FAR = -1e4  # added to the attention score of a token that is not read


@dataclass(frozen=True)
class Sequence:
    """Documents as the trunk reads them: n rows of word tokens followed by picture tokens.

    A slot says which part of its document a token belongs to, -1 that it is padding; a position counts the
    words of each side. Picture tokens are as a front end gives them.
    """

    input_ids: Tensor  # int64 (n, L)
    word_positions: Tensor  # int64 (n, L)
    word_slots: Tensor  # int64 (n, L)
    picture_tokens: Tensor  # (n, P, token_width)
    picture_slots: Tensor  # int64 (n, P)

    @classmethod
    def of(cls, laid_out: Sequences, tokens: Tensor) -> Self:
        """Documents or pairs; tokens (k, M, token_width) are of the k pictures that they number."""
        arrays = (
            laid_out.input_ids, laid_out.word_positions, laid_out.word_slots, laid_out.pictures,
            laid_out.token_slots(tokens.shape[1]),
        )  # fmt: skip
        ids, positions, word_slots, pictures, picture_slots = (
            torch.from_numpy(array).to(tokens.device) for array in arrays
        )
        return cls(ids, positions, word_slots, tokens[pictures].flatten(1, 2), picture_slots)

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
        """x (n, L, width); away (n, 1, L, L) is added to the attention scores."""
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # Plain products: at these lengths the fused attention of torch is slower in its backward pass.
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5 + away
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, width)
        x = self.attention_norm(x + self.out(mixed))
        fed: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return fed


class SharedEncoder(nn.Module):
    """Embeds and matches sequences of words and picture tokens with one trunk."""

    crowd: Tensor

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
        # Weight of a photograph's concept beside what the trunk reads: of a picture alone, and beside words.
        self.trust = nn.Parameter(torch.tensor([20.0, 1.5]))
        self.itm = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        # Of the sides' cosine, of their tokens' agreement, and what is added.
        self.match_scale = nn.Parameter(torch.tensor([8.0, 16.0, -9.0]))
        self.mlm = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocabulary))
        self.hidden_patch = nn.Parameter(torch.randn(width) * 0.02)
        target = (
            config.features if config.front_end == "stem" else 3 * (config.image_size // config.grid) ** 2
        )
        self.mim = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, target))
        self.logit_scale = nn.Parameter(torch.tensor(2.66))  # log of 1 / 0.07
        # Beside words a drawing is also looked at around the trunk: at its tokens, at what the trunk has read
        # of the words, and of the drawing.
        self.look = nn.Linear(3 * width, dim)
        for parameter in self.look.parameters():
            nn.init.zeros_(parameter)
        # Rows of many texts, and what a match of words with a drawing gets: by its agreement, by how easily
        # those texts find it, and in any case.
        self.register_buffer("crowd", torch.zeros(config.crowd, dim))
        self.crowd_scale = nn.Parameter(torch.zeros(3))
        # What a match of words with a photograph gets: by what is seen all over it, and in any case.
        self.scene_scale = nn.Parameter(torch.zeros(2))

    def states(self, sequence: Sequence) -> Tensor:
        """The trunk's last states (n, L + P, width). Each side reads itself; the judge reads both."""
        words = self.words(sequence.input_ids) + self.word_positions(sequence.word_positions)
        pictures = sequence.picture_tokens[..., : self.config.width]
        slots = sequence.slots
        # Both sides count their parts alike: a candidate reads as it would by itself.
        parts = torch.where(slots == JUDGE, CANDIDATE, slots.clamp(min=0) % CANDIDATE)
        x = torch.cat([self.word_norm(words), pictures], dim=1) + self.slots[parts]
        side = slots.clamp(min=0) // CANDIDATE
        reads = (side[:, :, None] == side[:, None]) | (slots[:, :, None] == JUDGE)
        away = (~reads | (slots < 0)[:, None]).to(x.dtype)[:, None] * _FAR
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
        """Logits (n,) that the candidate, in slots from CANDIDATE on, is what the query asks for.

        The cosine of the sides' embeddings, how well the query's tokens find their like among the
        candidate's (late interaction), and what the judge has read of drawings.
        """
        states, slots = self.states(sequence), sequence.slots
        query, candidate = (slots >= 0) & (slots < CANDIDATE), (slots >= CANDIDATE) & (slots < JUDGE)
        asked, shown = (self.embedding(states, sequence, side) for side in (query, candidate))
        alike = torch.linalg.vecdot(asked, shown)
        tokens = self.token_rows(states, sequence)
        found = agreement(tokens @ tokens.transpose(1, 2), query, candidate)
        judged: Tensor = self.itm((states * (slots == JUDGE)[..., None]).sum(1))[:, 0]
        judged = judged * self.drawn(sequence, slots >= 0)
        logits = judged + self.crowded(shown, found, sequence, query, candidate) + self.matched(alike, found)
        if self.config.front_end == "stem":
            logits = logits + self.scene(asked, sequence, query, candidate)
        return logits

    def crowded(
        self, row: Tensor, found: Tensor, sequence: Sequence, query: Tensor, candidate: Tensor
    ) -> Tensor:
        """What a match (n,) of words with a drawing gets besides: zero for photographs and other matches.

        Some rows lie near to those of all texts, and are found whatever is asked for. What many texts find
        counts for less (querybank normalisation, Bogolin et al. 2022, arXiv 2112.12777). row (n, dim) is the
        candidate's, found (n,) its agreement with the query.
        """
        wanted = _asks_for_a_picture(sequence, query, candidate)
        near = torch.logsumexp(CROWD_SHARPNESS * row @ self.crowd.T, dim=1) / CROWD_SHARPNESS
        agreeing, easily, always = self.crowd_scale
        gained: Tensor = agreeing * found + easily * near + always
        return gained * wanted * self.drawn(sequence, candidate)

    def scene(self, asked: Tensor, sequence: Sequence, query: Tensor, candidate: Tensor) -> Tensor:
        """What a match (n,) of words with a photograph gets besides: zero for drawings and other matches.

        The cosine of the words' row with the mean of what is seen in the patches. One thing in the middle
        says little of a sentence that tells who does what and where; a name asks for just that thing.
        """
        step, length = self.config.picture_tokens, sequence.input_ids.shape[1]
        patches = candidate[:, length:].clone()
        patches[:, ::step] = False
        seen = unit(mean_of(sequence.picture_tokens[..., self.config.width :], patches))
        gained: Tensor = self.scene_scale[0] * torch.linalg.vecdot(asked, seen) + self.scene_scale[1]
        pieces = query[:, :length].sum(1) - MARKERS
        told = ((pieces - NAME) / (SENTENCE - NAME)).clamp(0, 1)
        wanted = _asks_for_a_picture(sequence, query, candidate)
        return gained * told * wanted * (1 - self.drawn(sequence, candidate))

    def drawn(self, sequence: Sequence, chosen: Tensor) -> Tensor:
        """From 1 where the chosen pictures (n) are drawings, or there is none, to 0 for photographs.

        The judge and the look have learned from drawings alone, and have a say only there.
        """
        if self.config.front_end == "patches":
            return torch.ones(len(sequence.slots), device=sequence.slots.device)
        length: Tensor = torch.linalg.vector_norm(self.concept(sequence, chosen), dim=1)
        return 1 - length.clamp(max=1.0)

    def concept(self, sequence: Sequence, chosen: Tensor) -> Tensor:
        """The mean concept (n, dim) of the pictures among the chosen (n, L + P) tokens, zero for none."""
        step, length = self.config.picture_tokens, sequence.input_ids.shape[1]
        concepts = sequence.picture_tokens[:, ::step, self.config.width :]
        return mean_of(concepts, chosen[:, length::step])

    def matched(self, alike: Tensor, found: Tensor) -> Tensor:
        """The part of a match's logits that needs no judge: of the sides' cosine and of their agreement."""
        return self.match_scale[0] * alike + self.match_scale[1] * found + self.match_scale[2]

    def embedding(self, states: Tensor, sequence: Sequence, chosen: Tensor) -> Tensor:
        """Unit rows (n, dim) of the chosen (n, L + P) tokens: their mean, and what goes around the trunk."""
        length = sequence.input_ids.shape[1]
        said, shown = chosen[:, :length], chosen[:, length:]
        alone = said.sum(1, keepdim=True) <= MARKERS
        row = unit(self.itc(mean_of(states, chosen)))
        looked = self.look(self.looked_at(states, sequence, chosen))
        looked = looked * self.drawn(sequence, chosen)[:, None]
        row = row + looked * (shown.any(1, keepdim=True) & ~alone)
        if self.config.front_end == "stem":
            row = row + torch.where(alone, self.trust[0], self.trust[1]) * self.concept(sequence, chosen)
        return unit(row)

    def looked_at(self, states: Tensor, sequence: Sequence, chosen: Tensor) -> Tensor:
        """What the look reads (n, 3 * width) of the chosen (n, L + P) tokens."""
        length = sequence.input_ids.shape[1]
        said, shown = chosen[:, :length], chosen[:, length:]
        tokens = sequence.picture_tokens[..., : self.config.width]
        parts = ((tokens, shown), (states[:, :length], said), (states[:, length:], shown))
        return torch.cat([mean_of(*part) for part in parts], dim=1)

    def token_rows(self, states: Tensor, sequence: Sequence) -> Tensor:
        """Unit rows (n, L + P, dim) of single tokens; a patch stands for its concept and its picture's."""
        rows = unit(self.itc(states))
        if self.config.front_end == "stem":
            n, length = sequence.input_ids.shape
            concepts = sequence.picture_tokens[..., self.config.width :]
            concepts = concepts.view(n, -1, self.config.picture_tokens, self.config.dim)
            concepts = (concepts + concepts[:, :, :1]).flatten(1, 2)
            rows = torch.cat([rows[:, :length], rows[:, length:] + self.trust[0] * concepts], dim=1)
        return unit(rows)

    def word_logits(self, states: Tensor) -> Tensor:
        """Logits (…, vocabulary) of states of word tokens, for MLM; the word table is read again."""
        return F.linear(self.mlm(states), self.words.weight, self.mlm_bias)


def _asks_for_a_picture(sequence: Sequence, query: Tensor, candidate: Tensor) -> Tensor:
    """Whether a match (n,) is of words with something that has a picture."""
    length = sequence.input_ids.shape[1]
    return candidate[:, length:].any(1) & ~query[:, length:].any(1)


def agreement(cosines: Tensor, asked: Tensor, shown: Tensor) -> Tensor:
    """Mean over a query's tokens of the cosine of the candidate's token that is nearest (…,).

    cosines (…, L, K); asked (…, L) and shown (…, K) say which tokens count. Late interaction: Khattab &
    Zaharia 2020 (arXiv 2004.12832) for texts, Yao et al. 2021 (arXiv 2111.07783) for pictures.
    """
    nearest = cosines.masked_fill(~shown[..., None, :], -1.0).amax(-1)
    weight = asked.to(nearest.dtype)
    return (nearest * weight).sum(-1) / weight.sum(-1).clamp(min=1)


def mean_of(states: Tensor, chosen: Tensor) -> Tensor:
    """The mean (n, width) of the states (n, L, width) of the tokens chosen (n, L)."""
    weight = chosen.to(states.dtype)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)
