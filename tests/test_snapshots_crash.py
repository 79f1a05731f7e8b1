"""kill -9 of whoever makes or restores an archive: the collection is as it was, or whole."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

from index.audit import audit
from index.catalog import Catalog, Delete
from index.folders import store_in
from index.jobs import new_id
from index.rebuild import Rebuilder
from service import archivist as archivists
from service.archivist import Archivist
from service.config import Settings
from service.shelf import Shelf, entry_of
from service.stores import open_catalog
from service.tasks import TaskRunner
from tests.conftest import start_server
from tests.indexing import DIM, ENCODER, filled, upsert
from tests.killing_servers import worker_of
from tests.mortals import dies_at_line, start

_KILLS = 6
_ITEMS = 300


def carry_out(settings: Settings) -> None:
    """Do all tasks there are, as the worker does."""
    catalog, store_of = open_catalog(settings), store_in(settings.snapshots_dir)
    rebuilder = Rebuilder(catalog, store_of, lambda _: None)
    archivist = Archivist(catalog, settings.data_dir, store_of, 0.0, time.sleep)
    lock = settings.data_dir / "tasks.lock"
    tasks = TaskRunner(catalog, rebuilder, store_of, lock, lambda report: None, archivist)
    while tasks.step(threading.Event()):
        pass
    catalog.close()


def said(catalog: Catalog, name: str = "c") -> dict[str, str]:
    return {item.id: item.content for item in catalog.scroll(name, "", 10_000)}


def submitted(catalog: Catalog, type: Any, request: dict[str, Any]) -> str:
    """The id of a task on "c"."""
    return catalog.tasks.create(new_id(), type, catalog.collection("c").uid, "c", request, 1).id


def test_killed_again_and_again_a_restore_is_done_once_and_whole(url: str, tmp_path: Path) -> None:
    settings, dice = Settings(data_dir=tmp_path, catalog_url=url, worker=False), random.Random(11)
    catalog, store_of = open_catalog(settings), store_in(settings.snapshots_dir)
    filled(catalog, "c", _ITEMS)
    Rebuilder(catalog, store_of, lambda _: None).rebuild("c", "test", 0.0)
    catalog.commit("c", [Delete(f"item-{n}") for n in range(0, _ITEMS, 7)], ENCODER)
    contents = {"archived": said(catalog)}
    submitted(catalog, "snapshot", {"snapshot": "one"})
    carry_out(settings)
    request = {"snapshot": "one", "of": "c", "encoder_id": ENCODER}

    began = time.monotonic()
    process = start(carry_out, settings)
    submitted(catalog, "restore", request)
    process.join()
    carry_out(settings)
    longest_s = time.monotonic() - began
    kills = 0
    while kills < _KILLS:
        catalog.commit("c", [upsert(f"new-{kills}"), Delete("item-1")], ENCODER)
        contents["before"] = said(catalog)
        id = submitted(catalog, "restore", request)
        while catalog.jobs.get(id).state != "succeeded":
            process = start(carry_out, settings)
            process.join(dice.uniform(0, 1.2 * longest_s) if kills < _KILLS else None)
            process.kill()
            process.join()
            kills += process.exitcode != 0
            now = said(catalog)
            done = catalog.jobs.get(id).done
            assert now == contents["archived" if done else "before"]
            found = audit(catalog, store_of, "c")
            assert found.equal, found.problems
        assert said(catalog) == contents["archived"]
        assert len(catalog.tasks.results(id, 0, 9)) == 1
    for uid in catalog.staging.given_up(time.time()):
        catalog.staging.drop(uid)
    assert catalog.collection("c").dim == DIM
    catalog.close()


def test_whoever_makes_an_archive_may_die_at_any_line_of_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, worker=False)
    catalog = open_catalog(settings)
    filled(catalog, "c", 3)
    shelf = Shelf(tmp_path)
    for line in range(1, 40, 4):
        id = submitted(catalog, "snapshot", {"snapshot": f"at-{line}"})
        dies_at_line(line, archivists.__file__, carry_out, settings)
        carry_out(settings)
        assert catalog.jobs.get(id).state == "succeeded"
        assert entry_of(shelf.path("c", f"at-{line}"), verify=True).state == "verified"
        assert len(catalog.tasks.results(id, 0, 9)) == 1
    assert list(tmp_path.rglob("*.partial")) == []
    catalog.close()


def test_a_server_answers_all_the_while_and_its_next_worker_goes_on(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    with httpx2.Client(base_url=f"{server.url}/v1/collections/c", timeout=30) as client:
        httpx2.put(f"{server.url}/v1/collections/c").raise_for_status()
        items = [{"id": f"i{n}", "text": f"a drawing of {n} things"} for n in range(100)]
        client.put("items", json={"items": items}).raise_for_status()
        ended(client, client.post("index/rebuild"))
        ended(client, client.post("snapshots", json={"name": "one"}))
        counts = set[int]()
        for kills in (True, False):
            client.put("items", json={"items": [{"id": "later", "text": "later"}]}).raise_for_status()
            accepted = client.post("snapshots/one/restore")
            if kills:
                time.sleep(0.3)
                kill_process(worker_of(server))
            ended(client, accepted, lambda: counts.add(searched(client)))
            assert counts <= {100, 101}
            assert searched(client) == 100
            assert client.get("index/audit").json()["equal"] is True
    assert server.stop() == 0


def searched(client: httpx2.Client) -> int:
    """How many items a search finds."""
    reply = client.post("search", json={"query": "things", "limit": 200})
    return len(reply.raise_for_status().json()["results"])


def ended(client: httpx2.Client, accepted: httpx2.Response, meanwhile: Any = lambda: None) -> None:
    """Wait for a job to succeed."""
    address = str(client.base_url).partition("/v1/")[0] + accepted.raise_for_status().headers["location"]
    deadline = time.monotonic() + 120
    while (job := client.get(address).json())["state"] != "succeeded":
        assert job["state"] in ("queued", "running"), job["problem"]
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.02)


def kill_process(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)
