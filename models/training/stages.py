"""The three stages of MoMo (pictures; pictures and texts; texts and pairs): what each batch asks for."""

from collections.abc import Sequence as Numbers
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.config import ModelConfig
from models.momo import Features, Sequence, mean_of, unit
from models.sequences import Layout, Part, Sequences
from models.training import objectives
from models.training.corpus import Composed, Corpus, Pairs, Pictures
from models.training.fit import Losses, Stream

CLS, SEP, MASK = 101, 102, 103
# Few different lengths: every new shape costs the CPU's matrix library a compilation.
WIDTHS = (2, 8, 16, 24, 40, 64, 80)
# Shares of ITM's pairs: two texts; those and a text that asks for a picture; the rest ask by picture.
_TEXTS_MATCHED, _ASKED_BY_TEXT = 0.2, 0.8

Stage = Literal[1, 2, 3]
# The concept of a photograph is right from the start, and no training data could tell us if it went wrong.
FROZEN = (
    "words.",
    "skip.",
    *(
        f"front_end.{name}"
        for name in (
            "whole_rows",
            "patch_rows",
            "logit_scale",
            "shares",
            "direct",
            "concept_norm",
            "photograph",
        )
    ),
)
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """Sizes and weights of a step; the ablations change one of them at a time."""

    pictures: int = 32  # of the picture stream
    named: int = 2  # batches of pairs at once in the stream whose texts only the teacher has read
    texts: int = 32  # of the text stream
    matched: int = 24  # positives of ITM
    hidden: float = 0.6  # share of patches that MIM hides
    masked: float = 0.15  # share of words that MLM asks for
    softness: float = 0.2  # share of the teacher in the targets of ITC
    temperature: float = 0.05  # of the teacher
    distillation: float = 1.0  # weight of the frozen teachers; 0 is the ablation


