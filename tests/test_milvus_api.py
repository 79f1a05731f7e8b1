"""A collection in a cluster, as a client of the service sees it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from index.catalog import Catalog
from index.folders import prune_folders
from index.mirror import forget
from service.app import create_app
from service.config import InvalidSettings, Settings, resolve
from service.console import CommandError
from service.recall_meter import Estimate, RecallMeter, Sample
from service.stores import open_catalog, open_cluster, open_rebuilder
from tests.clusters import MemoryCluster
from tests.fakes import FakeEncoder
from tests.indexing import unit_rows
from tests.problems import assert_problem

ITEMS = {"a": "red", "b": "red red green", "c": "red green", "d": "green", "e": "blue"}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> MemoryCluster:
    """A cluster in memory, which the service finds at its address."""
    cluster, bundle = MemoryCluster(), SimpleNamespace(encoder_id="another", probes=lambda: {"text": None})
    monkeypatch.setattr("service.stores.open_bundle", lambda settings: bundle)
    monkeypatch.setattr("service.compose.open_cluster", lambda settings: cluster)
    return cluster


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings by which three items are enough for a cluster."""
    return Settings(
        data_dir=tmp_path / "data",
        worker=False,
        refresh_s=60,
        allowed_hosts="testserver",
        milvus_from_items=3,
    )


@pytest.fixture
def api(cluster: MemoryCluster, settings: Settings, fake_encoder: FakeEncoder) -> Iterator[TestClient]:
    """An API with the items in collection "c"."""
    with TestClient(create_app(settings, cast(Any, fake_encoder))) as api:
        api.put("/v1/collections/c")
        write(api, ITEMS)
        yield api


@pytest.fixture
def rebuild(api: TestClient, cluster: MemoryCluster, settings: Settings) -> Callable[[], None]:
    """Does what the worker does, and lets the API notice."""

    def rebuild() -> None:
        catalog = open_catalog(settings)
        report = open_rebuilder(settings, catalog, cluster).rebuild("c", "the test asks", time.time())
        assert report.published, report.reason
        catalog.close()
        cast(Any, api.app).state.retriever.index("c").refresh()

    return rebuild


def write(api: TestClient, items: dict[str, str]) -> None:
    reply = api.put(
        "/v1/collections/c/items", json={"items": [{"id": id, "text": text} for id, text in items.items()]}
    )
    assert not reply.json()["errors"]


def search(api: TestClient, **wanted: Any) -> Any:
    return api.post("/v1/collections/c/search", json={"query": "red", "limit": 3, **wanted})


def found(api: TestClient, **wanted: Any) -> list[str]:
    reply = search(api, **wanted)
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["results"]]


def test_it_answers_from_the_cluster_and_the_tail(
    api: TestClient, cluster: MemoryCluster, rebuild: Callable[[], None]
) -> None:
    rebuild()
    assert found(api) == ["a", "b", "c"]
    assert cluster.searches
    write(api, {"a": "green", "new": "red"})  # are in the tail, the old one is not found any more
    api.delete("/v1/collections/c/items/b")
    assert found(api, limit=2) == ["new", "c"]
    assert found(api, filter={"must": [{"has_id": ["c", "d", "b"]}]}) == ["c", "d"]
    rebuild()
    assert found(api, limit=2) == ["new", "c"]
    assert len(cluster.delivered) == len(ITEMS) + 2


def test_while_the_cluster_is_away_it_takes_writes_and_says_when_to_search_again(
    api: TestClient, cluster: MemoryCluster, rebuild: Callable[[], None]
) -> None:
    rebuild()
    cluster.down = True
    reply = search(api)
    assert_problem(reply, 503, "index_unavailable")
    assert reply.headers["retry-after"] == "5"
    assert api.get("/readyz").status_code == 200
    write(api, {"new": "red"})
    assert api.post("/v1/collections/c/items/count", json={}).json()["count"] == len(ITEMS) + 1
    cluster.down = False
    assert set(found(api, limit=2)) == {"a", "new"}


def test_recall_is_not_measured_by_fetching_every_vector(
    api: TestClient, cluster: MemoryCluster, rebuild: Callable[[], None]
) -> None:
    rebuild()
    measured: list[Estimate] = []
    del cluster.searches[:]
    view = cast(Any, api.app).state.retriever.index("c").view
    RecallMeter(1.0, measured.append).measure(
        Sample(view, unit_rows(1, view.collection.dim), "text", "any", None)
    )
    assert measured == []
    assert cluster.searches == []


def test_a_deleted_collection_leaves_the_cluster(
    api: TestClient, cluster: MemoryCluster, rebuild: Callable[[], None], settings: Settings
) -> None:
    rebuild()
    assert len(cluster.names()) == 1
    api.delete("/v1/collections/c")
    catalog = Catalog(settings.catalog_address)
    pruned = prune_folders(
        settings.snapshots_dir, catalog.every_collection(), lambda folder: forget(cluster, folder)
    )
    catalog.close()
    assert [folder.name for folder in pruned] == ["c"]
    assert cluster.names() == []


def test_few_items_stay_here(api: TestClient, cluster: MemoryCluster, rebuild: Callable[[], None]) -> None:
    for name in ("a", "b", "c"):
        api.delete(f"/v1/collections/c/items/{name}")
    rebuild()
    assert set(found(api)) == {"d", "e"}
    assert cluster.names() == []


@pytest.mark.parametrize(("type", "items", "stands_there"), [("Milvus", 2, True), ("Flat", 5, False)])
def test_a_collection_may_say_where_it_stands(
    api: TestClient,
    cluster: MemoryCluster,
    rebuild: Callable[[], None],
    type: str,
    items: int,
    stands_there: bool,
) -> None:
    assert api.put("/v1/collections/c", json={"index": {"type": type}}).json()["index"]["type"] == type
    for name in list(ITEMS)[items:]:
        api.delete(f"/v1/collections/c/items/{name}")
    rebuild()
    assert found(api, limit=1) == ["a"]
    assert bool(cluster.names()) is stands_there


# -- settings


def test_there_is_a_cluster_where_an_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_cluster(Settings()) is None
    url = "https://milvus.example:19530/shop"
    monkeypatch.setattr("service.stores.find_spec", lambda name: None)
    with pytest.raises(CommandError, match="pip install"):
        open_cluster(Settings(milvus_url=url))
    monkeypatch.setattr("service.stores.find_spec", lambda name: name)
    assert open_cluster(Settings(milvus_url=url)) is not None


@pytest.mark.parametrize("url", ["milvus.example:19530", "./milvus.db", "https://me:secret@milvus.example"])
def test_another_kind_of_address_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(InvalidSettings, match="MOMOSEEK_MILVUS_URL=") as refusal:
        resolve({}, {"MOMOSEEK_MILVUS_URL": url})
    assert "secret" not in str(refusal.value)
