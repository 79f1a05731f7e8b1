"""The watcher, the worker's reports, and the supervisor."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from index.catalog import Catalog
from index.folders import prune_folders, store_in
from index.rebuild import Rebuilder, Report
from index.snapshot import SnapshotStore
from service import gate_reports
from service.config import Settings
from service.recall_meter import Estimate, RecallMeter
from service.supervisor import supervise
from service.watcher import Watcher
from tests.fakes import FakeEncoder


def put(client: TestClient, *ids: str) -> None:
    items = [{"id": item_id, "text": item_id} for item_id in ids]
    assert client.put("/v1/collections/c/items", json={"items": items}).json()["errors"] is False


def metric(client: TestClient, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " "))
    return float(line.split()[-1])


@pytest.fixture
def catalog(settings: Settings, client: TestClient) -> Catalog:
    return Catalog(settings.catalog_address)


@pytest.fixture
def watcher(settings: Settings, client: TestClient, catalog: Catalog) -> Watcher:
    """A watcher of the client's own retriever, stepped by hand."""
    state: Any = client.app.state  # type: ignore[attr-defined]
    return Watcher(settings, catalog, state.retriever, state.metrics, RecallMeter(0, lambda estimate: None))


def rebuild(catalog: Catalog, settings: Settings) -> Report:
    rebuilder = Rebuilder(catalog, store_in(settings.snapshots_dir), lambda encoder_id: None)
    return rebuilder.rebuild("c", "the test asks", time.time())


def test_what_another_process_writes_is_found_after_a_step(
    client: TestClient, watcher: Watcher, settings: Settings, fake_encoder: FakeEncoder
) -> None:
    from service.app import create_app

    with TestClient(create_app(settings, fake_encoder)) as other:  # type: ignore[arg-type]
        put(other, "red")
        watcher.step()
        assert [
            h["id"] for h in client.post("/v1/collections/c/search", json={"query": "red"}).json()["results"]
        ] == ["red"]
        other.delete("/v1/collections/c/items/red")
        assert client.post("/v1/collections/c/search", json={"query": "red"}).json()["results"] == []


def test_a_new_generation_is_swapped_in_and_metered(
    client: TestClient, watcher: Watcher, catalog: Catalog, settings: Settings
) -> None:
    put(client, "red", "green", "blue")
    client.delete("/v1/collections/c/items/green")
    assert rebuild(catalog, settings).published
    put(client, "white")
    client.delete("/v1/collections/c/items/red")
    watcher.step()
    reply = client.post("/v1/collections/c/search", json={"query": "white"}).json()
    assert reply["index"]["generation"] == 1
    assert {hit["id"] for hit in reply["results"]} == {"white", "blue"}
    assert metric(client, 'momoseek_index_generation{collection="c"}') == 1
    assert metric(client, 'momoseek_index_items{collection="c",state="live"}') == 2
    assert metric(client, 'momoseek_index_items{collection="c",state="delta"}') == 1
    assert metric(client, 'momoseek_index_items{collection="c",state="deleted"}') == 1
    assert metric(client, 'momoseek_index_swap_total{collection="c",outcome="swapped"}') == 1
    assert metric(client, 'momoseek_snapshot_lag_seconds{collection="c"}') > 0


