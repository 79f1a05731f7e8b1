"""What the encoder is measured on beside ../shared: an unseen style, unseen concepts, and composed queries.

Written from the records that no model is trained on, and chosen by hash, so that everybody has the same sets.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.edits import KINDS, Edit, edited
from models.data.plans import Plan
from models.data.records import UNSEEN_STYLE, Record, fraction
from models.data.scenes import Library, draw, recast
from models.data.triplets import VariantPair, scene_edit, variant_pairs
from models.data.variants import TEMPLATES
from models.data.views import plain

SETS = "sets"
SIZE_PX = 260
MOST = 1000  # pictures of a set, and triplets of the test
FEWEST_NOUNS = 20  # of things that were never trained on; fewer make no scenes worth measuring
PER_TARGET = 12  # test triplets of a kind that ask for the same emoji

Pixels = NDArray[np.uint8]
Random = np.random.Generator


def write_sets(folder: Path, records: Sequence[Record], most: int = MOST) -> dict[str, int]:
    """Write folder/sets anew; returns how many pictures or triplets each set has, `most` at most."""
    sets = folder / SETS
    shutil.rmtree(sets, ignore_errors=True)
    return {
        "unseen-style": _write_pairs(sets / "unseen-style", folder, unseen_style(records)[:most]),
        "unseen-concept": _write_pairs(sets / "unseen-concept", folder, unseen_concept(records)[:most]),
        "triplets": _write_triplets(sets / "triplets", folder, records, most),
    }


def unseen_style(records: Iterable[Record]) -> list[Record]:
    """Pictures of the unseen style whose concepts were seen in other styles; every name is there once."""
    seen = {record.concept for record in records if record.split == "train"}
    named: dict[str, Record] = {}
    for record in _shuffled(records, "unseen-style"):
        if record.style == UNSEEN_STYLE and not record.concept_held_out and record.concept in seen:
            named.setdefault(record.name.casefold(), record)
    return list(named.values())


def unseen_concept(records: Iterable[Record]) -> list[Record]:
    """One picture of each concept that no style was trained on, in any style but the unseen one."""
    chosen: dict[str, Record] = {}
    for record in _shuffled(records, "unseen-concept"):
        if record.split == "concept":
            chosen.setdefault(record.concept, record)
    return list(chosen.values())


def unseen_variants(records: Sequence[Record], most: int) -> list[VariantPair]:
    """Pairs whose target's concept was never trained on, of every kind in turn as long as it has any left."""
    references = [record for record in records if record.style != UNSEEN_STYLE]
    targets = [record for record in references if record.concept_held_out]
    asked: Counter[tuple[str, str]] = Counter()
    of_kind: dict[str, list[VariantPair]] = {}
    for pair in sorted(variant_pairs(references, targets), key=lambda pair: fraction(_name_of(pair))):
        asked[pair.kind, pair.target.concept] += 1
        if asked[pair.kind, pair.target.concept] <= PER_TARGET:
            of_kind.setdefault(pair.kind, []).append(pair)
    turns = zip_longest(*(of_kind[kind] for kind in sorted(of_kind)))
    return [pair for turn in turns for pair in turn if pair is not None][:most]


def _write_pairs(out: Path, folder: Path, records: Sequence[Record]) -> int:
    (out / "images").mkdir(parents=True)
    lines = []
    for record in records:
        image = f"images/{_file_name(record)}"
        _save(out / image, _plain(folder, record))
        lines.append({"image": image, "captions": [record.name], **_papers(record)})
    _write_lines(out / "pairs.jsonl", lines)
    return len(lines)


