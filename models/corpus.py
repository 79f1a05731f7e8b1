"""What training reads: texts, their teacher's rows, and pictures as a stem's features; batches by seed."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.captions import article
from models.config import ModelConfig
from models.data import Record, read_records
from models.features import FOLDERS, VARIED_SETS, FeatureSet
from models.sources.classes import Concept

MAX_WORDS = 40  # word pieces of a training text; later ones are cut
PHOTOGRAPHS = "stamps-photo"  # the style of the cut-out photographs
COUPLES = 4_000
_TWO = 0.3  # share of virtual pictures that show two classes
_TOGETHER = ("{} and {}", "{} next to {}", "{} beside {}", "a photo of {} and {}", "{} with {}")
_KIND_WEIGHT = {"name": 3.0, "keywords": 1.0, "description": 2.0}

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

    @property
    def digest(self) -> str:
        """Names a cache of the teacher's rows for these very texts."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Pictures:
    """A batch: patches (n, grid², features), pooled (n, pooled), float32."""

    patches: Floats
    pooled: Floats


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

    drawings: int = 96
    virtual: int = 32
    scenes: int = 16
    composed: int = 24


@dataclass(frozen=True)
class Couple:
    """Two classes in one picture, by number, and what to say of it."""

    first: int
    second: int
    text: str


