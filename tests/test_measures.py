"""Composed queries, reranking and paraphrases, with an encoder whose answers are known."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from index.vectors import Vectors
from models.evaluate import PairsError
from models.measures import composed, paraphrases, read_wishes, reranked
from models.preprocess import Document
from tests.fakes import FakeEncoder, square


def pairs(folder: Path, lines: Sequence[tuple[str, list[str]]]) -> Path:
    images = folder / "images"
    images.mkdir(parents=True)
    with (folder / "pairs.jsonl").open("w") as stream:
        for colour, captions in lines:
            (images / f"{colour}.png").write_bytes(square(colour))
            stream.write(json.dumps({"image": f"images/{colour}.png", "captions": captions}) + "\n")
    return folder


def triplets(folder: Path) -> Path:
    images = folder / "images"
    images.mkdir(parents=True)
    for colour in ("red", "green", "blue", "black"):
        (images / f"{colour}.png").write_bytes(square(colour))
    lines = [
        {"reference": "images/red.png", "text": "blue", "target": "images/blue.png"},
        {"reference": "images/green.png", "text": "black", "target": "images/black.png"},
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_caption_finds_its_sibling_by_the_words_they_share(tmp_path: Path) -> None:
    folder = pairs(
        tmp_path, [("red", ["red boat", "red"]), ("blue", ["blue cat", "blue"]), ("green", ["green"])]
    )
    found = paraphrases(folder, FakeEncoder())
    assert found["R@1"] == 100.0


def test_a_caption_that_is_nearer_to_a_stranger_is_missed_at_one(tmp_path: Path) -> None:
    folder = pairs(tmp_path, [("red", ["red boat", "green"]), ("blue", ["red ship", "red"])])
    found = paraphrases(folder, FakeEncoder())
    assert found["R@1"] < 100.0
    assert found["R@5"] == 100.0


def test_the_reference_is_not_among_the_answers_of_its_own_wish(tmp_path: Path) -> None:
    found = composed(triplets(tmp_path), FakeEncoder())
    assert set(found) == {"joint", "mean", "picture", "text"}
    assert found["joint"]["R@1"] == 100.0
    assert found["text"]["R@1"] == 100.0
    assert found["picture"]["R@1"] < 100.0


def test_reranking_is_measured_before_and_after(tmp_path: Path) -> None:
    class Judge(FakeEncoder):
        """Embeds everything alike, and judges by the truth."""

        def embed(self, documents: Sequence[Document]) -> Vectors:
            rows: Vectors = np.tile(np.eye(1, self.dim, dtype=np.float32), (len(documents), 1))
            return rows

        def match(self, query: Document, candidates: Sequence[Document]) -> Vectors:
            truth = FakeEncoder()
            scores: Vectors = truth.embed(candidates) @ truth.embed([query])[0]
            return scores

    folder = pairs(tmp_path, [(colour, [colour]) for colour in ("red", "green", "blue", "black")])
    found = reranked(folder, Judge(), top_n=4)
    assert found["before"]["R@1"] == 25.0
    assert found["after"]["R@1"] == 100.0


def test_what_lies_beyond_the_reranked_keeps_its_place(tmp_path: Path) -> None:
    folder = pairs(tmp_path, [(colour, [colour]) for colour in ("red", "green", "blue", "black")])
    found = reranked(folder, FakeEncoder(), top_n=1)
    assert found["before"] == found["after"]


@pytest.mark.parametrize("line", ["{", '{"reference": "a.png"}', "[1]"])
def test_a_bad_line_of_triplets_names_its_file(tmp_path: Path, line: str) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(PairsError, match=r"test\.jsonl"):
        read_wishes(file)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    folder = pairs(tmp_path, [("red", ["red"])])
    (folder / "images" / "red.png").write_bytes(b"no picture")
    with pytest.raises(PairsError, match=r"red\.png"):
        reranked(folder, FakeEncoder())
