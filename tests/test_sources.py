"""From packages of the real shape to records: what is drawn, what it is called, what is left out."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.data.records import Record, held_out, read_records
from models.data.sources import emoji, stamps
from models.data.sources.build import MANIFEST, PICTURES, build
from models.data.sources.classes import read_concepts
from models.data.sources.drawing import Artwork, bare, words_of
from models.data.sources.objects import noun_of, plural_of
from models.data.sources.packages import SourceError, npm_package
from models.data.sources.raster import SIDE_PX, Unusable, ink, picture_of
from models.data.sources.wordnet import WordNet
from tests.packages import disc, install, package, wordnet


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return install(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def built(packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("training")
    build(out, *packages, processes=1)
    return out


@pytest.fixture(scope="module")
def records(built: Path) -> dict[str, Record]:
    return {record.id: record for record in read_records(built)}


def test_the_same_packages_give_the_same_bytes_whoever_draws_them_and_whatever_was_there(
    packages: tuple[Path, Path], built: Path, tmp_path: Path
) -> None:
    stale = tmp_path / PICTURES / "noto" / "yesterday.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"no record names it any more")
    build(tmp_path, *packages, processes=2)
    assert digests(tmp_path) == digests(built)


def test_every_picture_is_trimmed_rgba_and_has_the_digest_of_its_record(
    built: Path, records: dict[str, Record]
) -> None:
    assert len(records) > 100
    for record in records.values():
        path = built / record.image
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record.sha256
        with Image.open(path) as picture:
            assert picture.mode == "RGBA"
            assert max(picture.size) <= SIDE_PX
            assert picture.getchannel("A").getbbox() == (0, 0, *picture.size)


def test_an_emoji_has_one_concept_and_its_names_in_every_style(records: dict[str, Record]) -> None:
    apples = [record for record in records.values() if record.concept == "1f34e"]
    assert len({record.style for record in apples}) == len(apples) == 11
    for apple in apples:
        assert apple.name == "red apple"
        assert {text.language for text in apple.texts} == {"en", "de", "fr", "es", "ja", "zh"}
        assert "apple, fruit, red" in [text.text for text in apple.in_language()]


def test_skin_tone_twins_logos_and_unreadable_names_are_left_out(records: dict[str, Record]) -> None:
    assert not [name for name in records if "skin-tone" in name or "1f3fb" in name or "logo" in name]
    assert "streamline-emojis/twin" in records  # an icon without code points keeps its own name
    assert records["streamline-emojis/twin"].concept == "streamline-emojis/twin"


def test_a_name_with_a_colon_is_said_as_a_sentence_too(records: dict[str, Record]) -> None:
    texts = [text.text for text in records["noto/flag-finland"].in_language()]
    assert texts[:2] == ["flag: Finland", "flag of Finland"]
    assert emoji.sentence("man: red hair") == "man with red hair"


def test_concept_keys_do_not_depend_on_how_code_points_are_written() -> None:
    assert emoji.concept_key("33-FE0F-20E3") == emoji.concept_key("0033-20e3") == "0033-20e3"
    assert emoji.concept_key("1F468-1F3FF-200D-1F33E") == "1f468-200d-1f33e"


def test_blank_broken_and_repeated_drawings_are_counted_not_fatal(built: Path) -> None:
    manifest = json.loads((built / MANIFEST).read_text())
    left_out = manifest["left_out"]["@iconify-json/streamline-emojis"]
    assert left_out["blank"] == left_out["broken"] == 1
    assert [line for line in manifest["broken"] if "icons.json#broken" in line]
    assert left_out["the same picture again"] >= 1  # "twin", drawn like "dog"
    assert sum(manifest["splits"].values()) == sum(source["count"] for source in manifest["sources"])
    assert {source["licence"] for source in manifest["sources"]} <= {
        "Apache-2.0",
        "CC-BY-4.0",
        "CC-BY-SA-4.0",
        "GPL-2.0-or-later",
        "LicenseRef-PublicDomain",
        "MIT",
    }


def test_a_stamp_is_named_by_its_sentence_or_else_by_its_file(records: dict[str, Record]) -> None:
    dog = records["stamps-photo/animals-dog"]
    assert [(text.text, text.language) for text in dog.texts] == [
        ("dog", "en"),
        ("A dog.", "en"),
        ("animals", "en"),
        ("Ein Hund.", "de"),
    ]
    assert dog.source == "tuxpaint-stamps-default/2022.06.04-1:usr/share/tuxpaint/stamps/animals/dog.png"
    assert dog.package == "tuxpaint-stamps-default"
    assert records["stamps-photo/vehicles-boat2"].name == "boat2"
    assert records["stamps-drawing/symbols-math-plus"].name == "Plus sign"
    assert "stamps-photo/animals-dog_mirror" not in records


def test_openclipart_titles_of_a_series_give_way_to_file_names_without_their_author(
    records: dict[str, Record],
) -> None:
    assert records["openclipart/animals-dog_anna_smi_01"].name == "dog"
    assert records["openclipart/animals-mouse_02"].name == "mouse"
    assert records["openclipart/food-mela"].name == "apple"  # no English noun, so its keyword
    assert (
        records["openclipart/recreation-games-cards-simple-simple_h_q"].name == "queen of hearts playing card"
    )
    assert [text.text for text in records["openclipart/animals-dog_anna_smi_01"].texts] == [
        "dog",
        "animal, animals",
    ]


def test_openclipart_that_is_not_public_domain_or_a_mere_shape_stays_out(records: dict[str, Record]) -> None:
    assert "openclipart/food-secret" not in records
    assert not [name for name in records if "stars" in name]
    assert records["openclipart/food-mela"].package == "openclipart-svg"  # its version holds a colon


def test_what_is_held_out_as_an_emoji_is_held_out_as_a_stamp(records: dict[str, Record]) -> None:
    dog = next(record for record in records.values() if record.concept == "1f415")
    assert records["stamps-photo/animals-dog"].concept_held_out == dog.concept_held_out == held_out("1f415")


def test_a_package_that_is_missing_or_of_another_version_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="npm install @iconify-json/noto@"):
        npm_package(tmp_path, "@iconify-json/noto")
    package(tmp_path, "@iconify-json/noto", "0.1.0")
    with pytest.raises(SourceError, match=r"version 0\.1\.0 is there"):
        npm_package(tmp_path, "@iconify-json/noto")
    with pytest.raises(SourceError, match="apt-get install tuxpaint-stamps-default"):
        next(stamps.drawings(tmp_path))
    with pytest.raises(SourceError, match="apt-get install wordnet-base"):
        WordNet(tmp_path)


@pytest.mark.parametrize("markup", ["<g/>", '<circle cx="5" cy="5" r="4" fill="#fefefe"/>'])
def test_a_drawing_that_cannot_be_seen_on_white_is_no_picture(markup: str, tmp_path: Path) -> None:
    path = tmp_path / "blank.svg"
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">{markup}</svg>')
    with pytest.raises(Unusable, match="blank"):
        picture_of(Artwork(path))


def test_a_drawing_in_a_corner_of_its_page_is_drawn_as_large_as_any(tmp_path: Path) -> None:
    path = tmp_path / "corner.svg"
    circle = '<circle cx="12" cy="12" r="10" fill="red"/>'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{circle}</svg>')
    picture = picture_of(Artwork(path))
    assert max(picture.size) == SIDE_PX
    assert ink(picture) == pytest.approx(0.785, abs=0.01)  # a full circle in its square


def test_a_small_photograph_stays_small(tmp_path: Path) -> None:
    disc((200, 10, 10), side=80).save(tmp_path / "small.png")
    assert max(picture_of(Artwork(tmp_path / "small.png")).size) == 100


def test_names_become_plain_words() -> None:
    assert words_of("bigTruck_02-red") == "big truck red"
    assert bare("An Adelaide Rosella.") == "Adelaide Rosella"


def test_only_countable_things_can_stand_in_a_scene(tmp_path: Path) -> None:
    nouns = WordNet(wordnet(tmp_path / "wordnet"))
    assert noun_of("red apple", nouns) == "apple"
    assert noun_of("Mouse", nouns) == "mouse"
    assert noun_of("grinning face", nouns) == "grinning face"
    for name in ("truth", "down left", "dogs", "apple 2", "red", "ice"):
        assert noun_of(name, nouns) is None


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("mouse", "mice"),
        ("palm tree", "palm trees"),
        ("loaf of bread", "loafs of bread"),
        ("fox", "foxes"),
        ("cherry", "cherries"),
        ("monkey", "monkeys"),
        ("potato", "potatoes"),
        ("snowman", "snowmen"),
        ("butterflyfish", "butterflyfish"),
        ("bus", "buses"),
    ],
)
def test_plurals(noun: str, plural: str) -> None:
    assert plural_of(noun, {"mouse": "mice", "bus": "busses"}) == plural


def test_scene_objects_know_their_plural_and_colour(built: Path) -> None:
    things = {entry["id"]: entry for entry in lines(built / "objects.jsonl")}
    apple = things["noto/red-apple"]
    assert (apple["noun"], apple["plural"], apple["colour"]) == ("apple", "apples", "red")
    assert things["openclipart/animals-mouse_01"]["plural"] == "mice"


def test_sets_hold_what_no_model_is_trained_on(built: Path, records: dict[str, Record]) -> None:
    style = list(lines(built / "sets/unseen-style/pairs.jsonl"))
    seen = {record.concept for record in records.values() if record.split == "train"}
    assert style
    for pair in style:
        assert pair["style"] == "openmoji"
        assert pair["concept"] in seen
        assert len(pair["captions"]) == 1
        with Image.open(built / "sets/unseen-style" / pair["image"]) as image:
            assert (image.mode, image.size) == ("RGB", (260, 260))
            assert image.getpixel((0, 0)) == (255, 255, 255)
    for pair in lines(built / "sets/unseen-concept/pairs.jsonl"):
        assert pair["split"] == "concept"
        assert pair["concept"] not in seen


def test_a_class_is_described_in_groups_of_sentences(tmp_path: Path) -> None:
    folder = wordnet(tmp_path / "wordnet")
    offset = (folder / "data.noun").read_text().index("05 n 01 dog") - 9
    files = {
        "clean_names": ["hound"],
        "label_to_names": {"0": "dog, domestic dog"},
        "gpt_names_descriptions": {"0": {"description": "It has four legs."}},
        "to_21k": {"0": f"n{offset:08d}"},
    }
    for name, content in files.items():
        (tmp_path / f"imagenet1k_{name}.json").write_text(json.dumps(content))
    (concept,) = read_concepts(tmp_path, WordNet(folder))
    assert concept.prompt() == "a photo of a dog"
    assert concept.texts() == [
        ["a photo of a hound"],
        ["dog, a kind of apple"],
        ["dog: a member of the genus Canis"],
        ["a photo of a dog"],
        ["dog: It has four legs."],
        ["It has four legs."],
    ]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def lines(path: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, path.read_text().splitlines())
