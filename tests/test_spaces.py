"""Spaces: a collection moves whole, in one transaction, or stays whole where it is; on either database."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from index import schema
from index.audit import audit
from index.catalog import Catalog, Delete, EncoderMismatch, Item, Outcome
from index.folders import prune_folders, store_in
from index.jobs import KEPT_S, Failure, Job, Step, StepRefused
from index.live import LiveIndex
from index.policy import Policy
from index.rebuild import Rebuilder
from index.records import Space
from index.spaces import ItemsAhead, ItemsUnreadable, Renamed
from index.vectors import Vectors
from tests.indexing import DIM, ENCODER, filled, row_of, unit_rows, upsert

OTHER = Space("other-0123456789ab", 12)
QUERIES = unit_rows(2, OTHER.dim, seed=7)


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog with six items in collection "c"."""
    catalog = Catalog(url)
    filled(catalog, "c", 6)
    yield catalog
    catalog.close()


def moving(catalog: Catalog) -> Job:
    """A job that moves "c", begun."""
    found = catalog.collection("c")
    request = {"encoder_id": OTHER.encoder_id, "from": found.encoder_id, "drop_unreadable": False}
    catalog.tasks.create(f"job_{time.time_ns()}", "reembed", found.uid, "c", request, 6)
    task = catalog.tasks.next(OTHER.encoder_id)
    assert task is not None
    claimed = catalog.jobs.claim(task.job.id)
    assert claimed is not None
    return claimed


def rows_of(items: Sequence[Item]) -> dict[str, Vectors]:
    """What the other encoder makes of items."""
    return {item.content: row_of(item.content, OTHER.dim) for item in items}


def embedded(catalog: Catalog, job: Job, without: Sequence[str] = (), limit: int = 100) -> Job:
    """The job with the items behind its checkpoint embedded, but for those of these ids, which failed."""
    entries = catalog.spaces.items(job.uid, OTHER.encoder_id, job.at_byte, limit)
    items = [item for item, known in entries if not known and item.id not in without]
    failures = [
        Failure(job.at_line + place + 1, item.id, {"code": "test"})
        for place, (item, _) in enumerate(entries)
        if item.id in without
    ]
    last = entries[-1][0].seq if entries else job.at_byte
    step = Step(job.id, job.at_byte, last, job.at_line + len(entries), failures)
    outcomes = [
        Outcome(item.id, "unchanged" if known else "updated", item.seq)
        for item, known in entries
        if item.id not in without
    ]
    return catalog.spaces.add(job, OTHER, rows_of(items), step, outcomes)


def ids(catalog: Catalog) -> list[str]:
    return [item.id for item in catalog.scroll("c", "", 100)]


def vectors(catalog: Catalog) -> int:
    """How many embeddings there are."""
    with catalog.copying() as connection:
        query = sa.select(sa.func.count()).select_from(schema.embeddings)
        return int(connection.execute(query).scalar_one())


def test_it_moves_when_every_item_is_embedded_and_nothing_else_of_it_changes(catalog: Catalog) -> None:
    before, items = catalog.collection("c"), catalog.scroll("c", "", 100)
    job = embedded(catalog, moving(catalog), limit=4)
    with pytest.raises(ItemsAhead):
        catalog.spaces.move(job, OTHER, drop=False)
    assert catalog.collection("c") == before
    job = embedded(catalog, job)
    assert catalog.spaces.move(job, OTHER, drop=False) == 0
    assert catalog.collection("c") == before.within(OTHER)
    assert catalog.scroll("c", "", 100) == items  # versions and all
    assert catalog.vector("c", "item-3").tolist() == row_of("item-3", OTHER.dim).tolist()
    with pytest.raises(EncoderMismatch):  # who looks for what resembles it must not take it for a row of his
        catalog.vector("c", "item-3", ENCODER)
    assert catalog.spaces.move(job, OTHER, drop=False) == 0  # by whoever goes on after a crash
    with pytest.raises(EncoderMismatch):
        catalog.commit("c", [upsert("new")], ENCODER)


