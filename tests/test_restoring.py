"""One collection of a backup: put in place whole beside others that are written, or nothing of it."""

import shutil
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from index import members, restoring, rows, schema, staging
from index.aliases import AliasConflict, PutAlias
from index.archive import Archive, ArchiveError, writing
from index.backup import Contents
from index.catalog import CollectionNotFound, StorageFull
from index.live import LiveIndex
from index.restoring import Plan
from index.staging import StagingLost, TargetChanged
from tests.indexing import DIM, ENCODER, filled, row_of, upsert
from tests.installations import KINDS, QUERIES, Installation, Make, make, source
from tests.mortals import dies_at_line
from tests.test_backup_failures import small_disk

__all__ = ["make", "small_disk", "source"]
UID = "0123456789abcdef" * 2


@pytest.fixture
def path(source: Installation, tmp_path: Path) -> Path:
    """A backup of one of its collections."""
    source.backups.create(tmp_path / "made.tar", "c")
    return tmp_path / "made.tar"


def plan(target: Installation, name: str = "c", source: str = "c") -> Plan:
    """What restores over what is there."""
    try:
        return Plan(source, name, UID, target.catalog.collection(name).uid)
    except CollectionNotFound:
        return Plan(source, name, UID)


def held(target: Installation, name: str = "c") -> Any:
    """All that makes up a collection but its uid and its own name."""
    with target.catalog.reading(name) as reading:
        collection, log = reading.collection, [(c.seq, c.replaces, c.at) for c in reading.changes(0)]
    items = target.catalog.scroll(name, "", 1000)
    vectors = [target.catalog.vector(name, item.id).tobytes() for item in items]
    pictures = {sha256: target.pictures.get(sha256) for sha256 in target.images()}
    settings = (collection.encoder_id, collection.dim, collection.last_seq, collection.created_at)
    own = (collection.index, collection.fields, collection.limits)
    return settings, own, log, items, vectors, pictures if name == "c" else None


def nothing_is_left(target: Installation) -> None:
    """Neither rows nor files of what is not there (any more)."""
    with target.catalog.copying() as connection:
        assert rows.count(connection, schema.staged) == 0
        uids = {entry.uid for entry in target.catalog.every_collection()}
        for table in (schema.items, schema.changes):
            assert set(connection.execute(table.select()).scalars()) <= uids
    assert list((target.data_dir / "restoring").glob("*")) == []
    assert list(target.data_dir.glob("snapshots/*/*/NEXT")) == []


