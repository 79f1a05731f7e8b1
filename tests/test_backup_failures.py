"""Backups that are damaged or forged, processes that die, full disks: the target stays as it was."""

import re
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from index import archive as archives
from index import backup, rows
from index.archive import Archive, ArchiveError, writing
from index.catalog import StorageFull
from tests.fakes import COLOUR_NAMES, striped
from tests.indexing import ENCODER, upsert
from tests.installations import KINDS, Installation, Make, make, source
from tests.mortals import dies_at_line

__all__ = ["make", "source"]


@pytest.fixture
def path(source: Installation, tmp_path: Path) -> Path:
    """A backup of the filled installation."""
    source.backups.create(tmp_path / "made.tar")
    return tmp_path / "made.tar"


# -- archives that must not be restored


def test_no_damage_of_any_member_gets_into_the_target(path: Path, make: Make) -> None:
    target, content = make("target"), path.read_bytes()
    empty = target.everything()
    with tarfile.open(path) as tar:
        places = {place.name.partition("/")[0] + place.name[-6:]: place for place in tar if place.size}
    assert len(places) > 9  # one of each kind, and pictures
    for place in places.values():
        middle = place.offset_data + place.size // 2
        for at in (place.offset + 2, place.offset_data, middle, place.offset_data + place.size - 1):
            if place.name == "manifest.json" and at > middle:
                continue  # the blanks at its end mean nothing
            flipped = bytearray(content)
            flipped[at] ^= 4
            path.write_bytes(flipped)
            with pytest.raises(ArchiveError, match=f"^{place.name}: "):
                target.backups.restore(Archive(path))
        path.write_bytes(content[:middle])
        with pytest.raises(ArchiveError, match=r"^(SHA256SUMS|manifest\.json): "):
            target.backups.restore(Archive(path))
        assert target.everything() == empty
        assert not (target.data_dir / "restoring").exists()
    path.write_bytes(content)
    target.backups.restore(Archive(path))
    assert target.problems() == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("../../escaped", b""),
        ("blobs/../../escaped", b""),
        (f"blobs/ab/{'ab' * 32}", b"not of this sha256"),
        ("index/../CURRENT", b"000001"),
        (f"index/{'0' * 32}/../../escaped", b""),
        ("catalog/api_keys/000000.jsonl", b"[]\n"),
        ("catalog/items/000000.jsonl", b"not JSON\n"),
        ("catalog/items/000000.jsonl", b'["too", "few"]\n'),
        ("catalog/embeddings/000000.jsonl", b'["content", "encoder", "not base64"]\n'),
        ("catalog/embeddings/000000.jsonl", b'["a", "b", "AAAA"]\n["a", "b", "AAAA"]\n'),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_has_no_place_is_refused(
    kind: str, name: str, content: bytes, make: Make, tmp_path: Path
) -> None:
    target, columns = (
        make("in/target", kind),
        {key: rows.columns(table) for key, table in rows.tables().items()},
    )
    about = {"created_at": 0, "collections": [], "pictures": 0, "rows": {}, "columns": columns}
    with writing(tmp_path / "made.tar", about) as archive:
        archive.add(name, len(content), [content])
    with pytest.raises(ArchiveError, match=re.escape(name)):
        target.backups.restore(Archive(tmp_path / "made.tar"))
    left = {entry.name for entry in tmp_path.rglob("*")}
    assert not left & {"restoring", "blobs", "index", "escaped", "CURRENT"}
    assert not any(target.everything().values())


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"collections": [{"name": "c"}]},
        {"columns": {"items": ["id", "a later column"]}},
        {"columns": {"a later table": []}},
        {"rows": {"items": 1}},
    ],
)
def test_a_manifest_of_something_else_is_refused(
    about: dict[str, object], make: Make, tmp_path: Path
) -> None:
    whole = {"created_at": 0, "collections": [], "pictures": 0, "rows": {}, "columns": {}}
    with writing(tmp_path / "made.tar", whole | about if about else {}):
        pass
    with pytest.raises(ArchiveError, match=r"manifest\.json: "):
        make("target").backups.restore(Archive(tmp_path / "made.tar"))


# -- processes that die, and disks that are full


@pytest.mark.parametrize(("file", "step"), [(backup.__file__, 5), (archives.__file__, 31)])
def test_whoever_makes_a_backup_may_die_at_any_line(file: str, step: int, source: Installation) -> None:
    folder, target = source.data_dir.parent, Installation.on_sqlite(source.data_dir.parent / "target")
    partials = set[bool]()
    for line in count(1, step):
        path = folder / f"{line}.tar"
        died = dies_at_line(line, file, create, source.data_dir, path)
        assert not path.exists() or is_finished(path)
        for partial in folder.glob(".*.partial"):
            partials.add(is_finished(partial))
            partial.unlink()
        if not died:
            break
    assert line > 20 * step
    assert False in partials
    target.backups.restore(Archive(path))
    assert target.everything() == source.everything()
    target.catalog.close()


@pytest.mark.parametrize(("file", "step"), [(backup.__file__, 11), (archives.__file__, 97)])
def test_whoever_restores_may_die_at_any_line(file: str, step: int, path: Path, source: Installation) -> None:
    expected, after = source.everything(), set[bool]()
    for line in count(1, step):
        folder = path.parent / f"target-{line}"
        died = dies_at_line(line, file, restore, folder, path)
        target = Installation.on_sqlite(folder)
        left = target.everything()
        is_whole = bool(left["collections"])
        assert is_whole or not any(left[name] for name in rows.tables())
        if is_whole:
            assert (left, target.problems()) == (expected, [])
        after.add(is_whole)
        target.backups.restore(Archive(path), force=is_whole)
        assert (target.everything(), target.problems()) == (expected, [])
        assert not (folder / "restoring").exists()
        target.catalog.close()
        if not died:
            break
    assert line > 4 * step
    assert after == {False, True}


def is_finished(path: Path) -> bool:
    """Whether a file is an archive, which then must be whole."""
    try:
        archive = Archive(path)
    except ArchiveError:
        return False
    archive.verify()
    return True


def create(data_dir: Path, path: Path) -> None:
    Installation.on_sqlite(data_dir).backups.create(path)


def restore(data_dir: Path, path: Path) -> None:
    Installation.on_sqlite(data_dir).backups.restore(Archive(path))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real one: a file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs to be root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_told_and_left_as_it_was(
    source: Installation, small_disk: Path, tmp_path: Path
) -> None:
    noise = b"".join(striped(*COLOUR_NAMES, side=side, format="BMP") for side in range(100, 150))
    sha256 = source.pictures.put(noise)
    source.catalog.commit("c", [upsert("large", sha256, image=sha256, modality="image")], ENCODER)
    with pytest.raises(StorageFull, match="is full; nothing was kept"):
        source.backups.create(small_disk / "made.tar")
    assert list(small_disk.iterdir()) == []

    source.backups.create(tmp_path / "made.tar")
    target = Installation.on_sqlite(small_disk)
    with pytest.raises(StorageFull, match="is full"):
        target.backups.restore(Archive(tmp_path / "made.tar"))
    assert not any(target.everything().values())
    target.catalog.close()
    assert [entry.name for entry in small_disk.iterdir()] == ["catalog.db"]
