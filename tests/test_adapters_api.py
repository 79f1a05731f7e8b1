"""Adapters over HTTP: learned by a job, judged, tried, promoted, rolled back; and searches with them."""

import json
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from index.adapters import Learned
from index.jobs import READY
from models.preprocess import Modality
from models.query_adapter import QueryAdapter
from models.relevance import Curve, Direction, Relevance
from service.adapters import ServingAdapters
from service.adapting import Adapting
from service.config import Settings
from service.stores import open_catalog
from tests.fakes import COLOUR_NAMES, FakeEncoder
from tests.guarded import bearer, guarded
from tests.problems import assert_problem

C = "/v1/collections/c"
# What customers call the colours: words that the encoder knows nothing of.
CALLED = dict(zip(COLOUR_NAMES, ("karo", "lumen", "mirto", "nefta", "opale"), strict=True))
SHADES, WAYS = 30, 8


def pairs(shift: int = 0) -> list[dict[str, str]]:
    """What is searched for and found: of each colour thirty items, by eight ways of asking. With a shift the
    answers are of another colour."""
    found = []
    for place, colour in enumerate(COLOUR_NAMES):
        called = CALLED[COLOUR_NAMES[(place + shift) % len(COLOUR_NAMES)]]
        found += [{"query": f"{called} {called} w{n % WAYS}", "item": f"{colour}-{n}"} for n in range(SHADES)]
    return found


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """A shop that sells things of five colours."""
    items = [
        {"id": f"{colour}-{n}", "text": f"{colour} {colour} s{n}", "metadata": {"colour": colour}}
        for colour in COLOUR_NAMES
        for n in range(SHADES)
    ]
    assert client.put(f"{C}/items", json={"items": items}).json()["errors"] is False
    return client


def learned(client: TestClient, **asked: Any) -> dict[str, Any]:
    """What a job learned, when it has ended well."""
    job = ended(client, **asked)
    assert job["state"] == "succeeded", job
    (found,) = [json.loads(line) for line in client.get(job["results_url"]).text.splitlines()]
    return dict(client.get(f"/v1/adapters/{found['adapter']}").json())


def ended(client: TestClient, **asked: Any) -> dict[str, Any]:
    """A job that learns from pairs, when it has ended."""
    reply = client.post("/v1/adapters", json={"collection": "c", "pairs": pairs()} | asked)
    assert reply.status_code == 202, reply.text
    until = time.monotonic() + 60
    while time.monotonic() < until:
        job: dict[str, Any] = client.get(reply.headers["location"]).json()
        if job["state"] not in READY:
            return job
        time.sleep(0.1)
    raise AssertionError(f"the job has not ended: {job}")


def found(client: TestClient, query: Any, **asked: Any) -> dict[str, Any]:
    """The reply to a search."""
    reply = client.post(f"{C}/search", json={"query": query} | asked)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def counted(client: TestClient) -> dict[str, float]:
    """The searches of c that an adapter had a part in, by why it had."""
    metric = re.compile(r'momoseek_adapted_searches_total\{collection="c",why="(\w+)"\} (.*)')
    return {why: float(number) for why, number in metric.findall(client.get("/metrics").text)}


def colours(reply: dict[str, Any]) -> set[str]:
    """The colours of what was found."""
    return {hit["metadata"]["colour"] for hit in reply["results"]}


ASKED = f"{CALLED['blue']} {CALLED['blue']} w3"


def test_what_customers_say_is_learned_promoted_and_rolled_back(shop: TestClient) -> None:
    before = found(shop, ASKED)
    assert (before["adapter"], colours(before) == {"blue"}) == (None, False)
    adapter = learned(shop, name="clicks")
    assert (adapter["state"], adapter["name"], adapter["share"]) == ("ready", "clicks", 0.0)
    assert adapter["gate"]["accepted"] is True
    assert adapter["gate"]["held_out"]["ndcg_after"] > adapter["gate"]["held_out"]["ndcg_before"]
    assert found(shop, ASKED)["adapter"] is None, "it serves nothing until it is told to"
    promoted = shop.post(f"/v1/adapters/{adapter['id']}/promote").json()
    assert (promoted["state"], promoted["follows"]) == ("promoted", None)
    after = found(shop, ASKED)
    assert (after["adapter"], colours(after)) == (adapter["id"], {"blue"})
    assert shop.get("/v1/models/fake").json()["adapters"] == [adapter["id"]]
    assert shop.post(f"/v1/adapters/{adapter['id']}/rollback").json()["state"] == "rolled_back"
    assert found(shop, ASKED)["results"] == before["results"]
    assert shop.get("/v1/models/fake").json()["adapters"] == []


