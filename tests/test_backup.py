"""Backups: what was there at one moment is there again, on any database, and nothing else is."""

import os
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from index.archive import Archive, ArchiveError
from index.backup import Backups, Contents, TargetNotEmpty
from index.catalog import Collection, Delete, EncoderMismatch
from index.snapshot import SnapshotStore
from tests.fakes import COLOUR_NAMES, striped
from tests.indexing import DIM, ENCODER, filled, upsert
from tests.installations import KINDS, Installation, Make, make, source

__all__ = ["make", "source"]


@pytest.fixture
def path(source: Installation, tmp_path: Path) -> Path:
    """A backup of the filled installation."""
    source.backups.create(tmp_path / "made.tar")
    return tmp_path / "made.tar"


@pytest.mark.parametrize("target_kind", KINDS)
@pytest.mark.parametrize("source_kind", KINDS)
def test_what_was_backed_up_is_there_again(
    source_kind: str, target_kind: str, make: Make, tmp_path: Path
) -> None:
    source, target = make("source", source_kind), make("deep/er/target", target_kind)
    source.fill()
    contents = source.backups.create(tmp_path / "made.tar")
    assert Contents.of(Archive(tmp_path / "made.tar")) == contents
    assert {held.name: held.items for held in contents.collections} == {"c": 38, "of another é": 2}
    assert target.backups.restore(Archive(tmp_path / "made.tar")) == contents
    assert target.everything() == source.everything()
    assert target.problems() == []
    assert target.answers() == source.answers()
    assert target.answers()[0] == 1
    assert not (target.data_dir / "restoring").exists()

    filled(target.catalog, "c", 3, prefix="later")
    assert target.rebuild() == 2
    assert target.problems() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_is_of_one_moment_while_writes_go_on(kind: str, make: Make, tmp_path: Path) -> None:
    source, target = make("source", kind), make("target")
    filled(source.catalog, "c", 5)
    stop, failures = threading.Event(), list[Exception]()

    def write() -> None:
        try:
            for number in count():
                if stop.is_set():
                    break
                stripes = [COLOUR_NAMES[number // 5**place % 5] for place in range(5)]
                sha256 = source.pictures.put(striped(*stripes, side=20))
                picture = upsert(f"picture-{number}", sha256, image=sha256, modality="image")
                twins = [upsert(f"twin-{twin}", f"{number} {twin}", text=str(number)) for twin in "ab"]
                source.catalog.commit("c", [*twins, picture, Delete(f"picture-{number - 50}")], ENCODER)
                if number % 10 == 0:
                    source.rebuild()
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    watermarks = list[int]()
    for number in range(4):
        while source.catalog.collection("c").last_seq <= max([*watermarks, 0]) and not failures:
            time.sleep(0.001)
        contents = source.backups.create(tmp_path / f"{number}.tar")
        watermarks.append(contents.collections[0].watermark)
    stop.set()
    writer.join()
    assert failures == []
    assert watermarks == sorted(set(watermarks))

    for number, watermark in enumerate(watermarks):
        target.backups.restore(Archive(tmp_path / f"{number}.tar"), force=True)
        assert target.problems() == []
        with target.catalog.reading("c") as restored, source.catalog.reading("c") as original:
            log = [(change.seq, change.replaces, change.at) for change in restored.changes(0)]
            assert log == [
                (change.seq, change.replaces, change.at) for change in original.changes(0, watermark)
            ]
            assert len(log) == restored.watermark == watermark
        twins = {item.id: item.text for item in target.catalog.scroll("c", "twin", 10)}
        assert twins.get("twin-a") == twins.get("twin-b")


def test_an_index_that_came_after_the_moment_is_left_for_the_one_before(make: Make, tmp_path: Path) -> None:
    source, target = make("source"), make("target")
    filled(source.catalog, "c", 20)
    source.rebuild()

    def store_of(_: Collection) -> SnapshotStore:
        filled(source.catalog, "c", 5, prefix="late")
        assert source.rebuild() == 2
        return source.store()

    Backups(source.catalog, source.data_dir, store_of).create(tmp_path / "made.tar")
    target.backups.restore(Archive(tmp_path / "made.tar"))
    assert target.catalog.collection("c").last_seq == 20
    assert (target.answers()[0], target.problems()) == (1, [])


def test_a_damaged_index_is_not_backed_up_and_none_is_no_obstacle(make: Make, tmp_path: Path) -> None:
    source, target = make("source"), make("target")
    filled(source.catalog, "c", 20)
    for generation in (1, 2):
        assert source.rebuild() == generation
    newest = source.store().root / "000002/ids.npy"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x07")
    source.backups.create(tmp_path / "one.tar")
    target.backups.restore(Archive(tmp_path / "one.tar"))
    assert target.answers()[0] == 1
    newest.with_name("manifest.json").unlink()
    (source.store().root / "000001/vectors.faiss").unlink()
    source.backups.create(tmp_path / "none.tar")
    other = make("other")
    other.backups.restore(Archive(tmp_path / "none.tar"))
    assert (other.answers()[0], other.problems()) == (0, [])
    for one, none in zip(target.answers()[1], other.answers()[1], strict=True):
        assert [hit.seq for hit in none] == [hit.seq for hit in one]
        assert [hit.score for hit in none] == pytest.approx([hit.score for hit in one], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_is_replaced_whole_and_only_by_force(kind: str, path: Path, make: Make) -> None:
    target = make("target", kind)
    filled(target.catalog, "c", 10, prefix="own")
    filled(target.catalog, "own", 10)
    target.rebuild()
    key, secret = target.catalog.keys.create("ours", "read")
    before = target.everything()
    with pytest.raises(TargetNotEmpty, match="holds 2 collections"):
        target.backups.restore(Archive(path))
    assert target.everything() == before
    for generation in (2, 3):
        target.backups.restore(Archive(path), force=True)
        assert [entry.name for entry in target.catalog.collections()] == ["c", "of another é"]
        assert (target.answers()[0], target.problems()) == (generation, [])
    assert target.catalog.keys.ring().find(secret) == key


def test_vectors_of_another_encoder_are_refused(path: Path) -> None:
    contents = Contents.of(Archive(path))
    contents.check_encoder(ENCODER)
    with pytest.raises(EncoderMismatch, match=f"holds embeddings of {ENCODER}, not of another"):
        contents.check_encoder("another")


def test_a_picture_that_cannot_be_backed_up_is_named(source: Installation, tmp_path: Path) -> None:
    missing, damaged, *_ = sorted(source.data_dir.glob("blobs/*/*"))
    missing.unlink()
    damaged.write_bytes(b"other")
    with pytest.raises(ArchiveError, match=r"blobs/.*: cannot be read or is damaged"):
        source.backups.create(tmp_path / "made.tar")
    assert list(tmp_path.glob("*made*")) == []
    source.backups.create(tmp_path / "made.tar", skip_damaged=True)
    names = {member.name for member in Archive(tmp_path / "made.tar").members()}
    assert len([name for name in names if name.startswith("blobs/")]) == len(source.catalog.images()) - 2


def test_pictures_deleted_meanwhile_are_in_the_backup(source: Installation, tmp_path: Path) -> None:
    for picture in source.data_dir.glob("blobs/*/*"):
        os.utime(picture, (0, 0))

    def tidy() -> None:
        assert source.pictures.prune(set(), 3600.0) == 0  # as the worker does when all items are gone

    source.backups.create(tmp_path / "made.tar", going_on=tidy)


def test_much_text_is_cut_into_parts_that_fit_in_memory(make: Make, tmp_path: Path) -> None:
    source, target = make("source"), make("target")
    source.catalog.create_collection("c", ENCODER, DIM)
    items = [upsert(f"i{number}", metadata={"long": "x" * 40_000}) for number in range(300)]
    source.catalog.commit("c", items, ENCODER)
    source.backups.create(tmp_path / "made.tar")
    sizes = [
        member.size_bytes
        for member in Archive(tmp_path / "made.tar").members()
        if member.name.startswith("catalog/items/")
    ]
    assert len(sizes) == 3
    assert max(sizes) < 5_000_000
    target.backups.restore(Archive(tmp_path / "made.tar"))
    assert target.everything() == source.everything()
