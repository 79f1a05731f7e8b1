"""What training reads: texts, their teacher's rows, and pictures as a stem's features; batches by seed."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.config import ModelConfig
from models.data.sources.classes import Concept
from models.training import virtual
from models.training.drawings import CPU, Drawings, FeatureBank, Neighbours, Pictures
from models.training.features import FOLDERS, TO_LOOK

MAX_WORDS = 40  # word pieces of a training text; later ones are cut
PHOTOGRAPHS = "stamps-photo"  # the style of the cut-out photographs
_TWO = 0.3  # share of virtual pictures that show two classes


Floats = NDArray[np.float32]
Seed = Sequence[int]


@dataclass(frozen=True)
class Texts:
    """Distinct texts with their word pieces, markers included; number them with `number`."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    number: dict[str, int]

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: Tokenizer) -> "Texts":
        distinct = tuple(dict.fromkeys(texts))
        tokenizer.no_padding()
        tokenizer.enable_truncation(MAX_WORDS)
        ids = tuple(tuple(encoding.ids) for encoding in tokenizer.encode_batch(list(distinct)))
        return cls(distinct, ids, {text: number for number, text in enumerate(distinct)})

    def words(self, number: int) -> list[int]:
        """The word pieces of a text, without its markers."""
        return list(self.ids[number][1:-1])

    def order(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """What puts these texts in the order of their lengths."""
        return np.argsort([len(self.ids[number]) for number in numbers], kind="stable")

    def by_length(self, numbers: NDArray[np.int64], parts: int) -> list[NDArray[np.int64]]:
        """Chunks of one size whose texts are of like length."""
        return np.array_split(numbers[self.order(numbers)], parts)

    @property
    def digest(self) -> str:
        """Names a cache of the teacher's rows for these very texts."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Pairs:
    """Pictures with one text each; those of one group show the same and are not each other's negatives."""

    pictures: Pictures
    texts: NDArray[np.int64]
    groups: list[str]


@dataclass(frozen=True)
class Composed:
    """References with a text each, and the targets that they lead to."""

    references: Pictures
    texts: NDArray[np.int64]
    targets: Pictures


@dataclass(frozen=True)
class Mixture:
    """How many pictures of a batch come from where; 0 leaves a source out."""

    drawings: int = 160
    virtual: int = 48
    scenes: int = 32
    composed: int = 320


class Corpus:
    """Every source of a training folder. A batch depends on its seed alone."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[Concept],
        classifier: Floats,
        tokenizer: Tokenizer,
        mixture: Mixture,
        config: ModelConfig,
        device: torch.device = CPU,
    ) -> None:
        """classifier (classes, pooled): the stem's class weights, which virtual pictures are pushed along."""
        self.mixture = mixture
        self.device = device
        self.drawings = Drawings(folder, ("train",), config, device)
        features = folder / FOLDERS[config.front_end]
        self._scenes, self._triplets = (
            FeatureBank(features / name, device) for name in ("scenes", "triplets")
        )
        self._classifier = torch.from_numpy(classifier).to(device)
        self._class_texts = [concept.all_texts() for concept in classes]
        kinds = np.array([str(note["kind"]) for note in self._triplets.notes])
        self._untrained = min(TO_LOOK, len(kinds) // 2)  # triplets, the first
        self._kinds = kinds[self._untrained :]
        self._couples = virtual.couples([concept.name for concept in classes])
        captions = [caption for note in self._scenes.notes for caption in note["captions"]]
        wishes = [str(note["text"]) for note in self._triplets.notes]
        named = [text for texts in self.drawings.texts for text in texts]
        known = [text for texts in self._class_texts for text in texts]
        styles = [record.style for record in self.drawings.records]
        self._photographs = np.flatnonzero([style == PHOTOGRAPHS for style in styles])
        together = [couple.text for couple in self._couples]
        self.texts = Texts.of([*known, *together, *named, *captions, *wishes], tokenizer)
        said = [*self._class_texts, *self.drawings.texts, *(note["captions"] for note in self._scenes.notes)]
        self._alike: dict[int, list[int]] = {}
        for about_one in said:
            numbers = [self.texts.number[text] for text in about_one]
            for number in numbers:
                self._alike.setdefault(number, numbers)

    def some_texts(self, seed: Seed, count: int) -> NDArray[np.int64]:
        """Numbers of texts, each at most once."""
        return _random(seed, 1).choice(len(self.texts.texts), count, replace=False)

    def others(self, texts: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """For each text another one about the same thing; itself where there is none."""
        found = []
        for text in texts.tolist():
            alike = [number for number in self._alike.get(text, ()) if number != text]
            found.append(int(rng.choice(alike)) if alike else text)
        return np.array(found)

    def some_pictures(self, seed: Seed, count: int) -> Pictures:
        """Drawings and scenes in equal share, without texts."""
        rng = _random(seed, 2)
        drawings = self._viewed(rng, self._some_drawings(rng, count - count // 2))
        scenes = rng.integers(len(self._scenes.notes), size=count // 2)
        return Pictures.joined(drawings, self._scenes.read(scenes))

    def pairs(self, seed: Seed, times: int = 1, neighbours: Neighbours | None = None) -> Pairs:
        """A batch as the mixture says, or several at once; with neighbours, half of its drawings are."""
        rng = _random(seed, 3)
        parts = [self._drawn_pairs(rng, times * self.mixture.drawings, neighbours)]
        if self.mixture.virtual:
            parts.append(self._virtual_pairs(rng, times * self.mixture.virtual))
        if self.mixture.scenes:
            parts.append(self._scene_pairs(rng, times * self.mixture.scenes))
        return Pairs(
            Pictures.joined(*(part.pictures for part in parts)),
            np.concatenate([part.texts for part in parts]),
            [group for part in parts for group in part.groups],
        )

    def composed(self, seed: Seed) -> Composed:
        """Triplets of two kinds: what has the same thing changed is hard to tell apart."""
        rng = _random(seed, 4)
        mixed = self._kinds[rng.permutation(len(self._kinds))]
        kinds = list(dict.fromkeys(mixed.tolist()))[:2]
        pools = [np.flatnonzero(self._kinds == kind) for kind in kinds]
        share = self.mixture.composed // len(pools)
        chosen = np.concatenate([rng.choice(pool, min(share, len(pool)), replace=False) for pool in pools])
        chosen += self._untrained
        texts = [self.texts.number[str(self._triplets.notes[i]["text"])] for i in chosen]
        references, targets = (self._triplets.read(2 * chosen + side) for side in (0, 1))
        return Composed(references, np.array(texts), targets)

    def wishes(self, batch: int = 64) -> Iterator[Composed]:
        """The triplets that no batch of `composed` has, in batches."""
        count = self._untrained
        for start in range(0, count, batch):
            chosen = np.arange(start, min(start + batch, count))
            texts = [self.texts.number[str(self._triplets.notes[i]["text"])] for i in chosen]
            references, targets = (self._triplets.read(2 * chosen + side) for side in (0, 1))
            yield Composed(references, np.array(texts), targets)

    def named(self, most: int, batch: int = 64) -> Iterator[tuple[Pictures, NDArray[np.int64]]]:
        """Some drawings as drawn, `most` at most, and their names, in batches."""
        chosen = np.random.default_rng(0).permutation(len(self.drawings))[:most]
        for start in range(0, len(chosen), batch):
            few = chosen[start : start + batch]
            texts = [self.texts.number[self.drawings.records[i].name] for i in few]
            yield self.drawings.read(few, np.zeros(len(few), np.int64)), np.array(texts)

    def _some_drawings(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return rng.choice(len(self.drawings), count, replace=count > len(self.drawings))

    def _viewed(self, rng: np.random.Generator, chosen: NDArray[np.int64]) -> Pictures:
        return self.drawings.read(chosen, rng.integers(self.drawings.views, size=len(chosen)))

    def _drawn_pairs(self, rng: np.random.Generator, count: int, neighbours: Neighbours | None) -> Pairs:
        chosen = self._some_drawings(rng, count)
        if neighbours is not None:
            chosen[: count // 2] = neighbours.draw(rng, count // 2)
        pictures = self._viewed(rng, chosen)
        texts = []
        for i in chosen:
            weights = np.array(list(self.drawings.texts[i].values()))
            text = rng.choice(list(self.drawings.texts[i]), p=weights / weights.sum())
            texts.append(self.texts.number[str(text)])
        groups = [self.drawings.records[i].concept for i in chosen]
        return Pairs(pictures, np.array(texts), groups)

    def _virtual_pairs(self, rng: np.random.Generator, count: int) -> Pairs:
        chosen = rng.choice(self._photographs, count)
        base = self._viewed(rng, chosen)
        width, side = base.pooled.shape[1], int(base.patches.shape[1] ** 0.5)
        classes = len(self._classifier)
        shown = [
            self._subjects(rng, int(number), side)
            for number in rng.choice(classes, count, replace=count > classes)
        ]
        pushed = virtual.pushed(
            base.patches[..., :width], [subjects for subjects, _ in shown], self._classifier, rng
        )
        pictures = Pictures(torch.cat([pushed, base.patches[..., width:]], dim=2), pushed.mean(1))
        texts = np.array([self.texts.number[text] for _, text in shown])
        groups = [
            " ".join(["class", *(str(subject.number) for subject in subjects)]) for subjects, _ in shown
        ]
        return Pairs(pictures, texts, groups)

    def _subjects(
        self, rng: np.random.Generator, number: int, side: int
    ) -> tuple[list[virtual.Subject], str]:
        """This class somewhere or, at times, a couple of others side by side; and a text about it."""
        if rng.random() < _TWO:
            couple = self._couples[rng.integers(len(self._couples))]
            return couple.side_by_side(rng, side), couple.text
        subject = virtual.Subject(number, virtual.block(rng, side))
        return [subject], str(rng.choice(self._class_texts[number]))

    def _scene_pairs(self, rng: np.random.Generator, count: int) -> Pairs:
        chosen = rng.choice(len(self._scenes.notes), count, replace=count > len(self._scenes.notes))
        captions = [self._scenes.notes[i]["captions"] for i in chosen]
        texts = np.array([self.texts.number[str(rng.choice(few))] for few in captions])
        return Pairs(self._scenes.read(chosen), texts, [f"scene {i}" for i in chosen])


def teacher_rows(
    folder: Path, texts: Texts, teacher: str, embed: Callable[[Sequence[Sequence[int]]], Floats]
) -> NDArray[np.float16]:
    """The frozen teacher's unit rows (n, dim) of all texts, computed once and kept in folder/features.

    teacher names it: another one has rows of its own.
    """
    file = folder / "features" / f"teacher-{teacher}-{texts.digest}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")  # runs beside this one may do the same
        with partial.open("wb") as stream:
            np.save(stream, embed(texts.ids).astype(np.float16))
        partial.replace(file)
    found: NDArray[np.float16] = np.load(file)
    return found


def _random(seed: Seed, purpose: int) -> np.random.Generator:
    return np.random.default_rng([*seed, purpose])
