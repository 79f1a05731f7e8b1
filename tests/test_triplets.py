"""Composed queries: one thing changes, in the words that ask for it; test concepts were never trained on."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.plans import OBJECTS
from models.data.records import RECORDS, Record, Split, Text, read_records, write_records
from models.data.sources.sets import PER_TARGET, unseen_concept, unseen_style, unseen_variants, write_sets
from models.data.triplets import Triplets, variant_pairs
from models.data.variants import Family, families
from tests.packages import disc
from tests.things import library

NAMES = {
    "1f468-200d-1f33e": "man farmer",
    "1f469-200d-1f33e": "woman farmer",
    "1f9d1-200d-1f33e": "farmer",
    "1f469-200d-1f373": "woman cook",
    "1f469-200d-1f9b0": "woman: red hair",
    "1f469-200d-1f9b3": "woman: white hair",
    "1f468-200d-1f9b3": "man: white hair",
    "1f622": "crying face",
    "1f600": "grinning face",
    "1f602": "face with tears of joy",
    "1f63f": "crying cat",
    "1f638": "grinning cat",
    "1f550": "one o\N{RIGHT SINGLE QUOTATION MARK}clock",
    "1f55c": "one-thirty",
    "2764": "red heart",
    "1f499": "blue heart",
    "1f436": "dog face",
    "1f415": "dog",
    "2b05": "left arrow",
    "27a1": "right arrow",
    "1f4d5": "closed book",
    "1f4d6": "open book",
    "1f1eb-1f1ee": "flag: Finland",
    "0033-20e3": "keycap: 3",
    "0038-20e3": "keycap: 8",
    "1f468-200d-1f469-200d-1f467": "family: man, woman, girl",
    "2601": "cloud",
    "1f327": "cloud with rain",
    "noto/twin": "blue heart",
}


def record(concept: str, style: str = "noto", split: Split = "train", held_out: bool = False) -> Record:
    identity = f"{style}/{concept.replace('/', '-')}"
    return Record(
        id=identity,
        image=f"pictures/{identity}.png",
        texts=(Text(NAMES.get(concept, concept)),),
        concept=concept,
        concept_held_out=held_out,
        style=style,
        source=f"@iconify-json/{style}/1.0:icons.json#{concept}",
        licence="MIT",
        split=split,
        sha256="",
    )


def drawn(folder: Path, records: list[Record]) -> list[Record]:
    """The records with pictures, each of another colour."""
    for number, entry in enumerate(records):
        path = folder / entry.image
        path.parent.mkdir(parents=True, exist_ok=True)
        disc((40 + 7 * number % 200, 90, 200 - 5 * number % 190)).save(path)
    return records


def wishes(kind: str, of: list[Family] | None = None) -> dict[str, str | None]:
    """What each name of a kind of family is asked for by."""
    found = families(NAMES) if of is None else of
    return {NAMES[variant.concept]: variant.wish for f in found if f.kind == kind for variant in f.variants}


def test_families_differ_in_one_thing_and_say_which() -> None:
    assert wishes("who") == {
        "man farmer": "a man",
        "woman farmer": "a woman",
        "farmer": None,
        "woman: white hair": "a woman",
        "man: white hair": "a man",
    }
    assert wishes("role") == {"woman farmer": "a farmer", "woman cook": "a cook"}
    assert wishes("hair") == {"woman: red hair": "with red hair", "woman: white hair": "with white hair"}
    assert wishes("mood") == {
        "crying face": "crying",
        "grinning face": "grinning",
        "face with tears of joy": "with tears of joy",
        "crying cat": "crying",
        "grinning cat": "grinning",
    }
    assert wishes("hour") == {NAMES["1f550"]: "at one o'clock", "one-thirty": "at half past one"}
    assert wishes("colour") == {"red heart": "red", "blue heart": "blue"}
    assert wishes("part") == {"dog face": "only the face", "dog": "the whole animal"}
    assert wishes("way") == {"left arrow": "pointing left", "right arrow": "pointing right"}
    assert wishes("state") == {"closed book": "closed", "open book": "open"}
    assert wishes("digit") == {"keycap: 3": "a 3", "keycap: 8": "an 8"}
    assert wishes("addition") == {"cloud": None, "cloud with rain": "with rain"}


def test_flags_families_and_drawings_that_are_no_emoji_have_no_family() -> None:
    concepts = {variant.concept for family in families(NAMES) for variant in family.variants}
    assert concepts.isdisjoint({"1f1eb-1f1ee", "1f468-200d-1f469-200d-1f467", "noto/twin"})


def test_pairs_are_of_one_style_and_ask_for_something_else_than_the_reference_is() -> None:
    records = [record(concept, style) for concept in NAMES for style in ("noto", "twemoji")]
    pairs = list(variant_pairs(records, records))
    assert len(pairs) == len({(pair.kind, pair.reference.id, pair.target.id) for pair in pairs})
    for pair in pairs:
        assert pair.reference.style == pair.target.style
        assert pair.reference.concept != pair.target.concept
    asked = {(pair.reference.name, pair.wish, pair.target.name) for pair in pairs}
    assert ("farmer", "a woman", "woman farmer") in asked
    assert ("cloud", "with rain", "cloud with rain") in asked
    assert not [triple for triple in asked if triple[2] in ("farmer", "cloud")]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small training folder: every emoji in three styles, things for scenes, some concepts held out."""
    folder = tmp_path_factory.mktemp("training")
    unseen = {"1f469-200d-1f33e", "1f602", "2764"}
    records = [
        record(
            concept,
            style,
            "style" if style == "openmoji" else "concept" if concept in unseen else "train",
            concept in unseen,
        )
        for concept in NAMES
        for style in ("noto", "twemoji", "openmoji")
    ]
    write_records(folder / RECORDS, drawn(folder, records))
    nouns = [f"{word}{letter}" for word in ("bar", "cor", "dun") for letter in "abcdefgh"]
    things = [
        replace(entry, split=split, id=f"{entry.id}-{split}")
        for entry in library(folder, nouns).things
        for split in ("train", "concept")
    ]
    (folder / OBJECTS).write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in things))
    return folder


