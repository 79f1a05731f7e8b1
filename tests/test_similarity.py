"""POST /v1/similarity: the cosine of one content with others."""

import base64
import math
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.fakes import square
from tests.problems import assert_problem

SIMILARITY = "/v1/similarity"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_similarity_is_the_cosine_with_each_target(client: TestClient) -> None:
    targets = ["red", "blue", {"image": b64(square("red"))}, "red blue"]
    reply = client.post(SIMILARITY, json={"source": "red", "targets": targets}).json()
    assert reply["scores"] == pytest.approx([1, 0, 1, math.sqrt(0.5)], abs=1e-5)
    assert reply["model"] == "fake"
    assert reply["usage"] == {"prompt_tokens": 5, "total_tokens": 5, "image_count": 1, "image_pixels": 256}
    files = [("file", ("a.png", square("red"))), ("file", ("b.png", square("blue")))]
    assert client.post(SIMILARITY, data={"source": "blue"}, files=files).json()["scores"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("body", "pointer", "status", "code"),
    [
        ({"source": "poison", "targets": ["red"]}, "/source", 422, "encoding_failed"),
        ({"source": {"image": "%%%"}, "targets": ["red"]}, "/source", 422, "image_base64_invalid"),
        ({"source": "red", "targets": ["red", "poison"]}, "/targets/1", 422, "encoding_failed"),
        (
            {"source": "red", "targets": [{"image": {"id": "x"}}]},
            "/targets/0/image/id",
            422,
            "invalid_request",
        ),
        ({"source": "red", "targets": []}, "/targets", 422, "invalid_request"),
        ({"source": ["red"], "targets": ["red"]}, "/source", 422, "invalid_request"),
    ],
)
def test_a_bad_similarity_is_pointed_at(
    client: TestClient, body: dict[str, Any], pointer: str, status: int, code: str
) -> None:
    reply = client.post(SIMILARITY, json=body)
    assert_problem(reply, status, code)
    assert reply.json()["param"] == pointer


def test_similarity_is_bounded(client: TestClient) -> None:
    reply = client.post(SIMILARITY, json={"source": "red", "targets": ["red"] * 256})
    assert_problem(reply, 413, "too_many_items")
