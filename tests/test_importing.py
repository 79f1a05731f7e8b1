"""Imported checkpoints, beside what the library that made them says."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from models.bundle import MANIFEST, Bundle, BundleError, write_bundle
from models.encoder import Encoder, MatchUnsupported
from models.importing import CheckpointError, Library, import_checkpoint, writing
from models.preprocess import Document, EmptyText
from service import cli
from service.app import create_app
from service.config import Settings
from tests import checkpoints
from tests.checkpoints import SIDE
from tests.oracles import TEXTS, OpenClipOracle, TransformersOracle, drawing, encoded

KINDS: dict[str, tuple[Library, Callable[[Path], Path]]] = {
    "clip": ("transformers", checkpoints.clip),
    "old-clip": ("transformers", checkpoints.old_clip),
    "chinese-clip": ("transformers", checkpoints.chinese_clip),
    "siglip": ("transformers", checkpoints.siglip),
    "open-clip-vit": ("open_clip", checkpoints.open_clip_vit),
    "open-clip-siglip": ("open_clip", checkpoints.open_clip_siglip),
}


@dataclass(frozen=True)
class Imported:
    folder: Path
    bundle: Bundle
    encoder: Encoder
    oracle: TransformersOracle | OpenClipOracle


@pytest.fixture(scope="module", params=KINDS)
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imported]:
    library, make = KINDS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    folder = make(root / "checkpoint")
    bundle = import_checkpoint(library, folder, root / "bundle", name=request.param)
    oracle = OpenClipOracle(folder) if library == "open_clip" else TransformersOracle(folder)
    with torch.no_grad():
        yield Imported(folder, bundle, Encoder.load(bundle, device="cpu", threads=1), oracle)


def document(encoder: Encoder, data: bytes) -> Document:
    return Document((encoder.preprocessor.picture(data, max_pixels=1_000_000),))


def test_the_padding_of_texts_is_told(imported: Imported, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    encoder = imported.encoder
    monkeypatch.setattr(encoder, "observe_padding", told.append)
    documents = [Document(("a dog",)), Document(("a brown dog on the beach",))]
    encoder.embed(documents)
    ids, mask = encoder.preprocessor.tokens([str(document.parts[0]) for document in documents])
    assert told == [pytest.approx(1 - mask.sum() / ids.size)]
    assert 0 < told[0] < 1


def test_texts_get_the_rows_that_the_library_gives_them(imported: Imported) -> None:
    rows = imported.encoder.embed([Document((text,)) for text in TEXTS])
    assert np.abs(rows - imported.oracle.texts(TEXTS)).max() <= 1e-4
    assert (rows @ rows.T)[~np.eye(len(TEXTS), dtype=bool)].max() < 0.99  # or agreement would mean nothing


def test_pixels_get_the_rows_that_the_library_gives_them(imported: Imported) -> None:
    for seed in range(3):
        image = drawing(seed, SIDE, SIDE)  # of the size that is read, so that nothing is resampled
        row = imported.encoder.embed([document(imported.encoder, encoded(image))])
        assert np.abs(row - imported.oracle.picture(image)).max() <= 1e-4


@pytest.mark.parametrize(("width", "height"), [(97, 64), (50, 120), (640, 480), (20, 30)])
def test_picture_files_are_resized_as_the_library_does(imported: Imported, width: int, height: int) -> None:
    for kind in ("PNG", "JPEG"):
        data = encoded(drawing(7, width, height), kind)
        row = imported.encoder.embed([document(imported.encoder, data)])[0]
        assert float(row @ imported.oracle.picture(Image.open(BytesIO(data)))[0]) >= 0.999


def test_a_batch_of_five_equals_its_singles(imported: Imported) -> None:
    pictures = [document(imported.encoder, encoded(drawing(seed, 60, 40))) for seed in range(5)]
    for documents in ([Document((text,)) for text in TEXTS], pictures):
        batch = imported.encoder.embed(documents)
        singles = np.concatenate([imported.encoder.embed([one]) for one in documents])
        assert batch == pytest.approx(singles, abs=1e-5)


def test_a_mixed_document_is_the_normalised_mean_of_its_parts(imported: Imported) -> None:
    (picture,) = document(imported.encoder, encoded(drawing(1, SIDE, SIDE))).parts
    parts = imported.encoder.embed([Document(("a dog",)), Document((picture,)), Document(("a red ball",))])
    mean = parts.mean(axis=0)
    mixed = imported.encoder.embed([Document(("a dog", picture, "a red ball"))])[0]
    assert mixed == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_two_towers_cannot_match_and_say_so(imported: Imported) -> None:
    assert (imported.encoder.fusion, imported.encoder.matches) == ("mean", False)
    with pytest.raises(MatchUnsupported, match=imported.bundle.name):
        imported.encoder.match(Document(("a dog",)), [Document(("a puppy",))])


def test_the_bundle_knows_its_answers_and_says_where_it_comes_from(imported: Imported) -> None:
    assert imported.encoder.canary_cosine() > 0.9999
    assert imported.bundle.probes()["text"].shape == (200, imported.bundle.dim)
    manifest = imported.bundle.manifest
    assert [licence.licence for licence in manifest.licences] == ["as stated by whoever gave the checkpoint"]
    assert manifest.provenance["torch"] == torch.__version__
    texts = "".join(file.read_text("latin-1") for file in imported.bundle.path.iterdir())
    assert str(imported.folder.parent) not in texts  # nor any other path of this machine
    assert str(Path(torch.__file__).parent) not in texts


def test_a_text_without_words_is_refused_and_padding_is_not_counted(imported: Imported) -> None:
    with pytest.raises(EmptyText):
        imported.encoder.embed([Document((" \n ",))])
    assert 2 <= imported.encoder.preprocessor.count_tokens("a dog") <= 8
    assert (
        imported.encoder.preprocessor.count_tokens("dog " * 500)
        == imported.bundle.manifest.tokenizer.max_tokens
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to read, never to change."""
    return checkpoints.clip(tmp_path_factory.mktemp("clip") / "tiny clip")


