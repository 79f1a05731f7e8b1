"""Fusion "joint" on a small real bundle: what must not change an answer, and what must."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle import Bundle, BundleError, write_bundle
from models.encoder import Encoder, MatchUnsupported
from models.joint import JointRuntime
from models.preprocess import Document, EmptyText, Picture
from tests.joint_bundle import MAX_TOKENS, WIDTH, build, picture

RED, BLUE = picture(5), picture(6)
DOCUMENTS = [
    Document(("a red apple",)),
    Document((RED,)),
    Document((RED, "but blue")),
    Document(("a long text about many things at once",)),
    Document((BLUE, RED)),
    Document(("two", BLUE, "and", RED)),
    Document((BLUE,)),
    Document(("an apple", "a pear")),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(tmp_path_factory.mktemp("joint"))


@pytest.fixture
def encoder(bundle: Bundle) -> Encoder:
    return Encoder.load(bundle, device="cpu", threads=1)


def drawn(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures go into each call of the image graph from now on."""
    counts: list[int] = []
    pixels = encoder.preprocessor.pixels

    def counting(pictures: Sequence[Picture]) -> NDArray[np.uint8] | NDArray[np.float32]:
        counts.append(len(pictures))
        return pixels(pictures)

    monkeypatch.setattr(encoder.preprocessor, "pixels", counting)
    return counts


