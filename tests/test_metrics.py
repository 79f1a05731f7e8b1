"""What is measured, and that nobody who calls the service can make it more than can be kept."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from service.exposition import MAX_COLLECTIONS
from service.metrics import Metrics
from tests.test_deploy import ROOT, tool

DASHBOARD = ROOT / "deploy/grafana/momoseek.json"
SERIES = re.compile(r"^(\w+)(\{[^}]*\})? \S+$", re.MULTILINE)


def series(exposition: str) -> set[str]:
    """Names with labels."""
    return {match[1] + (match[2] or "") for match in SERIES.finditer(exposition)}


def test_what_a_stranger_makes_up_makes_no_series(client: TestClient) -> None:
    def ask(i: int) -> None:
        client.request(f"MAKE{i}", "/v1/models")
        client.request(f"MAKE{i}", f"/{i}")
        client.get(f"/v1/models/{i}")
        client.get(f"/v1/collections/{i}/items/{i}", headers={"X-Request-Id": f"r-{i}", "Host": "localhost"})
        client.post(f"/v1/collections/{i}/search", json={"query": f"words {i}"})
        client.post("/v1/embeddings", json={"input": [f"words {i}"], "model": f"model-{i}"})
        client.post("/v1/embeddings", json={"input": {"image": {"url": f"http://host-{i}.example/"}}})
        client.get(f"/v1/collections?{i}={i}", headers={"Authorization": f"Bearer {i}"})

    ask(0)
    client.get("/metrics")
    before = series(client.get("/metrics").text)
    for i in range(1, 6):
        ask(i)
    after = series(client.get("/metrics").text)
    assert after == before
    assert len(after) > 100


def test_only_so_many_collections_have_series() -> None:
    metrics = Metrics()
    for i in range(MAX_COLLECTIONS + 10):
        metrics.freshness.labels(f"c{i}").set(0)
        metrics.index_items.labels(f"c{i}", "live").set(i)
    shown = metrics.exposition().decode()
    assert len(re.findall(r"^momoseek_freshness_seconds\{", shown, re.MULTILINE)) == MAX_COLLECTIONS
    assert 'momoseek_index_items{collection="c0",state="live"} 0.0' in shown
    assert f'"c{MAX_COLLECTIONS}"' not in shown
    metrics.forget_collection("c0")  # makes room
    again = metrics.exposition().decode()
    assert '"c0"' not in again
    assert len(re.findall(r"^momoseek_freshness_seconds\{", again, re.MULTILINE)) == MAX_COLLECTIONS


def test_collections_are_counted_whether_they_have_series_or_not(client: TestClient) -> None:
    client.app.state.metrics.collections.set(7)  # type: ignore[attr-defined]  # as the watcher does
    assert "momoseek_collections 7.0" in client.get("/metrics").text


def test_how_long_writes_take_until_they_are_found(client: TestClient) -> None:
    def counted(lane: str) -> tuple[int, float]:
        page = client.get("/metrics").text
        found = [
            re.search(
                rf'^momoseek_write_to_searchable_seconds_{kind}{{lane="{lane}"}} (\S+)$', page, re.MULTILINE
            )
            for kind in ("count", "sum")
        ]
        return (int(float(found[0][1])), float(found[1][1])) if found[0] and found[1] else (0, 0.0)

    items, began = "/v1/collections/c/items", time.monotonic()
    requests = [
        client.put(items, json={"items": [{"id": "a", "text": "red"}, {"id": "b", "text": "blue"}]}),
        client.put(f"{items}?wait=durable", json={"items": [{"id": "c", "text": "green"}]}),
        client.patch(f"{items}/a", json={"metadata": {"x": 1}}),
        client.delete(f"{items}/a"),
        client.post(f"{items}/delete", json={"ids": ["b"]}),
    ]
    for reply in requests:
        reply.raise_for_status()
    count, seconds = counted("interactive")
    assert (count, counted("bulk")) == (5, (0, 0.0))
    assert 0 < seconds <= time.monotonic() - began
    client.delete(f"{items}/a")  # is not there
    client.post(f"{items}/delete", json={"ids": ["b"]})
    client.put(items, json={"items": [{"id": "d", "vector": {"values": [1.0], "embedding_space": "x"}}]})
    job = client.post("/v1/collections/c/bulk", content='{"item": {"id": "e", "text": "words"}}').json()
    while client.get(f"/v1/jobs/{job['id']}").json()["state"] != "succeeded":
        time.sleep(0.01)
    assert (counted("interactive")[0], counted("bulk")[0]) == (5, 1)
    assert counted("bulk")[1] <= time.time() - job["created_at"]


def test_a_request_in_flight_is_counted_while_it_is(client: TestClient) -> None:
    for _ in range(2):  # whoever asks is in flight; who asked before is not
        assert "momoseek_http_requests_in_flight 1.0" in client.get("/metrics").text


# -- the dashboard


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def queries() -> dict[str, str]:
    """Every query of the dashboard, by its panel's title and its letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    }


def test_the_dashboard_asks_for_metrics_that_the_service_exports(client: TestClient) -> None:
    exposition = client.get("/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)", exposition, re.MULTILINE))
    names = set(kinds)
    for name, kind in kinds.items():
        if kind == "histogram":
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    asked = {
        title: set(re.findall(r"\b(?:momoseek|process)_\w+(?=\{)", query))
        for title, query in queries().items()
    }
    assert len(asked) > 25
    assert {title: missing for title, found in asked.items() if (missing := found - names or not found)} == {}
    own = {name for name in kinds if name.startswith("momoseek_")}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for found in asked.values() for name in found}
    assert own - shown == set(), "the dashboard shows nothing of these"


def test_prometheus_can_read_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries().values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [tool("promtool", "prometheus"), "check", "rules", str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@pytest.mark.parametrize("variable", ["instance", "collection"])
def test_the_dashboard_narrows_by(variable: str) -> None:
    assert variable in {entry["name"] for entry in dashboard()["templating"]["list"]}
    assert any(f'{variable}=~"${variable}"' in query for query in queries().values())


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