def test_what_is_written_meanwhile_is_waited_for(catalog: Catalog) -> None:
    job = embedded(catalog, moving(catalog))
    catalog.commit("c", [upsert("new"), Delete("item-0"), upsert("item-1", "other words")], ENCODER)
    with pytest.raises(ItemsAhead):
        catalog.spaces.move(job, OTHER, drop=True)
    job = embedded(catalog, job)
    catalog.commit("c", [upsert("again", "item-2"), Delete("item-5")], ENCODER)  # needs no new embedding
    catalog.spaces.move(job, OTHER, drop=True)
    assert ids(catalog) == ["again", "item-1", "item-2", "item-3", "item-4", "new"]
    with catalog.reading("c") as reading:
        assert sum(len(seqs) for seqs, _, _ in reading.rows()) == 6


def test_items_that_cannot_be_embedded_keep_it_where_it_is_or_are_deleted_with_the_move(
    catalog: Catalog,
) -> None:
    before = catalog.collection("c")
    job = embedded(catalog, moving(catalog), without=["item-2", "item-4"])
    with pytest.raises(ItemsUnreadable, match=r"2 of the items"):
        catalog.spaces.move(job, OTHER, drop=False)
    assert (catalog.collection("c"), len(ids(catalog))) == (before, 6)
    assert catalog.spaces.move(job, OTHER, drop=True) == 2
    assert ids(catalog) == ["item-0", "item-1", "item-3", "item-5"]
    with catalog.reading("c") as reading:
        assert [change.replaces for change in reading.changes(after=6)] == [3, 5]  # as any deletion
    job = catalog.jobs.get(job.id)
    assert (job.done, job.failed, job.total) == (4, 2, 6)
    assert [failure.line for failure in catalog.jobs.failures(job.id, 0, 9)] == [3, 5]


def test_a_job_that_was_stopped_moves_nothing(catalog: Catalog) -> None:
    job = embedded(catalog, moving(catalog))
    for wish in ("pause", "cancel"):
        catalog.jobs.wish(job.id, wish)
        with pytest.raises(StepRefused):
            catalog.spaces.move(job, OTHER, drop=False)
    assert catalog.collection("c").encoder_id == ENCODER
    with pytest.raises(StepRefused):
        embedded(catalog, job)


def test_a_step_that_was_done_is_not_done_twice(catalog: Catalog) -> None:
    job = moving(catalog)
    embedded(catalog, job)
    with pytest.raises(StepRefused):
        embedded(catalog, job)
    assert catalog.jobs.get(job.id).done == 6


def test_a_writer_of_the_former_encoder_waits_for_the_move_and_is_refused(catalog: Catalog) -> None:
    job = embedded(catalog, moving(catalog))
    refused, stop = list[str](), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            try:
                catalog.commit("c", [upsert(f"late-{number}")], ENCODER)
                number += 1
            except EncoderMismatch:
                refused.append(f"late-{number}")
                return
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    while True:
        job = embedded(catalog, job)
        try:
            catalog.spaces.move(job, OTHER, drop=False)
            break
        except ItemsAhead:
            continue
    writer.join(10)
    stop.set()
    assert len(refused) == 1
    with catalog.reading("c") as reading:
        assert sum(len(seqs) for seqs, _, _ in reading.rows()) == reading.count() == len(ids(catalog))


