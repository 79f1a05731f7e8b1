"""Relevance: curves beside a bundle, what they say of a search, and that they hide nothing silently."""

import base64
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from bench.relevance import STRANGERS, Pairs, calibration_error, chosen, reliability
from models.bundle import (
    FORMAT,
    Bundle,
    BundleError,
    CanarySpec,
    Graph,
    Manifest,
    TokenizerSpec,
    write_bundle,
)
from models.preprocess import Preprocessing
from models.relevance import FILE, Curve, Relevance
from tests.fakes import FakeEncoder, square
from tests.problems import assert_problem

SEARCH = "/v1/collections/c/search"
# Cosines of texts with texts are taken to be high, those of texts with pictures low.
CURVES = Relevance(
    "fake-000000000000",
    {
        ("text", "text"): Curve(10.0, 0.8),
        ("text", "image"): Curve(10.0, 0.3),
        ("text", "mixed"): Curve(10.0, 0.5),
        ("image", "image"): Curve(20.0, 0.9),
    },
)


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    return FakeEncoder(relevance=CURVES)


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """One picture and three texts, at cosines of 1, 1, 0.71 and 0 with "red"."""
    picture = base64.b64encode(square("red")).decode()
    items = [{"id": "picture", "image": picture}] + [
        {"id": text, "text": text} for text in ("red", "red blue", "green")
    ]
    assert client.put("/v1/collections/c/items", json={"items": items}).json()["errors"] is False
    return client