@pytest.mark.parametrize("target_kind", KINDS)
@pytest.mark.parametrize("source_kind", KINDS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_collection_is_there_again_as_it_was(
    source_kind: str, target_kind: str, whole: bool, make: Make, tmp_path: Path
) -> None:
    source, target = make("source", source_kind), make("target", target_kind)
    source.fill()
    limits, fields = {"max_items": 100}, {"price": "number"}
    source.catalog.create_collection("c", ENCODER, DIM, fields=fields, limits=limits, index={"type": "Flat"})
    contents = source.backups.create(tmp_path / "made.tar", None if whole else "c")
    assert {entry.name for entry in contents.collections} == {"c", *["of another é"][:whole]}
    archive = Archive(tmp_path / "made.tar")
    collection = target.restorer.restore(archive, plan(target))
    assert (collection.name, collection.uid) == ("c", UID)
    assert target.catalog.collection("c") == collection
    assert [entry.name for entry in target.catalog.collections()] == ["c"]
    assert held(target) == held(source)
    assert target.answers() == source.answers()
    assert target.answers()[0] == 1
    assert target.problems() == []
    with target.catalog.copying() as connection:
        named = schema.items.select().with_only_columns(schema.items.c.content)
        contents_used = set(connection.execute(named).scalars())
        stored = set(connection.execute(schema.embeddings.select()).scalars())
    assert stored == contents_used  # none of the other collection, and none that was stale
    nothing_is_left(target)
    filled(target.catalog, "c", 3, prefix="later")
    assert target.rebuild() == 2
    assert target.problems() == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_there_is_replaced_and_everything_else_stays(kind: str, path: Path, make: Make) -> None:
    target = make("target", kind)
    filled(target.catalog, "c", 10, prefix="own")
    filled(target.catalog, "other", 4)
    target.catalog.aliases.apply([PutAlias("live", "c"), PutAlias("side", "other")])
    target.rebuild()
    other = held(target, "other")
    before = plan(target)
    target.restorer.restore(Archive(path), before)
    assert len(target.catalog.scroll("live", "", 1000)) == 38
    assert target.catalog.aliases.own_name("live") == "c"
    assert (held(target, "other"), target.problems()) == (other, [])
    assert target.answers()[0] == 2
    nothing_is_left(target)
    with pytest.raises(TargetChanged):  # what it would replace is not there any more
        target.restorer.restore(Archive(path), Plan("c", "c", "f" * 32, before.replaces))
    with pytest.raises(TargetChanged):
        target.restorer.restore(Archive(path), Plan("c", "c", "f" * 32))
    with pytest.raises(AliasConflict):
        target.restorer.restore(Archive(path), Plan("c", "side", "f" * 32))
    assert target.catalog.collection("c").uid == UID
    nothing_is_left(target)


@pytest.mark.parametrize("kind", KINDS)
def test_it_may_come_back_under_another_name_beside_the_first(kind: str, make: Make, tmp_path: Path) -> None:
    source = make("source", kind)
    source.fill()
    source.backups.create(tmp_path / "made.tar", "c")
    source.catalog.commit("c", [upsert("after", "it was made")], ENCODER)
    source.restorer.restore(Archive(tmp_path / "made.tar"), plan(source, "copy"))
    assert (source.answers("copy")[0], source.problems()) == (1, [])
    assert {item.id for item in source.catalog.scroll("c", "", 1000)} - {
        item.id for item in source.catalog.scroll("copy", "", 1000)
    } == {"after"}
    assert source.catalog.collection("copy").created_at == source.catalog.collection("c").created_at


def test_an_archive_of_one_is_not_taken_for_an_installation(path: Path, make: Make) -> None:
    contents = Contents.of(Archive(path))
    assert (contents.whole, contents.pictures, contents.collections[0].items) == (False, 8, 38)
    with pytest.raises(ArchiveError, match="is of one collection"):
        make("target").backups.restore(Archive(path), force=True)
    with pytest.raises(CollectionNotFound, match="holds no collection 'x'"):
        make("other").restorer.restore(Archive(path), Plan("x", "x", UID))
    with pytest.raises(CollectionNotFound):
        make("source").backups.create(path.with_name("none.tar"), "none")


def test_an_archive_that_does_not_tell_collections_apart_is_restored_whole_or_not_at_all(
    make: Make, tmp_path: Path
) -> None:
    held = {"name": "c", "encoder_id": ENCODER, "watermark": 0, "items": 0}  # as earlier builds wrote it
    about = {"created_at": 0, "collections": [held], "pictures": 0, "rows": {}, "columns": {}}
    with writing(tmp_path / "old.tar", about):
        pass
    target = make("target")
    with pytest.raises(ArchiveError, match="does not tell collections apart"):
        target.restorer.restore(Archive(tmp_path / "old.tar"), plan(target))
    target.backups.restore(Archive(tmp_path / "old.tar"))


@pytest.mark.parametrize("kind", KINDS)
def test_others_read_and_write_meanwhile_and_see_all_or_nothing_of_it(
    kind: str, path: Path, make: Make
) -> None:
    target = make("target", kind)
    filled(target.catalog, "c", 10, prefix="own")
    filled(target.catalog, "other", 1)
    target.rebuild()
    live = LiveIndex(target.catalog, target.store_of, "c")
    seen = list[tuple[int, int, int]]()

    def look() -> None:
        number = len(seen)
        target.catalog.commit("other", [upsert(f"w{number}", "words")], ENCODER)
        live.prepare()
        live.refresh()
        with live.reading() as (view, reading):
            seen.append((view.generation, view.count, reading.count()))

    def pause(seconds: float) -> None:
        look()
        assert live._standby is not None
        assert target.store().announced() == 2

    target.restorer.restore(Archive(path), plan(target), going_on=look, pause=pause)
    assert set(seen) == {(1, 10, 10)}
    opened = live._standby
    look()
    assert seen[-1] == (2, 38, 38)
    assert live.view.snapshot is opened
    assert len(seen) > 10
    assert target.catalog.count(target.catalog.collection("other")) == len(seen) + 1
    assert (target.problems(), live._standby) == ([], None)


def test_who_searches_waits_for_the_new_index_instead_of_reading_the_whole_log(
    path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make("target")
    filled(target.catalog, "c", 10, prefix="own")
    live = LiveIndex(target.catalog, target.store_of, "c")
    target.restorer.restore(Archive(path), plan(target))
    entered, go = threading.Event(), threading.Event()
    opened = live._opened

    def slowly() -> Any:
        entered.set()
        assert go.wait(10)
        return opened()

    monkeypatch.setattr(live, "_opened", slowly)
    generations = list[int]()

    def search() -> None:
        with live.reading() as (view, _):
            generations.append(view.generation)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    assert generations == []
    go.set()
    for thread in threads:
        thread.join()
    assert generations == [1, 1, 1]


def test_an_index_of_other_vectors_than_those_that_stand_is_not_used(path: Path, make: Make) -> None:
    target = make("target")
    filled(target.catalog, "other", 12)  # has item-11, by chance embedded otherwise
    with target.catalog._writing() as connection:
        table = schema.embeddings
        connection.execute(
            table.update().where(table.c.content == "item-11"), {"vector": row_of("x").tobytes()}
        )
    target.restorer.restore(Archive(path), plan(target))
    assert (target.answers()[0], target.problems()) == (0, [])
    assert target.rebuild() == 1


def test_an_index_that_does_not_open_is_left_out(
    path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = make("target")
    filled(target.catalog, "c", 10, prefix="own")
    target.rebuild()
    monkeypatch.setattr(restoring, "FACTORY", "Flat")
    target.restorer.restore(Archive(path), plan(target))
    assert target.store().generations() == [1]
    assert len(target.catalog.scroll("c", "", 1000)) == 38
    assert target.problems() == []
    assert target.rebuild() == 2
    nothing_is_left(target)


# -- what fails


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_at_the_last_moment_leaves_all_as_it_was(kind: str, path: Path, make: Make) -> None:
    target = make("target", kind)
    filled(target.catalog, "c", 10, prefix="own")
    for _ in range(2):
        target.rebuild()
    target.store().roll_back(1)
    everything, answers = target.everything(), target.answers()
    pictures = {name for name in everything if name.startswith("blobs")}

    def refuse(_: object) -> None:
        raise LookupError

    for how in ({"also": refuse}, {"pause": refuse}):
        with pytest.raises(LookupError):
            target.restorer.restore(Archive(path), plan(target), **how)  # type: ignore[arg-type]
        after = target.everything()
        assert {k: v for k, v in after.items() if not k.startswith("blobs") or k in pictures} | {
            "embeddings": everything["embeddings"]
        } == everything
        assert (target.answers(), target.problems()) == (answers, [])
        assert target.store().generations() == [1, 2]
        assert target.store().is_held()
        nothing_is_left(target)


def test_no_damage_gets_into_a_collection(path: Path, make: Make) -> None:
    target, content = make("target"), path.read_bytes()
    filled(target.catalog, "c", 3, prefix="own")
    before = held(target)
    members = {member.name: member for member in Archive(path).members()}
    kinds = {name.partition("/")[0] + name[-6:]: name for name in members}
    assert len(kinds) > 9
    for name in kinds.values():
        at = content.index(name.encode()) + 512
        flipped = bytearray(content)
        flipped[at] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(ArchiveError, match=f"^{name}: "):
            target.restorer.restore(Archive(path), plan(target))
        assert held(target)[:5] == before[:5]
        nothing_is_left(target)
    path.write_bytes(content)
    target.restorer.restore(Archive(path), plan(target))
    assert target.problems() == []


def test_rows_that_are_not_all_there_are_refused(source: Installation, make: Make, tmp_path: Path) -> None:
    with source.catalog._writing() as connection:
        connection.execute(schema.embeddings.delete().where(schema.embeddings.c.content == "item-7"))
    source.backups.create(tmp_path / "bare.tar", "c")
    with source.catalog._writing() as connection:
        connection.execute(schema.changes.delete().where(schema.changes.c.seq == 2))
    source.backups.create(tmp_path / "holes.tar", "c")
    target = make("target")
    with pytest.raises(ArchiveError, match="1 have no embedding"):
        target.restorer.restore(Archive(tmp_path / "bare.tar"), plan(target))
    with pytest.raises(ArchiveError, match="are not there"):
        target.restorer.restore(Archive(tmp_path / "holes.tar"), plan(target))
    assert not any(target.everything()[name] for name in ("collections", "items", "changes"))
    nothing_is_left(target)


def test_a_full_disk_is_told_and_left_as_it_was(path: Path, small_disk: Path) -> None:
    target = Installation.on_sqlite(small_disk)
    filled(target.catalog, "c", 3, prefix="own")
    before = held(target)
    fill = small_disk / "fill"
    fill.write_bytes(bytes(shutil.disk_usage(small_disk).free - 30_000))
    with pytest.raises(StorageFull, match="is full"):
        target.restorer.restore(Archive(path), plan(target))
    fill.unlink()
    assert held(target)[:5] == before[:5]
    target.restorer.tidy(0.0)
    nothing_is_left(target)
    target.catalog.close()


def test_what_died_long_ago_is_tidied_up_and_cannot_go_on(path: Path, make: Make) -> None:
    target = make("target")
    stage = target.catalog.staging
    stage.begin(UID)
    stage.add(UID, schema.changes, [{"collection": UID, "seq": 1, "replaces": None, "at": 1.0}])
    folder = target.data_dir / "restoring" / UID
    folder.mkdir(parents=True)
    target.restorer.tidy(3600.0)
    assert folder.exists()
    target.restorer.tidy(0.0)
    nothing_is_left(target)
    with pytest.raises(StagingLost):
        stage.add(UID, schema.changes, [])
    filled(target.catalog, "c", 3)
    with pytest.raises(StagingLost):
        stage.put_in_place(target.catalog.collection("c"), target.catalog.collection("c").uid)
    stage.drop(target.catalog.collection("c").uid)  # rows of a collection are never dropped
    assert len(target.catalog.scroll("c", "", 10)) == 3


def test_staged_rows_are_in_no_backup_of_the_whole(source: Installation, path: Path, make: Make) -> None:
    def look() -> None:
        made = path.with_name(f"{next(numbers)}.tar")
        source.backups.create(made)
        with source.catalog._writing() as connection:  # nor does tidying up take anything
            assert connection.execute(schema.embeddings.select()).all()
        source.catalog.prune_embeddings()
        other = make(f"whole-{made.stem}")
        other.backups.restore(Archive(made))
        assert [entry.name for entry in other.catalog.collections()] == ["of another é"]
        nothing_is_left(other)

    numbers = count(1)
    source.catalog.delete_collection("c")
    source.catalog.prune_embeddings()
    source.pictures.prune(set(), -1.0)
    steps = iter([False] * 5 + [True] + [False] * 8 + [True])

    source.restorer.restore(
        Archive(path), plan(source), going_on=lambda: look() if next(steps, False) else None
    )
    assert next(numbers) == 3
    assert (source.answers()[0], source.problems()) == (2, [])


# -- kill -9


@pytest.mark.parametrize(
    ("file", "step"),
    [(restoring.__file__, 37), (staging.__file__, 19), (members.__file__, 17), (rows.__file__, 307)],
)
def test_whoever_restores_may_die_at_any_line(file: str, step: int, path: Path, source: Installation) -> None:
    expected, after = held(source)[:5], set[bool]()
    for line in count(1, step):
        folder = path.parent / f"target-{line}"
        target = Installation.on_sqlite(folder)
        filled(target.catalog, "c", 10, prefix="own")
        target.rebuild()
        before, old = held(target)[:5], target.catalog.collection("c").uid
        died = dies_at_line(line, file, restore, folder, path, old)
        is_new = target.catalog.collection("c").uid == UID
        assert held(target)[:5] == (expected if is_new else before)
        assert target.problems() == []
        assert len(LiveIndex(target.catalog, target.store_of, "c").view.search(QUERIES, 3)[0]) == 3
        after.add(is_new)
        if not is_new:  # as the job does that goes on
            restore(folder, path, old)
        target.restorer.tidy(0.0)
        assert (held(target)[:5], target.problems()) == (expected, [])
        nothing_is_left(target)
        target.catalog.close()
        if not died:
            break
    assert line > 4 * step
    assert after == {False, True}


def restore(data_dir: Path, path: Path, replaces: str) -> None:
    """What a job does."""
    Installation.on_sqlite(data_dir).restorer.restore(Archive(path), Plan("c", "c", UID, replaces))
