# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""The exported bundle beside torch, and what its files hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from models.bundle import Bundle, Licence
from models.config import ModelConfig
from models.data.records import Record, Text
from models.encoder import Encoder
from models.export import Precision, export, read_checkpoint, training_licences
from models.momo import SharedEncoder
from models.preprocess import Document, Picture
from tests.joint_bundle import tokenizer
from tests.momo_models import PATCHES, SMALL, Oracle, random_model, small_stem

Floats = NDArray[np.float32]
CONFIGS = {"stem": SMALL, "patches": PATCHES}
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz     "))


@dataclass(frozen=True)
class Exported:
    """A model, and its bundle at one precision."""

    model: SharedEncoder
    stem: onnx.ModelProto | None
    bundle: Bundle

    @property
    def encoder(self) -> Encoder:
        return Encoder.load(self.bundle, device="cpu", threads=1)

    @property
    def oracle(self) -> Oracle:
        return Oracle(self.model, self.stem, self.encoder.preprocessor)


def exported(folder: Path, config: ModelConfig, precision: Precision) -> Exported:
    stem = small_stem(config) if config.front_end == "stem" else None
    model = random_model(config)
    tokenizer().save(str(folder / "letters.json"))
    bundle = export(
        model, folder / "bundle", stem=stem, tokenizer=folder / "letters.json", precision=precision,
        licences=[Licence("weights", "dice", "CC0-1.0")], provenance={"torch": torch.__version__},
        probes=["a dog", "a cat on a mat"],
    )  # fmt: skip
    return Exported(model, stem, bundle)


@pytest.fixture(scope="module", params=CONFIGS)
def fp32(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("fp32"), CONFIGS[request.param], "fp32")


@pytest.fixture(scope="module")
def int8(fp32: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("int8"), fp32.model.config, "int8")


def pictures(count: int, seed: int) -> list[Picture]:
    """Noise on a colour."""
    random = np.random.default_rng(seed)
    side = SMALL.image_size
    colours = random.integers(0, 200, (count, 1, 1, 3))
    return [*(colours + random.integers(0, 56, (count, side, side, 3))).astype(np.uint8)]


def texts(count: int, seed: int) -> list[str]:
    """Random letters and blanks; every text has a letter."""
    random = np.random.default_rng(seed)
    return ["a" + "".join(random.choice(LETTERS, random.integers(3, 50))) for _ in range(count)]


def documents(count: int, seed: int) -> list[Document]:
    """In turn a text, a picture, a picture and a text, two pictures with a text between."""
    shown, said = pictures(2 * count, seed), texts(count, seed)
    shapes: list[Callable[[int], tuple[str | Picture, ...]]] = [
        lambda i: (said[i],),
        lambda i: (shown[i],),
        lambda i: (shown[i], said[i]),
        lambda i: (shown[i], said[i], shown[count + i]),
    ]
    return [Document(shapes[i % 4](i)) for i in range(count)]


def top_ten(queries: Floats, rows: Floats) -> NDArray[np.int64]:
    return np.argsort(-(queries @ rows.T), axis=1)[:, :10]


def large_tensors(bundle: Bundle) -> dict[str, list[bytes]]:
    """The bytes of every stored tensor of 64 numbers or more, by file."""
    return {
        name: [
            numpy_helper.to_array(tensor).tobytes()
            for tensor in onnx.load(bundle.file(name)).graph.initializer
            if np.prod(tensor.dims) >= 64
        ]
        for name in ("image.onnx", "document.onnx")
    }


def test_rows_of_every_kind_of_document_are_torchs(fp32: Exported) -> None:
    asked = documents(40, seed=1)
    assert fp32.encoder.embed(asked) == pytest.approx(fp32.oracle.embed(asked), abs=1e-4)


def test_match_logits_of_every_kind_of_pair_are_torchs(fp32: Exported) -> None:
    candidates = documents(12, seed=2)
    for query in documents(4, seed=3):
        probabilities = fp32.encoder.match(query, candidates).astype(np.float64)
        logits = np.log(probabilities / (1 - probabilities))
        assert logits == pytest.approx(fp32.oracle.match(query, candidates), abs=1e-4)


def test_the_ten_nearest_of_several_hundred_documents_are_torchs(fp32: Exported) -> None:
    queries, stored = documents(40, seed=4), documents(300, seed=5)
    ours = top_ten(fp32.encoder.embed(queries), fp32.encoder.embed(stored))
    wanted, rows = fp32.oracle.embed(queries), fp32.oracle.embed(stored)
    theirs, scores = top_ten(wanted, rows), wanted @ rows.T
    # Random weights put some documents so near to each other that rounding decides between them.
    differing = ours != theirs
    assert differing.mean() < 0.01
    ranks = [np.take_along_axis(scores, found, axis=1)[differing] for found in (ours, theirs)]
    assert ranks[0] == pytest.approx(ranks[1], abs=2e-6)


def test_int8_rows_stay_near_and_find_nearly_the_same(fp32: Exported, int8: Exported) -> None:
    queries, stored = documents(40, seed=4), documents(300, seed=5)
    rows = [(each.encoder.embed(queries), each.encoder.embed(stored)) for each in (fp32, int8)]
    cosines = (rows[0][1] * rows[1][1]).sum(axis=1)
    assert cosines.min() > 0.98
    assert cosines.mean() > 0.998
    both = zip(top_ten(*rows[0]), top_ten(*rows[1]), strict=True)
    overlap = np.mean([len({*one} & {*other}) / 10 for one, other in both])
    assert overlap > 0.9


def test_int8_matches_stay_near(fp32: Exported, int8: Exported) -> None:
    candidates = documents(24, seed=9)
    for query in documents(4, seed=10):
        ours, theirs = (each.encoder.match(query, candidates) for each in (int8, fp32))
        assert np.abs(ours - theirs).mean() < 0.02