def test_a_search_may_ask_for_an_adapter_or_for_none(shop: TestClient) -> None:
    adapter = learned(shop)["id"]
    assert colours(found(shop, ASKED, adapter=adapter)) == {"blue"}
    shop.post(f"/v1/adapters/{adapter}/promote")
    plain = found(shop, ASKED, adapter="none")
    assert (plain["adapter"], colours(plain) == {"blue"}) == (None, False)
    assert counted(shop) == {"asked": 1}


def test_pictures_items_and_vectors_are_looked_for_as_they_are(shop: TestClient) -> None:
    adapter = learned(shop)["id"]
    shop.post(f"/v1/adapters/{adapter}/promote")
    like = found(shop, {"id": "blue-3"})
    assert like["adapter"] is None
    assert like["results"] == found(shop, {"id": "blue-3"}, adapter="none")["results"]
    assert counted(shop) == {}
    mixed = found(shop, [{"id": "red-3", "weight": 0.1}, {"text": ASKED}])
    assert (mixed["adapter"], mixed["results"][0]["metadata"]["colour"]) == (adapter, "blue")


def test_a_trial_takes_its_share_and_the_same_words_stay_on_one_side(shop: TestClient) -> None:
    adapter = learned(shop)["id"]
    assert shop.put(f"/v1/adapters/{adapter}/traffic", json={"share": 0.5}).json()["share"] == 0.5
    queries = [f"{ASKED} q{n}" for n in range(40)]
    first, second = ([found(shop, query)["adapter"] for query in queries] for _ in range(2))
    assert first == second
    assert 8 <= first.count(adapter) <= 32
    assert first.count(adapter) + first.count(None) == 40
    shop.put(f"/v1/adapters/{adapter}/traffic", json={"share": 0})
    assert {found(shop, query)["adapter"] for query in queries} == {None}


def test_pages_are_of_one_adapter(shop: TestClient) -> None:
    adapter = learned(shop)["id"]
    plain = found(shop, ASKED, limit=5)["next_cursor"]
    like = found(shop, {"id": "blue-3"}, limit=5)["next_cursor"]
    shop.post(f"/v1/adapters/{adapter}/promote")
    pages = [found(shop, ASKED, limit=5)]
    pages += [found(shop, ASKED, limit=5, cursor=pages[0]["next_cursor"])]
    assert [hit["id"] for page in pages for hit in page["results"]] == [
        hit["id"] for hit in found(shop, ASKED, limit=10)["results"]
    ]
    refused = shop.post(f"{C}/search", json={"query": ASKED, "cursor": plain})
    assert_problem(refused, 409, "cursor_expired")
    assert found(shop, ASKED, cursor=plain, adapter="none")["results"]
    assert found(shop, {"id": "blue-3"}, cursor=like)["results"], "no words, no adapter"
    shop.post(f"/v1/adapters/{adapter}/rollback")
    refused = shop.post(f"{C}/search", json={"query": ASKED, "cursor": pages[0]["next_cursor"]})
    assert_problem(refused, 409, "cursor_expired")


def test_an_adapter_that_makes_it_worse_is_refused_and_cannot_serve(shop: TestClient) -> None:
    shop.post(f"/v1/adapters/{learned(shop)['id']}/promote")
    # The clicks of a robot that takes what it gets: nothing of it holds of the pairs held out.
    items = random.Random(1).sample([pair["item"] for pair in pairs()], k=len(pairs()))
    robot = [pair | {"item": item} for pair, item in zip(pairs(), items, strict=True)]
    adapter = learned(shop, pairs=robot)
    assert (adapter["state"], adapter["gate"]["accepted"]) == ("refused", False)
    assert adapter["gate"]["reason"]
    for refused in (
        shop.post(f"/v1/adapters/{adapter['id']}/promote"),
        shop.put(f"/v1/adapters/{adapter['id']}/traffic", json={"share": 0.1}),
    ):
        assert_problem(refused, 409, "adapter_refused")
    assert colours(found(shop, ASKED)) == {"blue"}, "the one before serves on"


def test_a_golden_query_that_finds_its_item_no_more_stops_an_adapter(shop: TestClient) -> None:
    other = next(hit["id"] for hit in found(shop, ASKED)["results"] if hit["metadata"]["colour"] != "blue")
    adapter = learned(shop, golden=[{"query": ASKED, "item": other}])
    assert other not in {hit["id"] for hit in found(shop, ASKED, adapter=adapter["id"])["results"]}
    assert (adapter["gate"]["golden"], adapter["gate"]["golden_lost"]) == (1, 1)
    assert adapter["state"] == "refused"


def test_pairs_that_are_of_no_use_are_left_out_and_counted(shop: TestClient) -> None:
    useless = [
        {"query": "lost", "item": "gone"},
        {"query": " ", "item": "red-1"},
        {"query": "poison", "item": "red-1"},
    ]
    assert learned(shop, pairs=[*pairs(), *useless])["gate"]["left_out"] == 3


