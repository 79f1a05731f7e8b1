"""POST /v1/classify: colours name themselves, and scores mean what is said of them."""

import base64
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.classify import Curve, among, each
from service.config import Settings
from tests.fakes import COLOUR_NAMES, FakeEncoder, square, striped
from tests.guarded import Guarded, guarded
from tests.problems import assert_problem

CLASSIFY = "/v1/classify"
PICTURE_SCALE = 10.0  # of the curve that is assumed for an encoder that nobody measured
TEXT_SCALE = 19.0


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def classified(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    reply = client.post(CLASSIFY, json=body)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["results"])


def scores(result: dict[str, Any]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in result["labels"]}


def put(client: TestClient, *items: dict[str, Any]) -> None:
    reply = client.put("/v1/collections/c/items", json={"items": list(items)})
    assert reply.json()["errors"] is False, reply.text


def test_texts_pictures_and_documents_of_both_get_the_label_that_names_them(client: TestClient) -> None:
    inputs = [
        "blue",
        {"image": b64(square("green"))},
        {
            "content": [
                {"type": "text", "text": "red"},
                {"type": "image_base64", "image_base64": b64(square("red"))},
            ]
        },
    ]
    reply = client.post(CLASSIFY, json={"inputs": inputs, "labels": COLOUR_NAMES, "model": "fake"}).json()
    assert [result["labels"][0]["label"] for result in reply["results"]] == ["blue", "green", "red"]
    assert [result["index"] for result in reply["results"]] == [0, 1, 2]
    assert [result["abstained"] for result in reply["results"]] == [False] * 3
    assert (reply["model"], reply["calibrated"]) == ("fake", False)
    assert reply["usage"] == {"prompt_tokens": 2, "total_tokens": 2, "image_count": 2, "image_pixels": 512}


def test_scores_are_the_softmax_of_scaled_cosines(client: TestClient) -> None:
    (text, picture) = classified(
        client, inputs=["red blue", {"image": b64(square("red"))}], labels=["red", "green"]
    )
    expected = 1 / (1 + math.exp(-TEXT_SCALE * math.sqrt(0.5)))
    assert scores(text) == pytest.approx({"red": expected, "green": 1 - expected}, abs=1e-5)
    expected = 1 / (1 + math.exp(-PICTURE_SCALE))
    assert scores(picture) == pytest.approx({"red": expected, "green": 1 - expected}, abs=1e-5)


def test_one_input_needs_no_list(client: TestClient) -> None:
    labels = ["red", "blue"]
    (alone,) = classified(client, inputs="red", labels=labels)
    assert classified(client, inputs=["red"], labels=labels) == [alone]
    assert classified(client, inputs={"text": "red"}, labels=labels) == [alone]


def test_labels_by_themselves_may_all_fit_or_none(client: TestClient) -> None:
    both, neither = classified(
        client, inputs=["red blue", "green"], labels=["red", "blue"], multi_label=True, min_score=0.5
    )
    assert set(scores(both)) == {"red", "blue"}
    assert sum(scores(both).values()) > 1
    assert neither == {"index": 1, "labels": [], "abstained": True}


def test_a_label_by_itself_does_not_depend_on_the_others(client: TestClient) -> None:
    (few,) = classified(client, inputs="red apple", labels=["red"], multi_label=True)
    (many,) = classified(client, inputs="red apple", labels=COLOUR_NAMES, multi_label=True)
    assert scores(many)["red"] == scores(few)["red"]


def test_it_abstains_where_no_label_stands_out(client: TestClient) -> None:
    sure, unsure = classified(client, inputs=["red", "green"], labels=["red", "blue"], min_score=0.6)
    assert (sure["abstained"], list(scores(sure))) == (False, ["red"])
    assert (unsure["abstained"], unsure["labels"]) == (True, [])


def test_the_best_are_kept_and_their_shares_are_of_all(client: TestClient) -> None:
    (whole,) = classified(client, inputs="red green", labels=COLOUR_NAMES)
    (best,) = classified(client, inputs="red green", labels=COLOUR_NAMES, top_k=2)
    assert best["labels"] == whole["labels"][:2]
    assert sum(scores(whole).values()) == pytest.approx(1, abs=1e-5)
    assert list(scores(best)) == ["red", "green"]