def watched(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The sequences, words and picture tokens of each call of the document graph from now on."""
    calls: list[tuple[int, int, int]] = []
    run = encoder._run

    def watching(kind: Any, output: str, *inputs: Any, **told: Any) -> Any:
        if kind == "document":
            calls.append((*inputs[0].shape, inputs[3].shape[1]))
        return run(kind, output, *inputs, **told)

    monkeypatch.setattr(encoder._joint, "_run", watching)
    return calls


def test_the_canaries_sing(encoder: Encoder) -> None:
    assert encoder.canary_cosine() > 0.99999
    assert (encoder.fusion, encoder.matches, encoder.dim) == ("joint", True, WIDTH)


def test_rows_are_unit_float32_and_all_different(encoder: Encoder) -> None:
    rows = encoder.embed(DOCUMENTS)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    assert (rows @ rows.T - 2 * np.eye(len(rows))).max() < 0.9999


def test_no_documents_make_no_rows_and_no_probabilities(encoder: Encoder) -> None:
    assert encoder.embed([]).shape == (0, WIDTH)
    assert encoder.match(DOCUMENTS[0], []).shape == (0,)


@pytest.mark.parametrize("max_batch", [1, 3, 32])
def test_a_batch_equals_its_singles_whatever_it_is_padded_to(bundle: Bundle, max_batch: int) -> None:
    encoder = Encoder.load(bundle, device="cpu", threads=1, max_batch=max_batch)
    singles = np.concatenate([encoder.embed([document]) for document in DOCUMENTS])
    assert encoder.embed(DOCUMENTS) == pytest.approx(singles, abs=1e-5)
    for query in DOCUMENTS:
        alone = np.concatenate([encoder.match(query, [document]) for document in DOCUMENTS])
        assert encoder.match(query, DOCUMENTS) == pytest.approx(alone, abs=1e-5)


def test_a_longer_neighbour_does_not_change_a_text(encoder: Encoder) -> None:
    alone = encoder.embed([Document(("apple",))])[0]
    beside = encoder.embed([Document(("apple",)), Document(("word " * 300,))])[0]
    assert beside == pytest.approx(alone, abs=1e-5)


def test_what_is_in_padding_does_not_change_a_row(encoder: Encoder) -> None:
    ids, positions, slots = np.array([[2, 9, 3]]), np.array([[0, 1, 2]]), np.array([[0, 0, 0]])
    none = np.empty((1, 0, WIDTH), np.float32), np.empty((1, 0), np.int64)
    plain = encoder._run("document", "embedding", ids, positions, slots, *none)
    padded = encoder._run(
        "document",
        "embedding",
        np.pad(ids, ((0, 0), (0, 4)), constant_values=11),
        np.pad(positions, ((0, 0), (0, 4)), constant_values=5),
        np.pad(slots, ((0, 0), (0, 4)), constant_values=-1),
        np.full((1, 4, WIDTH), 3, np.float32),
        np.full((1, 4), -1),
    )
    assert padded == pytest.approx(plain, abs=1e-5)


def test_the_order_of_parts_matters(encoder: Encoder) -> None:
    parts: tuple[Any, ...] = (RED, BLUE, "apple")
    rows = encoder.embed([Document(order) for order in permutations(parts)])
    assert (rows @ rows.T - 2 * np.eye(6)).max() < 0.9999


def test_a_document_of_a_picture_and_words_is_not_the_mean_of_both(encoder: Encoder) -> None:
    mixed, red, words = encoder.embed(
        [Document((RED, "but blue")), Document((RED,)), Document(("but blue",))]
    )
    mean = red + words
    assert mixed @ mean / np.linalg.norm(mean) < 0.999


def test_texts_that_do_not_fit_are_cut_fairly(encoder: Encoder) -> None:
    long, short = "abc " * 200, "xyz"
    rows = encoder.embed([Document((long, short)), Document((long, "zzz")), Document((long,))])
    assert rows[0] @ rows[1] < 0.9999
    cut = Document(("abc " * MAX_TOKENS,))
    assert encoder.embed([cut])[0] == pytest.approx(rows[2], abs=1e-6)


def test_a_match_is_a_probability_that_depends_on_both_sides(encoder: Encoder) -> None:
    table = np.stack([encoder.match(query, DOCUMENTS) for query in DOCUMENTS])
    assert table.dtype == np.float32
    assert (table > 0).all()
    assert (table < 1).all()
    assert np.ptp(table, axis=0).min() > 0.01
    assert np.ptp(table, axis=1).min() > 0.01


def test_encoders_in_several_threads_answer_as_one_does(bundle: Bundle, encoder: Encoder) -> None:
    rows, probabilities = encoder.embed(DOCUMENTS), encoder.match(DOCUMENTS[2], DOCUMENTS)

    def differs(_: int) -> bool:
        own = Encoder.load(bundle, device="cpu", threads=1)
        return any(
            not np.array_equal(own.embed(DOCUMENTS), rows)
            or not np.array_equal(own.match(DOCUMENTS[2], DOCUMENTS), probabilities)
            for _ in range(5)
        )

    with ThreadPoolExecutor(4) as threads:
        assert not any(threads.map(differs, range(8)))


def test_a_match_tells_the_sides_apart(encoder: Encoder) -> None:
    there = encoder.match(Document(("apple",)), [Document((RED,))])[0]
    back = encoder.match(Document((RED,)), [Document(("apple",))])[0]
    assert abs(there - back) > 1e-4


def test_each_different_picture_of_a_match_is_encoded_once(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = drawn(encoder, monkeypatch)
    encoder.match(
        Document((RED, "but blue")), [Document((RED,)), Document((BLUE,)), Document((BLUE, "blue"))]
    )
    assert counts == [2]


def test_a_match_of_texts_draws_nothing(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = drawn(encoder, monkeypatch)
    encoder.match(DOCUMENTS[0], [DOCUMENTS[3], DOCUMENTS[7]])
    assert counts == []


def test_documents_with_many_pictures_take_smaller_batches(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = watched(encoder, monkeypatch)
    encoder.embed([Document((RED,) * 200)] * 12)
    assert len(calls) > 1
    assert max(count * (words + tokens) ** 2 for count, words, tokens in calls) <= 4_000_000


def test_texts_of_like_length_share_a_batch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load(bundle, device="cpu", threads=1, max_batch=2)
    calls = watched(encoder, monkeypatch)
    encoder.embed([Document((text,)) for text in ("abc " * 30, "abc", "abcd " * 30, "abcd")])
    assert calls == [(2, 6, 0), (2, MAX_TOKENS, 0)]


def test_a_text_is_not_padded_to_a_much_longer_one(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = watched(encoder, monkeypatch)
    encoder.embed([Document(("a" * length,)) for length in (1, 2, 3, 4, 60, 60)])
    assert [count for count, _, _ in calls] == [4, 2]


def test_where_new_shapes_are_costly_there_are_few(
    bundle: Bundle, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = encoder.preprocessor
    encoder._joint = JointRuntime(bundle.manifest, read, encoder._run, 32, few_shapes=True)
    calls = watched(encoder, monkeypatch)
    encoder.embed([Document(("a" * length,)) for length in (1, 2, 3, 4, 20, 20)])
    assert calls == [(6, 32, 0)]


def test_an_empty_text_is_refused(encoder: Encoder) -> None:
    with pytest.raises(EmptyText):
        encoder.embed([Document((RED, " "))])
    with pytest.raises(EmptyText):
        encoder.match(Document((" ",)), [Document((RED,))])


def test_a_bundle_without_a_match_output_embeds_and_says_that_it_cannot_match(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    encoder = Encoder.load(build(tmp_path_factory.mktemp("embeds"), match=False), device="cpu", threads=1)
    assert encoder.embed(DOCUMENTS).shape == (len(DOCUMENTS), WIDTH)
    assert not encoder.matches
    with pytest.raises(MatchUnsupported, match="tiny-joint"):
        encoder.match(DOCUMENTS[0], DOCUMENTS)


@pytest.mark.parametrize("change", [{"picture_tokens": 5}, {"width": 9}, {"match": None}])
def test_one_changed_size_of_the_graphs_is_another_encoder(bundle: Bundle, change: dict[str, Any]) -> None:
    assert bundle.manifest.joint is not None
    other = replace(bundle.manifest, joint=replace(bundle.manifest.joint, **change))
    assert replace(bundle, manifest=other).encoder_id != bundle.encoder_id


def test_a_joint_bundle_without_its_graphs_or_its_sizes_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bundle = build(tmp_path_factory.mktemp("broken"))
    graphs = dict(bundle.manifest.graphs)
    del graphs["image"]
    for broken in (replace(bundle.manifest, joint=None), replace(bundle.manifest, graphs=graphs)):
        with pytest.raises(BundleError, match="joint"):
            write_bundle(bundle.path, broken)
