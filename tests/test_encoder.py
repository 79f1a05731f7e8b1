import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models.bundle import Bundle
from models.encoder import Encoder, alike
from models.evaluate import evaluate_pairs
from models.preprocess import Document, EmptyText, Picture
from models.sessions import ProviderError

ROOT = Path(__file__).parent.parent
HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
HAS_OPENVINO = find_spec("onnxruntime_ep_openvino") is not None
SAME = 0.9995  # the cosine of two rows of one thing: sums in another order may round to the next 8-bit code
SETS = ROOT.parent / "shared" / "data"
TEXTS = (
    "a dog",
    "two children in red shirts play with a ball on the beach while a brown dog watches them",
    "赤いりんご",
    "an apple",
    "a boy jumps off a rock into the sea",
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(Bundle.default_path(), device="cpu", threads=1)


def blob(seed: int, size: int) -> Picture:
    """A smooth picture of few colours, so that an encoder has something to see."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    turns = random.uniform(2, 12, (3, 2))
    waves = [np.sin(across * x + down * y) for across, down in turns]
    return (127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def text_documents() -> list[Document]:
    return [Document((text,)) for text in TEXTS]


def picture_documents(encoder: Encoder, count: int = 5) -> list[Document]:
    return [Document((blob(seed, encoder.preprocessor.image_size),)) for seed in range(count)]


def test_the_canaries_sing(encoder: Encoder) -> None:
    assert [canary.document.modality for canary in encoder.canaries()] == ["text", "image", "mixed"]
    assert encoder.canary_cosine() > 0.999


def test_the_padding_of_each_call_is_told(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(encoder, "observe_padding", told.append)
    short, long = Document(("a dog",)), Document(("a brown dog on the beach",))
    tokens = [encoder.preprocessor.count_tokens(str(document.parts[0])) for document in (short, long)]
    encoder.embed([short, long])
    encoder.embed([long, long])
    assert told == [pytest.approx((tokens[1] - tokens[0]) / (2 * tokens[1])), 0.0]
    monkeypatch.setattr(encoder, "_few_shapes", True)  # three rows are four
    encoder.embed([long, long, long])
    assert told[2:] == [0.25]


def test_rows_are_contiguous_unit_float32(encoder: Encoder) -> None:
    documents = [*text_documents(), *picture_documents(encoder, 2)]
    rows = encoder.embed(documents)
    assert rows.shape == (7, encoder.dim)
    assert rows.dtype == np.float32
    assert rows.flags.c_contiguous
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(7), abs=1e-5)


def test_no_documents_make_no_rows(encoder: Encoder) -> None:
    assert encoder.embed([]).shape == (0, encoder.dim)


def test_a_batch_of_five_equals_its_singles(encoder: Encoder) -> None:
    for documents in (text_documents(), picture_documents(encoder)):
        batch = encoder.embed(documents)
        singles = np.concatenate([encoder.embed([document]) for document in documents])
        assert (batch * singles).sum(axis=1).min() >= SAME


@pytest.mark.parametrize(("few", "calls"), [(False, [[0, 4, 2], [3], [1]]), (True, [[0, 4, 2], [3, 1]])])
def test_a_long_text_makes_short_ones_no_longer_unless_calls_shall_be_few(
    few: bool, calls: list[list[int]]
) -> None:
    assert list(alike([5, 600, 8, 110, 5], 3, few=few)) == calls
    assert list(alike([], 3, few=few)) == []
    assert list(alike([1, 59, 120], 3, few=few)) == [[0, 1, 2]]


def test_neighbours_of_another_length_do_not_change_a_text(encoder: Encoder) -> None:
    alone = encoder.embed([Document(("a dog",))])[0]
    beside_a_novel = encoder.embed([Document(("a dog",)), Document(("word " * 300,))])[0]
    assert alone @ beside_a_novel >= SAME


def test_calls_side_by_side_give_the_same_rows() -> None:
    encoder = Encoder.load(Bundle.default_path(), device="cpu", threads=2, side_by_side=True)
    assert encoder.workers == 2
    documents = [*text_documents(), *picture_documents(encoder, 2)]
    alone = [encoder.embed([document]) for document in documents]
    with ThreadPoolExecutor(2) as threads:
        beside = list(threads.map(lambda document: encoder.embed([document]), documents * 3))
    np.testing.assert_array_equal(np.concatenate(beside), np.concatenate(alone * 3))


def test_order_is_kept_across_batches_of_every_kind() -> None:
    small = Encoder.load(Bundle.default_path(), device="cpu", threads=1, max_batch=3)
    texts, pictures = text_documents(), picture_documents(small, 4)
    mixed = Document((*texts[0].parts, *pictures[0].parts))
    shuffled = [texts[1], pictures[3], mixed, texts[4], pictures[0], texts[0], pictures[1], texts[2]]
    expected = np.concatenate([small.embed([document]) for document in shuffled])
    assert (small.embed(shuffled) * expected).sum(axis=1).min() >= SAME


def test_a_picture_read_with_a_wish_is_neither_of_them_nor_their_mean(encoder: Encoder) -> None:
    picture = blob(1, encoder.preprocessor.image_size)
    shown, said, both = encoder.embed(
        [Document((picture,)), Document(("but blue",)), Document((picture, "but blue"))]
    )
    mean = (shown + said) / np.linalg.norm(shown + said)
    assert max(float(both @ other) for other in (shown, said, mean)) < 0.99


def test_meaning_is_nearer_than_wording(encoder: Encoder) -> None:
    texts = ("a puppy", "a young dog", "an unpaid invoice")
    puppy, dog, invoice = encoder.embed([Document((text,)) for text in texts])
    assert puppy @ dog > puppy @ invoice + 0.2


def test_an_empty_text_is_refused(encoder: Encoder) -> None:
    with pytest.raises(EmptyText):
        encoder.embed([Document(("a dog",)), Document((" \x00",))])


def test_the_cpu_says_that_it_is_the_cpu(encoder: Encoder) -> None:
    assert encoder.providers == ["CPUExecutionProvider"]
    assert encoder.precision == "int8"
    assert encoder.id == Bundle.open(Bundle.default_path()).encoder_id


@pytest.mark.skipif(HAS_CUDA, reason="CUDA may really run here")
def test_asking_for_cuda_where_it_does_not_run_fails_and_names_what_would() -> None:
    with pytest.raises(ProviderError, match="CPUExecutionProvider"):
        Encoder.load(Bundle.default_path(), device="cuda")


@pytest.mark.skipif(HAS_OPENVINO, reason="the OpenVINO plugin is installed")
def test_asking_for_openvino_where_it_is_not_installed_fails() -> None:
    with pytest.raises(ProviderError, match="not installed"):
        Encoder.load(Bundle.default_path(), device="openvino")


@pytest.mark.skipif(not HAS_OPENVINO, reason="the OpenVINO plugin is not installed")
def test_openvino_gives_the_same_answers() -> None:
    try:
        encoder = Encoder.load(Bundle.default_path(), device="openvino", threads=1)
    except ProviderError as error:
        pytest.skip(str(error))
    assert encoder.providers[0] == "OpenVINOExecutionProvider"
    assert encoder.canary_cosine() > 0.98


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="this onnxruntime has no CUDA")
def test_cuda_gives_the_same_answers() -> None:
    encoder = Encoder.load(Bundle.default_path(), device="cuda")
    assert encoder.providers[0] == "CUDAExecutionProvider"
    assert encoder.canary_cosine() > 0.98


def test_one_set_of_weights_also_matches(encoder: Encoder) -> None:
    assert (encoder.fusion, encoder.matches) == ("joint", True)
    judged = encoder.match(
        Document(("a puppy",)), [Document(("an unpaid invoice",)), Document(("a young dog",))]
    )
    assert judged[1] > judged[0]


def test_importing_models_silences_telemetry_before_the_runtime_loads() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    script = (
        "import os, sys, models; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "False"]


def test_captions_find_their_photographs(encoder: Encoder, tmp_path: Path) -> None:
    """A hundred photographs of flickr8k-val, for speed; the whole set's numbers stand in the model card."""
    pairs = SETS / "flickr8k-val" / "pairs.jsonl"
    if not pairs.is_file():
        pytest.skip("the shared flickr8k-val set is not beside the repository")
    lines = [json.loads(line) for line in pairs.read_text().splitlines()[:100]]
    kept = [{"image": str(pairs.parent / line["image"]), "captions": line["captions"][:2]} for line in lines]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, kept)))
    found = evaluate_pairs(tmp_path, encoder)
    assert found["t2i"]["R@10"] > 50  # measured 66; chance is 10
    assert found["i2t"]["R@10"] > 40  # measured 57
