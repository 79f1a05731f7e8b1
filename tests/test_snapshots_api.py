"""Snapshots of collections over HTTP: made, listed, checked, restored and deleted, and what is refused."""

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from index.catalog import StorageFull
from index.folders import store_in
from index.rebuild import Rebuilder
from service.app import create_app
from service.archivist import Archivist
from service.config import Settings
from service.shelf import Shelf, SnapshotNotFound
from service.stores import open_catalog
from service.tasks import TaskRunner
from tests.fakes import COLOUR_NAMES, FakeEncoder, square
from tests.guarded import Guarded, guarded
from tests.postgresql import fresh_database
from tests.problems import assert_problem

C = "/v1/collections/c"
S = f"{C}/snapshots"


class Worker:
    """A worker beside the API, stepped by hand."""

    def __init__(self, settings: Settings) -> None:
        self.stop = threading.Event()
        self.waits = list[float]()
        self.catalog = open_catalog(settings)
        store_of = store_in(settings.snapshots_dir)
        self.rebuilder = Rebuilder(self.catalog, store_of, lambda _: None)
        lock, nobody = settings.data_dir / "tasks.lock", lambda report: None
        archivist = Archivist(self.catalog, settings.data_dir, store_of, 0.5, self.waits.append)
        self.tasks = TaskRunner(self.catalog, self.rebuilder, store_of, lock, nobody, archivist)

    def work(self) -> None:
        """Do all tasks there are."""
        while self.tasks.step(self.stop):
            pass


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, settings: Settings) -> Iterator[TestClient]:
    """An API on either kind of database, with pictures, an index of them, and a text after it."""
    url = fresh_database() if request.param == "postgresql" else ""
    yield from filled(settings.model_copy(update={"catalog_url": url}))


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The same on SQLite."""
    yield from filled(settings)


def filled(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings, cast(Any, FakeEncoder()))) as api:
        cast(Any, api.app).state.worker = worker = Worker(settings)
        api.put(C, json={"schema": {"price": "number"}}).raise_for_status()
        pictures = [
            {"id": name, "image": {"base64": base64.b64encode(square(name)).decode()}}
            for name in COLOUR_NAMES
        ]
        put(api, *pictures)
        assert worker.rebuilder.rebuild("c", "test", 0.0).published
        put(api, {"id": "words", "text": "some words", "metadata": {"price": 5}})
        yield api
        worker.catalog.close()


def worker_of(api: TestClient) -> Worker:
    return cast(Worker, cast(Any, api.app).state.worker)


def put(api: TestClient, *items: dict[str, Any]) -> None:
    assert api.put(f"{C}/items", json={"items": items}).json()["errors"] is False


def job_of(api: TestClient, path: str, body: Any = None) -> dict[str, Any]:
    """The job that a request became, after the worker was at it."""
    reply = api.post(path, json=body)
    assert reply.status_code == 202, reply.text
    worker_of(api).work()
    found: dict[str, Any] = api.get(reply.headers["location"]).json()
    return found


def result_of(api: TestClient, job: dict[str, Any]) -> Any:
    assert job["state"] == "succeeded", job
    (line,) = api.get(job["results_url"]).text.splitlines()
    return json.loads(line)


def found_by(api: TestClient, name: str = "c") -> list[Any]:
    """What searches find, and in which generation."""
    queries = [{"query": colour, "limit": 9} for colour in COLOUR_NAMES]
    replies = [api.post(f"/v1/collections/{name}/search", json=query).json() for query in queries]
    return [
        [[(hit["id"], hit["score"]) for hit in reply["results"]], reply["index"]["generation"]]
        for reply in replies
    ]


def path_of(settings: Settings, name: str) -> Path:
    return settings.data_dir / "backups/collections/c" / f"{name}.tar"


# -- what is meant to happen


def test_a_collection_is_made_what_its_snapshot_holds(both: TestClient) -> None:
    before = found_by(both)
    made = result_of(both, job_of(both, S, {"name": "monday"}))
    assert (made["snapshot"], made["items"], made["pictures"]) == ("monday", 6, 5)
    listed = both.get(S).json()
    assert listed["size_bytes"] == made["size_bytes"] == listed["snapshots"][0]["size_bytes"] > 10_000
    assert [entry["name"] for entry in listed["snapshots"]] == ["monday"]
    entry = both.get(f"{S}/monday?verify=true").json()
    assert entry | {"created_at": 0.0} == {
        "name": "monday",
        "collection": "c",
        "state": "verified",
        "size_bytes": made["size_bytes"],
        "created_at": 0.0,
        "items": 6,
        "pictures": 5,
        "embedding_space": FakeEncoder().id,
        "problem": None,
    }
    assert time.time() - 60 < entry["created_at"] < time.time()

    assert both.post(f"{C}/items/delete", json={"ids": ["red", "words"]}).json()["deleted"] == 2
    put(both, {"id": "later", "text": "later"})
    both.post("/v1/aliases", json={"actions": [{"create": {"alias": "live", "collection": "c"}}]})
    both.patch(C, json={"schema": None})
    job = job_of(both, "/v1/collections/live/snapshots/monday/restore")
    assert (job["type"], job["collection"], job["counts"]["done"]) == ("restore", "c", 1)
    assert result_of(both, job) == {"collection": "c", "items": 6, "write_token": "wt_0000000006"}
    after = found_by(both)
    assert [hits for hits, _ in after] == [hits for hits, _ in before]
    assert {generation for _, generation in after} == {2}
    assert found_by(both, "live") == after
    assert both.get(C).json()["schema"] == {"price": "number"}
    assert both.get(f"{C}/images/red").content == square("red")
    assert both.get(f"{C}/items/later").status_code == 404
    assert both.get(f"{C}/index/audit").json()["equal"] is True
    (waited,) = worker_of(both).waits
    assert 1.0 <= waited < 60

    put(both, {"id": "later", "text": "later"})  # as if nothing had been
    assert both.get(C).json()["count"] == 7


def test_it_comes_back_under_another_name_and_after_its_end(client: TestClient) -> None:
    before = found_by(client)
    name = result_of(client, job_of(client, S))["snapshot"]
    assert result_of(client, job_of(client, f"{S}/{name}/restore", {"as": "copy"}))["collection"] == "copy"
    assert found_by(client, "copy") == before
    refused = client.post(f"{S}/{name}/restore", json={"as": "copy"})
    assert_problem(refused, 409, "collection_exists")
    client.delete(C)
    assert [entry["name"] for entry in client.get(S).json()["snapshots"]] == [name]
    assert result_of(client, job_of(client, f"{S}/{name}/restore"))["collection"] == "c"
    assert [hits for hits, _ in found_by(client)] == [hits for hits, _ in before]
    assert worker_of(client).waits == []  # nobody searched what was not there
    assert client.delete(f"{S}/{name}").status_code == 204
    assert_problem(client.get(f"{S}/{name}"), 404, "snapshot_not_found")
    assert client.get(S).json() == {"snapshots": [], "size_bytes": 0}


def test_searches_go_on_while_a_snapshot_is_restored(client: TestClient) -> None:
    name = result_of(client, job_of(client, S))["snapshot"]
    client.delete(f"{C}/items/red")
    seen = list[int]()
    app = cast(Any, client.app)

    def search(_: float) -> None:
        app.state.retriever.index("c").prepare()  # as the watcher does
        app.state.retriever.index("c").refresh()
        seen.append(len(client.post(f"{C}/search", json={"query": "red", "limit": 9}).json()["results"]))

    cast(Any, worker_of(client).tasks)._archivist._wait = search
    assert job_of(client, f"{S}/{name}/restore")["state"] == "succeeded"
    search(0.0)
    assert seen == [5, 6]


# -- what is refused


def test_names_that_are_none_and_things_that_are_not_there(client: TestClient, settings: Settings) -> None:
    for name in ("", "..", "../a", "a/b", ".a", "a.b", "a\n", "a\0", "é", "-a", "a" * 65):
        with pytest.raises(SnapshotNotFound, match="cannot be an archive's name"):
            Shelf(settings.data_dir).path("c", name)
    assert Shelf(Path("x")).path("../é", "a") == Path("x/backups/collections/%2E.%2F%C3%A9/a.tar")
    for name in ("a.b", ".a", "a/b", "a%2Fb", "%2e%2e%2fa", "é", "a" * 65):
        for reply in (client.get(f"{S}/{name}"), client.delete(f"{S}/{name}")):
            assert reply.status_code in (404, 405, 422), name
        assert client.post(f"{S}/{name}/restore").status_code in (404, 405, 422)
        assert_problem(client.post(S, json={"name": name}), 422, "invalid_request")
    assert_problem(client.post(S, json={"called": "x"}), 422, "invalid_request")
    assert_problem(client.get(f"{S}/none"), 404, "snapshot_not_found")
    assert_problem(client.delete(f"{S}/none"), 404, "snapshot_not_found")
    assert_problem(client.post(f"{S}/none/restore"), 404, "snapshot_not_found")
    for path in ("/v1/collections/none/snapshots",):
        assert_problem(client.get(path), 404, "collection_not_found")
        assert_problem(client.post(path), 404, "collection_not_found")
    assert client.get("/v1/jobs").json()["jobs"] == []
    assert not (settings.data_dir / "backups").exists()


def test_a_name_is_given_once_and_aliases_are_no_targets(client: TestClient) -> None:
    for _ in range(2):  # the second was asked for before the first was there
        client.post(S, json={"name": "one"}).raise_for_status()
    worker_of(client).work()
    assert {job["state"] for job in client.get("/v1/jobs").json()["jobs"]} == {"succeeded"}
    assert len(client.get(S).json()["snapshots"]) == 1
    assert_problem(client.post(S, json={"name": "one"}), 409, "snapshot_exists")
    client.post("/v1/aliases", json={"actions": [{"create": {"alias": "live", "collection": "c"}}]})
    assert_problem(client.post(f"{S}/one/restore", json={"as": "live"}), 409, "alias_conflict")
    assert_problem(client.post(f"{S}/one/restore", json={"as": "a b"}), 422, "invalid_request")
    assert_problem(client.post(f"{S}/one/restore", json={"to": "x"}), 422, "invalid_request")


def test_another_encoder_restores_nothing(client: TestClient, settings: Settings) -> None:
    job_of(client, S, {"name": "one"})
    other = FakeEncoder()
    other.id = "another-0123456789ab"
    with TestClient(create_app(settings, cast(Any, other))) as api:
        assert api.get(f"{S}/one").json()["state"] == "complete"
        for body in (None, {"as": "x"}):
            assert_problem(api.post(f"{S}/one/restore", json=body), 409, "encoder_mismatch")


def test_a_damaged_snapshot_is_told_and_leaves_all_as_it_was(client: TestClient, settings: Settings) -> None:
    job_of(client, S, {"name": "one"})
    path, before = path_of(settings, "one"), found_by(client)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"\x89PNG") + 20] ^= 1
    path.write_bytes(flipped)
    assert client.get(f"{S}/one").json()["state"] == "complete"  # what was not read is not judged
    entry = client.get(f"{S}/one?verify=true").json()
    assert (entry["state"], entry["problem"][:6]) == ("damaged", "blobs/")
    job = job_of(client, f"{S}/one/restore")
    assert (job["state"], job["problem"]["code"]) == ("failed", "snapshot_damaged")
    assert found_by(client) == before

    path.write_bytes(whole[:-5000])
    entry = client.get(f"{S}/one").json()
    assert (entry["state"], entry["items"], entry["embedding_space"]) == ("damaged", None, None)
    assert client.get(S).json()["snapshots"] == [entry]
    assert_problem(client.post(f"{S}/one/restore"), 409, "snapshot_damaged")
    path.write_bytes(whole)
    resumed = client.post(f"/v1/jobs/{job['id']}/resume").json()
    assert resumed["state"] == "queued"
    worker_of(client).work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"
    assert [hits for hits, _ in found_by(client)] == [hits for hits, _ in before]


def test_what_was_replaced_since_is_not_replaced_again(client: TestClient) -> None:
    job_of(client, S, {"name": "one"})
    jobs = [client.post(f"{S}/one/restore").json() for _ in range(2)]
    worker_of(client).work()
    states = [client.get(f"/v1/jobs/{job['id']}").json() for job in jobs]
    assert [state["state"] for state in states] == ["succeeded", "failed"]
    assert states[1]["problem"]["code"] == "collection_changed"
    lines = "\n".join(json.dumps({"item": {"id": f"i{n}", "text": f"{n}"}}) for n in range(5))
    bulk = client.post(f"{C}/bulk", content=lines).json()
    cast(Any, client.app).state.jobs._catalog.jobs.wish(bulk["id"], "pause")
    job = job_of(client, f"{S}/one/restore")
    assert job["state"] == "succeeded"
    client.post(f"/v1/jobs/{bulk['id']}/resume")
    while (ended := client.get(f"/v1/jobs/{bulk['id']}").json())["state"] in ("queued", "running"):
        time.sleep(0.01)
    assert ended["state"] == "succeeded" or ended["problem"]["code"] == "collection_not_found"
    assert ended["counts"]["done"] in (0, 5)
    job = client.post(f"{S}/one/restore").json()
    client.delete(f"{S}/one")
    worker_of(client).work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["problem"]["code"] == "snapshot_not_found"
    job = client.post(S).json()
    client.delete(C)
    worker_of(client).work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["problem"]["code"] == "collection_not_found"


@pytest.mark.parametrize("wish", ["cancel", "pause"])
@pytest.mark.parametrize("action", ["make", "restore"])
def test_a_job_ends_when_somebody_wants_it_to(
    action: str, wish: str, client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.tasks._LOOK_S", 0.0)
    before = found_by(client)
    if action == "restore":
        job_of(client, S, {"name": "one"})
    path = S if action == "make" else f"{S}/one/restore"
    job = client.post(path, json={"name": "one"} if action == "make" else {}).json()
    runner = cast(Any, worker_of(client).tasks)
    going_on: Callable[..., Callable[[], None]] = runner._going_on
    calls = iter(range(100))

    def wishing(*arguments: Any) -> Callable[[], None]:
        check = going_on(*arguments)

        def asked() -> None:
            if next(calls) == 5:
                client.post(f"/v1/jobs/{job['id']}/{wish}").raise_for_status()
            check()

        return asked

    runner._going_on = wishing
    worker_of(client).work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == {"cancel": "cancelled"}.get(wish, "paused")
    assert found_by(client) == before
    assert path_of(settings, "one").exists() == (action == "restore")
    assert list(settings.data_dir.glob("restoring/*")) == []
    if wish == "pause":
        client.post(f"/v1/jobs/{job['id']}/resume")
        worker_of(client).work()
        assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"


def test_a_worker_that_stops_leaves_the_job_to_the_next(client: TestClient) -> None:
    job = client.post(S).json()
    worker = worker_of(client)
    worker.stop.set()
    assert worker.tasks.step(worker.stop)
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running"
    assert client.get(S).json()["snapshots"] == []
    worker.stop.clear()
    worker.work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "succeeded"


def test_a_full_disk_fails_the_job_and_keeps_nothing(client: TestClient, settings: Settings) -> None:
    folder = settings.data_dir / "backups"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs to be root")
    try:
        job = job_of(client, S, {"name": "one"})
        assert (job["state"], job["problem"]["code"]) == ("failed", "storage_full")
        assert [path.name for path in folder.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_catalog_that_is_full_fails_the_restore(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_of(client, S, {"name": "one"})
    before = found_by(client)

    def full(*_: object) -> None:
        raise StorageFull("the disk that holds the catalog is full")

    monkeypatch.setattr(worker_of(client).catalog.staging, "add_embeddings", full)
    job = job_of(client, f"{S}/one/restore")
    assert (job["state"], job["problem"]["code"]) == ("failed", "storage_full")
    assert found_by(client) == before


# -- who may


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Guarded]:
    """A server with keys of every kind."""
    with guarded(tmp_path) as locked:
        yield locked


def test_a_key_of_one_collection_restores_into_no_other(
    locked: Guarded, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    worker = Worker(Settings(data_dir=tmp_path))
    reply = locked.api.post(S, json={"name": "one"}, headers=locked.headers("admin"))
    assert reply.status_code == 202, reply.text
    worker.work()
    worker.catalog.close()
    headers = locked.headers("own")
    refused = locked.api.post(f"{S}/one/restore", json={"as": "elsewhere"}, headers=headers)
    assert_problem(refused, 403, "collection_forbidden")
    assert locked.api.get(f"{S}/one", headers=headers).status_code == 200
    for key in ("read", "write"):
        assert_problem(locked.api.get(S, headers=locked.headers(key)), 403, "scope_insufficient")
    lines = [json.loads(record.message) for record in caplog.records if record.name == "momoseek.audit"]
    told = {(line["action"].partition(" ")[0], line["target"], line["outcome"]) for line in lines}
    assert {("POST", "one", "ok"), ("GET", "one", "ok"), ("POST", None, "collection_forbidden")} <= told