def test_an_item_that_was_given_its_vector_gets_a_name_of_its_own_and_keeps_the_vector(
    catalog: Catalog,
) -> None:
    given = row_of("given")
    for number in (1, 2):
        text = {"text": f"text {number}", "vector": given}
        catalog.commit("c", [upsert(f"given-{number}", "shared", **text)], ENCODER)
    job, own = embedded(catalog, moving(catalog), limit=6), dict[str, Vectors]()
    entries = catalog.spaces.items(job.uid, OTHER.encoder_id, job.at_byte, 9)
    renamed = [Renamed.of(item, f"print of {item.text}") for item, _ in entries]
    own = {name.content: row_of(name.item.id, OTHER.dim) for name in renamed}
    assert len(own) == 2
    step = Step(job.id, job.at_byte, entries[-1][0].seq, 8)
    outcomes = [Outcome(item.id, "updated", item.seq) for item, _ in entries]
    catalog.commit("c", [upsert("given-2", "words")], ENCODER)  # was faster
    job = catalog.spaces.add(job, OTHER, own, step, outcomes, renamed)
    assert [catalog.vector("c", f"given-{n}").tolist() for n in (1, 2)] == [
        given.tolist(),
        row_of("words").tolist(),
    ]
    job = embedded(catalog, job)
    catalog.spaces.move(job, OTHER, drop=False)
    assert catalog.vector("c", "given-1").tolist() == row_of("given-1", OTHER.dim).tolist()


def test_a_task_waits_for_who_does_it_with_the_encoder_that_it_names_or_its_collection_is_of(
    catalog: Catalog,
) -> None:
    found = catalog.collection("c")
    catalog.tasks.create("job_1", "reembed", found.uid, "c", {"encoder_id": "b"}, 1)
    catalog.tasks.create("job_2", "adapt", found.uid, "c", {}, 1)
    assert catalog.tasks.next() is None
    assert catalog.tasks.next("a") is None
    assert catalog.tasks.next(ENCODER, ["reembed"]) is None
    for encoder_id, id in ((ENCODER, "job_2"), ("b", "job_1")):
        task = catalog.tasks.next(encoder_id)
        assert task is not None
        assert task.job.id == id
    catalog.delete_collection("c")
    task = catalog.tasks.next("a")
    assert task is not None, "somebody has to tell that its collection is gone"


# -- what is left behind


def test_the_way_back_is_kept_for_as_long_as_the_job_is(catalog: Catalog) -> None:
    catalog.create_collection("d", ENCODER, DIM)
    catalog.commit("d", [upsert("item-0")], ENCODER)
    job = embedded(catalog, moving(catalog))
    assert (vectors(catalog), catalog.prune_embeddings()) == (12, 0)
    catalog.spaces.move(job, OTHER, drop=False)
    catalog.jobs.end(job.id)
    catalog.staging.begin("0" * 32)
    staged = {"collection": "0" * 32, "id": "s", "seq": 1, "content": "item-1", "modality": "text"}
    more: dict[str, Any] = {"metadata": {}, "created_at": 0.0, "updated_at": 0.0}
    catalog.staging.add("0" * 32, schema.items, [staged | more | dict.fromkeys(_NULLS)])
    assert catalog.spaces.kept() == {ENCODER, OTHER.encoder_id}
    assert (catalog.prune_embeddings(), vectors(catalog)) == (0, 12)
    catalog.jobs.prune(time.time() + KEPT_S + 60)
    assert catalog.spaces.kept() == set()
    # Of the former encoder's, one is of "d" and one of what is being restored.
    assert (catalog.prune_embeddings(), vectors(catalog)) == (4, 8)
    assert catalog.vector("d", "item-0").tolist() == row_of("item-0").tolist()


_NULLS = [column.name for column in schema.item_columns if column.nullable]


# -- indexes


@pytest.fixture
def rebuilder(catalog: Catalog, tmp_path: Path) -> Rebuilder:
    """A rebuilder of snapshots in a folder."""
    return Rebuilder(catalog, store_in(tmp_path / "snapshots"), lambda _: None, Policy(keep=1))


