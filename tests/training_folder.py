"""A tiny training folder: records and features of three styles, made by a generator instead of a stem."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from models.config import ModelConfig
from models.data.records import RECORDS, Record, Text
from models.data.sources.classes import Concept
from models.training.features import VARIED_SETS

CONCEPTS = ("apple", "boat", "cat", "drum", "egg", "fox")
TINY = ModelConfig(
    image_size=32, grid=2, features=20, pooled=12, classes=5, width=24, layers=2, heads=2, hidden=32,
    vocabulary=30522, max_words=96, dim=24,
)  # fmt: skip


def tokenizer() -> Tokenizer:
    """The shipped word-piece tokenizer."""
    bundles = Path(__file__).parent.parent / "models" / "bundles"
    return Tokenizer.from_file(str(next(bundles.glob("*/tokenizer.json"))))


def classes() -> list[Concept]:
    return [
        Concept(name, name, (), "thing", f"a {name} of some kind", "", frozenset({"thing"}))
        for name in ("tench", "hen", "gong", "sock", "wok")
    ]


def classifier() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(9).normal(size=(5, 12)).astype(np.float32)


def records() -> list[Record]:
    found = []
    for style in ("noto", "openmoji", "stamps-photo"):
        for number, concept in enumerate(CONCEPTS):
            held_out = concept == "fox"
            split = "style" if style == "openmoji" else ("concept" if held_out else "train")
            found.append(
                Record(
                    id=f"{style}/{concept}",
                    image=f"pictures/{style}/{concept}.png",
                    texts=(Text(concept), Text(f"{concept}, thing", kind="keywords")),
                    concept=f"1f{number}",
                    concept_held_out=held_out,
                    style=style,
                    source=f"@iconify-json/{style}/1.0.0:icons.json#{concept}",
                    licence="Apache-2.0",
                    split=split,  # type: ignore[arg-type]
                    sha256="0" * 64,
                )
            )
    return found


def write(folder: Path, scenes: int = 12, triplets: int = 12) -> Path:
    """Fill an empty folder."""
    known = records()
    (folder / RECORDS).write_text("".join(record.line() + "\n" for record in known))
    for name in ("plain", *(f"varied-{i + 1}" for i in range(VARIED_SETS))):
        _features(folder / "features" / name, [{"id": record.id} for record in known])
    captions = [{"captions": [f"{i} red apples", f"a scene of {i}"]} for i in range(scenes)]
    _features(folder / "features" / "scenes", captions)
    wishes = [{"text": f"but blue {i}", "kind": "colour"} for i in range(triplets)]
    _features(folder / "features" / "triplets", wishes, each=2)
    return folder


def _features(folder: Path, notes: Sequence[Mapping[str, object]], each: int = 1) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(len(folder.name))
    np.save(folder / "patches.npy", random.random((each * len(notes), 4, 20)).astype(np.float16))
    np.save(folder / "pooled.npy", random.random((each * len(notes), 12)).astype(np.float16))
    (folder / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
