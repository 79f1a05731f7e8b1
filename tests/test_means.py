"""What means of rows tell, by values that can be computed by hand: a colour has an axis of its own."""

import math
import time
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from index.catalog import Catalog
from index.folders import store_in
from index.rebuild import Rebuilder
from index.vectors import Vectors
from service.config import Settings
from service.means import QueryDrift
from service.recall_meter import RecallMeter
from service.watcher import Watcher
from tests.fakes import COLOURS, square
from tests.test_item_contents import b64

C = "/v1/collections/c"


def metric(client: TestClient, name: str) -> float | None:
    """The value of a series; None if there is no such one."""
    lines = (line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
    return next((float(value) for series, value in lines if series == name), None)


def test_the_gap_of_a_collection_is_how_far_its_texts_lie_from_its_pictures(
    client: TestClient, settings: Settings
) -> None:
    state: Any = client.app.state  # type: ignore[attr-defined]
    catalog = Catalog(settings.catalog_address)
    watcher = Watcher(
        settings, catalog, state.retriever, state.metrics, RecallMeter(0, lambda estimate: None)
    )

    def gap_with(*items: dict[str, Any]) -> float | None:
        client.put(f"{C}/items", json={"items": items}).raise_for_status()
        rebuilder = Rebuilder(catalog, store_in(settings.snapshots_dir), lambda encoder_id: None)
        assert rebuilder.rebuild("c", "the test asks", time.time()).published
        watcher.step()
        return metric(client, 'momoseek_modality_gap{collection="c"}')

    red, blue = {"id": "red", "text": "red"}, {"id": "blue", "image": b64(square("blue"))}
    mixed = {"id": "mixed", "text": "white", "image": b64(square("black"))}
    assert gap_with(red, mixed) is None  # no picture stands alone
    assert gap_with(blue) == pytest.approx(math.sqrt(2))  # two axes
    assert gap_with({"id": "too", "text": "blue"}) == pytest.approx(math.sqrt(0.5))  # half of red is left
    client.delete(f"{C}/items/blue")
    assert gap_with(red) is None


def row(*values: float) -> Vectors:
    return np.array([values], np.float32)


def test_each_query_moves_the_mean_by_a_thousandth() -> None:
    drift = QueryDrift(np.concatenate([row(1, 0), row(1, 0)]))
    assert drift.value == 0.0
    drift.add(row(0, 1))
    assert drift.value == pytest.approx(1 - 0.999 / math.hypot(0.999, 0.001), abs=1e-7)
    for _ in range(999):
        drift.add(row(0, 1))
    left = 0.999**1000  # of where it began
    assert drift.value == pytest.approx(1 - left / math.hypot(left, 1 - left), abs=1e-4)
    for _ in range(20_000):
        drift.add(row(0, 1))
    assert drift.value == pytest.approx(1.0, abs=1e-4)
    for _ in range(40_000):
        drift.add(row(1, 0))
    assert drift.value == pytest.approx(0.0, abs=1e-6)


def test_searches_by_text_drift_from_the_probes_and_others_do_not_count(client: TestClient) -> None:
    def drift() -> float:
        return metric(client, "momoseek_query_drift") or 0.0

    client.put(f"{C}/items", json={"items": [{"id": "a", "text": "red"}]})
    client.post(f"{C}/search", json={"query": {"image": b64(square("red"))}}).raise_for_status()
    client.post(f"{C}/search", json={"query": {"id": "a"}}).raise_for_status()
    client.post("/v1/embeddings", json={"input": ["red"]}).raise_for_status()
    assert drift() == pytest.approx(0.0, abs=1e-6)
    for _ in range(20):
        client.post(f"{C}/search", json={"query": "red"}).raise_for_status()
    # The probes are the colours: their mean has a fifth on each axis, and red gets more of it.
    others = 0.999**20 / len(COLOURS)
    red = others + 1 - 0.999**20
    length = math.hypot(red, *[others] * (len(COLOURS) - 1))
    cosine = (red + (len(COLOURS) - 1) * others) / (math.sqrt(len(COLOURS)) * length)
    assert drift() == pytest.approx(1 - cosine, rel=1e-3)
    assert drift() > 1e-4


def test_what_the_encoder_tells_of_padding_is_shown(client: TestClient) -> None:
    state: Any = client.app.state  # type: ignore[attr-defined]
    for share in (0.0, 0.25, 0.25):
        state.retriever.encoder.observe_padding(share)
    assert metric(client, "momoseek_batch_padding_ratio_sum") == 0.5
    assert metric(client, 'momoseek_batch_padding_ratio_bucket{le="0.0"}') == 1
    assert metric(client, "momoseek_batch_padding_ratio_count") == 3
