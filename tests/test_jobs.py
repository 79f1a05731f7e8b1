"""Jobs in the catalog: a checkpoint moves with the items it covers, or not at all."""

import time
from collections.abc import Iterator

import pytest

from index import rows
from index.catalog import Catalog, CollectionNotFound, Delete, EncoderMismatch, Upsert
from index.jobs import KEPT_S, Failure, Job, JobNotFound, JobStateConflict, StepRefused, new_id
from index.jobs import Step as JobStep
from index.replies import KeyReused
from index.schema import job_failures
from tests.indexing import DIM, ENCODER, upsert


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog with an empty collection "c"."""
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    yield catalog
    catalog.close()


def submitted(catalog: Catalog, total: int = 10, name: str = "c") -> Job:
    """A fresh job."""
    uid = catalog.collection(name).uid
    return catalog.jobs.create(new_id(), uid, name, total, "digest")[0]


def claimed(catalog: Catalog, job: Job) -> Job:
    found = catalog.jobs.claim(job.id)
    assert found is not None
    return found


def failure(line: int) -> Failure:
    return Failure(line, f"l{line}", {"code": "text_empty", "status": 422})


def test_a_step_counts_what_its_commit_did(catalog: Catalog) -> None:
    job = submitted(catalog)
    assert (job.state, job.left, job.started_at) == ("queued", 10, None)
    job = claimed(catalog, job)
    assert job.state == "running"
    assert job.started_at is not None
    catalog.commit("c", [upsert("a", "old")], ENCODER)
    step = JobStep(job.id, 0, 400, 6, [failure(2)], rate=12.5)
    writes: list[Upsert | Delete] = [upsert("a", "old"), upsert("b", "new"), Delete("never"), Delete("a")]
    catalog.commit("c", writes, ENCODER, step)
    job = catalog.jobs.get(job.id)
    assert (job.at_byte, job.at_line, job.rate) == (400, 6, 12.5)
    assert (job.done, job.skipped, job.failed, job.left) == (2, 2, 1, 5)
    assert catalog.jobs.failures(job.id, 0, 10) == [failure(2)]


def test_a_step_from_elsewhere_is_refused_with_its_items(catalog: Catalog) -> None:
    job = claimed(catalog, submitted(catalog))
    catalog.commit("c", [upsert("a", "a")], ENCODER, JobStep(job.id, 0, 100, 1))
    for start in (0, 50, 200):
        with pytest.raises(StepRefused):
            catalog.commit("c", [upsert("b", "b")], ENCODER, JobStep(job.id, start, 300, 3, [failure(3)]))
    assert [item.id for item in catalog.scroll("c", "", 10)] == ["a"]
    assert catalog.jobs.failures(job.id, 0, 10) == []
    assert catalog.jobs.get(job.id).at_byte == 100


def test_items_that_are_refused_leave_the_checkpoint_where_it_was(catalog: Catalog) -> None:
    job = claimed(catalog, submitted(catalog))
    with pytest.raises(EncoderMismatch):
        catalog.commit("c", [upsert("a", "a")], "other", JobStep(job.id, 0, 100, 1))
    assert catalog.jobs.get(job.id).at_byte == 0


def test_nothing_is_committed_once_a_job_was_cancelled(catalog: Catalog) -> None:
    job = claimed(catalog, submitted(catalog))
    assert catalog.jobs.wish(job.id, "cancel").state == "cancelled"
    with pytest.raises(StepRefused):
        catalog.commit("c", [upsert("a", "a")], ENCODER, JobStep(job.id, 0, 100, 1))
    assert catalog.scroll("c", "", 10) == []


def test_what_is_in_hand_when_a_job_is_paused_may_be_committed(catalog: Catalog) -> None:
    job = claimed(catalog, submitted(catalog))
    catalog.jobs.wish(job.id, "pause")
    catalog.commit("c", [upsert("a", "a")], ENCODER, JobStep(job.id, 0, 100, 1))
    catalog.jobs.end(job.id)  # too late: who paused it decides
    job = catalog.jobs.get(job.id)
    assert (job.state, job.done) == ("paused", 1)


def test_a_job_does_not_write_into_a_collection_that_was_made_again(catalog: Catalog) -> None:
    job = claimed(catalog, submitted(catalog))
    catalog.delete_collection("c")
    with pytest.raises(CollectionNotFound):
        catalog.commit("c", [upsert("a", "a")], ENCODER, JobStep(job.id, 0, 100, 1))
    catalog.create_collection("c", ENCODER, DIM)
    with pytest.raises(StepRefused):
        catalog.commit("c", [upsert("a", "a")], ENCODER, JobStep(job.id, 0, 100, 1))


@pytest.mark.parametrize(
    ("state", "possible"),
    [
        ("queued", {"pause": "paused", "resume": "queued", "cancel": "cancelled"}),
        ("running", {"pause": "paused", "resume": "running", "cancel": "cancelled"}),
        ("paused", {"pause": "paused", "resume": "queued", "cancel": "cancelled"}),
        ("failed", {"resume": "queued", "cancel": "cancelled"}),
        ("succeeded", {}),
        ("cancelled", {"cancel": "cancelled"}),
    ],
)
@pytest.mark.parametrize("wish", ["pause", "resume", "cancel"])
def test_a_wish_is_fulfilled_where_that_is_possible_and_may_be_repeated(
    catalog: Catalog, state: str, wish: str, possible: dict[str, str]
) -> None:
    job = submitted(catalog)
    if state != "queued":
        claimed(catalog, job)
    if state in ("paused", "cancelled"):
        catalog.jobs.wish(job.id, "pause" if state == "paused" else "cancel")
    elif state in ("failed", "succeeded"):
        catalog.jobs.end(job.id, {"code": "x"} if state == "failed" else None)
    if wish in possible:
        assert catalog.jobs.wish(job.id, wish).state == possible[wish]  # type: ignore[arg-type]
        assert catalog.jobs.wish(job.id, wish).state == possible[wish]  # type: ignore[arg-type]
    else:
        with pytest.raises(JobStateConflict):
            catalog.jobs.wish(job.id, wish)  # type: ignore[arg-type]
        assert catalog.jobs.get(job.id).state == state


def test_a_resumed_job_forgets_why_it_failed_and_goes_on_from_its_checkpoint(catalog: Catalog) -> None:
    job = claimed(catalog, submitted(catalog))
    catalog.commit("c", [upsert("a", "a")], ENCODER, JobStep(job.id, 0, 100, 1))
    catalog.jobs.end(job.id, {"code": "job_lines_missing"})
    failed = catalog.jobs.get(job.id)
    assert failed.problem == {"code": "job_lines_missing"}
    assert failed.ended_at is not None
    assert catalog.jobs.claim(job.id) is None
    catalog.jobs.wish(job.id, "resume")
    again = claimed(catalog, job)
    assert (again.at_byte, again.done, again.problem, again.ended_at) == (100, 1, None, None)
    assert again.started_at == failed.started_at


def test_jobs_are_listed_from_the_newest_by_state_and_by_collection(catalog: Catalog) -> None:
    catalog.create_collection("d", ENCODER, DIM)
    made = []
    for name in ("c", "d", "c", "c"):
        made.append(submitted(catalog, name=name).id)
        time.sleep(0.002)  # ids are in order of milliseconds
    assert [job.id for job in catalog.jobs.page(None, "", 10)] == made[::-1]
    assert [job.id for job in catalog.jobs.page(None, made[2], 1)] == [made[1]]
    assert [job.id for job in catalog.jobs.page(None, "", 10, within=["d"])] == [made[1]]
    catalog.jobs.wish(made[0], "pause")
    assert [job.id for job in catalog.jobs.page("paused", "", 10)] == [made[0]]
    assert [job.id for job in catalog.jobs.ready()] == made[1:]
    assert catalog.jobs.counts()["bulk"]["queued"] == 3
    assert catalog.jobs.unfinished() == set(made)
    for id, within in ((made[0], ["d"]), (made[0], []), ("job_none", None), ("\ud800", None)):
        with pytest.raises(JobNotFound):
            catalog.jobs.get(id, within)
    with pytest.raises(JobNotFound):
        catalog.jobs.wish(made[1], "cancel", within=["c"])


def test_a_key_names_one_job_with_its_lines(catalog: Catalog) -> None:
    uid = catalog.collection("c").uid
    first, created = catalog.jobs.create("job_1", uid, "c", 5, "digest", "key")
    assert created
    assert catalog.jobs.create("job_2", uid, "c", 5, "digest", "key") == (first, False)
    with pytest.raises(KeyReused):
        catalog.jobs.create("job_3", uid, "c", 5, "another", "key")
    assert [job.id for job in catalog.jobs.page(None, "", 10)] == ["job_1"]


def test_a_key_finds_its_unfinished_job_and_is_free_again_when_that_has_ended(catalog: Catalog) -> None:
    uid = catalog.collection("c").uid
    assert catalog.jobs.unfinished_of("key", uid) is None
    first, _ = catalog.jobs.create("job_1", uid, "c", 5, "digest", "key")
    assert catalog.jobs.unfinished_of("key", uid) == first
    catalog.jobs.wish("job_1", "pause")
    assert catalog.jobs.unfinished_of("key", uid) == catalog.jobs.get("job_1")
    catalog.jobs.wish("job_1", "cancel")
    assert catalog.jobs.unfinished_of("key", uid) is None
    second, created = catalog.jobs.create("job_2", uid, "c", 6, "another", "key")
    assert (second.id, created) == ("job_2", True)
    assert catalog.jobs.unfinished_of("key", "of a collection made again") is None
    assert catalog.jobs.unfinished_of("key", uid) is None


def test_jobs_are_forgotten_a_week_after_their_end(catalog: Catalog) -> None:
    ended, paused = claimed(catalog, submitted(catalog)), submitted(catalog)
    catalog.commit("c", [], ENCODER, JobStep(ended.id, 0, 9, 1, [failure(1)]))
    catalog.jobs.end(ended.id)
    catalog.jobs.wish(paused.id, "pause")
    assert catalog.jobs.prune(time.time() + KEPT_S - 60) == 0
    assert catalog.jobs.prune(time.time() + KEPT_S + 60) == 1
    assert [job.id for job in catalog.jobs.page(None, "", 10)] == [paused.id]
    with catalog.copying() as connection:
        assert rows.count(connection, job_failures) == 0


def test_jobs_are_not_part_of_a_backup_and_do_not_outlive_a_restored_one(catalog: Catalog) -> None:
    submitted(catalog)
    assert not {"jobs", "job_failures"} & rows.tables().keys()
    with catalog.replacing() as connection:
        rows.clear(connection)
    assert catalog.jobs.page(None, "", 10) == []