def test_templates_are_averaged_as_unit_rows(client: TestClient, fake_encoder: FakeEncoder) -> None:
    templates = ["{}", "{} black black black"]
    (found,) = classified(
        client, inputs={"image": b64(square("red"))}, labels=["red", "blue"], templates=templates
    )

    def mean(colour: str) -> Any:
        reply = client.post("/v1/embeddings", json={"input": [t.replace("{}", colour) for t in templates]})
        rows = np.array([entry["embedding"] for entry in reply.json()["data"]])
        return rows.sum(axis=0) / np.linalg.norm(rows.sum(axis=0))

    red = np.eye(fake_encoder.dim)[COLOUR_NAMES.index("red")]
    cosines = np.array([mean("red") @ red, mean("blue") @ red])
    shares = np.exp(PICTURE_SCALE * cosines) / np.exp(PICTURE_SCALE * cosines).sum()
    assert scores(found) == pytest.approx(dict(zip(["red", "blue"], shares, strict=True)), abs=1e-5)


def test_braces_of_a_label_are_not_a_template(client: TestClient) -> None:
    (found,) = classified(client, inputs="red", labels=["red {0} {}", "{x}"], templates=["a {} b"])
    assert list(scores(found)) == ["red {0} {}", "{x}"]


def test_labels_are_embedded_once(client: TestClient, fake_encoder: FakeEncoder) -> None:
    body: dict[str, Any] = {"inputs": "red", "labels": ["red", "blue"], "templates": ["a {}", "the {}"]}
    fake_encoder.batches.clear()
    first = classified(client, **body)
    assert sum(fake_encoder.batches) == 1 + 4
    assert classified(client, **body) == first
    assert sum(fake_encoder.batches) == 5 + 1
    classified(client, **body | {"labels": ["green", "red"]})
    assert sum(fake_encoder.batches) == 6 + 1 + 2
    classified(client, **body | {"templates": ["a {}"]})
    assert sum(fake_encoder.batches) == 9 + 1 + 2


def test_a_collection_is_a_label_set_of_examples(client: TestClient, fake_encoder: FakeEncoder) -> None:
    put(
        client,
        {"id": "1", "image": b64(square("red")), "metadata": {"label": "warm"}},
        {"id": "2", "text": "red black", "metadata": {"label": "warm"}},
        {"id": "cold", "image": b64(square("blue")), "metadata": {"label": 7}},
        {"id": "gone", "text": "green"},
    )
    assert client.delete("/v1/collections/c/items/gone").status_code == 200
    fake_encoder.batches.clear()
    warm, cold = classified(client, inputs=["red", {"image": b64(striped("blue"))}], label_set="c")
    assert list(scores(warm)) == ["warm", "cold"]
    assert list(scores(cold)) == ["cold", "warm"]
    assert sum(fake_encoder.batches) == 2
    row = np.zeros(2)  # red, black
    row += (1.0, 0.0)
    row += (math.sqrt(0.5), math.sqrt(0.5))
    cosine = row[0] / np.linalg.norm(row)
    assert scores(warm)["warm"] == pytest.approx(1 / (1 + math.exp(-TEXT_SCALE * cosine)), abs=1e-5)


def test_a_changed_label_set_is_read_again(url: str, settings: Settings) -> None:
    wanted = settings.model_copy(update={"catalog_url": url})
    with TestClient(create_app(wanted, cast(Any, FakeEncoder()))) as client:
        assert client.put("/v1/collections/c").status_code == 201
        _change(client)


def _change(client: TestClient) -> None:
    body: dict[str, Any] = {"inputs": "red", "label_set": "c", "top_k": 1}
    put(client, {"id": "a", "text": "blue"}, {"id": "b", "text": "green"})
    before = classified(client, **body)
    assert classified(client, **body) == before
    put(client, {"id": "b", "text": "red"}, {"id": "c", "text": "red black"})
    assert list(scores(classified(client, **body)[0])) == ["b"]
    client.delete("/v1/collections/c/items/b")
    assert list(scores(classified(client, **body)[0])) == ["c"]
    client.delete("/v1/collections/c")
    client.put("/v1/collections/c")
    put(client, {"id": "x", "text": "red"}, {"id": "y", "text": "blue"}, {"id": "z", "text": "green"})
    assert list(scores(classified(client, **body)[0])) == ["x"]


def test_a_label_set_must_be_there_and_have_something_in_it(
    client: TestClient, fake_encoder: FakeEncoder
) -> None:
    body = {"inputs": "red", "label_set": "c"}
    assert_problem(client.post(CLASSIFY, json=body), 422, "label_set_unusable")
    assert_problem(client.post(CLASSIFY, json=body | {"label_set": "none"}), 404, "collection_not_found")
    put(client, {"id": "only", "text": "red"})
    assert_problem(client.post(CLASSIFY, json=body), 422, "nothing_to_choose")
    assert classified(client, **body, multi_label=True)[0]["labels"][0]["label"] == "only"
    fake_encoder.id = "fake-111111111111"
    assert_problem(client.post(CLASSIFY, json=body), 409, "encoder_mismatch")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Guarded]:
    with guarded(tmp_path) as shared:
        yield shared


