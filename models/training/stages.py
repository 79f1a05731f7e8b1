"""The three stages of MoMo (pictures; pictures and texts; texts and pairs): what each batch asks for."""

from collections.abc import Sequence as Numbers
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.config import ModelConfig
from models.front_ends import Features, unit
from models.momo import Sequence, mean_of
from models.sequences import Parts
from models.training import objectives, reading
from models.training.corpus import Composed, Corpus, Pairs
from models.training.drawings import Neighbours, Pictures
from models.training.fit import Losses, Stream
from models.training.reading import SEP, Read

MASK = 103
# Shares of ITM's pairs: candidates that are texts, that are documents of a picture and a text, and pictures
# asked for by text; in the rest a picture asks for a text.
_TEXTS, _DOCUMENTS, _PICTURES = 0.15, 0.15, 0.5

Stage = Literal[1, 2, 3]
# The concept of a photograph is right from the start, and no training data could tell us if it went wrong.
_CONCEPT = (
    *("whole_rows", "patch_rows", "logit_scale", "shares", "direct", "scene", "concept_norm", "photograph"),
)
# The look and the crowd are fitted when all else is trained (models.training.look, .crowd).
FROZEN = ("words.", "look.", "crowd", "scene_scale", *(f"front_end.{name}" for name in (*_CONCEPT, "skip")))
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """Sizes and weights of a step; the ablations change one of them at a time."""

    pictures: int = 64  # of the picture stream
    named: int = 2  # batches of pairs at once in the stream whose texts only the teacher has read
    texts: int = 64  # of the text stream
    matched: int = 40  # positives of ITM
    documents: int = 48  # pictures that are shown beside a text
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
        self._device = corpus.device
        self._teacher = F.normalize(torch.from_numpy(teacher.astype(np.float32)), dim=-1).to(self._device)
        self._no_pictures = torch.zeros(0, 1, config.token_width, device=self._device)

    def of(self, stage: Stage) -> list[Stream]:
        """Stage 1 sees pictures, stage 2 pictures and texts, stage 3 texts, pairs and composed queries.

        In every stage the frozen teacher says what pictures are called.
        """
        recipe, corpus = self.recipe, self.corpus
        pictures = Stream("pictures", lambda s: corpus.some_pictures(s, recipe.pictures), self.pictures)
        # In stage 3 texts are read beside as many pictures again.
        times = recipe.named if stage < 3 else 1
        named = Stream("named", lambda s: corpus.pairs([*s, 6], times), self.named)
        texts = Stream("texts", lambda s: corpus.some_texts(s, recipe.texts), self.texts)
        pairs = Stream(
            "pairs",
            lambda s: (corpus.pairs(s, neighbours=self._neighbours), np.random.default_rng([*s, 5])),
            self.pairs,
        )
        composed = Stream("composed", corpus.composed, self.composed)
        streams = {
            1: [pictures, named],
            2: [pictures, named, texts],
            3: [named, texts, pairs, composed],
        }[stage]
        left_out = [named] * (not recipe.distillation) + [composed] * (not corpus.mixture.composed)
        return [stream for stream in streams if stream not in left_out]

    @cached_property
    def _neighbours(self) -> Neighbours:
        """By the teacher's rows of names; of use to pairs alone, and not made for stages without."""
        drawings = self.corpus.drawings
        names = [self.corpus.texts.number[record.name] for record in drawings.records]
        return Neighbours(drawings, self._teacher[names].cpu().numpy())

    # -- pictures and texts alone

    def pictures(self, model: Any, batch: Pictures) -> Losses:
        """MIM, and the trunk alone learns to say what the classifier expects to read."""
        features = _features(batch)
        tokens = model.front_end(features).float()
        width = self._config.width
        hidden = torch.rand(features.patches.shape[:2], device=self._device) < self.recipe.hidden
        first = self._config.concept_tokens
        blank = model.hidden_patch + model.front_end.positions
        patches = torch.where(hidden[..., None], blank, tokens[:, first:, :width])
        concept = model.hidden_patch.expand(len(tokens), first, -1)  # the whole in one token: hidden too
        states = model.states(reading.shown(torch.cat([concept, patches], dim=1)))
        predicted = model.mim(states[:, -patches.shape[1] :]).float()
        losses = {"mim": objectives.mim(predicted, normalised(model, features), hidden)}
        if self.recipe.distillation and first:
            sequence = reading.shown(tokens)
            trunk = unit(model.itc(mean_of(model.states(sequence), sequence.slots >= 0))).float()
            expected = unit(tokens[:, 0, width:]).detach()
            losses["concept"] = self.recipe.distillation * objectives.alike(trunk, expected)
        return losses

    def named(self, model: Any, batch: Pairs) -> Losses:
        """ITC against the teacher's rows of texts; they are not read again, so that many pictures fit in.

        A locked text side: LiT (Zhai et al. 2022, arXiv 2111.07991).
        """
        rows = model.embed(reading.shown(model.front_end(_features(batch.pictures)).float())).float()
        targets = self._targets(batch.groups, batch.texts)
        scale = model.logit_scale.exp().clamp(max=100.0)
        loss = objectives.itc(rows, self._teacher[batch.texts], targets, scale)
        return {"itc": self.recipe.distillation * loss}

    def texts(self, model: Any, batch: Ids) -> Losses:
        """MLM, and rows that stay near the frozen teacher's."""
        losses: Losses = {}
        chunks = self.corpus.texts.by_length(batch, 2)
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
                states = model.states(replace(sequence, input_ids=read)).flatten(0, 1)[asked]
                mlm = F.cross_entropy(model.word_logits(states).float(), labels.flatten()[asked])
                _add(losses, "mlm", 0.2 * mlm / len(chunks))
            if self.recipe.distillation:
                rows, taught = model.embed(sequence).float(), self._teacher[chunk]
                near = 18 * objectives.alike(rows, taught)
                related = 0.5 * objectives.relations(rows, taught, self.recipe.temperature)
                _add(losses, "teacher", self.recipe.distillation * (near + related) / len(chunks))
        return losses

    # -- pairs

    def pairs(self, model: Any, batch: tuple[Pairs, np.random.Generator]) -> Losses:
        """ITC and ITM; texts softened by the frozen teacher are the targets of both.

        ITM sees every pair of the batch by what needs no judge, and the judge those that are hard.
        """
        pairs, rng = batch
        tokens = model.front_end(_features(pairs.pictures)).float()
        chosen = self.corpus.texts.order(pairs.texts)
        tokens, numbers = tokens[chosen], pairs.texts[chosen]
        groups = [pairs.groups[i] for i in chosen]
        targets, same = self._targets(groups, numbers), self._same(groups, numbers) > 0
        scale = model.logit_scale.exp().clamp(max=100.0)

        shown = Read.by(model, reading.shown(tokens))
        said = [Read.by(model, self.words(chunk)) for chunk in np.array_split(numbers, 4)]
        texts = torch.cat([chunk.rows for chunk in said])
        cosines = shown.rows @ texts.T
        losses = {"itc": objectives.contrast(scale * cosines, targets)}
        if self.recipe.distillation:
            near = objectives.alike(texts, self._teacher[numbers])
            losses["teacher"] = 8 * self.recipe.distillation * near
        if self.recipe.matched:
            found = torch.cat([chunk.found_in(shown) for chunk in said]).T
            logits = model.matched(cosines, found)
            losses["match"] = objectives.contrast(logits, targets)
            losses["itm"] = self._matching(model, tokens, numbers, logits.detach(), same, rng)
        if self.recipe.documents:
            losses["documents"] = self._documents(model, tokens, numbers, scale * texts.T, targets, rng)
        return losses

    def _documents(
        self, model: Any, tokens: Tensor, texts: Ids, heard: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """Pictures, each beside another text about the same, against the texts: heard (dim, n)."""
        some = rng.permutation(len(texts))[: self.recipe.documents]
        others = self.corpus.others(texts, rng)
        words = self.corpus.texts.words
        shown: list[Parts] = []
        for i in some:
            parts: Parts = [int(i), words(others[i])]
            shown.append(parts[:: rng.choice([1, -1])])
        rows = model.embed(reading.documents(shown, tokens)).float()
        wanted = targets[some]
        return F.cross_entropy(rows @ heard, wanted / wanted.sum(1, keepdim=True))

    def _targets(self, groups: Numbers[str], texts: Ids) -> Tensor:
        """What ITC asks for (n, n): pairs that show the same in equal shares, softened by the teacher."""
        same = self._same(groups, texts)
        targets = same / same.sum(1, keepdim=True)
        if not self.recipe.softness:
            return targets
        taught = self._teacher[texts]
        near = (taught @ taught.T / self.recipe.temperature).softmax(1)
        return (1 - self.recipe.softness) * targets + self.recipe.softness * near

    def _same(self, groups: Numbers[str], texts: Ids) -> Tensor:
        """Ones (n, n) where two pairs show the same, or are called the same."""
        kinds = np.unique(groups, return_inverse=True)[1]
        found = (kinds[:, None] == kinds[None]) | (texts[:, None] == texts[None])
        return torch.from_numpy(found.astype(np.float32)).to(self._device)

    def _matching(
        self, model: Any, tokens: Tensor, texts: Ids, scores: Tensor, same: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """The judge over positives, each with a wrong text and a wrong picture that are hard to tell apart.

        Some candidates are another text about what the picture shows, or the picture beside it.
        """
        some = torch.from_numpy(rng.permutation(len(texts))[: self.recipe.matched])
        wrong_texts = objectives.hard_negatives(scores[some], same[some]).cpu()
        wrong_pictures = objectives.hard_negatives(scores.T[some], same.T[some]).cpu()
        pictures = torch.cat([some, some, wrong_pictures]).tolist()
        numbers = texts[torch.cat([some, wrong_texts, some]).numpy()]
        labels = torch.arange(3 * len(some), device=self._device) < len(some)
        words, others = self.corpus.texts.words, self.corpus.others(texts, rng)
        sides: list[tuple[Parts, Parts]] = []
        for text, picture in zip(numbers, pictures, strict=True):
            said, beside, kind = [words(text)], words(others[picture]), rng.random()
            if kind < _TEXTS:
                sides.append((said, [beside]))
            elif kind < _TEXTS + _DOCUMENTS:
                sides.append((said, [picture, beside]))
            else:
                asked = kind < _TEXTS + _DOCUMENTS + _PICTURES
                sides.append((said, [picture]) if asked else ([picture], said))
        return objectives.itm(model.match(reading.pairs(sides, tokens)).float(), labels.float())

    def composed(self, model: Any, batch: Composed) -> Losses:
        """The reference and the wish, read as one document, against all targets and references."""
        references = model.front_end(_features(batch.references)).float()
        targets = model.front_end(_features(batch.targets)).float()
        words = self.corpus.texts.words
        asked: list[Parts] = [[i, words(text)] for i, text in enumerate(batch.texts)]
        queries = model.embed(reading.documents(asked, references)).float()
        candidates = model.embed(reading.shown(torch.cat([targets, references]))).float()
        scale = model.logit_scale.exp().clamp(max=100.0)
        return {
            "itc": F.cross_entropy(
                scale * queries @ candidates.T, torch.arange(len(queries), device=self._device)
            )
        }

    def words(self, numbers: Ids) -> Sequence:
        """Texts of the corpus, by number."""
        return reading.documents([[self.corpus.texts.words(number)] for number in numbers], self._no_pictures)


def normalised(model: Any, features: Features) -> Tensor:
    """Patches at about zero mean and unit variance per channel: what MIM predicts."""
    found: Tensor = (features.patches - model.front_end.mean) * model.front_end.scale
    return found


def _features(pictures: Pictures) -> Features:
    return Features(pictures.patches, pictures.pooled)


def _add(losses: Losses, name: str, loss: Tensor) -> None:
    losses[name] = losses[name] + loss if name in losses else loss


def rates(stage: Stage, front: float = 1e-3, trunk: float = 2.5e-4) -> Any:
    """Learning rates by name: what is new learns fast, the trunk slowly, the word table not at all."""

    def rate(name: str) -> float:
        if name.startswith(FROZEN) or (stage == 1 and name.startswith(("mlm", "itm"))):
            return 0.0
        if name.startswith(("trunk", "word_", "itc")):
            return trunk
        if name == "match_scale":
            return 10 * front
        return front

    return rate