@pytest.fixture(scope="module")
def whole(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of that checkpoint."""
    return import_checkpoint("transformers", clip, tmp_path_factory.mktemp("whole") / "bundle")


def test_an_imported_bundle_serves_searches(
    clip: Path, whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("something wanted to use the network")

    with monkeypatch.context() as patched:
        patched.setattr(socket.socket, "connect", no_network)
        patched.setattr(socket, "getaddrinfo", no_network)
        with pytest.raises(SystemExit) as ended:
            cli.main(["bundle", "import", str(clip), "--from", "transformers", "--out", str(tmp_path / "b")])
    assert ended.value.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    settings = Settings(data_dir=tmp_path / "data", bundle=str(tmp_path / "b"), worker=False, device="cpu")
    with TestClient(create_app(settings), base_url="http://localhost") as api:
        assert whole.encoder_id.startswith("tiny-clip-")
        assert api.put("/v1/collections/c").json()["encoder_id"] == whole.encoder_id
        for seed in range(4):
            files = {"image": (f"{seed}.png", encoded(drawing(seed, 80, 60)), "image/png")}
            assert api.put("/v1/collections/c/items", data={"id": str(seed)}, files=files).is_success
        reply = api.post("/v1/collections/c/search", files={"image": encoded(drawing(2, 80, 60))}).json()
        assert reply["results"][0]["id"] == "2"
        assert reply["results"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert len(api.post("/v1/collections/c/search", json={"query": "a dog"}).json()["results"]) == 4


def test_half_precision_halves_the_weights_and_keeps_the_rows(
    clip: Path, whole: Bundle, tmp_path: Path
) -> None:
    half = import_checkpoint("transformers", clip, tmp_path / "half", precision="fp16")
    sizes = [bundle.manifest.files["text.weights"].bytes for bundle in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    encoders = [Encoder.load(bundle, device="cpu") for bundle in (whole, half)]
    assert [encoder.precision for encoder in encoders] == ["fp32", "fp16"]
    rows = [encoder.embed([Document((text,)) for text in TEXTS]) for encoder in encoders]
    assert (rows[0] * rows[1]).sum(axis=1).min() > 0.9999
    assert half.encoder_id != whole.encoder_id


def test_weights_beside_a_graph_are_part_of_the_bundle(whole: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole.path, tmp_path / "copy"))
    weights = bytearray((copy / "text.weights").read_bytes())
    weights[1000] ^= 1
    (copy / "text.weights").write_bytes(weights)
    with pytest.raises(BundleError, match=r"text\.weights"):
        Bundle.open(copy)
    assert write_bundle(copy, whole.manifest).encoder_id != whole.encoder_id


def test_a_bundle_of_the_first_format_is_still_read(whole: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole.path, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps(manifest | {"format": 1}))
    assert Bundle.open(copy).encoder_id == whole.encoder_id


def test_a_bundle_that_disagrees_with_its_library_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.open_clip_vit(tmp_path / "checkpoint")
    # open_clip mends misdecoded bytes; a bundle's tokenizer cannot.
    monkeypatch.setattr(writing, "TRIALS", ("a cafÃ©",))
    with pytest.raises(CheckpointError, match="rows of texts differ by"):
        import_checkpoint("open_clip", folder, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_an_interrupted_import_leaves_nothing(clip: Path, tmp_path: Path) -> None:
    def interrupt(step: str) -> None:
        if "image" in step:
            assert any(tmp_path.iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_checkpoint("transformers", clip, tmp_path / "bundle", report=interrupt)
    assert list(tmp_path.iterdir()) == []