def test_triplets_are_pure_functions_of_seed_and_number(training: Path) -> None:
    triplets = Triplets(training)
    first = [triplets.triplet(3, number, 64) for number in range(12)]
    again = [Triplets(training).triplet(3, number, 64) for number in range(12)]
    for one, other in zip(first, again, strict=True):
        assert one.text == other.text
        assert np.array_equal(one.reference, other.reference)
        assert np.array_equal(one.target, other.target)
        assert one.reference.shape == one.target.shape == (64, 64, 3)
        assert not np.array_equal(one.reference, one.target)
    assert len({triplet.kind for triplet in first}) >= 4


def test_test_triplets_ask_for_concepts_that_were_never_trained_on() -> None:
    records = [
        record(concept, style, "concept" if concept == "1f602" else "train", concept == "1f602")
        for concept in NAMES
        for style in ("noto", "twemoji", "openmoji")
    ]
    pairs = unseen_variants(records, 100)
    assert pairs
    assert {pair.target.concept for pair in pairs} == {"1f602"}
    assert {pair.target.style for pair in pairs} == {"noto", "twemoji"}
    assert len(pairs) <= PER_TARGET
    assert unseen_variants(records, 2) == pairs[:2]
    assert unseen_variants(records[::-1], 100) == pairs


def test_the_test_gallery_leaves_neither_part_of_a_query_enough(training: Path) -> None:
    records = read_records(training)
    counts = write_sets(training, records, most=60)
    folder = training / "sets" / "triplets"
    lines = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert counts["triplets"] == len(lines) == 60
    gallery = {path.relative_to(folder).as_posix() for path in folder.glob("images/*.png")}
    named = {image for line in lines for image in (line["reference"], line["target"], *line["distractors"])}
    assert gallery == named
    scenes = [line for line in lines if "scene-" in line["reference"]]
    assert scenes
    for line in scenes[:20]:
        assert len({line["reference"], line["target"], *line["distractors"]}) == 4
    trained = {entry.concept for entry in records if entry.split == "train"}
    emoji = [line for line in lines if "scene-" not in line["reference"]]
    assert emoji
    assert not [line for line in emoji if line["concepts"][1] in trained]
    for line in emoji:
        with Image.open(folder / line["target"]) as image:
            assert image.size == (260, 260)


def test_sets_of_pairs_are_chosen_by_hash_and_not_by_order() -> None:
    records = [
        record(concept, style, "style" if style == "openmoji" else "train")
        for concept in NAMES
        for style in ("noto", "openmoji")
    ]
    chosen = unseen_style(records)
    assert chosen == unseen_style(records[::-1])
    assert {entry.style for entry in chosen} == {"openmoji"}
    names = [entry.name for entry in chosen]
    assert len(set(names)) == len(names) == len(set(NAMES.values()))
    assert unseen_concept(records) == []
    held = [replace(entry, split="concept", concept_held_out=True) for entry in records]
    assert len(unseen_concept(held)) == len(NAMES)
