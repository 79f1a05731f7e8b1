"""Vectors that come with requests: as items, as queries, and as files of a bulk job."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from index.catalog import EncoderMismatch
from index.vectors import Vectors
from service.app import create_app
from service.bulk_lines import (
    SourceUnreadable,
)
from service.bulk_vectors import (
    Made,
    VectorFile,
)
from service.config import Settings
from service.given import Given, VectorInvalid
from service.spool import CHUNK_LINES, Lines
from tests.fakes import DIM, FakeEncoder, square
from tests.problems import assert_problem

C = "/v1/collections/c"
SPACE = FakeEncoder().id
Json = dict[str, Any]


def axis(number: int, length: float = 1.0) -> list[float]:
    """A vector along one axis; the first are those of colours."""
    return [length if place == number else 0.0 for place in range(DIM)]


def put(client: TestClient, *items: Json) -> list[Json]:
    return cast(list[Json], client.put(f"{C}/items", json={"items": list(items)}).json()["items"])


def found(client: TestClient, query: Any, **more: Any) -> list[str]:
    reply = client.post(f"{C}/search", json={"query": query, **more})
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["results"]]


# -- what a vector must be


def test_a_vector_is_taken_by_its_direction_as_numbers_or_as_base64() -> None:
    row = Given(axis(1, 5.0), SPACE).row(SPACE, DIM)
    assert row.dtype == np.float32
    assert row.tolist() == axis(1)
    packed = base64.b64encode(row.tobytes()).decode()
    assert Given(packed, SPACE).row(SPACE, DIM).tolist() == axis(1)
    assert Given(axis(1), SPACE).as_base64() == packed == Given(packed, SPACE).as_base64()


def test_a_unit_row_is_kept_bit_by_bit(fake_encoder: FakeEncoder) -> None:
    rng = np.random.default_rng(1)
    row: Vectors = rng.standard_normal(DIM).astype(np.float32)
    row /= np.linalg.norm(row)
    assert Given(row.tolist(), SPACE).row(SPACE, DIM).tobytes() == row.tobytes()


@pytest.mark.parametrize(
    "value", [[1.0], axis(0, 0.0), axis(0, 1e300), "not base64", "AAAA", base64.b64encode(b"abc").decode()]
)
def test_what_has_no_direction_here_is_no_vector(value: Any) -> None:
    with pytest.raises(VectorInvalid):
        Given(value, SPACE).row(SPACE, DIM)


def test_a_vector_of_another_encoder_is_refused_whatever_it_is() -> None:
    with pytest.raises(EncoderMismatch):
        Given("not base64", "other-111111111111").row(SPACE, DIM)


# -- items


def test_an_item_with_a_vector_is_found_by_it_and_nothing_is_embedded(
    client: TestClient, fake_encoder: FakeEncoder
) -> None:
    before = len(fake_encoder.batches)
    item = {"id": "v", "vector": axis(0), "embedding_space": SPACE, "metadata": {"n": 1}}
    assert put(client, item)[0]["status"] == "created"
    assert put(client, item)[0]["status"] == "unchanged"
    assert len(fake_encoder.batches) == before
    kept = client.get(f"{C}/items/v").json()
    assert (kept["modality"], kept["text"], kept["image"]) == ("image", None, None)
    assert found(client, "red") == ["v"]
    assert found(client, "red", target="text") == []


def test_a_vector_without_content_says_what_it_was_made_of(client: TestClient) -> None:
    put(client, {"id": "v", "vector": axis(0), "embedding_space": SPACE, "modality": "text"})
    assert found(client, "red", target="text") == ["v"]
    assert found(client, "red", target="image") == []


def test_text_and_picture_beside_a_vector_are_kept_and_not_embedded(client: TestClient) -> None:
    picture = base64.b64encode(square("green")).decode()
    put(
        client,
        {"id": "v", "text": "blue", "image": picture, "vector": axis(0), "embedding_space": SPACE},
        {"id": "w", "text": "blue"},  # what was said of "blue" before is not what blue is
    )
    assert found(client, "red", limit=1) == ["v"]
    assert found(client, "blue", limit=1) == ["w"]
    assert client.get(client.get(f"{C}/items/v").json()["image"]["url"]).content == square("green")


def test_bad_vectors_fail_alone(client: TestClient) -> None:
    statuses = put(
        client,
        {"id": "a", "vector": axis(0), "embedding_space": "other-111111111111"},
        {"id": "b", "vector": [1.0], "embedding_space": SPACE},
        {"id": "c", "vector": axis(0)},
        {"id": "d", "vector": axis(0), "embedding_space": SPACE},
    )
    codes = [entry.get("problem", {}).get("code") for entry in statuses]
    assert codes == ["encoder_mismatch", "vector_invalid", "invalid_request", None]


def test_a_patch_may_bring_a_vector_and_a_new_text_takes_its_place(client: TestClient) -> None:
    put(client, {"id": "x", "text": "blue", "metadata": {"n": 1}}, {"id": "y", "text": "green"})
    change = {"vector": axis(0), "embedding_space": SPACE}
    assert client.patch(f"{C}/items/x", json=change).json()["status"] == "updated"
    assert found(client, "red", limit=1) == ["x"]
    assert client.get(f"{C}/items/x").json()["text"] == "blue"
    client.patch(f"{C}/items/x", json={"metadata": {"n": 2}})
    assert found(client, "red", limit=1) == ["x"]
    client.patch(f"{C}/items/x", json={"text": "white"})
    assert found(client, "white", limit=1) == ["x"]


def test_there_is_nothing_to_explain_of_a_vector(client: TestClient) -> None:
    put(client, {"id": "v", "vector": axis(0), "embedding_space": SPACE})
    asked = {"query": "red", "stored": {"collection": "c", "id": "v"}}
    assert_problem(client.post("/v1/explain", json=asked), 422, "item_without_content")
    reply = client.post(f"{C}/search", json={"query": "red", "rerank": {"top_n": 2}}).json()
    assert (reply["degraded"], [hit["id"] for hit in reply["results"]]) == (["rerank_skipped"], ["v"])


# -- queries


def test_a_vector_is_a_query_and_a_term_of_one(client: TestClient) -> None:
    put(client, {"id": "r", "text": "red"}, {"id": "b", "text": "blue"}, {"id": "rb", "text": "red blue"})
    red = {"vector": axis(0), "embedding_space": SPACE}
    assert found(client, red, limit=1) == ["r"]
    assert found(client, [red, {"text": "blue"}], limit=1) == ["rb"]
    assert found(client, [{"text": "red blue"}, {**red, "weight": -0.7}], limit=1) == ["b"]


def test_a_query_of_another_encoder_is_refused_and_a_vector_is_not_reranked(client: TestClient) -> None:
    search = f"{C}/search"
    strange = {"vector": axis(0), "embedding_space": "other-111111111111"}
    assert_problem(client.post(search, json={"query": strange}), 409, "encoder_mismatch")
    short = {"vector": [1.0], "embedding_space": SPACE}
    assert_problem(client.post(search, json={"query": short}), 422, "vector_invalid")
    for query in ({"vector": axis(0)}, {"vector": axis(0), "embedding_space": SPACE, "text": "red"}):
        assert_problem(client.post(search, json={"query": query}), 422, "invalid_request")
    body = {"query": {"vector": axis(0), "embedding_space": SPACE}, "rerank": {"top_n": 2}}
    assert_problem(client.post(search, json=body), 422, "rerank_needs_one_document")


# -- files


def written(folder: Path, array: Any, name: str = "rows.npy") -> Path:
    path = folder / name
    np.save(path, array)
    return path


def lines_of(path: Path, items: list[Any] | None = None, start: int = 0) -> list[Json]:
    beside = None
    if items is not None:
        beside = Lines(io.BytesIO(b"\n\n".join(json.dumps(item).encode() for item in items)), 1000)
    with path.open("rb") as file:
        records = VectorFile(file, "rows", Made(SPACE), beside)
        found, at, line = list[Json](), start, start
        while (chunk := records.chunk(at, line)).end > at:
            assert [number for number, _ in chunk.lines] == list(range(line + 1, chunk.line + 1))
            found += [json.loads(data or b"{}") for _, data in chunk.lines]
            at, line = chunk.end, chunk.line
        return found


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
def test_rows_of_an_array_become_items_from_wherever_a_job_stands(tmp_path: Path, kind: str) -> None:
    rows = np.arange((CHUNK_LINES + 3) * 4).reshape(-1, 4).astype(kind)
    path = written(tmp_path, rows)
    said = [{"id": f"sku-{n}", "metadata": {"n": n}} for n in range(len(rows))]
    for start in (0, 1, CHUNK_LINES, CHUNK_LINES + 2):
        lines = lines_of(path, said, start)
        assert [line["custom_id"] for line in lines] == [f"sku-{n}" for n in range(start, len(rows))]
        first = lines[0]["item"]
        assert first["metadata"] == {"n": start}
        assert (first["embedding_space"], first["modality"]) == (SPACE, "image")
        assert np.frombuffer(base64.b64decode(first["vector"]), "<f4").tolist() == rows[start].tolist()
    assert [line["item"]["id"] for line in lines_of(path)][:2] == ["rows-0", "rows-1"]


def test_items_that_have_a_text_tell_their_modality_themselves(tmp_path: Path) -> None:
    path = written(tmp_path, np.ones((2, 4), np.float32))
    with_text, no_item = lines_of(path, [{"id": "a", "text": "red"}, "not an item"])
    assert "modality" not in with_text["item"]
    assert no_item["item"] == "not an item"


@pytest.mark.parametrize(
    "array",
    [
        np.ones(4, np.float32),
        np.ones((2, 3, 4), np.float32),
        np.ones((2, 4), np.int32),
        np.asfortranarray(np.ones((2, 4), np.float32)),
        np.array([[{}]], object),
        np.ones((2, 0), np.float32),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(SourceUnreadable):
        lines_of(written(tmp_path, array))


def test_a_file_cut_short_or_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, np.ones((2, 4), np.float32))
    whole = path.read_bytes()
    for data in (whole[:-1], whole + b"x", b"", b"PK\x03\x04", whole[:20]):
        path.write_bytes(data)
        with pytest.raises(SourceUnreadable):
            lines_of(path)


@pytest.fixture
def reading(settings: Settings, fake_encoder: FakeEncoder, tmp_path: Path) -> Iterator[TestClient]:
    """A service that reads files of ``tmp_path``."""
    local = settings.model_copy(update={"bulk_source_root": str(tmp_path)})
    with TestClient(create_app(local, cast(Any, fake_encoder))) as api:
        api.put(C)
        yield api


def bulk(client: TestClient, key: str, **source: Any) -> Any:
    body = {"source": {"format": "npy", "uri": "rows.npy", "embedding_space": SPACE, **source}}
    return client.post(f"{C}/bulk", json=body, headers={"Idempotency-Key": key})


def ended(client: TestClient, job: str) -> Json:
    while (state := client.get(f"/v1/jobs/{job}").json())["state"] in ("queued", "running"):
        pass
    return cast(Json, state)


def test_a_job_on_vectors_writes_them_without_embedding(
    reading: TestClient, fake_encoder: FakeEncoder, tmp_path: Path
) -> None:
    written(tmp_path, np.array([axis(0), axis(1, 3.0), axis(2, 0.0)], np.float32))
    items = [{"id": "r", "text": "whatever"}, {"id": "g"}, {"id": "zero"}]
    (tmp_path / "items.ndjson").write_text("\n".join(map(json.dumps, items)))
    before = len(fake_encoder.batches)
    accepted = bulk(reading, "k", items_uri="items.ndjson")
    assert accepted.status_code == 202, accepted.text
    job = ended(reading, accepted.json()["id"])
    assert job["counts"] == {"total": 3, "done": 2, "failed": 1, "skipped": 0}
    assert len(fake_encoder.batches) == before
    (failure,) = reading.get(job["errors_url"]).text.splitlines()
    assert json.loads(failure)["custom_id"] == "zero"
    assert json.loads(failure)["problem"]["code"] == "vector_invalid"
    assert found(reading, "red", limit=1) == ["r"]
    assert found(reading, "green", limit=1) == ["g"]
    again = bulk(reading, "other", items_uri="items.ndjson")
    assert ended(reading, again.json()["id"])["counts"]["skipped"] == 2


def test_a_file_of_vectors_may_be_sent(client: TestClient, tmp_path: Path) -> None:
    data = written(tmp_path, np.array([axis(0), axis(1)], np.float32)).read_bytes()
    headers = {"Content-Type": "application/x-npy", "Idempotency-Key": "k"}
    address = f"{C}/bulk?embedding_space={SPACE}"
    accepted = client.post(address, content=data, headers=headers)
    assert accepted.status_code == 202, accepted.text
    assert ended(client, accepted.json()["id"])["counts"]["done"] == 2
    (name,) = found(client, "red", limit=1)
    assert name.endswith("-0")
    again = client.post(address, content=data, headers=headers)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (accepted.json()["id"], "true")
    unsaid = client.post(f"{C}/bulk", content=data, headers=headers)
    assert_problem(unsaid, 422, "invalid_request")
    assert unsaid.json()["errors"][0]["pointer"] == "/query/embedding_space"
    other = client.post(f"{C}/bulk?embedding_space=other-111111111111", content=data, headers=headers)
    assert_problem(other, 409, "encoder_mismatch")
    broken = client.post(address, content=data[:-1], headers={**headers, "Idempotency-Key": "other"})
    assert_problem(broken, 422, "source_unreadable")
    spool = next(tmp_path.rglob("spool"))
    assert list(spool.iterdir()) == []


def test_vectors_that_do_not_fit_are_refused_before_a_job_begins(reading: TestClient, tmp_path: Path) -> None:
    written(tmp_path, np.array([axis(0), axis(1)], np.float32))
    (tmp_path / "items.ndjson").write_text('{"id": "only"}\n')
    assert_problem(bulk(reading, "a", embedding_space="other-111111111111"), 409, "encoder_mismatch")
    assert_problem(bulk(reading, "b", items_uri="items.ndjson"), 422, "source_unreadable")
    assert_problem(bulk(reading, "c", items_uri="none.ndjson"), 404, "source_not_found")
    assert_problem(bulk(reading, "d", embedding_space=None), 422, "invalid_request")
    assert_problem(bulk(reading, "e", format="ndjson"), 422, "invalid_request")
    assert reading.get("/v1/jobs").json()["jobs"] == []
