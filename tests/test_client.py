"""The Python client against a server on a socket: what it asks, how it waits, what it never does twice."""

import asyncio
import http.client
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import momoseek.client
from service import client as client_module
from service import client_jobs
from service.client import Client, Indexed, Refused, Unreachable
from service.client_async import AsyncClient
from service.schemas_jobs import JobReply
from tests.conftest import ROOT
from tests.fakes import COLOUR_NAMES, square, striped
from tests.served import Served, serving

PROBLEM = b'{"type":"/problems/queue_full","title":"t","status":429,"code":"queue_full","detail":"full"}'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server with an empty collection "c"."""
    with serving(tmp_path / "data") as served:
        with Client(served.url) as client:
            client.create_collection("c")
        served.refusing.seen.clear()
        yield served


@dataclass
class Waits:
    """A sleep that takes no time."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def client(served: Served, waits: Waits) -> Iterator[Client]:
    with Client(served.url, sleep=waits) as client:
        yield client


def test_items_are_written_found_and_removed(client: Client, tmp_path: Path) -> None:
    picture = tmp_path / "blue.png"
    picture.write_bytes(square("blue"))
    reply = client.put_items(
        "c",
        [
            {"id": "a/red", "image": square("red"), "metadata": {"price": 5}},
            {"id": "blue", "image": picture},
            {"id": "words", "text": "green apple"},
        ],
    )
    assert [entry.status for entry in reply.items] == ["created"] * 3
    hits = client.search("c", "red", limit=2).results
    assert (hits[0].id, hits[0].metadata, hits[0].score) == ("a/red", {"price": 5}, 1.0)
    assert client.search("c", {"image": square("blue")}, target="image").results[0].id == "blue"
    both = [{"text": "green", "weight": 2.0}, {"id": "blue", "weight": -1.0}]
    assert client.search("c", both, limit=1, rerank=None).results[0].id == "words"
    only = client.search("c", "green", filter={"must": [{"key": "price", "match": {"value": 5}}]}).results
    assert [hit.id for hit in only] == ["a/red"]
    [hit] = client.search("c", "red", offset=0, limit=1, fields=[], with_vectors=True).results
    assert (hit.metadata, hit.vector is not None) == ({}, True)
    searches: list[dict[str, Any]] = [{"query": "blue", "limit": 1}, {"query": {"id": "never there"}}]
    good, bad = client.search_batch("c", searches)
    assert good.reply is not None
    assert bad.problem is not None
    assert (good.reply.results[0].id, bad.problem.code) == ("blue", "item_not_found")
    assert client.recommend("c", ["words"], ["blue"], limit=1).results[0].id == "a/red"
    assert client.item("c", "a/red").metadata == {"price": 5}
    assert client.collection("c").count == 3
    page = client.scroll("c", limit=2)
    assert [item.id for item in page.items] == ["a/red", "blue"]
    assert [item.id for item in client.scroll("c", cursor=page.next_cursor).items] == ["words"]
    assert client.delete_item("c", "a/red").status == "deleted"
    client.delete_collection("c")
    with pytest.raises(Refused) as refused:
        client.collection("c")
    assert (refused.value.problem.status, refused.value.problem.code) == (404, "collection_not_found")


