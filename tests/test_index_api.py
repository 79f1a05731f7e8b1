"""The index over HTTP: how it is, rolled back, audited; and what the worker does because somebody asked."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from index.catalog import Catalog
from index.folders import store_in
from index.policy import Policy
from index.rebuild import Rebuilder, Report
from index.snapshot import SnapshotStore
from service import gate_reports
from service.archivist import Archivist
from service.config import Settings
from service.stores import open_catalog
from service.tasks import TaskRunner, alone_at
from tests.problems import assert_problem
from tests.test_gate import Planted

C = "/v1/collections/c"
NOW = threading.Event()


@dataclass
class Worker:
    """A worker beside the API, stepped by hand."""

    catalog: Catalog
    store: SnapshotStore
    rebuilder: Rebuilder
    tasks: TaskRunner

    def rebuild(self) -> None:
        """Publish a generation."""
        assert self.rebuilder.rebuild("c", "test", 0.0).published

    def work(self) -> None:
        """Do all tasks there are."""
        while self.tasks.step(NOW):
            pass


@pytest.fixture
def worker(settings: Settings, client: TestClient) -> Iterator[Worker]:
    """A worker on the data of the API."""
    catalog, store_of = open_catalog(settings), store_in(settings.snapshots_dir)
    store = store_of(catalog.collection("c"))
    rebuilder = Rebuilder(catalog, store_of, lambda _: None, Policy(keep=2))

    def on_report(report: Report) -> None:
        gate_reports.leave(store, report)

    lock = settings.data_dir / "tasks.lock"
    archivist = Archivist(catalog, settings.data_dir, store_of, 0.0, NOW.wait)
    tasks = TaskRunner(catalog, rebuilder, store_of, lock, on_report, archivist)
    yield Worker(catalog, store, rebuilder, tasks)
    catalog.close()


def put(client: TestClient, *texts: str) -> None:
    """An item for each text, called by it."""
    items = [{"id": text.replace(" ", "-"), "text": text} for text in texts]
    assert client.put(f"{C}/items", json={"items": items}).json()["errors"] is False


def index_of(client: TestClient) -> dict[str, Any]:
    """GET …/index."""
    reply = client.get(f"{C}/index")
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def submitted(client: TestClient, path: str, body: Any = None) -> str:
    """The address of the job that a request became."""
    reply = client.post(f"{C}/{path}", json=body)
    assert reply.status_code == 202, reply.text
    assert reply.json()["state"] == "queued"
    return str(reply.headers["location"])


def results(client: TestClient, job: str) -> list[Any]:
    """What a job found."""
    return [json.loads(line) for line in client.get(f"{job}/results").text.splitlines()]


# -- how it is


def test_an_index_is_told_as_it_stands(client: TestClient, worker: Worker) -> None:
    before = index_of(client)
    assert (before["generation"], before["items"], before["type"], before["gate"]) == (0, 0, None, None)
    put(client, "red", "green", "blue")
    assert index_of(client)["oldest_unindexed_at"] == pytest.approx(
        worker.catalog.item("c", "red").created_at
    )
    submitted(client, "index/rebuild")
    worker.work()
    put(client, "white")
    client.delete(f"{C}/items/red")
    client.app.state.retriever.index("c").refresh()  # type: ignore[attr-defined]
    found = index_of(client)
    assert {name: found[name] for name in ("generation", "items", "rows", "delta", "hidden", "dead")} == {
        "generation": 1,
        "items": 3,
        "rows": 3,
        "delta": 1,
        "hidden": 1,
        "dead": 0,
    }
    assert (found["type"], found["covers_token"], found["generations"]) == ("Flat", "wt_0000000005", [1])
    assert found["size_bytes"] > 3 * 16 * 4
    assert (found["held"], found["building"], found["problem"]) == (False, False, None)
    assert found["gate"]["last_reason"] == "somebody asked"
    assert (found["gate"]["published"], found["gate"]["refused"]) == (1, 0)


def test_an_audit_proves_that_nothing_is_lost(client: TestClient, worker: Worker) -> None:
    put(client, "red", "green", "blue")
    worker.rebuild()
    put(client, "white")
    client.delete(f"{C}/items/red")
    found = client.get(f"{C}/index/audit").json()
    assert (found["equal"], found["items"], found["searchable"], found["generation"]) == (True, 3, 3, 1)
    digests = [int(found[f"{name}_digest"], 16) for name in ("snapshot", "hidden", "tail", "catalog")]
    assert (digests[0] - digests[1] + digests[2]) % 2**64 == digests[3]
    with worker.catalog._writing() as connection:
        connection.exec_driver_sql("DELETE FROM embeddings WHERE content IN (SELECT content FROM items)")
    found = client.get(f"{C}/index/audit").json()
    assert found["equal"] is False
    assert "3 of 3 items have no embedding" in found["problems"]


@pytest.mark.parametrize("path", ["index", "index/audit"])
def test_a_collection_that_is_not_there_has_no_index(client: TestClient, path: str) -> None:
    assert_problem(client.get(f"/v1/collections/none/{path}"), 404, "collection_not_found")


# -- rolling back


def test_a_rollback_serves_at_once_and_loses_nothing(client: TestClient, worker: Worker) -> None:
    for texts in (["red"], ["green"], ["blue"]):
        put(client, *texts)
        worker.rebuild()
    client.app.state.retriever.index("c").refresh()  # type: ignore[attr-defined]
    reply = client.post(f"{C}/index/rollback")
    assert reply.status_code == 200, reply.text
    assert (reply.json()["generation"], reply.json()["held"], reply.json()["delta"]) == (2, True, 1)
    assert worker.rebuilder.step(1e12) == []
    assert client.post(f"{C}/index/rollback", json={"generation": 1}).json()["generation"] == 1
    found = client.post(f"{C}/search", json={"query": "blue"}).json()
    assert (found["results"][0]["id"], found["index"]["generation"]) == ("blue", 1)
    assert client.post(f"{C}/index/rollback", json={"generation": 3}).json()["generation"] == 3
    job = submitted(client, "index/rebuild", {"full": True})
    worker.work()
    assert client.get(job).json()["state"] == "succeeded"
    assert (worker.store.current(), worker.store.is_held()) == (4, False)


def test_there_is_no_way_back_to_what_cannot_serve(client: TestClient, worker: Worker) -> None:
    assert_problem(client.post(f"{C}/index/rollback"), 409, "generation_unusable")
    put(client, "red")
    worker.rebuild()
    put(client, "green")
    worker.rebuild()
    path = worker.store.folder(1) / "ids.npy"
    damaged = path.read_bytes()[:-1]
    path.unlink()
    path.write_bytes(damaged)
    for body in ({}, {"generation": 1}, {"generation": 7}):
        reply = client.post(f"{C}/index/rollback", json=body)
        assert_problem(reply, 409, "generation_unusable")
        assert "0000" in reply.json()["detail"]  # it says which generation
        assert str(worker.store.root) not in reply.json()["detail"]  # and not where they are kept
    assert (worker.store.current(), worker.store.is_held()) == (2, False)
    assert client.post(f"{C}/index/rollback", json={"generation": 0}).status_code == 422


# -- tasks of the worker


def test_a_refused_rebuild_fails_its_job_and_says_why(
    client: TestClient, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, "red", "green")
    job = submitted(client, "index/rebuild")
    with monkeypatch.context() as planted:
        Planted(planted).full_disk()
        worker.work()
    found = client.get(job).json()
    assert (found["state"], found["problem"]["code"]) == ("failed", "generation_refused")
    assert "No space left" in found["problem"]["detail"]
    gate = index_of(client)["gate"]
    assert (gate["refused"], gate["refused_by"], gate["last_published"]) == (1, {"unreadable": 1}, False)
    assert "No space left" in gate["last_reason"]
    assert client.post(f"{job}/resume").status_code == 200
    worker.work()
    assert client.get(job).json()["state"] == "succeeded"
    [report] = results(client, job)
    assert (report["generation"], report["published"], report["how"]) == (2, True, "full")


def test_an_evaluation_measures_what_serves(client: TestClient, worker: Worker) -> None:
    put(client, "red", "green")
    worker.rebuild()
    with worker.catalog._writing() as connection:
        connection.exec_driver_sql("UPDATE items SET modality = 'image'")
    job = submitted(client, "index/evaluate")
    worker.work()
    assert results(client, job) == [
        {"generation": 1, "items": 2, "tail": 0, "recall_at_10": {"image": 1.0}, "queries": {"image": 2}}
    ]


def test_duplicates_are_found_once_with_what_they_are_duplicates_of(
    client: TestClient, worker: Worker
) -> None:
    put(client, "red", "green", "red green", "blue")
    worker.rebuild()
    client.put(
        f"{C}/items",
        json={"items": [{"id": f"again-{n}", "text": text} for n, text in enumerate(["red", "blue", "red"])]},
    )
    job = submitted(client, "duplicates")
    assert client.get(job).json()["counts"]["total"] == 7
    worker.work()
    found = client.get(job).json()
    assert (found["state"], found["counts"]["done"], found["checkpoint"]["offset"]) == ("succeeded", 7, 7)
    assert results(client, job) == [
        {"id": "again-0", "duplicate_of": "red", "score": 1.0},
        {"id": "again-1", "duplicate_of": "blue", "score": 1.0},
        {"id": "again-2", "duplicate_of": "red", "score": 1.0},
    ]
    body = {"threshold": 0.7, "filter": {"must": [{"has_id": ["red", "green", "red-green"]}]}}
    job = submitted(client, "duplicates", body)
    worker.work()
    assert results(client, job) == [{"id": "red-green", "duplicate_of": "red", "score": 0.707107}]


def test_a_task_of_a_collection_that_is_gone_fails(client: TestClient, worker: Worker) -> None:
    put(client, "red")
    job = submitted(client, "duplicates")
    client.delete(C)
    client.put(C)
    worker.work()
    assert client.get(job).json()["problem"]["code"] == "collection_not_found"


def test_a_cancelled_task_is_not_begun(client: TestClient, worker: Worker) -> None:
    put(client, "red")
    job = submitted(client, "index/rebuild")
    assert client.post(f"{job}/cancel").json()["state"] == "cancelled"
    worker.work()
    assert worker.store.current() is None


def test_two_workers_are_not_at_tasks_at_once(client: TestClient, worker: Worker, settings: Settings) -> None:
    put(client, "red")
    job = submitted(client, "index/rebuild")
    with alone_at(settings.data_dir / "tasks.lock") as alone:
        assert alone
        assert worker.tasks.step(NOW) is False
    worker.work()
    assert client.get(job).json()["state"] == "succeeded"


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("duplicates", {"threshold": 2}, "invalid_request"),
        ("duplicates", {"filter": {"must": 1}}, "filter_invalid"),
        ("duplicates", {"limit": 1}, "invalid_request"),
        ("index/rebuild", {"full": "perhaps"}, "invalid_request"),
    ],
)
def test_mistakes_are_told_before_there_is_a_job(client: TestClient, path: str, body: Any, code: str) -> None:
    assert_problem(client.post(f"{C}/{path}", json=body), 422, code)
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_the_worker_does_tasks_by_itself(tmp_path: Path) -> None:
    """In a thread of its own, until it is stopped."""
    settings = Settings(data_dir=tmp_path)
    catalog, store_of = open_catalog(settings), store_in(settings.snapshots_dir)
    collection, _ = catalog.create_collection("c", "e-1", 8)
    rebuilder = Rebuilder(catalog, store_of, lambda _: None)
    stop = threading.Event()
    archivist = Archivist(catalog, tmp_path, store_of, 0.0, stop.wait)
    lock, nobody = tmp_path / "tasks.lock", lambda report: None
    tasks = TaskRunner(catalog, rebuilder, store_of, lock, nobody, archivist)
    thread = threading.Thread(target=tasks.run, args=(stop, 0.01))
    thread.start()
    catalog.tasks.create("job_1", "duplicates", collection.uid, "c", {"threshold": 0.9, "filter": None}, 0)
    for _ in range(500):
        if catalog.jobs.get("job_1").state == "succeeded":
            break
        stop.wait(0.01)
    stop.set()
    thread.join()
    assert catalog.jobs.get("job_1").state == "succeeded"
    catalog.close()