def test_what_the_gate_refuses_is_counted(
    client: TestClient,
    watcher: Watcher,
    catalog: Catalog,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = store_in(settings.snapshots_dir)(catalog.collection("c"))
    refused = Report("c", 1, False, "recall is too low", 10, 10, cause="recall")
    gate_reports.leave(store, refused)
    put(client, "red")
    watcher.step()
    gate_reports.leave(store, refused)
    gate_reports.leave(store, refused)
    monkeypatch.setattr(watcher, "_lag_due", 0.0)
    watcher.step()
    assert metric(client, 'momoseek_index_swap_total{collection="c",outcome="refused"}') == 2
    assert metric(client, 'momoseek_index_refusals_total{cause="recall",collection="c"}') == 2


def test_reports_count_on_across_restarts_and_survive_a_damaged_file(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    published = Report("c", 1, True, "due", 10, 10)
    refused = Report("c", 2, False, "no room", 0, 0, cause="disk")
    assert gate_reports.read(store) is None
    for report in (published, refused, published, refused):
        gate_reports.leave(store, report)
    found = gate_reports.read(store)
    assert found is not None
    assert (found.published, found.refused, found.refused_by, found.last) == (2, 2, {"disk": 2}, refused)
    (store.root / "REPORT.json").write_text("[]")
    gate_reports.leave(store, published)
    found = gate_reports.read(store)
    assert found is not None
    assert (found.published, found.refused, found.last) == (1, 0, published)


def test_writes_that_cannot_be_seen_make_the_service_stale(
    client: TestClient, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(client, "red")
    state: Any = client.app.state  # type: ignore[attr-defined]
    index = state.retriever.index("c")
    monkeypatch.setattr(index, "refresh", lambda: (_ for _ in ()).throw(RuntimeError("disk gone")))
    watcher.step()
    time.sleep(0.05)
    watcher.step()
    assert metric(client, 'momoseek_freshness_seconds{collection="c"}') >= 0.05
    monkeypatch.undo()
    watcher.step()
    assert metric(client, 'momoseek_freshness_seconds{collection="c"}') == 0


def delete(client: TestClient, catalog: Catalog) -> None:
    assert client.delete("/v1/collections/c").status_code == 204


def delete_elsewhere(client: TestClient, catalog: Catalog) -> None:
    catalog.delete_collection("c")


@pytest.mark.parametrize("gone", [delete, delete_elsewhere])
@pytest.mark.parametrize("anew", [False, True])
def test_the_metrics_of_a_deleted_collection_go_with_it(
    client: TestClient,
    watcher: Watcher,
    catalog: Catalog,
    settings: Settings,
    gone: Callable[[TestClient, Catalog], None],
    anew: bool,
) -> None:
    state: Any = client.app.state  # type: ignore[attr-defined]
    put(client, "red")
    assert rebuild(catalog, settings).published
    watcher.step()
    assert metric(client, 'momoseek_index_swap_total{collection="c",outcome="swapped"}') == 1
    gone(client, catalog)
    if anew:
        client.put("/v1/collections/c")
    watcher.step()
    shown = client.get("/metrics").text
    assert "momoseek_index_swap_total{" not in shown
    assert "momoseek_index_build_duration_seconds{" not in shown
    assert ('momoseek_index_items{collection="c",state="live"} 0.0' in shown) == anew
    assert state.metrics.shown_collections() == ({"c"} if anew else set())


def test_a_search_that_is_measured_after_its_collection_is_gone_leaves_no_series(
    client: TestClient, watcher: Watcher
) -> None:
    state: Any = client.app.state  # type: ignore[attr-defined]
    client.delete("/v1/collections/c")
    watcher.step()
    state.metrics.observe_recall(Estimate("c", "text", "any", "all", 1.0, 1))
    assert 'momoseek_recall_at_k{collection="c"' in client.get("/metrics").text
    watcher.step()
    assert "momoseek_recall_at_k{" not in client.get("/metrics").text


def test_a_deleted_collection_is_forgotten(client: TestClient, watcher: Watcher, catalog: Catalog) -> None:
    put(client, "red")
    watcher.step()
    assert 'collection="c"' in client.get("/metrics").text
    catalog.delete_collection("c")
    watcher.step()
    state: Any = client.app.state  # type: ignore[attr-defined]
    assert state.retriever.open_indexes() == {}
    assert 'collection="c"' not in client.get("/metrics").text


def test_snapshots_of_a_deleted_collection_are_pruned(
    client: TestClient, catalog: Catalog, settings: Settings
) -> None:
    client.put("/v1/collections/kept")
    put(client, "red")
    rebuild(catalog, settings)
    doomed = settings.snapshots_dir / "c"
    assert prune_folders(settings.snapshots_dir, catalog.every_collection()) == []
    assert doomed.exists()
    client.delete("/v1/collections/c")
    assert prune_folders(settings.snapshots_dir, catalog.every_collection()) == [doomed]
    assert not doomed.exists()


def test_readiness_tells_a_wrong_vector_and_a_dead_encoder(
    client: TestClient, fake_encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/readyz").status_code == 200
    state: Any = client.app.state  # type: ignore[attr-defined]
    monkeypatch.setattr("service.health._FRESH_S", 0.0)
    right = fake_encoder.embed
    monkeypatch.setattr(state.retriever.embedder.batcher, "_embed", lambda documents: -right(documents))
    reply = client.get("/readyz")
    assert reply.status_code == 503
    assert "other vectors" in reply.json()["checks"]["encoder"]["reason"]
    monkeypatch.setattr(state.retriever.embedder.batcher, "_embed", lambda documents: 1 / 0)
    assert "failed" in client.get("/readyz").json()["checks"]["encoder"]["reason"]
    monkeypatch.setattr(state.retriever.embedder.batcher, "_embed", right)
    assert client.get("/readyz").status_code == 200


def test_the_supervisor_starts_an_ended_process_again_and_stops_it_at_last(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    script = f"import os, sys; open({str(marks)!r}, 'a').write(os.environ['MARK']); sys.exit(3)"
    restarts: list[float] = []

    async def run() -> None:
        command = [sys.executable, "-c", script]
        task = asyncio.create_task(
            supervise({"MARK": "x"}, lambda: restarts.append(time.monotonic()), command)
        )
        until = time.monotonic() + 20
        while len(restarts) < 2 and time.monotonic() < until:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert marks.read_text().startswith("xx")
    assert restarts[1] - restarts[0] > 0.5  # it does not spin


def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    restarts: list[float] = []

    async def run() -> None:
        missing = [str(tmp_path / "no such program")]
        task = asyncio.create_task(supervise({}, lambda: restarts.append(time.monotonic()), missing))
        await asyncio.sleep(1.5)
        assert not task.done()
        task.cancel()

    asyncio.run(run())
    assert restarts


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.supervisor._GRACE_S", 0.3)
    ready = tmp_path / "ready"
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN)"
    script = f"{deaf}; open({str(ready)!r}, 'w').close(); time.sleep(60)"

    async def run() -> None:
        task = asyncio.create_task(supervise({}, lambda: None, [sys.executable, "-c", script]))
        until = time.monotonic() + 20
        while not ready.exists() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - started < 20