def couples(names: Sequence[str], count: int = COUPLES) -> list[Couple]:
    """Random couples of classes; always the same ones."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice(len(names), 2, replace=False) for _ in range(count)]
    texts = [str(rng.choice(_TOGETHER)) for _ in drawn]
    return [
        Couple(int(one), int(other), text.format(*(f"{article(names[i])} {names[i]}" for i in (one, other))))
        for (one, other), text in zip(drawn, texts, strict=True)
    ]


class Drawings:
    """The features of one split's records, plain and varied, and the texts about each."""

    def __init__(self, folder: Path, splits: Sequence[str], config: ModelConfig) -> None:
        """Raises RecordError, FileNotFoundError."""
        records = {record.id: record for record in read_records(folder) if record.split in splits}
        names = ["plain", *(f"varied-{number}" for number in range(1, VARIED_SETS + 1))]
        self._sets = [FeatureSet(folder / FOLDERS[config.front_end] / name) for name in names]
        order = [str(note["id"]) for note in self._sets[0].notes]
        self._rows = [row for row, name in enumerate(order) if name in records]
        self.records = [records[order[row]] for row in self._rows]
        self.texts = [_weighted(record) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def read(self, chosen: NDArray[np.int64], views: NDArray[np.int64]) -> Pictures:
        """The features of these drawings, each in its view; 0 is the plain one."""
        places = [(self._sets[view], self._rows[i]) for i, view in zip(chosen, views, strict=True)]
        return _stacked((found.patches[row], found.pooled[row]) for found, row in places)

    @property
    def views(self) -> int:
        return len(self._sets)


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
    ) -> None:
        """classifier (classes, pooled): the stem's class weights, which virtual pictures are pushed along."""
        self.mixture = mixture
        self.drawings = Drawings(folder, ("train",), config)
        features = folder / FOLDERS[config.front_end]
        self._scenes, self._triplets = FeatureSet(features / "scenes"), FeatureSet(features / "triplets")
        self._classifier = classifier
        self._class_texts = [concept.all_texts() for concept in classes]
        self._couples = couples([concept.name for concept in classes])
        captions = [caption for note in self._scenes.notes for caption in note["captions"]]
        wishes = [str(note["text"]) for note in self._triplets.notes]
        named = [text for texts in self.drawings.texts for text in texts]
        known = [text for texts in self._class_texts for text in texts]
        styles = [record.style for record in self.drawings.records]
        self._photographs = np.flatnonzero([style == PHOTOGRAPHS for style in styles])
        together = [couple.text for couple in self._couples]
        self.texts = Texts.of([*known, *together, *named, *captions, *wishes], tokenizer)

    def some_texts(self, seed: Seed, count: int) -> NDArray[np.int64]:
        """Numbers of texts, each at most once."""
        return _random(seed, 1).choice(len(self.texts.texts), count, replace=False)

    def some_pictures(self, seed: Seed, count: int) -> Pictures:
        """Drawings and scenes in equal share, without texts."""
        rng = _random(seed, 2)
        drawings = self._some_drawings(rng, count - count // 2)[1]
        scenes = rng.integers(len(self._scenes.notes), size=count // 2)
        return _joined(drawings, _rows(self._scenes, scenes))

    def pairs(self, seed: Seed, times: int = 1) -> Pairs:
        """A batch as the mixture says, or several at once."""
        rng = _random(seed, 3)
        parts = [self._drawn_pairs(rng, times * self.mixture.drawings)]
        if self.mixture.virtual:
            parts.append(self._virtual_pairs(rng, times * self.mixture.virtual))
        if self.mixture.scenes:
            parts.append(self._scene_pairs(rng, times * self.mixture.scenes))
        return Pairs(
            _joined(*(part.pictures for part in parts)),
            np.concatenate([part.texts for part in parts]),
            [group for part in parts for group in part.groups],
        )

    def composed(self, seed: Seed) -> Composed:
        chosen = _random(seed, 4).choice(len(self._triplets.notes), self.mixture.composed, replace=False)
        texts = [self.texts.number[str(self._triplets.notes[i]["text"])] for i in chosen]
        references, targets = (_rows(self._triplets, 2 * chosen + side) for side in (0, 1))
        return Composed(references, np.array(texts), targets)

    def _some_drawings(self, rng: np.random.Generator, count: int) -> tuple[NDArray[np.int64], Pictures]:
        chosen = rng.choice(len(self.drawings), count, replace=count > len(self.drawings))
        return chosen, self.drawings.read(chosen, rng.integers(self.drawings.views, size=count))

    def _drawn_pairs(self, rng: np.random.Generator, count: int) -> Pairs:
        chosen, pictures = self._some_drawings(rng, count)
        texts = []
        for i in chosen:
            weights = np.array(list(self.drawings.texts[i].values()))
            text = rng.choice(list(self.drawings.texts[i]), p=weights / weights.sum())
            texts.append(self.texts.number[str(text)])
        groups = [self.drawings.records[i].concept for i in chosen]
        return Pairs(pictures, np.array(texts), groups)

    def _virtual_pairs(self, rng: np.random.Generator, count: int) -> Pairs:
        """Photographs that no one took: features of one, dimmed, and pushed along classes in some patches.

        Most show one class, some two, each in its half.
        """
        chosen = rng.choice(self._photographs, count)
        base = self.drawings.read(chosen, rng.integers(self.drawings.views, size=count))
        patches, pooled = base.patches.copy(), base.pooled.copy()
        width, side = pooled.shape[1], int(patches.shape[1] ** 0.5)
        texts, groups = [], []
        for i, number in enumerate(
            rng.choice(len(self._classifier), count, replace=count > len(self._classifier))
        ):
            if rng.random() < _TWO:
                couple = self._couples[rng.integers(len(self._couples))]
                half = _half(rng, side)
                subjects, text = [(couple.first, half), (couple.second, 1 - half)], couple.text
            else:
                subjects, text = [(number, _block(rng, side))], str(rng.choice(self._class_texts[number]))
            found = patches[i, :, :width] * rng.uniform(0, 1)
            for subject, where in subjects:
                weight = self._classifier[subject]
                # This much on the class's logit, if unclipped.
                push = rng.uniform(6, 18) / (weight @ weight) * weight
                found = found + where.reshape(-1, 1) * push
            patches[i, :, :width] = np.clip(found, 0, 6)
            pooled[i] = patches[i, :, :width].mean(0)
            texts.append(self.texts.number[text])
            groups.append(" ".join(["class", *(str(subject) for subject, _ in subjects)]))
        return Pairs(Pictures(patches, pooled), np.array(texts), groups)

    def _scene_pairs(self, rng: np.random.Generator, count: int) -> Pairs:
        chosen = rng.choice(len(self._scenes.notes), count, replace=count > len(self._scenes.notes))
        captions = [self._scenes.notes[i]["captions"] for i in chosen]
        texts = np.array([self.texts.number[str(rng.choice(few))] for few in captions])
        return Pairs(_rows(self._scenes, chosen), texts, [f"scene {i}" for i in chosen])


def teacher_rows(
    folder: Path, texts: Texts, teacher: str, embed: Callable[[Sequence[Sequence[int]]], Floats]
) -> NDArray[np.float16]:
    """The frozen teacher's unit rows (n, dim) of all texts, computed once and kept in folder/features.

    teacher names it: another one has rows of its own.
    """
    file = folder / "features" / f"teacher-{teacher}-{texts.digest}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.save(stream, embed(texts.ids).astype(np.float16))
        partial.replace(file)
    found: NDArray[np.float16] = np.load(file)
    return found


def _weighted(record: Record) -> dict[str, float]:
    """The English texts of a record; its name counts most."""
    return {text.text: _KIND_WEIGHT[text.kind] for text in reversed(record.in_language())}


def _random(seed: Seed, purpose: int) -> np.random.Generator:
    return np.random.default_rng([*seed, purpose])


def _block(rng: np.random.Generator, side: int) -> Floats:
    """A rectangle of ones in a (side, side) of zeros; half the time all of it."""
    where = np.zeros((side, side), np.float32)
    if rng.random() < 0.5:
        return where + 1
    top, left = rng.integers(0, side - 1, 2)
    high, wide = rng.integers(1, side + 1, 2)
    where[top : top + high, left : left + wide] = 1
    return where


def _half(rng: np.random.Generator, side: int) -> Floats:
    """Ones in one half of a (side, side) of zeros."""
    where = np.zeros((side, side), np.float32)
    where[:, : side // 2] = 1
    return np.asarray(np.rot90(where, int(rng.integers(4))))


def _rows(features: FeatureSet, rows: NDArray[np.int64]) -> Pictures:
    return _stacked((features.patches[row], features.pooled[row]) for row in rows)


def _stacked(rows: Iterable[tuple[NDArray[np.float16], NDArray[np.float16]]]) -> Pictures:
    patches, pooled = (np.stack(arrays).astype(np.float32) for arrays in zip(*rows, strict=True))
    return Pictures(patches, pooled)


def _joined(*parts: Pictures) -> Pictures:
    return Pictures(
        np.concatenate([part.patches for part in parts]), np.concatenate([part.pooled for part in parts])
    )