@pytest.mark.parametrize(("caller", "allowed"), [("read", True), ("own", True), ("other", False)])
def test_a_key_reads_label_sets_of_its_own_collections_alone(
    locked: Guarded, caller: str, allowed: bool
) -> None:
    items = [{"id": colour, "text": colour} for colour in ("red", "blue")]
    locked.api.put("/v1/collections/c/items", json={"items": items}, headers=locked.headers("write"))
    headers = locked.headers(caller)
    reply = locked.api.post(CLASSIFY, json={"inputs": "red", "label_set": "c"}, headers=headers)
    if allowed:
        assert reply.json()["results"][0]["labels"][0]["label"] == "red"
    else:
        assert_problem(reply, 403, "collection_forbidden")
    named = locked.api.post(CLASSIFY, json={"inputs": "red", "labels": ["red", "blue"]}, headers=headers)
    assert named.status_code == 200


def test_a_form_names_labels_and_uploads_pictures(client: TestClient) -> None:
    files = [("file", ("a.png", square("red"))), ("file", ("b.png", square("blue")))]
    data = {"labels": "red, blue", "top_k": "1", "inputs": "blue"}
    results = client.post(CLASSIFY, data=data, files=files).json()["results"]
    assert [list(scores(result)) for result in results] == [["blue"], ["red"], ["blue"]]


@pytest.mark.parametrize(
    ("bad", "status", "code"),
    [
        ({"image": b64(b"\x89PNG\r\n\x1a\n broken")}, 422, "image_undecodable"),
        ({"image": {"url": "http://127.0.0.1/x.png"}}, 422, "url_fetch_disabled"),
        ("  ", 422, "text_empty"),
        ("poison", 422, "encoding_failed"),
    ],
)
def test_a_bad_input_is_pointed_at_or_fails_alone(
    client: TestClient, bad: Any, status: int, code: str
) -> None:
    body = {"inputs": ["red", bad, "blue"], "labels": ["red", "blue"], "top_k": 1}
    reply = client.post(CLASSIFY, json=body)
    assert_problem(reply, status, code)
    assert reply.json()["param"] == "/inputs/1"
    good, failed, other = classified(client, **body, on_error="partial")
    assert (list(scores(good)), list(scores(other))) == (["red"], ["blue"])
    assert (failed["index"], failed["problem"]["code"], "labels" in failed) == (1, code, False)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"inputs": []}, "/inputs"),
        ({"labels": []}, "/labels"),
        ({"labels": ["red", "red"]}, "/labels"),
        ({"labels": ["red", "  "]}, "/labels/1"),
        ({"labels": None}, "/"),
        ({"label_set": "c"}, "/"),
        ({"labels": None, "label_set": "c", "templates": ["a {}"]}, "/"),
        ({"labels": None, "label_set": "../c"}, "/label_set"),
        ({"templates": []}, "/templates"),
        ({"templates": ["a photo"]}, "/templates/0"),
        ({"templates": ["{}", "{} and {}"]}, "/templates/1"),
        ({"min_score": 1.5}, "/min_score"),
        ({"top_k": 0}, "/top_k"),
        ({"threshold": 0.5}, "/threshold"),
    ],
)
def test_a_wrong_classification_is_refused(client: TestClient, change: dict[str, Any], pointer: str) -> None:
    reply = client.post(CLASSIFY, json={"inputs": "red", "labels": ["red", "blue"]} | change)
    assert_problem(reply, 422, "invalid_request")
    assert reply.json()["param"] == pointer


def test_classification_is_bounded(client: TestClient) -> None:
    names = [f"w{i}" for i in range(129)]
    body = {"inputs": "red", "labels": names, "templates": ["a {}", "the {}"]}
    assert_problem(client.post(CLASSIFY, json=body), 413, "too_many_items")
    assert_problem(
        client.post(CLASSIFY, json={"inputs": ["red"] * 257, "labels": ["red", "blue"]}),
        413,
        "too_many_items",
    )
    assert_problem(client.post(CLASSIFY, json={"inputs": "x", "labels": ["red"]}), 422, "nothing_to_choose")
    with client.app.state.retriever.embedder.admission.permit(2048, 0.0, "interactive"):  # type: ignore[attr-defined]
        reply = client.post(CLASSIFY, json={"inputs": "red", "labels": ["red", "blue"]})
        assert_problem(reply, 429, "queue_full")


def test_scores_stay_numbers_at_any_scale() -> None:
    cosines = np.array([-1.0, 0.3, 1.0], np.float32)
    steep = Curve(scale=1e4, slope=1e4, offset=0.3)
    assert among(cosines, steep).tolist() == [0.0, 0.0, 1.0]
    assert each(cosines, steep) == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)
