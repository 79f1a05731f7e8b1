"""Explanations: the region and the word that make a cosine are found, by a computing fake."""

import asyncio
import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from bench.explanation import GRID, areas, embedding
from models.preprocess import Document, Picture
from service.explanation import Explainer, covered, heat_of, overlay, windows
from tests.fakes import COLOURS, DIM, FakeEncoder, square
from tests.guarded import guarded
from tests.problems import assert_problem

EXPLAIN = "/v1/explain"


class Mosaic(FakeEncoder):
    """Sees how much there is of each colour, where FakeEncoder sees the mean alone."""

    def _part(self, part: str | Picture) -> Any:
        if isinstance(part, str):
            return super()._part(part)
        pixels = part.reshape(-1, 1, 3).astype(float)
        nearest = np.linalg.norm(pixels - list(COLOURS.values()), axis=2).argmin(axis=1)
        return np.bincount(nearest, minlength=DIM) / len(pixels)


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    return Mosaic()


def spotted(colour: str, box: tuple[int, int, int, int], around: str = "white") -> str:
    """A picture of 8 x 8 with one coloured box in it, as base64: the fake encoder sees it as it is."""
    picture = Image.new("RGB", (8, 8), COLOURS[around])
    picture.paste(COLOURS[colour], box)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def explained(client: TestClient, **body: Any) -> Any:
    reply = client.post(EXPLAIN, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("box", [(0, 0, 4, 4), (4, 4, 8, 8), (0, 4, 4, 8), (4, 0, 8, 4)])
def test_the_region_that_matches_is_the_hottest(client: TestClient, box: tuple[int, int, int, int]) -> None:
    found = explained(client, query="red", item={"image": spotted("red", box, "black")}, grid=4)
    grid = np.array(found["grid"])
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    assert box[0] <= column * 2 < box[2]
    assert box[1] <= row * 2 < box[3]
    assert (found["grid_of"], found["tokens_of"], found["overlay"]) == ("item", "query", None)


def test_the_words_that_match_are_told_from_those_that_do_not(client: TestClient) -> None:
    found = explained(client, query="a red shiny thing", item="red")
    scores = {token["token"]: token["score"] for token in found["tokens"]}
    assert max(scores, key=lambda word: scores[word]) == "red"
    assert scores["shiny"] < 0 < scores["red"]
    assert [token["start"] for token in found["tokens"]] == [0, 2, 6, 12]
    assert found["score"] == pytest.approx(0.5, abs=0.1)
    assert (found["grid"], found["grid_of"]) == (None, None)


def test_one_word_carries_all_of_it(client: TestClient) -> None:
    found = explained(client, query="red", item={"image": base64.b64encode(square("red")).decode()})
    assert found["score"] == pytest.approx(1.0)
    assert found["tokens"] == [{"token": "red", "start": 0, "score": 1.0}]


def test_a_word_beside_a_picture_leaves_the_picture(client: TestClient) -> None:
    beside = {"text": "red", "image": base64.b64encode(square("blue")).decode()}
    found = explained(client, query=beside, item="blue")
    assert found["tokens"][0]["score"] == pytest.approx(0.5**0.5 - 1, abs=1e-5)
    assert (found["grid_of"], found["tokens_of"]) == ("query", "query")


def test_two_pictures_have_a_grid_and_no_words(client: TestClient) -> None:
    red = {"image": base64.b64encode(square("red")).decode()}
    found = explained(client, query=red, item=red, grid=2)
    assert (np.shape(found["grid"]), found["tokens"], found["tokens_of"]) == ((2, 2), None, None)


def test_the_overlay_is_a_picture_that_is_red_where_it_matches(client: TestClient) -> None:
    picture = spotted("green", (0, 0, 4, 4), "black")
    found = explained(client, query="green", item={"image": picture}, grid=4, overlay=True)
    kind, _, data = found["overlay"].partition(",")
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.int16)
    assert (kind, drawn.shape) == ("data:image/png;base64", (8, 8, 3))
    assert drawn[1, 1, 0] > 100 > drawn[6, 6, 0]


def test_a_stored_item_is_explained_by_its_id(client: TestClient) -> None:
    item = {"id": "sku-1", "text": "red boot", "image": base64.b64encode(square("red")).decode()}
    client.put("/v1/collections/c/items", json={"items": [item]})
    found = explained(client, query="red", stored={"collection": "c", "id": "sku-1"})
    [hit] = client.post("/v1/collections/c/search", json={"query": "red"}).json()["results"]
    assert found["score"] == pytest.approx(hit["score"], abs=1e-5)
    missing = client.post(EXPLAIN, json={"query": "red", "stored": {"collection": "c", "id": "sku-2"}})
    assert_problem(missing, 404, "item_not_found")


