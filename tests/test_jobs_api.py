"""Bulk jobs over HTTP: accepted, carried out behind whoever waits, steered, and accounted for."""

import base64
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from index.catalog import StorageFull
from index.vectors import Vectors
from models.preprocess import Document
from service.app import create_app
from service.config import Settings
from tests.fakes import FakeEncoder, square
from tests.guarded import guarded
from tests.problems import assert_problem

C = "/v1/collections/c"
BULK = f"{C}/bulk"
NDJSON = {"Content-Type": "application/x-ndjson"}
WITHIN_S = 20.0


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def upserts(count: int, first: int = 0) -> list[str]:
    return [json.dumps({"item": {"id": f"i{n}", "text": f"w{n}"}}) for n in range(first, first + count)]


def submit(api: TestClient, lines: Sequence[str | bytes], **headers: str) -> dict[str, Any]:
    body = b"\n".join(line.encode() if isinstance(line, str) else line for line in lines)
    reply = api.post(BULK, content=body, headers=NDJSON | headers)
    assert reply.status_code == 202, reply.text
    job: dict[str, Any] = reply.json()
    assert reply.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def job_of(api: TestClient, id: str) -> dict[str, Any]:
    found: dict[str, Any] = api.get(f"/v1/jobs/{id}").json()
    return found


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
    return found


def ended(api: TestClient, id: str) -> dict[str, Any]:
    def end() -> dict[str, Any] | None:
        job = job_of(api, id)
        return job if job["ended_at"] is not None else None

    return cast(dict[str, Any], until(end))


def errors(api: TestClient, id: str) -> list[dict[str, Any]]:
    reply = api.get(f"/v1/jobs/{id}/errors")
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.text.splitlines()]