def _write_triplets(out: Path, folder: Path, records: Sequence[Record], most: int) -> int:
    """test.jsonl; the gallery is every picture in images/.

    Beside reference and target it holds, for each triplet, pictures that answer the reference alone and
    pictures that answer the text alone.
    """
    (out / "images").mkdir(parents=True)
    pairs = unseen_variants(records, most // 2)
    lines = [*_variant_lines(out, folder, records, pairs), *_scene_lines(out, folder, most - len(pairs))]
    _write_lines(out / "test.jsonl", lines)
    return len(lines)


def _variant_lines(
    out: Path, folder: Path, records: Sequence[Record], pairs: Sequence[VariantPair]
) -> Iterator[dict[str, Any]]:
    drawn = [record for record in _shuffled(records, "distractors") if record.style != UNSEEN_STYLE]
    others = list(variant_pairs(drawn, drawn))
    for pair in pairs:
        same_text = [record for record in drawn if record.concept == pair.target.concept]
        alike = {
            other.target.id: other.target
            for other in others
            if other.reference is pair.reference and other.kind == pair.kind
        }
        beside = [record for record in alike.values() if record.concept != pair.target.concept][:1]
        beside += [record for record in same_text if record.style != pair.target.style][:1]
        images = []
        for record in (pair.reference, pair.target, *beside):
            images.append(f"images/{_file_name(record)}")
            _save(out / images[-1], _plain(folder, record))
        template = TEMPLATES[int(fraction(_name_of(pair)) * 1e6) % len(TEMPLATES)]
        yield _line(
            pair.kind, template.format(pair.wish), images, [pair.reference.concept, pair.target.concept]
        )


def _scene_lines(out: Path, folder: Path, count: int) -> Iterator[dict[str, Any]]:
    library = Library.read(folder, ("concept",))
    if len(library.by_noun) < FEWEST_NOUNS:
        return
    for number in range(count):
        rng = np.random.default_rng([2026, number])
        plan, edit = scene_edit(library, rng, KINDS[number % len(KINDS)])
        other = _another_edit(plan, edit, library, rng)
        images = []
        for name, stage in (
            ("reference", plan),
            ("target", edit.plan),
            ("same-reference", other.plan),
            ("same-text", _echo(edit.plan, plan, library, rng)),
        ):
            images.append(f"images/scene-{number:04d}-{name}.png")
            _save(out / images[-1], draw(library, stage, SIZE_PX))
        concepts = sorted({group.thing.concept for stage in (plan, edit.plan) for group in stage.groups})
        yield _line(edit.kind, edit.text, images, concepts)


def _another_edit(plan: Plan, edit: Edit, library: Library, rng: Random) -> Edit:
    """Another change to the same scene, so that the reference alone does not give the target away."""
    while True:
        other = edited(plan, library, rng)
        if other is not None and other.text != edit.text:
            return other


def _echo(target: Plan, reference: Plan, library: Library, rng: Random) -> Plan:
    """The target with another thing in place of one it kept, so that the text does not give it away."""
    kept = {group.thing.id for group in reference.groups}
    numbers = [i for i, group in enumerate(target.groups) if group.thing.id in kept]
    return recast(target, numbers[0] if numbers else 0, library, rng)


def _line(kind: str, text: str, images: Sequence[str], concepts: Sequence[str]) -> dict[str, Any]:
    return {
        "reference": images[0],
        "text": text,
        "target": images[1],
        "kind": kind,
        "distractors": list(images[2:]),
        "concepts": list(concepts),
    }


def _shuffled(records: Iterable[Record], purpose: str) -> list[Record]:
    return sorted(records, key=lambda record: fraction(f"{purpose}:{record.id}"))


def _name_of(pair: VariantPair) -> str:
    return f"{pair.reference.id} {pair.wish} {pair.target.id}"


def _file_name(record: Record) -> str:
    return f"{record.id.replace('/', '--')}.png"


def _papers(record: Record) -> dict[str, str]:
    return {
        "concept": record.concept,
        "style": record.style,
        "split": record.split,
        "source": record.source,
        "licence": record.licence,
    }


def _plain(folder: Path, record: Record) -> Pixels:
    with Image.open(folder / record.image) as picture:
        return plain(picture.convert("RGBA"), SIZE_PX)


def _save(path: Path, pixels: Pixels) -> None:
    if not path.exists():
        Image.fromarray(pixels).save(path, compress_level=4)


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