def test_an_int8_row_does_not_depend_on_its_neighbours(int8: Exported) -> None:
    asked = documents(16, seed=6)
    singles = np.concatenate([int8.encoder.embed([document]) for document in asked])
    # Sums in another order may round to the next code, which moves a row by some thousandths.
    assert (int8.encoder.embed(asked) * singles).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_weight_lies_in_exactly_one_file(precision: str, fp32: Exported, int8: Exported) -> None:
    stored = large_tensors((fp32 if precision == "fp32" else int8).bundle)
    everything = stored["image.onnx"] + stored["document.onnx"]
    assert len(everything) > 20
    assert len(set(everything)) == len(everything)


def test_int8_files_hold_hardly_a_float(int8: Exported) -> None:
    graph = onnx.load(int8.bundle.file("document.onnx")).graph
    floats = sum(np.prod(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT)
    codes = sum(np.prod(t.dims) for t in graph.initializer if t.data_type != onnx.TensorProto.FLOAT)
    assert codes > 5 * floats
    assert int8.bundle.manifest.precision == {"image": "int8", "document": "int8"}


def test_the_bundle_knows_its_own_answers(fp32: Exported, int8: Exported) -> None:
    for each in (fp32, int8):
        encoder = each.encoder
        assert encoder.canary_cosine() > 0.99999
        assert (encoder.fusion, encoder.matches, encoder.bundle.name) == ("joint", True, "momo-mini")
        assert each.bundle.probes()["text"].shape == (2, encoder.dim)
    assert fp32.bundle.encoder_id != int8.bundle.encoder_id


def test_the_same_model_is_exported_to_the_same_bytes(fp32: Exported, tmp_path: Path) -> None:
    again = exported(tmp_path, fp32.model.config, "fp32")
    assert again.bundle.manifest.files == fp32.bundle.manifest.files


def test_a_front_end_without_its_stem_is_refused(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "letters.json"))
    for config, stem in ((SMALL, None), (PATCHES, small_stem(SMALL))):
        with pytest.raises(ValueError, match=f"the front end is '{config.front_end}'"):
            export(
                random_model(config), tmp_path / "bundle", stem=stem, tokenizer=tmp_path / "letters.json",
                precision="fp32", licences=(), provenance={}, probes=("a",),
            )  # fmt: skip


def test_a_weight_that_no_graph_takes_is_refused(tmp_path: Path) -> None:
    model = random_model(PATCHES)
    model.new_head = torch.nn.Linear(2, 2)
    tokenizer().save(str(tmp_path / "letters.json"))
    with pytest.raises(ValueError, match=r"in no graph: new_head\.bias, new_head\.weight"):
        export(
            model, tmp_path / "bundle", stem=None, tokenizer=tmp_path / "letters.json", precision="fp32",
            licences=(), provenance={}, probes=("a",),
        )  # fmt: skip


def test_a_checkpoint_brings_its_config(tmp_path: Path) -> None:
    model, file = random_model(SMALL), tmp_path / "model.pt"
    torch.save({"config": SMALL.as_dict(), "model": model.state_dict(), "step": 3}, file)
    read = read_checkpoint(file)
    assert read.config == SMALL
    assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.save({"config": {"depth": 2}, "model": model.state_dict()}, file)
    with pytest.raises(ValueError, match="unknown keys of a model config: depth"):
        read_checkpoint(file)


def test_what_was_trained_on_is_told_by_package_and_licence() -> None:
    def record(number: int, package: str, licence: str) -> Record:
        return Record(
            f"r{number}", "r.png", (Text("a dog"),), "dog", False, "flat", f"{package}/1.0:dog.svg", licence,
            "train", "0" * 64,
        )  # fmt: skip

    told = training_licences(
        [record(1, "stamps", "MIT"), record(2, "icons", "MIT"), record(3, "stamps", "MIT")]
    )
    assert told == [
        Licence("trained on 1 drawings, not contained", "icons", "MIT"),
        Licence("trained on 2 drawings, not contained", "stamps", "MIT"),
    ]


@pytest.mark.slow
def test_at_its_real_size_the_bundle_fits_45_mb_and_answers_as_torch_does(tmp_path: Path) -> None:
    config = ModelConfig()
    model, stem = random_model(config, spread=0.04), small_stem(config)
    tokenizer().save(str(tmp_path / "letters.json"))
    encoders = []
    for precision in ("fp32", "int8"):
        bundle = export(
            model, tmp_path / precision, stem=stem, tokenizer=tmp_path / "letters.json", precision=precision,
            licences=(), provenance={}, probes=("a",),
        )  # fmt: skip
        encoders.append(Encoder.load(bundle, device="cpu"))
    stand_in = len(stem.SerializeToString())
    effnet_lite2, words = 5.4e6, 0.5e6  # the int8 stem and the tokenizer that are not here
    assert (
        sum(entry.bytes for entry in bundle.manifest.files.values()) - stand_in + effnet_lite2 + words < 45e6
    )
    assert bundle.file("image.onnx").stat().st_size - stand_in < 4.5e6
    random = np.random.default_rng(7)
    shown = random.integers(0, 256, (8, config.image_size, config.image_size, 3), np.uint8)
    asked = [Document((text,)) for text in texts(8, seed=8)] + [Document((picture,)) for picture in shown]
    rows = [encoder.embed(asked) for encoder in encoders]
    assert rows[0] == pytest.approx(Oracle(model, stem, encoders[0].preprocessor).embed(asked), abs=1e-4)
    assert (rows[0] * rows[1]).sum(axis=1).min() > 0.99
