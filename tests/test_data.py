"""Records: read and written unchanged, split by hash, refused where they must not be trained on."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from models.data.records import (
    FORBIDDEN,
    LICENCES,
    Record,
    RecordError,
    Text,
    UnlicensedRecord,
    check_record,
    count_records,
    fraction,
    held_out,
    package_of,
    read_records,
    split_of,
    write_records,
)
from models.data.strangers import refuse_strangers
from tests.conftest import ROOT, SHARED
from tests.packages import disc, photo

APPLE = Record(
    id="noto/red-apple",
    image="pictures/noto/red-apple.png",
    texts=(
        Text("red apple"),
        Text("apple, fruit, red", "en", "keywords"),
        Text("roter Apfel", "de"),
        Text("赤リンゴ", "ja"),
    ),
    concept="1f34e",
    concept_held_out=False,
    style="noto",
    source="@iconify-json/noto/1.2.9:icons.json#red-apple",
    licence="Apache-2.0",
    split="train",
    sha256="0" * 64,
)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    other = replace(APPLE, id="openmoji/red-apple", style="openmoji", split="style", licence="CC-BY-SA-4.0")
    write_records(tmp_path / "records.jsonl", [APPLE, other])
    assert read_records(tmp_path) == read_records(tmp_path / "records.jsonl") == [APPLE, other]
    assert read_records(tmp_path, split="style") == [other]
    assert count_records(tmp_path) == {"noto": {"train": 1}, "openmoji": {"style": 1}}


def test_a_record_knows_its_name_its_package_and_its_texts_by_language() -> None:
    assert APPLE.name == "red apple"
    assert APPLE.package == "@iconify-json/noto"
    assert package_of("openclipart-svg/1:0.18+dfsg-19:usr/a.svg") == "openclipart-svg"
    assert [text.text for text in APPLE.in_language("de")] == ["roter Apfel"]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        '{"id": "a"}',
        APPLE.line().replace('"split": "train"', '"split": "test"'),
        APPLE.line().replace('"licence"', '"license"'),
        replace(APPLE, texts=()).line(),
        replace(APPLE, texts=(Text("roter Apfel", "de"),)).line(),
    ],
)
def test_a_line_that_is_no_record_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(line + "\n")
    with pytest.raises(RecordError):
        read_records(tmp_path)


def test_a_folder_without_records_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"records\.jsonl"):
        read_records(tmp_path)


@pytest.mark.parametrize("word", FORBIDDEN)
def test_a_forbidden_source_is_refused_under_any_licence_in_any_split(word: str, tmp_path: Path) -> None:
    planted = replace(APPLE, source=f"debian-{word}/1.0:pictures/one.png", licence="CC0-1.0", split="random")
    with pytest.raises(UnlicensedRecord, match=word):
        check_record(planted)
    with pytest.raises(UnlicensedRecord):
        write_records(tmp_path / "records.jsonl", [APPLE, planted])
    assert not (tmp_path / "records.jsonl").exists()
    (tmp_path / "records.jsonl").write_text(APPLE.line() + "\n" + planted.line() + "\n")
    with pytest.raises(UnlicensedRecord):
        read_records(tmp_path, split="train")


def test_only_licences_of_the_list_pass_and_gpl_for_the_stamps_alone() -> None:
    for licence in LICENCES:
        check_record(replace(APPLE, licence=licence))
    for licence in ("GPL-2.0-or-later", "CC-BY-NC-4.0", "WTFPL", ""):
        with pytest.raises(UnlicensedRecord, match="licence list"):
            check_record(replace(APPLE, licence=licence))
    stamp = replace(APPLE, source="tuxpaint-stamps-default/2022.06.04-1:usr/share/dog.png")
    check_record(replace(stamp, licence="GPL-2.0-or-later"))
    with pytest.raises(UnlicensedRecord):
        check_record(replace(stamp, licence="GPL-3.0-only"))


def test_the_splits_are_the_same_on_every_machine() -> None:
    assert fraction("concept:1f34e") == pytest.approx(0.2564593071294716, abs=1e-12)
    assert split_of("openmoji/red-apple", "openmoji", False) == "style"
    assert split_of("openmoji/red-apple", "openmoji", True) == "style"
    assert split_of("noto/red-apple", "noto", True) == "concept"


def test_a_tenth_of_the_concepts_and_a_fiftieth_of_the_rest_are_held_out() -> None:
    concepts = [f"concept-{number}" for number in range(20_000)]
    assert sum(map(held_out, concepts)) / len(concepts) == pytest.approx(0.10, abs=0.01)
    splits = [split_of(concept, "noto", False) for concept in concepts]
    assert splits.count("random") / len(splits) == pytest.approx(0.02, abs=0.005)
    assert splits.count("train") + splits.count("random") == len(splits)


def planted(folder: Path, picture: bytes) -> Record:
    path = folder / "pictures" / "planted.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
    return replace(
        APPLE, image="pictures/planted.png", sha256=hashlib.sha256(picture).hexdigest(), id="noto/planted"
    )


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_copy_of_a_strangers_picture_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "one.png").write_bytes(png(photo((200, 90, 20))))
    record = planted(tmp_path / "ours", (theirs / "one.png").read_bytes())
    with pytest.raises(UnlicensedRecord, match=r"planted is .*one\.png"):
        refuse_strangers(tmp_path / "ours", [APPLE, record][1:], theirs)


def test_a_reencoded_and_resized_strangers_picture_is_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    picture = photo((200, 90, 20)).convert("RGB")
    picture.save(theirs / "one.jpg", quality=80)
    record = planted(tmp_path / "ours", png(picture.resize((300, 300))))
    with pytest.raises(UnlicensedRecord, match="looks like"):
        refuse_strangers(tmp_path / "ours", [record], theirs)


def test_another_picture_passes(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    photo((200, 90, 20)).convert("RGB").save(theirs / "one.jpg")
    record = planted(tmp_path / "ours", png(disc((30, 60, 200))))
    assert refuse_strangers(tmp_path / "ours", [record], theirs) == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")
def test_a_picture_of_each_shared_set_is_refused(tmp_path: Path) -> None:
    for folder in sorted(path for path in SHARED.iterdir() if path.is_dir()):
        stranger = min((folder / "images").iterdir())
        theirs = tmp_path / folder.name
        theirs.mkdir()
        (theirs / stranger.name).write_bytes(stranger.read_bytes())
        with Image.open(stranger) as image:
            record = planted(tmp_path / "ours", png(image.convert("RGB").resize((320, 320))))
        with pytest.raises(UnlicensedRecord):
            refuse_strangers(tmp_path / "ours", [record], theirs)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is not here")
def test_no_training_picture_is_one_of_the_shared_sets() -> None:
    theirs = {hashlib.sha256(path.read_bytes()).hexdigest() for path in SHARED.glob("*/images/*")}
    assert theirs
    folder = ROOT / "training"
    ours = read_records(folder) if (folder / "records.jsonl").is_file() else []
    assert [record.id for record in ours if record.sha256 in theirs] == []
