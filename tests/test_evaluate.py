import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from models.evaluate import PairsError, Rows, evaluate_pairs, read_pairs, recall_at_k
from models.preprocess import Document, EmptyText, Picture, UnreadableImage

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EYE = np.eye(4, dtype=np.float32)


class ColourReader:
    """Reads a picture's own pixels; a text must hold something."""

    def picture(self, data: bytes, *, max_pixels: int) -> Picture:
        if len(data) != 3:
            raise UnreadableImage("not three bytes")
        return np.frombuffer(data, np.uint8).reshape(1, 1, 3)

    def check_text(self, text: str) -> None:
        if not text.strip():
            raise EmptyText("blank")


class ColourEncoder:
    """Gives a colour's name and a picture of that colour the same unit row."""

    id = "colours-1"
    preprocessor = ColourReader()

    def embed(self, documents: Sequence[Document]) -> Rows:
        return np.stack([self._row(document.parts[0]) for document in documents])

    def _row(self, part: str | Picture) -> Rows:
        if isinstance(part, str):
            row = np.array([float(name in part) for name in ("red", "green", "blue")])
        else:
            row = part.reshape(3) / 255
        unit: Rows = (row / max(float(np.linalg.norm(row)), 1e-9)).astype(np.float32)
        return unit


def write_pairs(folder: Path, *lines: dict[str, object] | str) -> Path:
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        (folder / f"{name}.rgb").write_bytes(bytes(colour))
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "pairs.jsonl").write_text(text)
    return folder


def test_a_query_hits_when_its_row_is_among_the_k_nearest() -> None:
    gallery = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    queries = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    found = recall_at_k(queries, gallery, [[0], [1], [2]], ks=(1, 2, 3))
    assert found == pytest.approx({"R@1": 100 / 3, "R@2": 200 / 3, "R@3": 100})


def test_any_relevant_row_makes_a_hit() -> None:
    assert recall_at_k(EYE[:1], EYE, [[3, 0]], ks=(1,)) == {"R@1": 100.0}


def test_a_query_with_nothing_relevant_never_hits() -> None:
    assert recall_at_k(EYE[:2], EYE, [[0], []], ks=(1, 4)) == {"R@1": 50.0, "R@4": 50.0}


def test_a_constant_embedding_scores_nothing() -> None:
    constant = np.full((50, 4), 0.5, np.float32)
    assert recall_at_k(constant, constant, [[i] for i in range(50)]) == {"R@1": 0.0, "R@5": 0.0, "R@10": 0.0}


def test_relevant_rows_that_tie_do_not_push_each_other_down() -> None:
    gallery = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    assert recall_at_k(np.array([[1, 0]], np.float32), gallery, [[0, 1, 2]], ks=(1,)) == {"R@1": 100.0}


def test_blocks_of_queries_do_not_change_the_result() -> None:
    random = np.random.default_rng(0)
    queries, gallery = random.normal(size=(2500, 8)), random.normal(size=(30, 8))
    relevant = [[int(i)] for i in random.integers(0, 30, 2500)]
    order = np.argsort(-(queries @ gallery.T), axis=1)
    expected = 100 * np.mean([relevant[i][0] in order[i, :5] for i in range(2500)])
    found = recall_at_k(queries.astype(np.float32), gallery.astype(np.float32), relevant, ks=(5,))
    assert found["R@5"] == pytest.approx(expected, abs=0.05)


def test_pairs_are_scored_in_both_directions(tmp_path: Path) -> None:
    write_pairs(
        tmp_path,
        {"image": "red.rgb", "captions": ["a red thing", "something blue"]},
        {"image": "green.rgb", "captions": ["green", "also green"]},
        {"image": "blue.rgb", "captions": ["blue"]},
    )
    found = evaluate_pairs(tmp_path, ColourEncoder())
    assert list(found) == ["t2i", "i2t", "images", "captions", "encoder_id"]
    assert found["t2i"]["R@1"] == pytest.approx(80)  # "something blue" finds the blue picture, not its own
    assert found["i2t"] == {"R@1": pytest.approx(200 / 3), "R@5": 100.0, "R@10": 100.0}  # blue: two texts tie
    assert (found["images"], found["captions"], found["encoder_id"]) == (3, 5, "colours-1")


def test_every_image_that_carries_a_caption_is_relevant_to_it(tmp_path: Path) -> None:
    (tmp_path / "red2.rgb").write_bytes(bytes(RED))
    write_pairs(
        tmp_path,
        {"image": "red.rgb", "captions": ["red"]},
        {"image": "red2.rgb", "captions": ["red"]},
        {"image": "blue.rgb", "captions": ["blue"]},
    )
    found = evaluate_pairs(tmp_path, ColourEncoder())
    assert found["t2i"]["R@1"] == 100.0
    assert found["i2t"]["R@1"] == 100.0


def test_a_split_keeps_only_its_own_lines(tmp_path: Path) -> None:
    write_pairs(
        tmp_path,
        {"image": "red.rgb", "captions": ["red"], "split": "val"},
        {"image": "blue.rgb", "captions": ["blue"], "split": "test"},
        {"image": "green.rgb", "captions": ["green"]},
    )
    assert [pair.captions for pair in read_pairs(tmp_path, "val")] == [("red",)]
    assert evaluate_pairs(tmp_path, ColourEncoder())["images"] == 3


def test_progress_counts_up_to_every_document(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [{"image": "red.rgb", "captions": [f"red {i}"]} for i in range(40)]
    write_pairs(tmp_path, *lines)
    seen: list[tuple[int, int]] = []
    evaluate_pairs(tmp_path, ColourEncoder(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(32, 80), (40, 80), (72, 80), (80, 80)]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 2: not JSON"),
        ("[]", "line 2: no image"),
        ({"captions": ["red"]}, "line 2: no image"),
        ({"image": "red.rgb", "captions": "red"}, "line 2: captions is not a list"),
        ({"image": "red.rgb", "captions": []}, "line 2: captions is not a list"),
        ({"image": "gone.rgb", "captions": ["red"]}, r"line 2: .*gone\.rgb"),
        ({"image": "pairs.jsonl", "captions": ["red"]}, r"line 2: .*pairs\.jsonl: not three bytes"),
        ({"image": "red.rgb", "captions": ["red", " "]}, "line 2: ' ': blank"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(
    tmp_path: Path, line: dict[str, object] | str, complaint: str
) -> None:
    write_pairs(tmp_path, {"image": "green.rgb", "captions": ["green"]}, line)
    with pytest.raises(PairsError, match=complaint):
        evaluate_pairs(tmp_path, ColourEncoder())


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"pairs\.jsonl"):
        evaluate_pairs(tmp_path, ColourEncoder())
    write_pairs(tmp_path, {"image": "red.rgb", "captions": ["red"], "split": "val"})
    with pytest.raises(PairsError, match="no pairs of split 'test'"):
        evaluate_pairs(tmp_path, ColourEncoder(), split="test")