@pytest.mark.parametrize(
    "few", [pairs()[:5], [{"query": f"q{n}", "item": "gone"} for n in range(50)]], ids=["few", "gone"]
)
def test_too_few_pairs_fail_the_job_and_say_so(shop: TestClient, few: list[dict[str, str]]) -> None:
    job = ended(shop, pairs=few)
    assert (job["state"], job["problem"]["code"]) == ("failed", "too_few_pairs")
    assert shop.get("/v1/adapters").json()["adapters"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"collection": "c"}, "/pairs"),
        ({"collection": "c", "pairs": []}, "/pairs"),
        ({"collection": "c", "pairs": [{"query": "a"}]}, "/pairs/0/item"),
        ({"collection": "c", "pairs": [{"query": "", "item": "b"}]}, "/pairs/0/query"),
        ({"collection": "c", "pairs": [{"query": "a", "item": "b", "weight": 2}]}, "/pairs/0/weight"),
        ({"collection": "c", "pairs": pairs(), "golden": [{"query": 1, "item": "b"}]}, "/golden/0/query"),
        ({"collection": "c", "pairs": pairs(), "name": ""}, "/name"),
    ],
)
def test_bad_requests_are_refused_where_they_are_bad(shop: TestClient, body: Any, pointer: str) -> None:
    reply = shop.post("/v1/adapters", json=body)
    assert_problem(reply, 422, "invalid_request")
    assert reply.json()["errors"][0]["pointer"] == pointer


def test_what_is_not_there_is_not_found(shop: TestClient) -> None:
    nobody = f"/v1/adapters/ada_{0:024x}"
    for reply in (
        shop.get(nobody),
        shop.delete(nobody),
        shop.post(f"{nobody}/promote"),
        shop.post(f"{nobody}/rollback"),
        shop.put(f"{nobody}/traffic", json={"share": 0.5}),
        shop.post(f"{C}/search", json={"query": "red", "adapter": f"ada_{0:024x}"}),
    ):
        assert_problem(reply, 404, "adapter_not_found")
        if "/search" in str(reply.url):
            assert reply.json()["param"] == "/adapter"
    missing = shop.post("/v1/adapters", json={"collection": "nowhere", "pairs": pairs()})
    assert_problem(missing, 404, "collection_not_found")
    assert missing.json()["param"] == "/collection"


def test_an_adapter_of_another_collection_is_not_used(shop: TestClient) -> None:
    adapter = learned(shop)["id"]
    shop.put("/v1/collections/d")
    shop.put("/v1/collections/d/items", json={"items": [{"id": "x", "text": "red"}]})
    refused = shop.post("/v1/collections/d/search", json={"query": "red", "adapter": adapter})
    assert_problem(refused, 409, "adapter_unusable")
    shop.post(f"/v1/adapters/{adapter}/promote")
    assert shop.post("/v1/collections/d/search", json={"query": "red"}).json()["adapter"] is None


def test_relevance_is_that_of_adapted_words(fake_encoder: FakeEncoder, shop: TestClient) -> None:
    kinds: list[Modality] = ["text", "image", "mixed"]
    curves: dict[Direction, Curve] = {("text", kind): Curve(1.0, 0.0) for kind in kinds}
    fake_encoder.relevance = Relevance(
        fake_encoder.id, curves
    )  # of what it was taught nothing of, this holds
    adapter = learned(shop)["id"]
    shop.post(f"/v1/adapters/{adapter}/promote")
    reply = found(shop, ASKED, limit=150)
    of = {True: list[float](), False: list[float]()}
    for hit in reply["results"]:
        of[hit["metadata"]["colour"] == "blue"].append(hit["relevance"])
    assert sum(of[True]) / len(of[True]) > 0.5 > sum(of[False]) / len(of[False])
    assert colours(found(shop, ASKED, min_relevance=0.5, limit=150)) == {"blue"}


def test_a_look_that_began_before_a_change_does_not_undo_it(settings: Settings) -> None:
    catalog = open_catalog(settings)
    uid = catalog.create_collection("c", "fake-000000000000", 16)[0].uid
    weights = QueryAdapter.neutral(16).to_bytes()
    adapter = catalog.adapters.add(
        uid, None, "fake-000000000000", Learned(weights, {}, {"accepted": True})
    ).id
    serving, looking, go_on = catalog.adapters.serving, threading.Event(), threading.Event()

    def slow() -> Any:
        seen = serving()
        if not looking.is_set():
            looking.set()
            go_on.wait(1)
        return seen

    catalog.adapters.serving = slow  # type: ignore[method-assign]
    adapters = ServingAdapters(catalog, "fake-000000000000", 16)
    watcher = threading.Thread(target=adapters.refresh)
    watcher.start()
    looking.wait(10)
    catalog.adapters.promote(adapter)
    mine = threading.Thread(target=adapters.refresh)
    mine.start()
    mine.join(0.2)
    go_on.set()
    for thread in (watcher, mine):
        thread.join(10)
    assert adapters.ids() == [adapter]
    catalog.close()


