"""Reembedding: a collection that another encoder has made is searched again, with all that it was."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from index import spaces
from index.catalog import StorageFull
from index.folders import store_in
from index.jobs import Job
from index.rebuild import Rebuilder
from index.records import Space
from index.spaces import Spaces
from index.vectors import Vectors
from models.preprocess import Document
from service import reembedding
from service.app import create_app
from service.archivist import Archivist
from service.compose import running
from service.config import Settings
from service.images import ImageStore
from service.metrics import Metrics
from service.stores import open_catalog
from service.tasks import TaskRunner
from tests.fakes import FakeEncoder, square
from tests.mortals import dies_at_line
from tests.problems import assert_problem

C = "/v1/collections/c"
WITHIN_S = 20.0
NEWER = "newer-111111111111"
Json = dict[str, Any]


class Newer(FakeEncoder):
    """Another encoder, whose rows are longer. It counts what it embeds, and may be held up."""

    def __init__(self) -> None:
        super().__init__(id=NEWER, dim=24)
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.texts: list[str] = []

    def embed(self, documents: Sequence[Document]) -> Vectors:
        assert self.may_go_on.wait(WITHIN_S)
        self.texts += [part for document in documents for part in document.parts if isinstance(part, str)]
        return super().embed(documents)


@pytest.fixture
def newer() -> Newer:
    """The encoder that the collection moves to."""
    return Newer()


@pytest.fixture
def old(client: TestClient) -> TestClient:
    """A server of the encoder that made collection "c"."""
    return client


@pytest.fixture
def new(settings: Settings, old: TestClient, newer: Newer) -> Iterator[TestClient]:
    """A server of another encoder on the same data."""
    with TestClient(create_app(settings, cast(Any, newer))) as api:
        yield api


def put(api: TestClient, *items: Json) -> Any:
    reply = api.put(f"{C}/items", json={"items": list(items)})
    assert reply.json()["errors"] is False, reply.text
    return reply.json()


def words(*texts: str) -> list[Json]:
    """An item for each text, called by it."""
    return [{"id": text, "text": text} for text in texts]


def picture(*colours: str) -> list[Json]:
    return [{"type": "image_base64", "image_base64": base64.b64encode(square(c)).decode()} for c in colours]


def given(number: int, **more: Any) -> Json:
    """An item that comes with a vector of the former encoder, along an axis."""
    vector = [float(place == number) for place in range(16)]
    return {"vector": vector, "embedding_space": FakeEncoder().id} | more


def search(api: TestClient, query: str, **more: Any) -> Any:
    return api.post(f"{C}/search", json={"query": query, "limit": 20} | more)


def found(api: TestClient, query: str, **more: Any) -> list[str]:
    """The ids of what is as near as can be."""
    reply = search(api, query, **more)
    assert reply.status_code == 200, reply.text
    return [hit["id"] for hit in reply.json()["results"] if hit["score"] > 0.999]


def finds(api: TestClient, word: str) -> bool:
    """Whether the item called by a word is among the nearest to it: some words have the same row."""
    return word in found(api, word)


def asked(api: TestClient, **body: Any) -> str:
    """The address of the job that moves the collection."""
    reply = api.post(f"{C}/reembed", json=body)
    assert reply.status_code == 202, reply.text
    assert reply.json()["type"] == "reembed"
    return str(reply.headers["location"])


def ended(api: TestClient, job: str) -> Json:
    """The job at its end."""
    return cast(Json, until(lambda: _ended(api, job)))


def resumed(api: TestClient, job: str) -> Json:
    """The job at its end, when it was resumed."""
    assert api.post(f"{job}/resume").status_code == 200
    return ended(api, job)


def moved(api: TestClient, **body: Any) -> Json:
    """The job when the collection has moved."""
    job = ended(api, asked(api, **body))
    assert job["state"] == "succeeded", job
    return job


def _ended(api: TestClient, job: str) -> Json | None:
    told = cast(Json, api.get(job).json())
    return told if told["state"] in ("succeeded", "failed", "cancelled") else None


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)
    return found


def is_equal(api: TestClient) -> bool:
    report = api.get(f"{C}/index/audit").json()
    assert report["problems"] == []
    return bool(report["equal"])


# -- it moves


def test_a_cursor_of_before_is_refused(old: TestClient, new: TestClient) -> None:
    put(old, *words("red", "green", "boat"))
    cursor = search(old, "red", limit=1).json()["next_cursor"]
    moved(new)
    assert_problem(search(new, "red", limit=1, cursor=cursor), 409, "cursor_expired")


def test_items_of_every_kind_are_found_again_as_the_same_items(
    old: TestClient, new: TestClient, newer: Newer
) -> None:
    token = put(
        old,
        *words("red", "green", "boat"),
        {"id": "square", "image": {"base64": picture("blue")[0]["image_base64"]}, "metadata": {"price": 5}},
        {"id": "both", "text": "boat", "image": {"base64": picture("red")[0]["image_base64"]}},
        {"id": "parts", "content": [*picture("black", "white"), {"type": "text", "text": "cat"}]},
        {"id": "again", "text": "boat"},
    )["write_token"]
    assert_problem(search(new, "red"), 409, "encoder_mismatch")
    before = {id: old.get(f"{C}/items/{id}").json() for id in ("red", "square", "both", "parts", "again")}
    newer.texts.clear()
    job = moved(new)
    assert job["counts"] == {"total": 7, "done": 7, "failed": 0, "skipped": 0}
    assert sorted(newer.texts) == ["boat", "boat", "cat", "green", "red"]  # "again" is one with "boat"
    assert found(new, "red") == ["red"]
    assert found(new, "blue") == ["square"]
    assert found(new, "boat", filter={"must": [{"has_id": ["boat", "again"]}]}) == ["boat", "again"]
    assert found(new, "black white cat") == ["parts"]
    assert found(new, "red boat") == ["both"]
    assert search(new, "red", consistency={"write_token": token}).status_code == 200
    assert {id: new.get(f"{C}/items/{id}").json() for id in before} == before
    assert new.get(C).json()["dimensions"] == 24
    assert is_equal(new)
    put(new, *words("white"))
    assert found(new, "white") == ["white"]


def test_a_server_of_the_former_encoder_serves_until_then_and_refuses_afterwards(
    old: TestClient, new: TestClient, newer: Newer
) -> None:
    put(old, *words(*(f"w{n}" for n in range(200)), "red"))
    newer.may_go_on.clear()
    job = asked(new)
    until(lambda: new.get(job).json()["state"] == "running")
    assert found(old, "red") == ["red"]
    put(old, {"id": "red", "text": "green"}, *words("blue", "white"))
    old.delete(f"{C}/items/w7")
    assert found(old, "blue") == ["blue"]
    newer.may_go_on.set()
    told = ended(new, job)
    assert (told["state"], told["counts"]["failed"]) == ("succeeded", 0)
    assert told["counts"]["total"] == told["counts"]["done"] + told["counts"]["skipped"]
    assert (found(new, "blue"), found(new, "green")) == (["blue"], ["red"])
    assert (finds(new, "w8"), finds(new, "w7")) == (True, False)
    assert_problem(search(old, "blue"), 409, "encoder_mismatch")
    reply = old.put(f"{C}/items", json={"items": words("too late")})
    assert_problem(reply, 409, "encoder_mismatch")
    assert_problem(old.delete(f"{C}/items/blue"), 409, "encoder_mismatch")
    assert new.get(f"{C}/items/blue").status_code == 200
    assert is_equal(new)


def test_all_answers_are_right_or_refused_while_it_moves(
    settings: Settings, old: TestClient, new: TestClient, newer: Newer
) -> None:
    put(old, *words("red", "green", "blue", *(f"w{n}" for n in range(200))))
    wrong, seen, stop = list[Any](), set[int](), threading.Event()

    def ask(api: TestClient) -> None:
        while not stop.is_set():
            reply = search(api, "red", limit=1)
            seen.add(reply.status_code)
            if reply.status_code == 409:
                continue
            hit = reply.json()["results"][0] if reply.status_code == 200 else {}
            if hit.get("id") != "red" or not 0.999 < hit["score"] < 1.001:
                wrong.append(reply.text)

    quick = settings.model_copy(update={"refresh_s": 0.02})
    with ExitStack() as stack:
        replicas = [FakeEncoder(), Newer()]
        apis = [stack.enter_context(TestClient(create_app(quick, cast(Any, each)))) for each in replicas]
        threads = [threading.Thread(target=ask, args=[api]) for api in (old, new, *apis)]
        for thread in threads:
            thread.start()
        moved(new)
        assert found(apis[1], "green") == ["green"]  # it looks for itself, at the first search
        until(lambda: search(apis[0], "green").status_code == 409)
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join(WITHIN_S)
    assert (wrong, seen) == ([], {200, 409})


def test_of_a_collection_that_is_there_nothing_is_done(old: TestClient, fake_encoder: FakeEncoder) -> None:
    put(old, *words("red"))
    embedded = sum(fake_encoder.batches)
    assert moved(old)["counts"] == {"total": 0, "done": 0, "failed": 0, "skipped": 0}
    assert sum(fake_encoder.batches) == embedded


def test_who_asks_twice_gets_the_same_job(old: TestClient, new: TestClient, newer: Newer) -> None:
    put(old, *words("red"))
    newer.may_go_on.clear()
    job = asked(new)
    assert asked(new) == job
    assert asked(new, drop_unreadable=True) != job
    newer.may_go_on.set()
    assert ended(new, job)["state"] == "succeeded"


def test_the_way_back_embeds_nothing(
    old: TestClient, new: TestClient, newer: Newer, fake_encoder: FakeEncoder
) -> None:
    put(old, *words("red", "boat"), given(3, id="given", text="cat"))
    assert found(old, "black") == ["given"]  # it has that axis
    moved(new)
    assert (found(new, "black"), finds(new, "boat")) == ([], True)
    assert "given" in found(new, "cat")
    embedded = sum(fake_encoder.batches)
    job = moved(old)
    assert (job["counts"]["done"], job["counts"]["skipped"]) == (0, 3)
    assert sum(fake_encoder.batches) == embedded
    assert finds(old, "boat")
    assert found(old, "black") == ["given"]
    assert_problem(search(new, "boat"), 409, "encoder_mismatch")
    assert is_equal(old)


# -- what cannot be embedded


def test_items_that_cannot_be_embedded_are_told_and_nothing_is_changed(
    settings: Settings, old: TestClient, new: TestClient
) -> None:
    put(old, *words("red"), given(2, id="vector"), {"id": "gone", "content": picture("white")})
    put(old, given(2, id="texted", text="boat"))
    for blob in (settings.data_dir / "blobs").glob("*/*"):
        blob.unlink()
    before = new.get(C).json()
    job = asked(new)
    told = ended(new, job)
    assert (told["state"], told["problem"]["code"]) == ("failed", "items_unreadable")
    assert told["problem"]["detail"].startswith("2 of the items cannot be embedded")
    errors = [line for line in new.get(f"{job}/errors").text.splitlines() if line]
    assert ['"vector"' in errors[0], '"gone"' in errors[1], len(errors)] == [True, True, 2]
    assert "item_without_content" in errors[0]
    assert "image_not_found" in errors[1]
    assert new.get(C).json() == before
    assert found(old, "blue") == ["vector", "texted"]
    assert resumed(new, job)["problem"]["code"] == "items_unreadable"
    old.delete(f"{C}/items/vector")
    put(old, {"id": "gone", "text": "white"})
    assert resumed(new, job)["state"] == "succeeded"
    assert (found(new, "white"), found(new, "boat")) == (["gone"], ["texted"])


def test_they_are_deleted_with_the_move_if_that_is_asked_for(old: TestClient, new: TestClient) -> None:
    put(old, *words("red"), given(2, id="vector"), given(2, id="texted", text="boat"))
    job = moved(new, drop_unreadable=True)
    assert job["counts"] == {"total": 3, "done": 2, "failed": 1, "skipped": 0}
    assert new.get(f"{C}/items/vector").status_code == 404
    assert (found(new, "red"), found(new, "boat"), found(new, "blue")) == (["red"], ["texted"], [])
    assert is_equal(new)


def test_a_text_that_the_encoder_chokes_on_fails_alone(old: TestClient, settings: Settings) -> None:
    put(old, *words("red", "blue fish"))
    fussy = Newer()
    fussy.poison = "fish"
    with TestClient(create_app(settings, cast(Any, fussy))) as api:
        told = ended(api, asked(api))
        assert (told["problem"]["code"], told["counts"]["failed"]) == ("items_unreadable", 1)
        assert moved(api, drop_unreadable=True)["counts"]["skipped"] == 1
        assert found(api, "red") == ["red"]


def test_a_trouble_of_the_disk_is_not_taken_for_one_of_the_item(
    old: TestClient, new: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(old, {"id": "square", "content": picture("red")})

    def broken(self: ImageStore, sha256: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as planted:
        planted.setattr(ImageStore, "get", broken)
        job = asked(new, drop_unreadable=True)
        told = ended(new, job)
    assert (told["state"], told["problem"]["code"]) == ("failed", "task_failed")
    assert new.get(f"{C}/items/square").status_code == 200
    assert resumed(new, job)["state"] == "succeeded"
    assert found(new, "red") == ["square"]


# -- stopped, held up, killed


def test_a_cancelled_job_leaves_all_as_it_was(old: TestClient, new: TestClient, newer: Newer) -> None:
    put(old, *words(*(f"w{n}" for n in range(200)), "red"))
    newer.may_go_on.clear()
    job = asked(new)
    until(lambda: new.get(job).json()["state"] == "running")
    assert new.post(f"{job}/cancel").json()["state"] == "cancelled"
    newer.may_go_on.set()
    until(lambda: moved(old)["state"] == "succeeded")  # and the runner is free again
    assert found(old, "red") == ["red"]
    assert_problem(search(new, "red"), 409, "encoder_mismatch")


def test_a_paused_job_goes_on_from_its_checkpoint(
    old: TestClient, new: TestClient, newer: Newer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembedding, "_PART", 10)
    put(old, *words(*(f"w{n}" for n in range(100))))
    newer.texts.clear()
    newer.may_go_on.clear()
    job = asked(new)
    until(lambda: new.get(job).json()["state"] == "running")
    assert new.post(f"{job}/pause").json()["state"] == "paused"
    newer.may_go_on.set()
    until(lambda: new.get(job).json()["counts"]["done"])
    told = new.get(job).json()
    assert (told["state"], told["counts"]["done"], told["checkpoint"]["line"]) == ("paused", 10, 10)
    new.post(f"{job}/resume")
    assert ended(new, job)["counts"]["done"] == 100
    assert finds(new, "w77")


def test_a_full_disk_is_waited_for_and_nothing_is_embedded_twice(
    old: TestClient, new: TestClient, newer: Newer, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(old, *words("red", "boat"))
    newer.texts.clear()
    failures, whole = [StorageFull("full")] * 2, Spaces.add

    def full(self: Spaces, *args: Any) -> Job:
        if failures:
            raise failures.pop()
        return whole(self, *args)

    monkeypatch.setattr(Spaces, "add", full)
    monkeypatch.setattr(reembedding, "_RETRY_S", 0.01)
    assert moved(new)["counts"]["done"] == 2
    assert (failures, sorted(newer.texts)) == ([], ["boat", "red"])


def reembed_a_part_at_a_time(settings: Settings) -> None:
    """Do all tasks that need the newer encoder."""
    reembedding._PART = 4

    async def run() -> None:
        async with running(settings, Metrics(), cast(Any, Newer())) as service:
            while await service.tasks.step():
                pass

    asyncio.run(run())


@pytest.mark.parametrize(
    ("file", "lines"), [(spaces.__file__, range(2, 160, 6)), (reembedding.__file__, range(5, 300, 40))]
)
def test_whoever_goes_on_after_a_kill_embeds_nothing_again(
    file: str, lines: Sequence[int], old: TestClient, settings: Settings
) -> None:
    put(old, *words(*(f"w{n}" for n in range(20))), given(3, id="given", text="cat"))
    counted, died, states = list[int](), 0, set[str]()
    with closing(open_catalog(settings)) as catalog:
        for number in lines:
            found = catalog.collection("c")
            if found.encoder_id == NEWER:
                break
            request = {"encoder_id": NEWER, "from": found.encoder_id, "drop_unreadable": False}
            job = catalog.tasks.standing("reembed", found.uid, request)
            if job is None:
                job = catalog.tasks.create("job_1", "reembed", found.uid, "c", request, 21)
            died += dies_at_line(number, file, reembed_a_part_at_a_time, settings)
            contents = [item.content for item in catalog.scroll("c", "", 100)]
            there = len(catalog.embeddings(NEWER, 24, contents))
            job = catalog.jobs.get("job_1")
            assert job.done == there  # the checkpoint and the embeddings are one
            states.add(job.state)
            counted.append(there)
        assert died > 2
        assert counted == sorted(counted)
        reembed_a_part_at_a_time(settings)
        job = catalog.jobs.get("job_1")
        assert (job.state, job.done, job.skipped, job.total) == ("succeeded", 21, 0, 21)
        assert catalog.collection("c").space == Space(NEWER, 24)
    with TestClient(create_app(settings, cast(Any, Newer()))) as api:
        assert (found_ := found_in(api)) == {f"w{n}" for n in range(20)} | {"given"}, found_
        assert is_equal(api)


def found_in(api: TestClient) -> set[str]:
    """All that can be found."""
    return {hit["id"] for hit in search(api, "w1", limit=100).json()["results"]}


# -- the index


def test_the_worker_builds_the_index_before_the_collection_moves(
    settings: Settings, old: TestClient, newer: Newer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembedding, "LONG_TAIL", 5)
    monkeypatch.setattr(reembedding.Reembedder.__init__, "__defaults__", (5,))
    monkeypatch.setattr(reembedding, "_LOOK_S", 0.01)
    put(old, *words(*(f"w{n}" for n in range(20))))
    store_of, stop = store_in(settings.snapshots_dir), threading.Event()
    with closing(open_catalog(settings)) as catalog:
        rebuilder = Rebuilder(catalog, store_of, lambda _: np.eye(5, 24, dtype=np.float32))
        archivist = Archivist(catalog, settings.data_dir, store_of, 0.0, stop.wait)
        lock = settings.data_dir / "tasks.lock"
        worker = TaskRunner(catalog, rebuilder, store_of, lock, lambda report: None, archivist)
        with TestClient(create_app(settings, cast(Any, newer))) as new:
            job = asked(new)
            until(lambda: any(entry["type"] == "rebuild" for entry in new.get("/v1/jobs").json()["jobs"]))
            put(old, *words("red"))
            assert found(old, "red") == ["red"]
            assert worker.step(stop)
            assert ended(new, job)["state"] == "succeeded"
            state = new.get(f"{C}/index").json()
            assert (state["generation"], state["rows"], state["delta"]) == (1, 20, 1)
            assert found(new, "red") == ["red"]
            assert finds(new, "w3")
            assert is_equal(new)
            assert [report.published for report in rebuilder.step(time.time() + 3600)] == [True]
            assert is_equal(new)


def test_without_a_worker_it_moves_all_the_same(
    old: TestClient, newer: Newer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembedding.Reembedder.__init__, "__defaults__", (5,))
    monkeypatch.setattr(reembedding.built_by_worker, "__defaults__", (0.02,))
    monkeypatch.setattr(reembedding, "_LOOK_S", 0.01)
    put(old, *words(*(f"w{n}" for n in range(20))))
    with TestClient(create_app(settings, cast(Any, newer))) as new:
        moved(new)
        assert finds(new, "w3")
        states = {entry["type"]: entry["state"] for entry in new.get("/v1/jobs").json()["jobs"]}
        assert states == {"reembed": "succeeded", "rebuild": "cancelled"}


def test_items_are_counted_in_the_metrics(old: TestClient, new: TestClient) -> None:
    put(old, *words("red", "boat"))
    moved(new)
    assert 'momoseek_job_items_total{outcome="done",type="reembed"} 2.0' in new.get("/metrics").text


def test_what_is_no_request_is_refused(old: TestClient) -> None:
    assert_problem(old.post(f"{C}/reembed", json={"drop": True}), 422, "invalid_request")
    assert_problem(old.post("/v1/collections/none/reembed"), 404, "collection_not_found")


def test_pictures_are_not_all_in_memory_at_once(
    old: TestClient, new: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reembedding, "_LOADED_BYTES", 1)
    put(old, *({"id": colour, "content": picture(colour)} for colour in ("red", "green", "blue")))
    moved(new)
    assert [found(new, colour) for colour in ("red", "green", "blue")] == [["red"], ["green"], ["blue"]]
