"""Draw every training picture once and write records.jsonl and manifest.json beside them.

The same packages give the same bytes: the order is fixed, the splits are hashes, and nothing depends on how
many processes drew the pictures.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from models.data.processes import FRESH
from models.data.records import RECORDS, Record, check_record, held_out, split_of, write_records
from models.data.sources import emoji, icons, openclipart, stamps
from models.data.sources.drawing import Artwork, Drawing
from models.data.sources.objects import write_objects
from models.data.sources.packages import npm_package
from models.data.sources.raster import Unusable, encoded, picture_of
from models.data.sources.sets import write_sets
from models.data.sources.wordnet import FOLDER, WordNet
from models.data.strangers import refuse_strangers

FORMAT = 1
MANIFEST = "manifest.json"
PICTURES = "pictures"
TEXT_SOURCES = {
    "cldr-annotations-derived-full": "Unicode-3.0",
    "cldr-annotations-full": "Unicode-3.0",
    "emojibase-data": "MIT",
}
_CHUNK = 16  # drawings handed to a process at a time

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Drawn:
    """A drawn picture's digest, or why there is none."""

    sha256: str = ""
    reason: str = ""
    detail: str = ""


def build(
    out: Path,
    npm: Path,
    debian: Path,
    *,
    strangers: Path | None = None,
    processes: int = 2,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write out/records.jsonl, out/manifest.json and out/pictures; returns the manifest.

    npm is a node_modules folder, debian the root of a Debian system or of unpacked packages. A drawing that
    cannot be drawn is counted in the manifest and left out. strangers is a folder of pictures that must not
    be among the records. Raises SourceError where a package is missing or of another version, and
    UnlicensedRecord.
    """
    wordnet = WordNet(debian / FOLDER)
    catalogue = emoji.Catalogue(npm)
    drawings = chain(
        emoji.drawings(npm),
        stamps.drawings(debian),
        openclipart.drawings(debian, wordnet),
        icons.drawings(npm),
    )
    work = [(drawing, _record(drawing, catalogue)) for drawing in drawings]
    records, left_out, broken = _drawn_records(out, work, processes, progress)
    if strangers is not None:
        refuse_strangers(out, records, strangers)
    _remove_strays(out, records)
    write_records(out / RECORDS, records)
    manifest = _manifest(records, npm) | {
        "scene_objects": write_objects(out, records, wordnet, processes=processes),
        "sets": write_sets(out, records),
        "left_out": _nested(left_out),
        "broken": sorted(broken),
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def _drawn_records(
    out: Path, work: list[tuple[Drawing, Record]], processes: int, progress: Progress | None
) -> tuple[list[Record], Counter[tuple[str, str]], list[str]]:
    """Records with a picture of their own; how many have none, by package and reason; and what broke."""
    records: dict[str, Record] = {}
    left_out: Counter[tuple[str, str]] = Counter()
    broken: list[str] = []
    for number, (record, drawn) in enumerate(_draw(out, work, processes), start=1):
        if progress is not None:
            progress(number, len(work))
        if not drawn.reason and drawn.sha256 not in records:
            records[drawn.sha256] = replace(record, sha256=drawn.sha256)
            continue
        left_out[record.package, drawn.reason or "the same picture again"] += 1
        if drawn.detail:
            broken.append(f"{record.source}: {drawn.detail}")
    return list(records.values()), left_out, broken


def _record(drawing: Drawing, catalogue: emoji.Catalogue) -> Record:
    identity = f"{drawing.style}/{drawing.key}"
    name = drawing.texts[0].text
    # What is held out as an emoji is held out as a stamp, too: elsewhere the name decides.
    concept = drawing.concept if "/" not in drawing.concept else catalogue.key_named(name) or name.casefold()
    unseen = held_out(concept)
    record = Record(
        id=identity,
        image=f"{PICTURES}/{identity}.png",
        texts=drawing.texts,
        concept=drawing.concept,
        concept_held_out=unseen,
        style=drawing.style,
        source=drawing.source,
        licence=drawing.licence,
        split=split_of(identity, drawing.style, unseen),
        sha256="",
    )
    check_record(record)
    return record


def _draw(out: Path, work: list[tuple[Drawing, Record]], processes: int) -> Iterator[tuple[Record, _Drawn]]:
    """Each record with its drawn picture, in the order given."""
    for style in {drawing.style for drawing, _ in work}:
        (out / PICTURES / style).mkdir(parents=True, exist_ok=True)
    targets = [out / record.image for _, record in work]
    artworks = [drawing.artwork for drawing, _ in work]
    with ProcessPoolExecutor(processes, FRESH) as pool:
        drawn = pool.map(_draw_one, artworks, targets, chunksize=_CHUNK)
        yield from zip((record for _, record in work), drawn, strict=True)


def _draw_one(artwork: Artwork, target: Path) -> _Drawn:
    try:
        data = encoded(picture_of(artwork))
    except Unusable as error:
        reason = str(error)
        target.unlink(missing_ok=True)
        return (
            _Drawn(reason=reason)
            if reason in ("blank", "too large")
            else _Drawn(reason="broken", detail=reason)
        )
    if not target.exists() or target.read_bytes() != data:  # somebody may be training on what is there
        target.write_bytes(data)
    return _Drawn(hashlib.sha256(data).hexdigest())


def _remove_strays(out: Path, records: list[Record]) -> None:
    """Remove pictures that no record names: repeated ones, and those of an earlier build."""
    named = {record.image for record in records}
    for path in (out / PICTURES).rglob("*.png"):
        if path.relative_to(out).as_posix() not in named:
            path.unlink()


def _manifest(records: list[Record], npm: Path) -> dict[str, Any]:
    sources: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        sources.setdefault((record.source.rpartition(":")[0], record.licence), []).append(record)
    return {
        "format": FORMAT,
        "sources": [
            {
                "package": source.rpartition("/")[0],
                "version": source.rpartition("/")[2],
                "licence": licence,
                "count": len(own),
                "sha256": hashlib.sha256("\n".join(sorted(r.line() for r in own)).encode()).hexdigest(),
            }
            for (source, licence), own in sorted(sources.items())
        ],
        "texts": [
            {"package": name, "version": npm_package(npm, name).version, "licence": licence}
            for name, licence in TEXT_SOURCES.items()
        ],
        "styles": _nested(Counter((r.style, r.split) for r in records)),
        "splits": dict(sorted(Counter(r.split for r in records).items())),
        "concepts": len({r.concept for r in records}),
        "concepts_held_out": len({r.concept for r in records if r.concept_held_out}),
    }


def _nested(counts: Counter[Any]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (outer, inner), count in sorted(counts.items()):
        nested.setdefault(outer, {})[inner] = count
    return nested
