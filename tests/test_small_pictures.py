"""Small pictures are decoded by whoever encodes them, where more than one does; nothing else changes."""

import io
import json
import threading
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from models.preprocess import Picture
from service.app import create_app
from service.config import Settings
from tests.fakes import FakeEncoder, FakePreprocessor, square
from tests.test_api import found
from tests.test_jobs_api import b64, ended, errors, submit
from tests.test_timing import stages

SMALL = square("red", format="JPEG")
SPOILT = SMALL[: SMALL.index(b"\xff\xda") + 4]  # its frame is whole; its scan is not


class Watched(FakePreprocessor):
    """Remembers which kind of thread decoded."""

    def __init__(self) -> None:
        self.decoders: list[str] = []

    def picture(self, data: bytes, *, max_pixels: int) -> Picture:
        self.decoders.append(threading.current_thread().name.partition("_")[0])
        return super().picture(data, max_pixels=max_pixels)


def progressive() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "JPEG", progressive=True)
    return file.getvalue()


@pytest.fixture(params=[1, 2])
def encoder(request: pytest.FixtureRequest) -> FakeEncoder:
    return FakeEncoder(workers=request.param, preprocessor=Watched())


@pytest.fixture
def client(settings: Settings, encoder: FakeEncoder) -> Iterator[TestClient]:
    with TestClient(create_app(settings, cast(Any, encoder))) as api:
        assert api.put("/v1/collections/c").status_code == 201
        yield api


def decoders(encoder: FakeEncoder) -> list[str]:
    return cast(Watched, encoder.preprocessor).decoders


def embed(client: TestClient, *pictures: bytes, **options: Any) -> Any:
    return client.post("/v1/embeddings", json={"input": [{"image": b64(one)} for one in pictures], **options})


@pytest.mark.parametrize(
    "picture",
    [
        square("red"),
        progressive(),
        square("red", side=1001, format="JPEG"),
        SMALL + bytes(250_000),
        SMALL.replace(b"\xff\xc0", b"\xff\xc1"),
    ],
    ids=["another format", "progressive", "large", "long", "extended"],
)
def test_who_decodes_depends_on_what_it_may_take(
    client: TestClient, encoder: FakeEncoder, picture: bytes
) -> None:
    assert embed(client, SMALL).status_code == 200
    assert decoders(encoder) == ["decode" if encoder.workers == 1 else "encoder"]
    embed(client, picture)
    plain = picture.startswith(b"\xff\xd8") and b"\xff\xc1" in picture
    assert decoders(encoder)[1] == ("encoder" if plain and encoder.workers > 1 else "decode")


def test_rows_and_times_are_the_same_whoever_decodes(client: TestClient) -> None:
    reply = embed(client, SMALL, square("red"), square("blue", format="JPEG"))
    rows = np.array([entry["embedding"] for entry in reply.json()["data"]])
    assert rows[0] == pytest.approx(rows[1])
    assert rows[0] @ rows[2] == pytest.approx(0)
    assert {"decode", "queue", "encode"} <= stages(reply)


def test_a_spoilt_one_fails_alone(client: TestClient) -> None:
    reply = embed(client, SMALL, SPOILT, SMALL, on_error="partial").json()
    assert [entry["object"] for entry in reply["data"]] == ["embedding", "error", "embedding"]
    assert reply["data"][1]["problem"]["code"] == "image_undecodable"
    alone = embed(client, SPOILT)
    assert (alone.status_code, alone.json()["code"]) == (422, "image_undecodable")


def test_bulk_jobs_know_which_line_was_spoilt(client: TestClient) -> None:
    pictures = [SMALL, SPOILT, square("blue"), square("green", format="JPEG")]
    items = [{"id": str(number), "image": b64(one)} for number, one in enumerate(pictures)]
    job = submit(client, [json.dumps({"item": item}) for item in [*items, {"id": "4", "text": "black"}]])
    assert ended(client, job["id"])["counts"] == {"total": 5, "done": 4, "failed": 1, "skipped": 0}
    (told,) = errors(client, job["id"])
    assert (told["line"], told["problem"]["code"]) == (2, "image_undecodable")
    for id, colour in (("0", "red"), ("2", "blue"), ("3", "green"), ("4", "black")):
        assert found(client, query=colour, limit=1) == [id]