class Streams:
    """Makes the streams of a stage from a corpus and the frozen teacher's rows of its texts."""

    def __init__(
        self, corpus: Corpus, teacher: NDArray[np.float16], config: ModelConfig, recipe: Recipe
    ) -> None:
        self.corpus = corpus
        self._config = config
        self.recipe = recipe
        self._teacher = F.normalize(torch.from_numpy(teacher.astype(np.float32)), dim=-1)
        self._layout = Layout(CLS, SEP, WIDTHS[-1], WIDTHS)
        self._markers = torch.tensor([[CLS, SEP]])

    def of(self, stage: Stage) -> list[Stream]:
        """Stage 1 sees pictures, stage 2 pictures and texts, stage 3 texts, pairs and composed queries.

        In every stage the frozen teacher says what pictures are called.
        """
        recipe, corpus = self.recipe, self.corpus
        pictures = Stream("pictures", lambda s: corpus.some_pictures(s, recipe.pictures), self.pictures)
        named = Stream("named", lambda s: corpus.pairs([*s, 6], recipe.named), self.named)
        texts = Stream("texts", lambda s: corpus.some_texts(s, recipe.texts), self.texts)
        pairs = Stream("pairs", lambda s: (corpus.pairs(s), np.random.default_rng([*s, 5])), self.pairs)
        composed = Stream("composed", corpus.composed, self.composed)
        streams = {
            1: [pictures, named],
            2: [pictures, named, texts],
            3: [named, texts, pairs, composed],
        }[stage]
        left_out = [named] * (not recipe.distillation) + [composed] * (not corpus.mixture.composed)
        return [stream for stream in streams if stream not in left_out]

    # -- pictures and texts alone

    def pictures(self, model: Any, batch: Pictures) -> Losses:
        """MIM, and the trunk alone learns to say what the classifier expects to read."""
        features = _features(batch)
        tokens = model.front_end(features).float()
        hidden = torch.rand(features.patches.shape[:2]) < self.recipe.hidden
        first = self._config.concept_tokens
        blank = model.hidden_patch + model.front_end.positions
        patches = torch.where(hidden[..., None], blank, tokens[:, first:])
        concept = model.hidden_patch.expand(
            len(tokens), first, -1
        )  # the whole picture in one token: hidden too
        states = model.states(self._shown(torch.cat([concept, patches], dim=1)))
        predicted = model.mim(states[:, -patches.shape[1] :]).float()
        losses = {"mim": objectives.mim(predicted, normalised(model, features), hidden)}
        if self.recipe.distillation and first:
            sequence = self._shown(tokens)
            trunk = unit(model.itc(mean_of(model.states(sequence), sequence.slots >= 0))).float()
            expected = unit(model.skip(tokens[:, 0])).float().detach()
            losses["concept"] = self.recipe.distillation * objectives.alike(trunk, expected)
        return losses

    def named(self, model: Any, batch: Pairs) -> Losses:
        """ITC against the teacher's rows of texts; they are not read again, so that many pictures fit in.

        A locked text side: LiT (Zhai et al. 2022, arXiv 2111.07991).
        """
        rows = model.embed(self._shown(model.front_end(_features(batch.pictures)).float())).float()
        targets = self._targets(batch.groups, batch.texts)
        scale = model.logit_scale.exp().clamp(max=100.0)
        loss = objectives.itc(rows, self._teacher[batch.texts], targets, scale)
        return {"itc": self.recipe.distillation * loss}

    def texts(self, model: Any, batch: Ids) -> Losses:
        """MLM, and rows that stay near the frozen teacher's."""
        losses: Losses = {}
        chunks = self._by_length(batch, 2)
        for chunk in chunks:
            sequence = self.words(chunk)
            read, labels = objectives.mask_words(
                sequence.input_ids,
                (sequence.word_slots >= 0) & (sequence.input_ids > SEP),
                MASK,
                model.config.vocabulary,
                self.recipe.masked,
            )
            asked = (labels != objectives.IGNORED).flatten().nonzero()[:, 0]
            asked = asked[: len(asked) // 16 * 16]  # few different shapes
            if len(asked):
                states = model.states(_with_words(sequence, read)).flatten(0, 1)[asked]
                mlm = F.cross_entropy(model.word_logits(states).float(), labels.flatten()[asked])
                _add(losses, "mlm", 0.2 * mlm / len(chunks))
            if self.recipe.distillation:
                rows, taught = model.embed(sequence).float(), self._teacher[chunk]
                near = 6 * objectives.alike(rows, taught)
                related = 0.5 * objectives.relations(rows, taught, self.recipe.temperature)
                _add(losses, "teacher", self.recipe.distillation * (near + related) / len(chunks))
        return losses

    # -- pairs

    def pairs(self, model: Any, batch: tuple[Pairs, np.random.Generator]) -> Losses:
        """ITC, its targets softened by the frozen teacher, and ITM on pairs that ITC finds hard."""
        pairs, rng = batch
        tokens = model.front_end(_features(pairs.pictures)).float()
        shown = model.embed(self._shown(tokens)).float()
        scale = model.logit_scale.exp().clamp(max=100.0)

        chosen = np.argsort(self._lengths(pairs.texts), kind="stable")
        numbers = pairs.texts[chosen]
        said = torch.cat([model.embed(self.words(chunk)).float() for chunk in np.array_split(numbers, 4)])
        groups = [pairs.groups[i] for i in chosen]
        losses = {"itc": objectives.itc(shown[chosen], said, self._targets(groups, numbers), scale)}
        if self.recipe.distillation:
            near = objectives.alike(said, self._teacher[numbers])
            losses["teacher"] = 2 * self.recipe.distillation * near
        if self.recipe.matched:
            scores = (scale * shown[chosen] @ said.T).detach()
            same = _same(groups, numbers) > 0
            losses["itm"] = self._matching(model, tokens[chosen], numbers, scores, same, rng)
        return losses

    def _targets(self, groups: Numbers[str], texts: Ids) -> Tensor:
        """What ITC asks for (n, n): pairs that show the same in equal shares, softened by the teacher."""
        same = _same(groups, texts)
        targets = same / same.sum(1, keepdim=True)
        if not self.recipe.softness:
            return targets
        taught = self._teacher[texts]
        near = (taught @ taught.T / self.recipe.temperature).softmax(1)
        return (1 - self.recipe.softness) * targets + self.recipe.softness * near

    def _matching(
        self, model: Any, tokens: Tensor, texts: Ids, scores: Tensor, same: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """ITM over positives, each with a wrong text and a wrong picture that are hard to tell apart.

        Some candidates are another text about what the picture shows, so that texts are matched too.
        """
        some = torch.from_numpy(rng.permutation(len(texts))[: self.recipe.matched])
        wrong_texts = objectives.hard_negatives(scores[some], same[some])
        wrong_pictures = objectives.hard_negatives(scores.T[some], same.T[some])
        pictures = torch.cat([some, some, wrong_pictures]).numpy()
        numbers = texts[torch.cat([some, wrong_texts, some]).numpy()]
        labels = torch.cat([torch.ones(len(some)), torch.zeros(2 * len(some))])
        ids, others = self.corpus.texts.ids, self.corpus.others(texts, rng)
        sides: list[tuple[list[Part], list[Part]]] = []
        for text, picture in zip(numbers, pictures, strict=True):
            query: list[Part] = [list(ids[text][1:-1])]
            kind = rng.random()
            if kind < _TEXTS_MATCHED:
                sides.append((query, [list(ids[others[picture]][1:-1])]))
            else:
                candidate: list[Part] = [int(picture)]
                sides.append((query, candidate) if kind < _ASKED_BY_TEXT else (candidate, query))
        sequences = Sequences.of_pairs(sides, self._layout)
        return objectives.itm(model.match(self._sequence(sequences, tokens)).float(), labels)

    def composed(self, model: Any, batch: Composed) -> Losses:
        """The reference and the wish, read as one document, against all targets and references."""
        references = model.front_end(_features(batch.references)).float()
        targets = model.front_end(_features(batch.targets)).float()
        ids = self.corpus.texts.ids
        asked: list[list[Part]] = [[i, list(ids[text][1:-1])] for i, text in enumerate(batch.texts)]
        queries = model.embed(self._sequence(Sequences.of(asked, self._layout), references)).float()
        candidates = model.embed(self._shown(torch.cat([targets, references]))).float()
        scale = model.logit_scale.exp().clamp(max=100.0)
        return {"itc": F.cross_entropy(scale * queries @ candidates.T, torch.arange(len(queries)))}

    # -- sequences

    def words(self, numbers: Ids) -> Sequence:
        """Texts of the corpus, by number."""
        ids = self.corpus.texts.ids
        parts: list[list[Part]] = [[list(ids[number][1:-1])] for number in numbers]
        return self._sequence(Sequences.of(parts, self._layout), None)

    def _shown(self, tokens: Tensor) -> Sequence:
        """One picture each, of which tokens (n, M, width) are given."""
        count, length, _ = tokens.shape
        zeros = torch.zeros(count, length, dtype=torch.int64)
        return Sequence(self._markers.expand(count, 2), zeros[:, :2], tokens, zeros)

    def _sequence(self, sequences: Sequences, tokens: Tensor | None) -> Sequence:
        """The model's input; tokens (k, M, width) are of the pictures that the sequences number."""
        ids, slots = torch.from_numpy(sequences.input_ids), torch.from_numpy(sequences.word_slots)
        if tokens is None:
            return Sequence(
                ids,
                slots,
                torch.zeros(len(ids), 0, self._config.width),
                torch.zeros(len(ids), 0, dtype=torch.int64),
            )
        placed = tokens[torch.from_numpy(sequences.pictures)].flatten(1, 2)
        return Sequence(ids, slots, placed, torch.from_numpy(sequences.token_slots(tokens.shape[1])))

    def _lengths(self, numbers: Ids) -> list[int]:
        return [len(self.corpus.texts.ids[number]) for number in numbers]

    def _by_length(self, numbers: Ids, parts: int) -> list[Ids]:
        """Chunks of one size whose texts are of like length."""
        return np.array_split(numbers[np.argsort(self._lengths(numbers), kind="stable")], parts)


def normalised(model: Any, features: Features) -> Tensor:
    """Patches at about zero mean and unit variance per channel: what MIM predicts."""
    found: Tensor = (features.patches - model.front_end.mean) * model.front_end.scale
    return found


def _features(pictures: Pictures) -> Features:
    return Features(torch.from_numpy(pictures.patches), torch.from_numpy(pictures.pooled))


def _with_words(sequence: Sequence, ids: Tensor) -> Sequence:
    return Sequence(ids, sequence.word_slots, sequence.picture_tokens, sequence.picture_slots)


def _same(groups: Numbers[str], texts: Ids) -> Tensor:
    """Ones (n, n) where two pairs show the same, or are called the same."""
    kinds = np.unique(groups, return_inverse=True)[1]
    found = (kinds[:, None] == kinds[None]) | (texts[:, None] == texts[None])
    return torch.from_numpy(found.astype(np.float32))


def _add(losses: Losses, name: str, loss: Tensor) -> None:
    losses[name] = losses[name] + loss if name in losses else loss


def rates(stage: Stage, front: float = 1e-3, trunk: float = 1.5e-4) -> Any:
    """Learning rates by name: what is new learns fast, the trunk slowly, the word table not at all."""

    def rate(name: str) -> float:
        if name.startswith(FROZEN) or (stage == 1 and name.startswith(("mlm", "itm"))):
            return 0.0
        if name.startswith(("trunk", "word_", "itc", "trust")):
            return trunk
        return front

    return rate