class Gated(FakeEncoder):
    """Lets a given number of bulk texts ("w…") through, and notes what it embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.room = threading.Semaphore(10**6)

    def hold(self) -> None:
        self.room = threading.Semaphore(0)

    def embed(self, documents: Sequence[Document]) -> Vectors:
        texts = [part for document in documents for part in document.parts if isinstance(part, str)]
        for text in texts:
            if text.startswith("w"):
                assert self.room.acquire(timeout=WITHIN_S)
        self.texts += texts
        return super().embed(documents)


@pytest.fixture
def gated(settings: Settings) -> Iterator[tuple[TestClient, Gated]]:
    encoder = Gated()
    with TestClient(create_app(settings, cast(Any, encoder))) as api:
        api.put(C)
        yield api, encoder
        encoder.room.release(10**6)


def test_every_line_is_done_or_told(client: TestClient) -> None:
    client.put(f"{C}/items", json={"items": [{"id": "old", "text": "red"}]})
    lines: list[str | bytes] = [
        '{"op":"upsert","custom_id":"l1","item":{"id":"n1","text":"violet"}}',
        "",
        '{"op":"delete","custom_id":"l2","id":"old"}',
        "{broken",
        '{"op":"upsert","custom_id":"l3","item":{"id":"n2","text":"poison"}}',
        json.dumps({"item": {"id": "n3", "image": b64(square("white"))}}),
        '{"op":"delete","id":"n1"}',
        '{"op":"delete","id":"never"}',
        '{"op":"upsert","custom_id":"l4","id":"n4"}',
        b'{"item": {"id": "\xff"}}',
        json.dumps({"custom_id": "l5", "item": {"id": "n5", "image": b64(b"no picture")}}),
        '{"custom_id": "l6", "item": {"id": "n6", "text": "x", "image": {"url": "http://x/y"}}}',
    ]
    job = submit(client, lines)
    assert (job["type"], job["state"], job["collection"], job["counts"]["total"]) == (
        "bulk",
        "queued",
        "c",
        11,
    )
    job = ended(client, job["id"])
    assert job["state"] == "succeeded"
    assert job["counts"] == {"total": 11, "done": 4, "failed": 6, "skipped": 1}
    assert job["checkpoint"]["line"] == len(lines)
    told = [(e["line"], e.get("custom_id"), e["problem"]["code"]) for e in errors(client, job["id"])]
    assert told == [
        (4, None, "invalid_json"),
        (5, "l3", "encoding_failed"),
        (9, "l4", "invalid_request"),
        (10, None, "invalid_json"),
        (11, "l5", "image_undecodable"),
        (12, "l6", "url_fetch_disabled"),
    ]
    items = client.post(f"{C}/items/scroll", json={}).json()["items"]
    assert [item["id"] for item in items] == ["n3"]
    hits = client.post(f"{C}/search", json={"query": "white"}).json()["results"]
    assert [hit["id"] for hit in hits] == ["n3"]
    metrics = client.get("/metrics").text
    assert 'momoseek_job_items_total{outcome="failed",type="bulk"} 6.0' in metrics


def test_a_job_of_many_lines_sent_again_finds_all_of_it_unchanged(gated: tuple[TestClient, Gated]) -> None:
    api, encoder = gated
    for outcome in ("done", "skipped"):
        job = ended(api, submit(api, upserts(500))["id"])
        assert job["counts"] == {"total": 500, "done": 0, "failed": 0, "skipped": 0} | {outcome: 500}
    assert sorted(encoder.texts) == sorted(["red", *(f"w{n}" for n in range(500))])
    assert api.get(C).json()["count"] == 500
    until(lambda: 'momoseek_jobs{state="succeeded",type="bulk"} 2.0' in api.get("/metrics").text)


def test_a_job_without_lines_succeeds(client: TestClient) -> None:
    assert ended(client, submit(client, ["", " "])["id"])["counts"]["total"] == 0


def test_a_long_line_fails_alone(settings: Settings, fake_encoder: FakeEncoder) -> None:
    tight = settings.model_copy(update={"max_body_bytes": 2000})
    with TestClient(create_app(tight, cast(Any, fake_encoder))) as api:
        api.put(C)
        job = submit(api, [*upserts(100), " " * 5000, '{"item": "' + "x" * 3000 + '"}', *upserts(1, 100)])
        assert ended(api, job["id"])["counts"] == {"total": 102, "done": 101, "failed": 1, "skipped": 0}
        [told] = errors(api, job["id"])
        assert (told["line"], told["problem"]["code"]) == (102, "body_too_large")


def test_a_collection_that_is_missing_or_of_another_encoder_is_refused_at_once(
    client: TestClient, settings: Settings
) -> None:
    assert_problem(client.post("/v1/collections/none/bulk", content=b"{}"), 404, "collection_not_found")
    with TestClient(create_app(settings, cast(Any, FakeEncoder(id="fake-111111111111")))) as other:
        assert_problem(other.post(BULK, content=b"{}"), 409, "encoder_mismatch")
    assert client.get("/v1/jobs").json() == {"jobs": [], "next_cursor": None}


def test_a_body_that_is_no_lines_is_refused(client: TestClient) -> None:
    assert_problem(client.post(BULK, files={"lines": b"{}"}), 415, "unsupported_media_type")
    assert_problem(client.post(BULK, json={"source": {}}), 422, "invalid_request")
    for media in ("image/png", "text/csv", "text/html", "application/octet-stream", "application/x-tarr"):
        reply = client.post(BULK, content=b"{}", headers={"Content-Type": media})
        assert_problem(reply, 415, "unsupported_media_type")
    assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("media", [None, "application/x-ndjson", "text/uri-list", "application/x-tar"])
def test_a_body_of_nothing_is_refused_and_leaves_nothing(
    client: TestClient, settings: Settings, media: str | None
) -> None:
    reply = client.post(BULK, content=b"", headers={} if media is None else {"Content-Type": media})
    assert_problem(reply, 422, "invalid_request")
    assert "no lines" in reply.json()["detail"]
    assert client.get("/v1/jobs").json()["jobs"] == []
    assert list((settings.data_dir / "spool").glob("*")) == []


@pytest.mark.parametrize("media", ["application/jsonl", "application/x-ndjson; charset=utf-8", "text/plain"])
def test_lines_are_taken_by_whatever_name_they_have(client: TestClient, media: str) -> None:
    assert ended(client, submit(client, upserts(2), **{"Content-Type": media})["id"])["counts"]["done"] == 2


def test_comments_in_a_list_of_urls_are_left_out(client: TestClient) -> None:
    body = b"# pictures of the week\r\nhttps://a.example/1.png\r\n\r\n#https://a.example/2.png\r\n"
    reply = client.post(BULK, content=body, headers={"Content-Type": "text/uri-list"})
    job = ended(client, reply.json()["id"])
    assert (job["counts"]["total"], job["counts"]["failed"]) == (1, 1)  # this server fetches nothing
    [told] = errors(client, job["id"])
    assert (told["line"], told["custom_id"]) == (2, "https://a.example/1.png")


def test_lines_for_which_there_is_no_room_are_refused(settings: Settings, fake_encoder: FakeEncoder) -> None:
    tight = settings.model_copy(update={"max_spool_bytes": 1024})
    with TestClient(create_app(tight, cast(Any, fake_encoder))) as api:
        api.put(C)
        for body in (b"x" * 1025, (b"x" * 1000 for _ in range(3))):
            reply = api.post(BULK, content=body)
            assert_problem(reply, 507, "spool_full")
            assert reply.headers["retry-after"] == "30"
        assert api.get("/v1/jobs").json()["jobs"] == []
        assert list((settings.data_dir / "spool").glob("*")) == []


def test_a_full_disk_is_told_and_nothing_is_left(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        reply = client.post(BULK, content="\n".join(upserts(5)).encode())
    assert_problem(reply, 507, "storage_full")
    assert reply.headers["retry-after"] == "30"
    assert list((settings.data_dir / "spool").glob("*")) == []
    assert client.get("/v1/jobs").json()["jobs"] == []
    assert ended(client, submit(client, upserts(5))["id"])["counts"]["done"] == 5


def test_a_spool_that_cannot_be_used_is_told(client: TestClient, settings: Settings) -> None:
    (settings.data_dir / "spool").write_text("a file where a folder should be")
    assert_problem(client.post(BULK, content=b"{}"), 503, "storage_unavailable")
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_a_key_makes_one_job_of_lines_that_come_twice(client: TestClient) -> None:
    first = submit(client, upserts(3), **{"Idempotency-Key": "nightly"})
    body = "\n".join(upserts(3)).encode()
    again = client.post(BULK, content=body, headers=NDJSON | {"Idempotency-Key": "nightly"})
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    assert again.json()["id"] == first["id"]
    other = client.post(BULK, content=b"{}", headers=NDJSON | {"Idempotency-Key": "nightly"})
    assert_problem(other, 422, "idempotency_key_reused")
    assert ended(client, first["id"])["counts"]["done"] == 3
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1


def test_a_paused_job_finishes_what_is_in_hand_and_goes_on_where_it_stood(
    gated: tuple[TestClient, Gated], settings: Settings
) -> None:
    api, encoder = gated
    encoder.hold()
    job = submit(api, upserts(1000))
    until(lambda: job_of(api, job["id"])["state"] == "running")
    paused = api.post(f"/v1/jobs/{job['id']}/pause").json()
    assert (paused["state"], paused["rate_per_second"], paused["ended_at"]) == ("paused", None, None)
    encoder.room.release(10**6)
    until(lambda: job_of(api, job["id"])["counts"]["done"] == 320)  # five chunks were in hand
    time.sleep(0.2)
    assert job_of(api, job["id"])["checkpoint"]["line"] == 320
    assert [j["id"] for j in api.get("/v1/jobs", params={"state": "paused"}).json()["jobs"]] == [job["id"]]
    assert api.post(f"/v1/jobs/{job['id']}/resume").json()["state"] in ("queued", "running")
    assert ended(api, job["id"])["counts"] == {"total": 1000, "done": 1000, "failed": 0, "skipped": 0}
    assert sorted(encoder.texts) == sorted(["red", *(f"w{n}" for n in range(1000))])
    until(lambda: list((settings.data_dir / "spool").glob("*")) == [])
    assert_problem(api.post(f"/v1/jobs/{job['id']}/pause"), 409, "job_state_conflict")


def test_after_a_cancel_nothing_more_is_written(gated: tuple[TestClient, Gated], settings: Settings) -> None:
    api, encoder = gated
    encoder.hold()
    job = submit(api, upserts(500))
    encoder.room.release(320)  # as much as is in hand, of which any chunk may be encoded last
    until(lambda: job_of(api, job["id"])["counts"]["done"])
    running = job_of(api, job["id"])
    assert running["rate_per_second"] > 0
    assert running["eta_seconds"] is not None
    cancelled = api.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert cancelled["state"] == "cancelled"
    done = cancelled["counts"]["done"]
    assert done in range(64, 321, 64)
    encoder.room.release(10**6)
    following = submit(api, upserts(3, 1000))
    assert ended(api, following["id"])["state"] == "succeeded"
    assert job_of(api, job["id"]) == cancelled
    assert api.get(C).json()["count"] == done + 3
    assert_problem(api.post(f"/v1/jobs/{job['id']}/resume"), 409, "job_state_conflict")


def test_whoever_waits_goes_first_while_a_job_runs(gated: tuple[TestClient, Gated]) -> None:
    api, encoder = gated
    encoder.hold()
    job = submit(api, upserts(300))
    until(lambda: api.get("/metrics").text.find('momoseek_queue_items{lane="bulk"} 0.0') < 0)
    threads = [
        threading.Thread(target=api.post, args=(f"{C}/search",), kwargs={"json": {"query": f"asked {n}"}})
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    until(lambda: 'momoseek_queue_items{lane="interactive"} 5.0' in api.get("/metrics").text)
    encoder.room.release(10**6)
    for thread in threads:
        thread.join()
    assert ended(api, job["id"])["counts"]["done"] == 300
    asked = [place for place, text in enumerate(encoder.texts) if text.startswith("asked")]
    before = sum(text.startswith("w") for text in encoder.texts[: max(asked)])
    assert before <= 32  # no more than the batch that the encoder had begun


def test_a_job_waits_for_a_full_disk_and_embeds_nothing_twice(
    gated: tuple[TestClient, Gated], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, encoder = gated
    catalog = cast(Any, api.app).state.retriever._catalog
    monkeypatch.setattr("service.jobs_runner._RETRY_S", 0.05)
    commit, refusals = catalog.commit, iter(range(3))

    def full(*arguments: Any) -> Any:
        if next(refusals, None) is not None:
            raise StorageFull("the disk that holds the catalog is full")
        return commit(*arguments)

    monkeypatch.setattr(catalog, "commit", full)
    assert ended(api, submit(api, upserts(200))["id"])["counts"]["done"] == 200
    assert sorted(encoder.texts) == sorted(["red", *(f"w{n}" for n in range(200))])


def test_a_job_whose_collection_goes_fails_as_a_whole_and_says_why(gated: tuple[TestClient, Gated]) -> None:
    api, encoder = gated
    encoder.hold()
    job = submit(api, upserts(200))
    until(lambda: job_of(api, job["id"])["state"] == "running")
    api.delete(C)
    api.put(C)
    encoder.room.release(10**6)
    job = ended(api, job["id"])
    assert (job["state"], job["problem"]["code"]) == ("failed", "collection_not_found")
    assert job["counts"]["done"] == 0
    assert api.get(C).json()["count"] == 0


def test_a_job_whose_lines_are_gone_fails_and_the_next_one_is_done(
    gated: tuple[TestClient, Gated], settings: Settings
) -> None:
    api, encoder = gated
    encoder.hold()
    first, second, third = (submit(api, upserts(10, 10 * n)) for n in range(3))
    (settings.data_dir / "spool" / f"{second['id']}.ndjson").unlink()
    encoder.room.release(10**6)
    assert [ended(api, job["id"])["state"] for job in (first, second, third)] == [
        "succeeded",
        "failed",
        "succeeded",
    ]
    assert job_of(api, second["id"])["problem"]["code"] == "job_lines_missing"


def test_jobs_are_listed_a_page_at_a_time(client: TestClient) -> None:
    ids = []
    for n in range(3):
        ids.append(submit(client, upserts(1, n))["id"])
        time.sleep(0.002)
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["jobs"]] == ids[:0:-1]
    rest = client.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in rest["jobs"]] == ids[:1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("path", ["", "/errors", "/pause", "/resume", "/cancel"])
def test_a_job_that_is_not_there_is_told(client: TestClient, path: str) -> None:
    method = "POST" if path in ("/pause", "/resume", "/cancel") else "GET"
    assert_problem(client.request(method, f"/v1/jobs/job_{0:024x}{path}"), 404, "job_not_found")
    assert_problem(client.request(method, f"/v1/jobs/nonsense{path}"), 422, "invalid_request")


def test_a_key_that_is_limited_to_some_collections_sees_their_jobs_only(tmp_path: Path) -> None:
    with guarded(tmp_path) as locked:
        own, other, read = (locked.headers(caller) for caller in ("own", "other", "read"))
        job = locked.api.post(BULK, content=upserts(1)[0], headers=NDJSON | own).json()
        for caller in (own, read):
            assert locked.api.get(f"/v1/jobs/{job['id']}", headers=caller).status_code == 200
            assert len(locked.api.get("/v1/jobs", headers=caller).json()["jobs"]) == 1
        assert locked.api.get("/v1/jobs", headers=other).json()["jobs"] == []
        for method, path in (("GET", ""), ("GET", "/errors"), ("POST", "/cancel"), ("POST", "/pause")):
            reply = locked.api.request(method, f"/v1/jobs/{job['id']}{path}", headers=other)
            assert_problem(reply, 404, "job_not_found")
