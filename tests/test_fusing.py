# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Graphs rewritten to run faster answer as they did, and run less."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from models.bundle import Bundle
from models.calibration import int8_convolutions
from models.fusing import of_bytes, with_fused_attention, with_integer_means
from models.importing.answers import PROBES
from models.momo_graphs import DOCUMENT_INPUTS, EMBEDDING, MATCH
from models.preprocess import Picture, Preprocessing, Preprocessor
from models.refit import heads_of, refitted
from models.sequences import Layout, Parts, Sequences
from models.stem import DEPTHS, stem
from tests.joint_bundle import tokenizer
from tests.momo_models import SMALL
from tests.test_export import exported
from tests.test_stem import Network

Floats = NDArray[np.float32]
LAYOUT = Layout(2, 3, 40)


def rule(side: int) -> Preprocessing:
    return Preprocessing(side, "crop", "bicubic", (127.0,) * 3, (128.0,) * 3)


def preprocessor(folder: Path, side: int) -> Preprocessor:
    tokenizer().save(str(folder / "letters.json"))
    return Preprocessor(rule(side), folder / "letters.json", max_tokens=40)


def pictures(side: int, count: int, seed: int = 0) -> list[Picture]:
    """Noise, in which every value occurs."""
    return [*np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)]


def run(model: onnx.ModelProto, pixels: NDArray[Any]) -> list[Floats]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Floats] = session.run(None, {"pixels": pixels})
    return found


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# 64 is a multiple of the four pixels that become one, 66 and 65 are none.
@pytest.mark.parametrize(("side", "merged"), [(64, True), (66, False), (65, False)])
def test_an_int8_stem_of_bytes_sees_bit_for_bit_what_it_saw(side: int, merged: bool, tmp_path: Path) -> None:
    read = preprocessor(tmp_path, side)
    seen = [np.full((side, side, 3), value, np.uint8) for value in (0, 255)]
    coarse = int8_convolutions(stem(Network(), side), read, [*seen, *pictures(side, 8)])
    shown = pictures(side, 3, seed=1)
    wanted = run(coarse, read.normalised(shown))
    found = of_bytes(coarse, rule(side))
    before = kinds(found)[: kinds(found).index("Conv")]
    assert ("Reshape" in before) is merged
    assert not {"Cast", "Sub"} & set(kinds(found))
    for ours, theirs in zip(run(found, np.stack(shown)), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_stem_that_codes_no_bytes_normalises_them(tmp_path: Path) -> None:
    read, shown = preprocessor(tmp_path, 64), pictures(64, 3)
    narrow = [np.full((64, 64, 3), value, np.uint8) for value in (20, 200)]  # no code of these is a byte
    exact = stem(Network(), 64)
    for model in (exact, int8_convolutions(exact, read, narrow)):
        wanted = run(model, read.normalised(shown))
        for ours, theirs in zip(run(of_bytes(model, rule(64)), np.stack(shown)), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_means_of_codes_are_those_of_their_values(tmp_path: Path) -> None:
    read, shown = preprocessor(tmp_path, 64), pictures(64, 3)
    coarse = int8_convolutions(stem(Network(), 64), read, pictures(64, 8, seed=1))
    pixels = read.normalised(shown)
    wanted = run(coarse, pixels)
    found = with_integer_means(coarse)
    assert kinds(found).count("MatMulInteger") == DEPTHS
    assert "MatMul" not in kinds(found)
    for ours, theirs in zip(run(found, pixels), wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    exact = stem(Network(), 64).SerializeToString()
    assert with_integer_means(onnx.load_from_string(exact)).SerializeToString() == exact


def test_a_graph_of_bytes_is_left_as_it_is() -> None:
    once = of_bytes(stem(Network(), 64), rule(64)).SerializeToString()
    assert of_bytes(onnx.load_from_string(once), rule(64)).SerializeToString() == once


@pytest.fixture(scope="module", params=["fp32", "int8"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose document graph is as GraphBuilder writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.export.with_fused_attention", lambda document: document)
        return exported(tmp_path_factory.mktemp("plain"), SMALL, request.param).bundle


def fed(pairs: bool) -> dict[str, NDArray[Any]]:
    """Two documents of a picture and a text, or two pairs of these."""
    documents: list[Parts] = [[[5, 6, 7], 0], [[8, 9], 1]]
    one, other = documents
    laid_out = (
        Sequences.of_pairs([(one, other), (other, one)], LAYOUT) if pairs else Sequences.of(documents, LAYOUT)
    )
    slots = laid_out.token_slots(SMALL.picture_tokens)
    tokens = np.random.default_rng(3).normal(size=(*slots.shape, SMALL.token_width)).astype(np.float32)
    arrays = (laid_out.input_ids, laid_out.word_positions, laid_out.word_slots, tokens, slots)
    return dict(zip(DOCUMENT_INPUTS, arrays, strict=True))


def opened(document: onnx.ModelProto | Path, profile: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    model = str(document) if isinstance(document, Path) else document.SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_fused_attention_gives_the_rows_and_the_logits_of_its_parts(plain: Bundle) -> None:
    file = plain.file("document.onnx")
    fused = with_fused_attention(onnx.load(file))
    assert kinds(fused).count("MultiHeadAttention") == SMALL.layers
    assert "Softmax" not in kinds(fused)
    sessions = [opened(file), opened(fused)]
    for output, pairs in ((EMBEDDING, False), (MATCH, True)):
        ours, theirs = (session.run([output], fed(pairs))[0] for session in sessions)
        assert ours == pytest.approx(
            theirs, abs=0.02 if plain.manifest.precision["image"] == "int8" else 1e-5
        )
    again = with_fused_attention(onnx.load_from_string(fused.SerializeToString()))
    assert again.SerializeToString() == fused.SerializeToString()


def test_an_attention_of_another_make_is_refused(plain: Bundle) -> None:
    document = onnx.load(plain.file("document.onnx"))
    softmax = next(node for node in document.graph.node if node.op_type == "Softmax")
    softmax.op_type = "Hardmax"
    with pytest.raises(ValueError, match="no attention but MatMul, Add, Hardmax"):
        with_fused_attention(document)


def test_who_embeds_does_not_pay_for_a_match(plain: Bundle, tmp_path: Path) -> None:
    def executed(pairs: bool, output: str) -> int:
        session = opened(plain.file("document.onnx"), tmp_path / output)
        session.run([output], fed(pairs))
        events = json.loads(Path(session.end_profiling()).read_text())
        ran = [event["args"].get("op_name") for event in events if event["cat"] == "Node"]
        return ran.count("Gelu") + ran.count("BiasGelu")

    # Every layer has one, and the judge of a match.
    assert executed(True, MATCH) == SMALL.layers + 1
    assert executed(False, EMBEDDING) == SMALL.layers


def test_a_match_of_a_document_alone_is_nothing(plain: Bundle) -> None:
    (logits,) = opened(plain.file("document.onnx")).run([MATCH], fed(pairs=False))
    assert logits.tolist() == [0, 0]


def test_the_bundle_that_ships_is_what_an_export_of_today_would_write(tmp_path: Path) -> None:
    bundle = Bundle.open(Bundle.default_path())
    heads = heads_of(onnx.load(bundle.file("document.onnx")))
    assert refitted(bundle, heads, tmp_path, PROBES).encoder_id == bundle.encoder_id
