import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from service.gallery import build

GALLERY = Path(build.__file__).parent
LICENCES = {"GPL-2.0-or-later", "CC-PDDC", "Apache-2.0", "MIT"}
MAX_BYTES = 8 * 2**20
Pair = dict[str, Any]


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [json.loads(line) for line in (GALLERY / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


def test_there_are_at_least_250_pictures_of_every_style(pairs: list[Pair]) -> None:
    styles = [pair["style"] for pair in pairs]
    assert len(pairs) >= 250
    assert set(styles) == {"photo", "drawing", "emoji"}
    assert min(styles.count(style) for style in set(styles)) >= 50


def test_the_gallery_stays_small(pairs: list[Pair]) -> None:
    assert sum(path.stat().st_size for path in GALLERY.rglob("*") if path.is_file()) <= MAX_BYTES


def test_ids_are_short_slugs_and_unique(pairs: list[Pair]) -> None:
    ids = [pair["id"] for pair in pairs]
    assert len(set(ids)) == len(ids)
    assert [i for i in ids if not re.fullmatch(r"(photo|drawing|emoji)(-[a-z0-9]+)+", i)] == []
    assert [pair["id"] for pair in pairs if not pair["id"].startswith(pair["style"])] == []


def test_every_line_names_its_own_picture_and_no_file_is_left_over(pairs: list[Pair]) -> None:
    assert [pair["id"] for pair in pairs if pair["image"] != f"images/{pair['id']}.webp"] == []
    assert {pair["image"] for pair in pairs} == {
        f"images/{path.name}" for path in (GALLERY / "images").iterdir()
    }


def test_every_picture_opens_as_a_square_with_something_on_it(pairs: list[Pair]) -> None:
    for pair in pairs:
        with Image.open(GALLERY / pair["image"]) as image:
            assert (image.format, image.size) == ("WEBP", (build.SIDE_PX, build.SIDE_PX)), pair["id"]
            brightness = numpy.asarray(image.convert("L"))
            assert brightness.min() < 200, f"{pair['id']} is nearly blank"
            assert brightness.max() == 255, f"{pair['id']} has no white ground"


def test_no_two_pictures_have_the_same_bytes(pairs: list[Pair]) -> None:
    assert len({(GALLERY / pair["image"]).read_bytes() for pair in pairs}) == len(pairs)


def test_captions_are_short_plain_phrases_and_titles_differ(pairs: list[Pair]) -> None:
    captions = [caption for pair in pairs for caption in pair["captions"]]
    assert min(len(pair["captions"]) for pair in pairs) >= 2
    assert [c for c in captions if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ,'-]{2,79}", c)] == []
    assert sorted({c for c in captions if captions.count(c) > 1}) == []


def test_every_picture_has_an_allowed_licence_an_author_and_a_source(pairs: list[Pair]) -> None:
    for pair in pairs:
        assert pair["license"] in LICENCES
        assert pair["author"].strip()
        assert build.Source.parse(pair["source"]).version


def test_licences_page_counts_each_package_and_names_each_artist(pairs: list[Pair]) -> None:
    page = (GALLERY / "LICENSES.md").read_text(encoding="utf-8")
    flowing = " ".join(page.split())
    sources = [build.Source.parse(pair["source"]) for pair in pairs]
    for source in {(s.package, s.version) for s in sources}:
        count = sum((s.package, s.version) == source for s in sources)
        assert re.search(rf"\| {re.escape(' '.join(source))} \(\w+\) \| {count} \|", page), source
    artists = {pair["author"] for pair in pairs if pair["license"] == "CC-PDDC"}
    assert [artist for artist in artists if artist not in flowing] == []
    assert "GNU GENERAL PUBLIC LICENSE" in (GALLERY / "GPL-2.txt").read_text()


def test_a_picture_is_rebuilt_from_an_unpacked_package(tmp_path: Path) -> None:
    debian = unpacked_package(tmp_path / "debian", version="1.0-1")
    pairs = write_pairs(tmp_path, "stamps/1.0-1:usr/share/dot.png")
    [(picture, changed)] = build.rebuild(pairs, tmp_path / "out", debian, tmp_path)
    with Image.open(picture) as image:
        assert image.size == (build.SIDE_PX, build.SIDE_PX)
        pixels = numpy.asarray(image.convert("RGB"))
        red, green, blue = pixels[160, 160]
        assert red > 200 > 60 > max(green, blue)
        assert pixels[2, 2].tolist() == [255, 255, 255]
    assert changed
    assert [again for _, again in build.rebuild(pairs, tmp_path / "out", debian, tmp_path)] == [False]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("stamps/2.0-1:usr/share/dot.png", "version 1.0-1 is there: apt-get install stamps=2.0-1"),
        ("paints/1.0-1:usr/share/dot.png", "it is not there: apt-get install paints=1.0-1"),
        ("stamps/1.0-1:usr/share/dash.png", "has no file usr/share/dash.png"),
        ("@art/set/3.1.4:icons.json#dot", "npm install --no-save @art/set@3.1.4"),
        ("nothing", "not of the form"),
    ],
)
def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, source: str, complaint: str) -> None:
    debian = unpacked_package(tmp_path / "debian", version="1.0-1")
    with pytest.raises(build.SourceError, match=re.escape(complaint)):
        list(build.rebuild(write_pairs(tmp_path, source), tmp_path / "out", debian, tmp_path))


def test_npm_and_debian_sources_are_told_apart() -> None:
    icon = build.Source.parse("@iconify-json/noto/1.2.9:icons.json#panda")
    assert icon == build.Source("@iconify-json/noto", "1.2.9", "icons.json", "panda")
    assert icon.from_npm
    stamp = build.Source.parse("openclipart-svg/1:0.18+dfsg-19:usr/share/a.svg")
    assert stamp == build.Source("openclipart-svg", "1:0.18+dfsg-19", "usr/share/a.svg", "")
    assert not stamp.from_npm


def unpacked_package(root: Path, version: str) -> Path:
    """A Debian package as `dpkg-deb -x` leaves it, with one picture: a red square in a transparent corner."""
    doc = root / "usr/share/doc/stamps"
    doc.mkdir(parents=True)
    (doc / "changelog.Debian.gz").write_bytes(
        gzip.compress(f"stamps ({version}) unstable; urgency=low\n".encode())
    )
    picture = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 120, 120))
    picture.save(root / "usr/share/dot.png")
    return root


def write_pairs(folder: Path, source: str) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text(json.dumps({"image": "images/dot.webp", "source": source}) + "\n")
    return path
