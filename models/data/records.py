"""Training records: one drawing, its texts, where it comes from, and under which licence it may be used.

Which records a model may learn from is decided here, by hash and by list, never by hand: `split_of` says
which split a record belongs to, `check_record` refuses what must not be trained on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["name", "keywords", "description"]
Split = Literal["train", "style", "concept", "random"]

RECORDS = "records.jsonl"
LANGUAGES = ("en", "de", "fr", "es", "ja", "zh")
UNSEEN_STYLE = "openmoji"
HELD_OUT_CONCEPTS = 0.10
HELD_OUT_RANDOM = 0.02

# SPDX identifiers under which a drawing may go into weights that ship.
LICENCES = frozenset(
    {
        "Apache-2.0",
        "CC-BY-4.0",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "CC0-1.0",
        "LicenseRef-PublicDomain",
        "MIT",
    }
)
# One package more, under one licence more; for no other package does that licence count.
EXCEPTIONS = frozenset({("tuxpaint-stamps-default", "GPL-2.0-or-later")})
# Evaluation sets, and packages whose pictures are not what their licence says. Refused wherever they stand.
FORBIDDEN = (
    "clothing-test",
    "clothing-train",
    "flickr",
    "gcompris",
    "gimp-help",
    "grocery",
    "imagenet-samples",
    "kalzium",
    "multi30k",
    "opencv-doc",
    "scratch",
    "skimage",
    "wallpaper",
)


class RecordError(ValueError):
    """A records file that cannot be read, or a record that may not be trained on."""


class UnlicensedRecord(RecordError):
    """A record from a source, or under a licence, that shipped weights may not learn from."""


@dataclass(frozen=True)
class Text:
    """One text about a picture; `language` is a two-letter tag of LANGUAGES."""

    text: str
    language: str = "en"
    kind: Kind = "name"


@dataclass(frozen=True)
class Record:
    """One picture (RGBA PNG, trimmed, longest side at most 320 px) with its texts and its papers.

    `concept` is what the picture shows, the same in every style: for emoji the code points without skin tone
    and FE0F ("1f9d1-200d-1f33e"), for others "source/name". `source` reads "package/version:path#icon".
    """

    id: str
    image: str  # relative to the records file
    texts: tuple[Text, ...]
    concept: str
    concept_held_out: bool
    style: str
    source: str
    licence: str
    split: Split
    sha256: str  # of the picture file

    @property
    def name(self) -> str:
        """The English name, which every record has."""
        return self.texts[0].text

    @property
    def package(self) -> str:
        """The package the drawing was taken from, without its version."""
        return package_of(self.source)

    def in_language(self, language: str = "en") -> list[Text]:
        """The texts in one language, the name first."""
        return [text for text in self.texts if text.language == language]

    @classmethod
    def parse(cls, line: str) -> "Record":
        """From a line of a records file; raises RecordError."""
        try:
            fields: dict[str, Any] = json.loads(line)
            texts = tuple(Text(**text) for text in fields.pop("texts"))
            record = cls(texts=texts, **fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"not a record: {error}: {line[:120]}") from error
        if not texts or texts[0].kind != "name" or texts[0].language != "en":
            raise RecordError(f"{record.id}: the first text must be the English name")
        if record.split not in get_args(Split):
            raise RecordError(f"{record.id}: no such split: {record.split!r}")
        return record

    def line(self) -> str:
        """One line of a records file, without the line break; the same record gives the same bytes."""
        return json.dumps(asdict(self), ensure_ascii=False)


def package_of(source: str) -> str:
    """The package of "package/version:path#icon": a Debian version may hold a colon, a path never does."""
    return source.rpartition(":")[0].rpartition("/")[0]


def fraction(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, on every machine."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) / 16**12


def held_out(concept: str) -> bool:
    """Whether this concept is one of the tenth that no style may be trained on."""
    return fraction(f"concept:{concept}") < HELD_OUT_CONCEPTS


def split_of(record_id: str, style: str, concept_held_out: bool) -> Split:
    """The split of a record; the unseen style wins over the unseen concept."""
    if style == UNSEEN_STYLE:
        return "style"
    if concept_held_out:
        return "concept"
    return "random" if fraction(f"random:{record_id}") < HELD_OUT_RANDOM else "train"


def check_record(record: Record) -> None:
    """Raise UnlicensedRecord unless shipped weights may learn from this record."""
    papers = " ".join((record.id, record.image, record.source, record.concept, record.style)).lower()
    forbidden = [word for word in FORBIDDEN if word in papers.replace("_", "-")]
    if forbidden:
        raise UnlicensedRecord(f"{record.id}: {forbidden[0]} must never be trained on")
    if record.licence not in LICENCES and (record.package, record.licence) not in EXCEPTIONS:
        raise UnlicensedRecord(
            f"{record.id}: {record.licence} of {record.package} is not on the licence list"
        )


def read_records(path: Path, split: Split | None = None) -> list[Record]:
    """The checked records of a file, or of the folder that holds it: of one split, or of all.

    Raises RecordError, and UnlicensedRecord for the first record that may not be there, whatever its split.
    """
    file = path / RECORDS if path.is_dir() else path
    records = []
    for record in _parsed(file):
        check_record(record)
        if split is None or record.split == split:
            records.append(record)
    return records


def count_records(path: Path) -> dict[str, dict[str, int]]:
    """How many checked records each style has in each split; raises RecordError."""
    counts = Counter((record.style, record.split) for record in read_records(path))
    styles: dict[str, dict[str, int]] = {}
    for (style, split), count in sorted(counts.items()):
        styles.setdefault(style, {})[split] = count
    return styles


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a records file; raises UnlicensedRecord before anything is written."""
    lines = []
    for record in records:
        check_record(record)
        lines.append(record.line() + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def _parsed(file: Path) -> Iterator[Record]:
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield Record.parse(line)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{file}: {error}") from error