def test_a_form_sends_the_picture_of_the_item(client: TestClient) -> None:
    reply = client.post(EXPLAIN, data={"query": "red", "grid": "3"}, files={"file": square("red")})
    assert np.shape(reply.json()["grid"]) == (3, 3)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "red"}, "invalid_request"),
        ({"query": "red", "item": "red", "stored": {"collection": "c", "id": "a"}}, "invalid_request"),
        ({"query": "red", "item": "red", "grid": 9}, "invalid_request"),
        ({"query": "red", "item": "red", "method": "magic"}, "invalid_request"),
        ({"query": " ", "item": "red"}, "text_empty"),
        ({"query": "red", "item": {"image": "%%%"}}, "image_base64_invalid"),
        ({"query": "red", "item": "poison"}, "encoding_failed"),
    ],
)
def test_a_wrong_request_is_refused(client: TestClient, body: dict[str, Any], code: str) -> None:
    assert_problem(client.post(EXPLAIN, json=body), 422, code)


def test_windows_lie_on_every_cell_as_often_and_over_the_border_too() -> None:
    masks = windows(3)
    assert masks.shape == (16, 3, 3)
    assert set(masks.sum(axis=0).flatten()) == {4}
    assert sorted(masks.sum(axis=(1, 2)))[-1] == 4


def test_heat_is_in_units_of_the_cosine() -> None:
    """Of a score that is the sum of the cells that can be seen, every window is worth what its cells are."""
    worth = np.array([[0.1, 0.0], [0.0, 0.3]])
    masks = np.array([[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 1]]], np.bool_)
    seen = [*(worth * ~mask for mask in masks), *(worth * mask for mask in masks), worth * 0]
    heat = heat_of(float(worth.sum()), np.array([each.sum() for each in seen], np.float32), masks)
    assert heat == pytest.approx(worth, abs=1e-6)


def test_what_is_covered_has_the_mean_colour_and_the_rest_stays() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2] = 200
    mask = np.array([[[True, False], [False, False]]])
    without, alone, nothing = covered(picture, mask)
    assert without[:2, :2].tolist() == np.full((2, 2, 3), 100).tolist()
    assert (without[:, 2:] == picture[:, 2:]).all()
    assert (alone[:2, :2] == 200).all()
    assert (alone[2:] == 100).all()
    assert (nothing == 100).all()


def test_heat_of_zeros_is_drawn_as_the_picture_itself() -> None:
    picture = np.full((8, 8, 3), 90, np.uint8)
    drawn = Image.open(io.BytesIO(overlay(picture, np.zeros((2, 2), np.float32))))
    assert (np.asarray(drawn) == picture).all()


def test_a_limited_key_explains_items_of_its_own_collections_alone(tmp_path: Path) -> None:
    with guarded(tmp_path) as locked:
        item = {"items": [{"id": "a", "text": "red"}]}
        admin = locked.headers("admin")
        for collection in ("c", "e"):
            locked.api.put(f"/v1/collections/{collection}", headers=admin)
            locked.api.put(f"/v1/collections/{collection}/items", json=item, headers=admin)
        asked = [{"query": "red", "stored": {"collection": name, "id": "a"}} for name in ("c", "e")]
        replies = [locked.api.post(EXPLAIN, json=body, headers=locked.headers("own")) for body in asked]
        assert [reply.status_code for reply in replies] == [200, 403]
        assert_problem(replies[1], 403, "collection_forbidden")


def test_what_is_hot_is_missed_sooner_and_seen_sooner_than_what_comes_by_lot() -> None:
    picture = np.zeros((12, 12, 3), np.uint8)
    picture[2:6, 6:10] = COLOURS["red"]

    async def measured() -> tuple[float, float]:
        red, scene = Document(("red",)), Document((picture,))
        async with embedding(Mosaic()) as embedder:
            heat = (await Explainer(embedder).explain(red, scene, GRID)).heat
            assert heat is not None
            return await areas(embedder, picture, "red", heat, np.random.default_rng(0))

    deletion, insertion = asyncio.run(measured())
    assert deletion < -0.05 < 0.05 < insertion
