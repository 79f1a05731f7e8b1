"""The archive: a plain tar that says itself whether it is whole, and names what is not."""

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from index import archive as archives
from index.archive import Archive, ArchiveError, writing

ABOUT = {"created_at": 1.5, "of": ["this", "that"]}
MEMBERS = {"a/empty": b"", "a/one": b"1" * 512, "b/two": b"22" * 1000, "b/other": b"xy" * 1000}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A finished archive."""
    return make(tmp_path / "made.tar")


def make(path: Path, members: dict[str, bytes] = MEMBERS) -> Path:
    with writing(path, ABOUT) as archive:
        for name, content in members.items():
            archive.add(name, len(content), [content[:700], content[700:]])
    return path


def read(path: Path) -> dict[str, bytes]:
    return {member.name: b"".join(member.chunks) for member in Archive(path).members()}


def place_of(path: Path, name: str) -> tarfile.TarInfo:
    """Where a member's header and content are, as the standard library's reader finds them."""
    with tarfile.open(path) as tar:
        return tar.getmember(name)


def rewritten(path: Path, **members: Any) -> None:
    """Change the manifest of an archive, checksum and all."""
    place = place_of(path, "manifest.json")
    content = path.read_bytes()
    manifest = json.loads(content[place.offset_data : place.offset_data + place.size])
    manifest = {name: value for name, value in manifest.items() if name != "checksum"} | members
    encoded = json.dumps(manifest | {"checksum": archives._checksum(manifest)}).encode().ljust(place.size)
    path.write_bytes(content[: place.offset_data] + encoded + content[place.offset_data + place.size :])


def test_what_was_put_in_comes_out_in_its_order(path: Path) -> None:
    assert list(read(path).items()) == list(MEMBERS.items())
    about = Archive(path).about
    assert {name: about[name] for name in ABOUT} == ABOUT
    assert list(path.parent.iterdir()) == [path]


def test_members_that_the_caller_does_not_read_are_checked_all_the_same(path: Path) -> None:
    names = []
    for member in Archive(path).members():
        names.append(member.name)
        next(member.chunks, None)
    assert names == list(MEMBERS)
    Archive(path).verify()


def test_the_tools_of_any_system_can_open_and_check_it(path: Path) -> None:
    folder = path.parent / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "--extract", "--file", path, "--directory", folder], check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert (folder / "b/two").read_bytes() == MEMBERS["b/two"]
    assert json.loads((folder / "manifest.json").read_bytes())["of"] == ["this", "that"]


@pytest.mark.parametrize("name", ["manifest.json", "a/one", "b/two", "SHA256SUMS"])
@pytest.mark.parametrize("where", ["name", "size", "type", "checksum", "content"])
def test_a_flipped_bit_is_found_and_its_member_named(path: Path, name: str, where: str) -> None:
    place, content = place_of(path, name), bytearray(path.read_bytes())
    offsets = {"name": 0, "size": 124 + 8, "type": 156, "checksum": 148 + 3}
    at = place.offset_data + place.size // 3 if where == "content" else place.offset + offsets[where]
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=f"^{name}: "):
        read(path)


@pytest.mark.parametrize("name", ["manifest.json", "a/one", "b/two", "SHA256SUMS"])
def test_an_archive_that_was_cut_short_is_not_opened(path: Path, name: str) -> None:
    place = place_of(path, name)
    for size_bytes in (place.offset, place.offset + 100, place.offset_data, place.offset_data + 100):
        path.write_bytes(path.read_bytes()[:size_bytes])
        with pytest.raises(ArchiveError, match=r"manifest\.json: |SHA256SUMS: "):
            Archive(path)


def test_members_that_changed_places_are_found(path: Path) -> None:
    first, second = place_of(path, "b/two"), place_of(path, "b/other")
    content = path.read_bytes()
    end = second.offset + (second.offset - first.offset)
    swapped = content[second.offset : end] + content[first.offset : second.offset]
    path.write_bytes(content[: first.offset] + swapped + content[end:])
    with pytest.raises(ArchiveError, match=r"^b/two: 'b/other' of type b'0' is in its place"):
        read(path)


def test_another_format_is_refused(path: Path) -> None:
    rewritten(path, format=archives.FORMAT + 1)
    with pytest.raises(ArchiveError, match="has format 2, this release reads 1"):
        Archive(path)


@pytest.mark.parametrize("sums", [None, {}, {"starts_at": "x", "size_bytes": 1, "sha256": ""}])
def test_a_manifest_that_makes_no_sense_is_refused(path: Path, sums: object) -> None:
    rewritten(path, sums=sums)
    with pytest.raises(ArchiveError, match=r"manifest\.json: "):
        Archive(path)


@pytest.mark.parametrize("content", [b"", b"no tar at all", bytes(20_000)])
def test_a_file_that_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"manifest\.json: "):
        Archive(tmp_path / "file")


def test_what_goes_wrong_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the source cannot be read")

    path = tmp_path / "made.tar"
    with pytest.raises(OSError, match="cannot be read"), writing(path, ABOUT) as archive:
        archive.add("a", 8, broken())
    with pytest.raises(ArchiveError, match="a: changed while"), writing(path, ABOUT) as archive:
        archive.add("a", 8, [b"half"])
    assert list(tmp_path.iterdir()) == []


def test_until_it_is_finished_no_file_looks_whole(tmp_path: Path) -> None:
    with writing(tmp_path / "made.tar", ABOUT) as archive:
        archive.add("a", 3, [b"abc"])
        [partial] = tmp_path.iterdir()
        archive._file.flush()
        assert partial.suffix == ".partial"
        with pytest.raises(ArchiveError, match="never finished"):
            Archive(partial)
    assert read(tmp_path / "made.tar") == {"a": b"abc"}


def test_an_archive_is_not_written_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match="exists already"):
        make(path)
    assert path.read_bytes() == before