def test_contents_are_embedded_matched_and_classified(client: Client) -> None:
    rows = client.embed(["red", {"image": square("red")}, "blue"])
    assert rows.shape == (3, 16)
    assert rows.dtype == np.float32
    assert np.allclose(rows @ rows.T, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert client.similarity("red", ["red", "blue"]) == [1.0, 0.0]
    ranked = client.rerank("red", ["blue", {"image": striped("red", "blue")}, "red"], top_n=2).results
    assert [result.index for result in ranked] == [2, 1]
    found = client.classify(
        ["red", {"image": square("blue")}], COLOUR_NAMES, templates=["{}"], top_k=1
    ).results
    assert [result.labels[0].label for result in found if result.labels] == ["red", "blue"]
    client.put_items("c", [{"id": colour, "text": colour} for colour in COLOUR_NAMES])
    (result,) = client.classify(["red green"], label_set="c", multi_label=True, min_score=0.9).results
    assert {score.label for score in result.labels or []} == {"red", "green"}
    assert client.models().data[0].id == "fake"


def test_what_may_pass_is_tried_again_when_the_server_says(
    served: Served, client: Client, waits: Waits
) -> None:
    soon = formatdate(time.time() + 30, usegmt=True)
    served.refusing.refusals = [
        (429, {"Retry-After": "2"}, PROBLEM),
        (503, {"Retry-After": soon}, PROBLEM),
        (502, {}, b"<html>no upstream</html>"),
    ]
    assert client.similarity("red", ["red"]) == [1.0]
    assert waits.seconds[0] == 2.0
    assert 25 < waits.seconds[1] <= 30
    assert 0.1 < waits.seconds[2] <= 0.8
    assert len({headers["idempotency-key"] for _, _, headers in served.refusing.seen}) == 1


@pytest.mark.parametrize(
    ("status", "headers", "content", "code", "attempts"),
    [
        (429, {"Retry-After": "2"}, PROBLEM, "queue_full", 5),
        (429, {"Retry-After": "3600"}, PROBLEM, "queue_full", 1),
        (429, {}, PROBLEM, "queue_full", 1),
        (503, {"Retry-After": "soon"}, PROBLEM, "queue_full", 5),
        (504, {}, b"", "http_504", 5),
        (400, {}, b"not a problem", "http_400", 1),
        (500, {}, b"[]", "http_500", 1),
    ],
)
def test_it_gives_up_where_waiting_is_of_no_use(
    served: Served,
    client: Client,
    waits: Waits,
    status: int,
    headers: dict[str, str],
    content: bytes,
    code: str,
    attempts: int,
) -> None:
    served.refusing.refusals = [(status, headers, content)] * 9
    with pytest.raises(Refused) as refused:
        client.collection("c")
    assert refused.value.problem.code == code
    assert (len(served.refusing.seen), len(waits.seconds)) == (attempts, attempts - 1)


def test_a_write_whose_reply_was_lost_is_done_once(
    client: Client, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = http.client.HTTPConnection.getresponse
    lost = ["the first"]

    def losing(self: http.client.HTTPConnection) -> http.client.HTTPResponse:
        reply = answered(self)
        if lost:
            lost.clear()
            reply.read()
            raise ConnectionResetError("cut")
        return reply

    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", losing)
    reply = client.put_items("c", [{"id": "x", "text": "red"}])
    assert reply.items[0].status == "created"  # what the first attempt did, not "unchanged"
    assert waits.seconds == [0.0]


def test_a_connection_is_kept_and_one_that_was_closed_is_replaced(
    served: Served, client: Client, waits: Waits, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = http.client.HTTPConnection.connect
    made: list[http.client.HTTPConnection] = []

    def counting(self: http.client.HTTPConnection) -> None:
        made.append(self)
        connect(self)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", counting)
    for _ in range(3):
        client.models()
    assert len(made) == 1
    made[0].sock.shutdown(2)
    assert client.models().data[0].id == "fake"
    assert (len(made), waits.seconds) == (2, [0.0])


def test_no_server_is_told_after_the_last_attempt(waits: Waits) -> None:
    with Client("http://127.0.0.1:9", sleep=waits, attempts=4) as client, pytest.raises(Unreachable):
        client.models()
    assert waits.seconds[0] == 0.0
    assert 0.1 <= waits.seconds[1] <= 0.2 <= waits.seconds[2] * 2 <= 0.8


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        Client(url)


def test_a_key_is_shown_and_a_path_before_the_api_is_kept(served: Served) -> None:
    with Client(f"{served.url}/momoseek/", key="momo_secret") as client, pytest.raises(Refused):
        client.models()
    assert served.refusing.seen[0][1] == "/momoseek/v1/models"
    assert served.refusing.seen[0][2]["authorization"] == "Bearer momo_secret"


def test_many_items_are_indexed_in_batches_with_progress(served: Served, client: Client) -> None:
    items = [{"id": f"{i:03}", "text": f"w{i}"} for i in range(149)]
    items[7]["text"] = "poison"
    seen: list[Indexed] = []
    served.refusing.refusals = [(429, {"Retry-After": "1"}, PROBLEM)]
    done = client.index("c", items, progress=seen.append)
    assert [state.done for state in seen] == [64, 128, 149]
    assert {state.total for state in seen} == {149}
    assert (done, done.statuses) == (seen[-1], {"created": 148, "failed": 1})
    assert [(entry.id, cast(Any, entry.problem).code) for entry in done.failures] == [
        ("007", "encoding_failed")
    ]
    assert done.write_token is not None
    again = client.index("c", iter(items), batch=50)
    assert (again.total, again.statuses) == (None, {"unchanged": 148, "failed": 1})
    assert client.collection("c").count == 148
    assert client.index("c", []).done == 0


def test_batches_stay_small_and_an_item_too_large_fails_alone(
    served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_BATCH_BYTES", 1000)
    items = [{"id": str(i), "text": f"w{i}", "metadata": {"filler": "x" * 400}} for i in range(6)]
    assert client.index("c", items).statuses == {"created": 6}
    assert len(served.refusing.seen) == 3
    items[0]["text"] = "w " * 17_000_000
    done = client.index("c", items)
    assert done.statuses == {"failed": 1, "unchanged": 5}
    assert [(entry.id, cast(Any, entry.problem).code) for entry in done.failures] == [("0", "body_too_large")]


def test_indexing_stops_where_nothing_can_be_written(client: Client) -> None:
    with pytest.raises(Refused, match="collection_not_found"):
        client.index("none", [{"id": "x", "text": "red"}])
    with pytest.raises(TypeError, match="a picture is bytes or a Path"):
        client.put_items("c", [{"id": "x", "image": object()}])


def test_a_client_needs_no_part_of_a_server() -> None:
    heavy = "{'faiss', 'fastapi', 'onnxruntime', 'PIL', 'sqlalchemy', 'tokenizers'}"
    program = f"import sys, momoseek.client; print({heavy} & set(sys.modules) or 'none')"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "none\n"


async def _together(url: str) -> tuple[list[str], int]:
    async with AsyncClient(url) as client:
        seen: list[Indexed] = []
        items = [{"id": colour, "image": square(colour)} for colour in COLOUR_NAMES]
        await client.index("c", items, progress=seen.append)
        replies = await asyncio.gather(*(client.search("c", colour, limit=1) for colour in COLOUR_NAMES * 4))
        rows = await client.embed(["red"])
        assert rows.shape == (1, 16)
        with pytest.raises(Refused):
            await client.item("c", "none")
        return [reply.results[0].id for reply in replies], seen[-1].done


def test_many_coroutines_share_a_client(served: Served) -> None:
    found, done = asyncio.run(_together(served.url))
    assert found == COLOUR_NAMES * 4
    assert done == len(COLOUR_NAMES)


def test_a_bulk_job_is_handed_over_followed_and_told_about(client: Client, waits: Waits) -> None:
    client.put_items("c", [{"id": "old", "text": "black"}])
    items = ({"id": f"i{n}", "image": square("red")} for n in range(3))
    bad = [{"id": "bad", "image": b"no picture"}]
    handed = client.bulk("c", [*items, *bad], deletes=["old", "never there"])
    seen: list[int] = []
    waits_before = len(waits.seconds)

    def note(job: JobReply) -> None:
        seen.append(job.counts.done)
        time.sleep(0.01)  # the client's own sleep takes no time here

    done = client.wait(handed.id, progress=note, every_s=7.0)
    assert (done.state, done.counts.model_dump()) == (
        "succeeded",
        {"total": 6, "done": 4, "failed": 1, "skipped": 1},
    )
    assert seen == sorted(seen)
    assert set(waits.seconds[waits_before:]) <= {7.0}
    [error] = client.job_errors(done.id)
    assert (error.custom_id, error.line, error.problem.code) == ("bad", 4, "image_undecodable")
    assert client.count("c") == 3
    assert client.job(done.id).state == "succeeded"
    assert [job.id for job in client.jobs(state="succeeded", limit=5).jobs] == [done.id]
    assert client.jobs(state="failed").jobs == []
    for act in (client.pause_job, client.resume_job, client.cancel_job):
        with pytest.raises(Refused, match="job_state_conflict"):
            act(done.id)


def test_a_job_of_no_items_is_done_at_once(client: Client) -> None:
    done = client.wait(client.bulk("c", []).id, every_s=0.0)
    assert (done.state, done.counts.total) == ("succeeded", 0)


def test_a_bulk_body_is_sent_again_from_its_beginning_and_is_one_job(
    served: Served, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_jobs, "_IN_MEMORY_BYTES", 1000)  # the rest is on disk
    served.refusing.refusals = [(503, {"Retry-After": "1"}, PROBLEM)]
    job = client.bulk("c", ({"id": str(n), "text": f"w{n}"} for n in range(200)))
    assert job.counts.total == 200
    first, second = served.refusing.seen[-2:]
    assert first[2]["idempotency-key"] == second[2]["idempotency-key"]
    assert second[2]["content-type"] == "application/x-ndjson"
    assert int(second[2]["content-length"]) > 1000


def test_items_are_changed_counted_and_deleted_by_what_they_are(client: Client) -> None:
    shoes = [{"id": f"s{n}", "text": "red", "metadata": {"size": 40 + n % 2}} for n in range(5)]
    client.put_items("c", shoes)
    assert client.patch_item("c", "s0", {"text": "blue", "metadata": {"size": 44}}).status == "updated"
    assert client.item("c", "s0").metadata == {"size": 44}
    big: dict[str, Any] = {"must": [{"key": "size", "range": {"gte": 41}}]}
    assert (client.count("c"), client.count("c", big)) == (5, 3)
    assert [(value.value, value.count) for value in client.facet("c", "size", limit=1).values] == [(40, 2)]
    assert client.delete_items("c", filter=big, dry_run=True).matched == 3
    assert client.delete_items("c", ["s0", "absent"]).deleted == 1
    assert client.delete_items("c", filter=big).deleted == 2
    assert client.count("c") == 2


def test_every_call_has_its_coroutine_and_a_name_to_import() -> None:
    def calls(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert calls(Client) - calls(AsyncClient) == {"send"}  # what the calls are made of
    assert momoseek.client.__all__ == ["AsyncClient", *client_module.__all__]
    assert all(
        getattr(momoseek.client, name) is getattr(client_module, name) for name in client_module.__all__
    )


def test_the_example_of_the_readme_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "README.md").read_text()
    [example] = re.findall(r"```python\n(.*?momoseek\.client.*?)```", page, re.DOTALL)
    place = str(ROOT / "service/gallery/images")
    exec(example.replace("http://127.0.0.1:8000", served.url).replace("service/gallery/images", place), {})
    *progress, first, _, _ = capsys.readouterr().out.splitlines()
    files = len(list(Path(place).glob("photo-*.webp")))
    assert progress[-1] == f"{files} of {files}"
    assert first.startswith("photo-")


def test_settings_aliases_index_and_keys_have_their_calls(client: Client) -> None:
    made = client.create_collection("d", limits={"max_items": 2})
    assert made.limits.max_items == 2
    assert client.patch_collection("d", schema={"price": "number"}, limits=None).fields == {"price": "number"}
    assert [entry.name for entry in client.collections(limit=10).collections] == ["c", "d"]
    client.move_aliases({"shop": "d"})
    assert [(entry.alias, entry.collection) for entry in client.aliases().aliases] == [("shop", "d")]
    client.put_items("shop", [{"id": "a", "text": "red"}])
    assert client.put_items("shop", [{"id": "a", "text": "blue"}], mode="insert_only").errors
    assert client.item("d", "a").text == "red"
    client.move_aliases(delete=["shop"])
    assert client.aliases().aliases == []
    assert client.index_state("d").items == 1
    assert client.audit_index("d").equal
    assert client.rebuild_index("d", full=True).type == "rebuild"
    assert client.evaluate_index("d").type == "evaluate"
    assert client.reembed("d", drop_unreadable=True).type == "reembed"
    assert client.create_snapshot("d", "one").type == "snapshot"
    assert client.snapshots("d").snapshots == []
    for call in (client.snapshot, client.restore_snapshot, client.delete_snapshot):
        with pytest.raises(Refused) as refused:
            call("d", "one")  # the worker is at it, when there is one
        assert refused.value.problem.code == "snapshot_not_found"
    duplicates = client.find_duplicates("d", threshold=0.9)
    assert client.job_results(duplicates.id) == []
    with pytest.raises(Refused) as refused:
        client.roll_back_index("d")
    assert refused.value.problem.code == "generation_unusable"
    told = client.explain("red", stored=("d", "a"))
    assert told.score == pytest.approx(1, abs=1e-4)
    assert told.tokens is not None
    with pytest.raises(Refused) as disabled:
        client.bulk_source("d", "rows.npy", "npy", embedding_space="fake-000000000000")
    assert disabled.value.problem.code == "sources_disabled"
    page = client.scroll("d", fields=[], with_vectors=True)
    assert page.items[0].vector is not None
    key = client.create_key("ops", "admin")
    assert key.key.startswith(key.about.prefix)


def test_adapters_have_their_calls(client: Client) -> None:
    colours = ("red", "green", "blue", "black", "white")
    called = dict(zip(colours, ("karo", "lumen", "mirto", "nefta", "opale"), strict=True))
    items = [
        {"id": f"{colour}-{n}", "text": f"{colour} {colour} s{n}"} for colour in colours for n in range(30)
    ]
    client.index("c", items)
    pairs = [
        (f"{called[colour]} {called[colour]} w{n % 8}", f"{colour}-{n}")
        for colour in colours
        for n in range(30)
    ]
    job = client.wait(client.learn_adapter("c", pairs, name="clicks").id)
    (result,) = client.job_results(job.id)
    adapter = client.adapter(result["adapter"])
    assert (adapter.name, adapter.state, adapter.gate.accepted) == ("clicks", "ready", True)
    assert [entry.id for entry in client.adapters("c", limit=5).adapters] == [adapter.id]
    assert client.try_adapter(adapter.id, 0.5).share == 0.5
    assert client.promote_adapter(adapter.id).state == "promoted"
    assert client.search("c", "karo karo w3").adapter == adapter.id
    assert client.search("c", "karo karo w3", adapter="none").adapter is None
    assert client.roll_back_adapter(adapter.id).state == "rolled_back"
    client.delete_adapter(adapter.id)
    assert client.adapters().adapters == []


def test_keys_are_listed_and_revoked_by_who_may(served: Served) -> None:
    with Client(served.url) as first:
        admin = first.create_key("admin", "admin").key
    with Client(served.url, key=admin) as client:
        spare = client.create_key("spare", "read").about.prefix
        client.revoke_key(spare)
        assert [entry.name for entry in client.keys().keys] == ["admin", "spare"]
        assert client.keys().keys[1].revoked_at is not None
