"""How long stages took, told with every reply that had some."""

import re
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from index.catalog import Reading
from index.conditions import AnyOf
from service.timing import measuring, note, noting, server_timing
from tests.fakes import square
from tests.test_item_contents import b64

C = "/v1/collections/c"


def stages(reply: Any) -> set[str]:
    """The stages that a reply tells of, each with a time."""
    told = reply.headers.get("server-timing", "")
    assert re.fullmatch(r"(\w+;dur=\d+\.\d\d(, )?)*", told), told
    return {part.partition(";")[0] for part in told.split(", ") if part}


def test_times_that_overlap_count_once() -> None:
    assert server_timing({"decode": [(0.0, 1.0), (0.5, 1.5), (3.0, 4.0)]}) == "decode;dur=2500.00"
    assert server_timing({"a": [(1.0, 4.0), (2.0, 3.0)], "b": [(1.0, 1.001)]}) == "a;dur=3000.00, b;dur=1.00"
    assert server_timing({}) == ""


def test_stages_are_noted_within_a_measurement_alone() -> None:
    note("encode", 1.0)
    with measuring() as spans:
        note("encode", 0.25)
    note("encode", 1.0)
    ((begin, end),) = spans["encode"]
    assert end - begin == pytest.approx(0.25)
    assert time.perf_counter() - end < 60


def test_a_stage_that_ends_elsewhere_is_noted_for_the_request_that_began_it() -> None:
    assert noting("queue") is None
    with measuring() as spans:
        note_queue = noting("queue")
    assert note_queue is not None
    note_queue(3.0, 4.5)
    assert server_timing(spans) == "queue;dur=1500.00"


def test_every_route_that_works_says_at_what(client: TestClient) -> None:
    picture = {"image": b64(square("red"))}
    assert stages(client.post("/v1/embeddings", json={"input": ["red", picture]})) == {
        "decode",
        "encode",
        "queue",
    }
    assert "encode" in stages(client.post("/v1/classify", json={"inputs": "red", "labels": ["a", "b"]}))
    assert "encode" in stages(client.post("/v1/similarity", json={"source": "red", "targets": ["blue"]}))
    assert "decode" in stages(client.post("/v1/rerank", json={"query": "red", "documents": ["blue"]}))
    write = client.put(f"{C}/items", json={"items": [{"id": "a", "text": "red"}]})
    assert stages(write) == {"encode", "queue", "commit"}
    searched = {"encode", "queue", "search", "metadata"}
    assert stages(client.post(f"{C}/search", json={"query": "red"})) == searched
    narrowed = client.post(f"{C}/search", json={"query": "red", "target": "text"})
    assert stages(narrowed) == searched | {"filter"}
    assert stages(client.get(f"{C}/items/a")) == set()
    assert stages(client.get("/livez")) == set()


def test_a_commit_is_measured_once(client: TestClient) -> None:
    client.put(f"{C}/items", json={"items": [{"id": "a", "text": "red"}]})
    client.put(f"{C}/items?wait=durable", json={"items": [{"id": "b", "text": "red"}]})
    shown = client.get("/metrics").text
    assert 'momoseek_stage_duration_seconds_count{stage="commit"} 2.0' in shown
    assert "momoseek_encoder_cache_hits_total 1.0" in shown


def test_reading_what_was_found_is_no_part_of_the_search_and_filtering_is(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowed(cls: Any, name: str, seconds: float) -> None:
        plain = getattr(cls, name)

        def slow(*given: Any) -> Any:
            time.sleep(seconds)
            return plain(*given)

        monkeypatch.setattr(cls, name, slow)

    client.put(f"{C}/items", json={"items": [{"id": "a", "text": "red", "metadata": {"n": 1}}]})
    slowed(Reading, "items_at", 0.3)
    slowed(AnyOf, "rows", 0.1)
    only = {"must": [{"key": "n", "match": {"value": 1}}]}
    reply = client.post(f"{C}/search", json={"query": "red", "filter": only})
    told = dict(stage.split(";dur=") for stage in reply.headers["server-timing"].split(", "))
    assert 300 <= reply.json()["timing_ms"]["metadata"] == pytest.approx(float(told["metadata"]), abs=0.02)
    assert 300 > float(told["search"]) >= float(told["filter"]) >= 100
    assert [hit["id"] for hit in reply.json()["results"]] == ["a"]
    shown = client.get("/metrics").text
    for stage in ("filter", "metadata"):
        assert f'momoseek_stage_duration_seconds_count{{stage="{stage}"}} 1.0' in shown


def test_what_each_document_waited_is_a_stage(client: TestClient) -> None:
    client.post("/v1/embeddings", json={"input": ["red", "blue", "green"]})
    shown = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
    for part in ("count", "sum"):
        assert (
            shown[f'momoseek_stage_duration_seconds_{part}{{stage="queue"}}']
            == shown[f"momoseek_batch_wait_seconds_{part}"]
        )


def test_usage_tells_pixels_as_they_were_sent(client: TestClient) -> None:
    pictures = [{"image": b64(square("red", side=side))} for side in (16, 32)]
    usage = client.post("/v1/embeddings", json={"input": ["red", *pictures]}).json()["usage"]
    assert usage == {"prompt_tokens": 1, "total_tokens": 1, "image_count": 2, "image_pixels": 16**2 + 32**2}


def test_strings_are_pictures_where_the_modality_says_so(client: TestClient) -> None:
    pictures = [b64(square("red")), f"data:image/png;base64,{b64(square('blue'))}"]
    body = {"input": pictures, "modality": "image"}
    entries = client.post("/v1/embeddings", json=body).json()["data"]
    plain = client.post("/v1/embeddings", json={"input": ["red", "blue"]}).json()["data"]
    assert [entry["modality"] for entry in entries] == ["image", "image"]
    assert [entry["embedding"] for entry in entries] == [entry["embedding"] for entry in plain]
    one = client.post("/v1/embeddings", json={"input": "no picture", "modality": "image"})
    assert one.status_code == 422


def test_openais_clients_find_their_error_at_models_too(client: TestClient) -> None:
    error = client.get("/v1/models/none").json()["error"]
    assert (error["code"], error["type"]) == ("model_not_found", "invalid_request_error")