def test_an_index_that_was_built_ahead_serves_when_the_collection_moves(
    catalog: Catalog, rebuilder: Rebuilder, tmp_path: Path
) -> None:
    store_of = store_in(tmp_path / "snapshots")
    rebuilder.rebuild("c", "test", time.time())
    live = LiveIndex(catalog, store_of, "c")
    before = live.view
    job = embedded(catalog, moving(catalog), without=["item-5"])
    catalog.commit("c", [upsert("new"), upsert("item-1", "other"), Delete("item-3")], ENCODER)
    report = rebuilder.build_ahead("c", OTHER, job.at_byte, time.time())
    assert (report.published, report.generation, report.count) == (True, 2, 3)  # no number is given twice
    assert live.refresh().generation == 1
    assert rebuilder.step(1e12) != []  # what serves is built as ever
    job = embedded(catalog, job)
    catalog.spaces.move(job, OTHER, drop=True)
    view = live.refresh()
    assert (view.generation, view.collection.space, view.tail.count) == (2, OTHER, 2)
    found = {hit.seq: hit.score for hit in view.search(QUERIES, 9)[0]}
    items = {item.seq: item for item in catalog.scroll("c", "", 100)}
    assert found.keys() == items.keys()
    for seq, score in found.items():
        row = row_of(items[seq].content, OTHER.dim)
        assert score == pytest.approx(float(row @ QUERIES[0]), abs=1e-5)
    assert len(before.search(unit_rows(1), 9)[0]) == 6  # who took it goes on in the former space
    assert audit(catalog, store_of, "c").problems == ()
    assert rebuilder.step(time.time()) == []  # nothing is due
    assert rebuilder.rebuild("c", "test", time.time()).generation > 3
    assert audit(catalog, store_of, "c").problems == ()


def test_an_open_index_follows_where_there_is_no_snapshot_yet(
    catalog: Catalog, rebuilder: Rebuilder, tmp_path: Path
) -> None:
    live = LiveIndex(catalog, store_in(tmp_path / "snapshots"), "c")
    rebuilder.rebuild("c", "test", time.time())
    live.refresh()
    catalog.spaces.move(embedded(catalog, moving(catalog)), OTHER, drop=False)
    with live.reading() as (view, reading):
        assert view.collection.space == reading.collection.space == OTHER
        assert (view.generation, view.tail.count) == (0, 6)
    assert [report.reason for report in rebuilder.step(time.time())] == ["no snapshot can serve"]
    assert live.refresh().generation == 2


def test_searches_while_it_moves_are_all_in_one_space(
    catalog: Catalog, rebuilder: Rebuilder, tmp_path: Path
) -> None:
    rebuilder.rebuild("c", "test", time.time())
    live = LiveIndex(catalog, store_in(tmp_path / "snapshots"), "c")
    queries = {DIM: unit_rows(1), OTHER.dim: QUERIES[:1]}
    seen, errors, stop = set[int](), list[Exception](), threading.Event()

    def search() -> None:
        try:
            while not stop.is_set():
                with live.reading() as (view, reading):
                    dim = reading.collection.dim
                    for hit in view.search(queries[dim], 9)[0]:
                        item = reading.items_at([hit.seq])[hit.seq]
                        expected = float(row_of(item.content, dim) @ queries[dim][0])
                        np.testing.assert_allclose(hit.score, expected, atol=1e-5)
                    seen.add(dim)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    job = embedded(catalog, moving(catalog))
    rebuilder.build_ahead("c", OTHER, job.at_byte, time.time())
    until(lambda: DIM in seen)
    catalog.spaces.move(job, OTHER, drop=False)
    until(lambda: OTHER.dim in seen or errors)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert errors == []


def test_snapshots_of_the_former_encoder_go_when_the_way_back_does(
    catalog: Catalog, rebuilder: Rebuilder, tmp_path: Path
) -> None:
    root, forgotten = tmp_path / "snapshots", list[Path]()
    rebuilder.rebuild("c", "test", time.time())
    former = store_in(root)(catalog.collection("c")).root
    job = embedded(catalog, moving(catalog))
    rebuilder.build_ahead("c", OTHER, job.at_byte, time.time())

    def pruned() -> list[Path]:
        return prune_folders(root, catalog.every_collection(), forgotten.append, catalog.spaces.kept())

    assert pruned() == []
    catalog.spaces.move(job, OTHER, drop=False)
    catalog.jobs.end(job.id)
    assert pruned() == []
    catalog.jobs.prune(time.time() + KEPT_S + 60)
    assert pruned() == forgotten == [former]
    assert store_in(root)(catalog.collection("c")).current() == 2


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)