def small_bundle(folder: Path) -> Bundle:
    """A bundle whose files are listed and hashed, and hold nothing that runs."""
    for name in ("text.onnx", "tokenizer.json", "canary.png", "canary.npy", "probes.npy"):
        (folder / name).write_text(name)
    manifest = Manifest(
        format=FORMAT,
        name="small",
        dim=4,
        modalities=("text",),
        graphs={"text": Graph("text.onnx", ("input_ids",), "rows")},
        fusion="mean",
        preprocessing=Preprocessing(8, "crop", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        tokenizer=TokenizerSpec("tokenizer.json", 8),
        canary=CanarySpec("a", "canary.png", "canary.npy"),
        probes="probes.npy",
        precision={"text": "fp32"},
        licences=(),
        provenance={},
        files={},
    )
    return write_bundle(folder, manifest)


def hits(client: TestClient, **body: Any) -> dict[str, Any]:
    reply = client.post(SEARCH, json=body)
    assert reply.status_code == 200, reply.text
    return {hit["id"]: hit["relevance"] for hit in reply.json()["results"]}


def test_the_same_score_means_more_where_scores_are_low(shop: TestClient) -> None:
    found = hits(shop, query="red", target="image") | hits(shop, query="red", target="text")
    assert found["picture"] == pytest.approx(0.9991, abs=1e-4)
    assert found["red"] == pytest.approx(0.8808, abs=1e-4)
    assert found["red blue"] == pytest.approx(0.2834, abs=1e-3)


def test_results_below_the_relevance_wanted_are_left_out(shop: TestClient) -> None:
    assert set(hits(shop, query="red", target="text", min_relevance=0.25)) == {"red", "red blue"}
    assert set(hits(shop, query="red", target="text", min_relevance=0.5)) == {"red"}
    assert hits(shop, query="red", target="text", min_relevance=1.0) == {}
    assert len(hits(shop, query="red", target="text", min_relevance=0.0)) == 3


def test_each_modality_has_its_own_threshold(shop: TestClient, fake_encoder: FakeEncoder) -> None:
    curves = {**CURVES.curves, ("text", "image"): Curve(10.0, 1.1)}
    fake_encoder.relevance = Relevance(fake_encoder.id, curves)
    assert set(hits(shop, query="red", min_relevance=0.5)) == {"red"}  # the picture is as near, and refused
    assert set(hits(shop, query="red", min_relevance=0.2)) == {"red", "red blue", "picture"}


def test_a_page_is_filled_from_behind_what_is_left_out(shop: TestClient, fake_encoder: FakeEncoder) -> None:
    curves = {**CURVES.curves, ("text", "image"): Curve(10.0, 5.0)}
    fake_encoder.relevance = Relevance(fake_encoder.id, curves)
    picture = base64.b64encode(square("red")).decode()
    pictures = [{"id": f"picture-{number}", "image": picture} for number in range(100)]
    shop.put("/v1/collections/c/items", json={"items": pictures})
    assert set(hits(shop, query="red", min_relevance=0.2, limit=2)) == {"red", "red blue"}


def test_an_item_as_a_query_is_of_its_own_modality(shop: TestClient) -> None:
    shop.put(
        "/v1/collections/c/items",
        json={"items": [{"id": "twin", "image": base64.b64encode(square("red")).decode()}]},
    )
    assert hits(shop, query={"id": "picture"}, target="image") == {"twin": pytest.approx(0.8808, abs=1e-4)}


@pytest.mark.parametrize("query", [["red", "blue"], [{"text": "red"}, {"text": "blue", "weight": -0.5}]])
def test_a_query_of_several_terms_has_no_relevance(shop: TestClient, query: Any) -> None:
    assert set(hits(shop, query=query, target="text").values()) == {None}
    refused = shop.post(SEARCH, json={"query": query, "target": "text", "min_relevance": 0.5})
    assert_problem(refused, 422, "relevance_unknown")


def test_a_modality_without_a_curve_is_not_hidden_but_refused(shop: TestClient) -> None:
    picture = {"image": base64.b64encode(square("red")).decode()}
    refused = shop.post(SEARCH, json={"query": picture, "target": "image", "min_relevance": 0.5})
    assert_problem(refused, 422, "relevance_unknown")
    assert "mixed" in refused.json()["detail"]


def test_an_encoder_without_curves_gives_none(shop: TestClient, fake_encoder: FakeEncoder) -> None:
    fake_encoder.relevance = None
    assert set(hits(shop, query="red").values()) == {None}
    assert_problem(shop.post(SEARCH, json={"query": "red", "min_relevance": 0}), 422, "relevance_unknown")


@pytest.mark.parametrize("wanted", [0.01, 0.5, 0.99])
def test_a_curve_can_be_asked_both_ways(wanted: float) -> None:
    curve = Curve(12.0, 0.4)
    assert curve.relevance(curve.cosine(wanted)) == pytest.approx(wanted)
    assert (curve.cosine(0.0), curve.cosine(1.0)) == (-np.inf, np.inf)


def test_curves_come_back_as_they_were_written_and_change_no_encoder_id(tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path)
    assert Relevance.read(bundle) is None
    curves = Relevance(bundle.encoder_id, CURVES.curves)
    curves.write(bundle.path)
    again = Bundle.open(bundle.path)
    assert (Relevance.read(again), again.encoder_id) == (curves, bundle.encoder_id)


def test_curves_of_another_encoder_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = small_bundle(tmp_path)
    CURVES.write(bundle.path)
    with caplog.at_level(logging.WARNING):
        assert Relevance.read(bundle) is None
    assert CURVES.encoder_id in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"encoder_id": "x", "curves": {"text": {}}}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    bundle = small_bundle(tmp_path)
    (bundle.path / FILE).write_text(text)
    with pytest.raises(BundleError, match=FILE):
        Relevance.read(bundle)


def test_the_pairs_of_a_query_are_one_that_matches_and_some_that_do_not() -> None:
    cosines = np.arange(60.0).reshape(2, 30)
    together = np.zeros((2, 30), np.bool_)
    together[0, 3] = True
    pairs = chosen(cosines, together, ~together)
    assert pairs.matching.tolist() == [3.0]  # the second query matches nothing, and counts for nothing
    assert len(set(pairs.others)) == STRANGERS
    assert set(pairs.others) <= set(np.delete(cosines[0], 3))


def test_a_true_curve_has_no_calibration_error_and_a_bold_one_has() -> None:
    rng = np.random.default_rng(0)
    cosines = rng.uniform(-1, 1, 40_000)
    true = rng.random(40_000) < 1 / (1 + np.exp(-6 * cosines))
    held = np.ones(40_000, np.bool_)
    pairs = Pairs(cosines[true], held[true], cosines[~true], held[~true])
    assert calibration_error(reliability(pairs, Curve(6.0, 0.0))) < 0.02
    assert calibration_error(reliability(pairs, Curve(60.0, 0.0))) > 0.05