def test_a_collection_that_moves_while_it_is_learned_from_fails_the_job(
    shop: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = Adapting._lesson

    def moved(self: Adapting, *asked: Any) -> Any:
        catalog = open_catalog(settings)
        with catalog.replacing() as connection:
            connection.exec_driver_sql("UPDATE collections SET encoder_id = 'another'")
        catalog.close()
        return lesson(self, *asked)

    monkeypatch.setattr(Adapting, "_lesson", moved)
    job = ended(shop)
    assert job["state"] == "failed"
    assert "holds embeddings of another" in job["problem"]["detail"]


def test_a_cancelled_job_leaves_nothing(shop: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = threading.Event(), threading.Event()
    embed = FakeEncoder.embed

    def slow(self: FakeEncoder, documents: Any) -> Any:
        if "karo" in str(documents[0].parts[0]):
            reached.set()
            go_on.wait(10)
        return embed(self, documents)

    monkeypatch.setattr(FakeEncoder, "embed", slow)
    job = shop.post("/v1/adapters", json={"collection": "c", "pairs": pairs()}).headers["location"]
    assert reached.wait(10)
    assert shop.post(f"{job}/cancel").json()["state"] == "cancelled"
    go_on.set()
    monkeypatch.undo()
    assert learned(shop)["state"] == "ready", "the next one is learned"
    assert len(shop.get("/v1/adapters").json()["adapters"]) == 1


def test_a_job_that_a_dead_process_had_done_is_not_done_again(shop: TestClient, settings: Settings) -> None:
    learned(shop)
    catalog = open_catalog(settings)
    (job,) = [job for job in catalog.jobs.page(None, "", 10) if job.type == "adapt"]
    with catalog.replacing() as connection:
        connection.exec_driver_sql(
            f"UPDATE jobs SET state = 'running', ended_at = NULL WHERE id = '{job.id}'"
        )
    catalog.close()
    until = time.monotonic() + 20
    while shop.get(f"/v1/jobs/{job.id}").json()["state"] != "succeeded":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert len(shop.get("/v1/adapters").json()["adapters"]) == 1


def test_the_same_request_under_one_key_is_one_job(shop: TestClient) -> None:
    body, key = {"collection": "c", "pairs": pairs()}, {"Idempotency-Key": "once"}
    jobs = {shop.post("/v1/adapters", json=body, headers=key).headers["location"] for _ in range(2)}
    assert len(jobs) == 1


def test_adapters_are_listed_by_page_and_forgotten(shop: TestClient) -> None:
    ids = [learned(shop)["id"] for _ in range(3)]
    page = shop.get("/v1/adapters", params={"limit": 2, "collection": "c"}).json()
    assert [adapter["id"] for adapter in page["adapters"]] == ids[:0:-1]
    rest = shop.get("/v1/adapters", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert ([adapter["id"] for adapter in rest["adapters"]], rest["next_cursor"]) == ([ids[0]], None)
    shop.post(f"/v1/adapters/{ids[0]}/promote")
    assert_problem(shop.delete(f"/v1/adapters/{ids[0]}"), 409, "adapter_state_conflict")
    assert shop.delete(f"/v1/adapters/{ids[1]}").status_code == 204
    assert_problem(shop.get(f"/v1/adapters/{ids[1]}"), 404, "adapter_not_found")


def test_a_limited_key_sees_and_moves_adapters_of_its_own_collections_alone(tmp_path: Path) -> None:
    with guarded(tmp_path) as shared:
        learned = Learned(b"", {}, {"accepted": True})
        uid = shared.catalog.collection("c").uid
        adapter = shared.catalog.adapters.add(uid, None, "fake-000000000000", learned).id

        def asked(method: str, path: str, caller: str, **sent: Any) -> Any:
            return shared.api.request(method, path, headers=bearer(shared.secrets[caller]), **sent)

        assert asked("GET", "/v1/adapters", "other").json()["adapters"] == []
        for method, path in (("GET", ""), ("POST", "/promote"), ("POST", "/rollback"), ("DELETE", "")):
            assert_problem(asked(method, f"/v1/adapters/{adapter}{path}", "other"), 404, "adapter_not_found")
        body = {"collection": "c", "pairs": pairs()}
        assert_problem(asked("POST", "/v1/adapters", "other", json=body), 403, "collection_forbidden")
        of_c = asked("GET", "/v1/adapters", "other", params={"collection": "c"})
        assert_problem(of_c, 403, "collection_forbidden")
        assert asked("POST", "/v1/adapters", "own", json=body).status_code == 202
        assert asked("POST", f"/v1/adapters/{adapter}/promote", "write").status_code == 403
