"""Imported checkpoints, beside what the library that made them says."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from models.bundle import Bundle, BundleError
from models.encoder import Encoder
from models.importing import CheckpointError, Library, from_open_clip, from_transformers, import_checkpoint
from models.importing.texts import byte_pairs, cleaned
from models.preprocess import Document, EmptyText, Preprocessing, Preprocessor
from service import cli
from service.app import create_app
from service.config import Settings
from tests import checkpoints
from tests.checkpoints import SIDE

TEXTS = (
    "dog",
    "A photo of a RED apple, beside a blue cup!",
    "don't look: they're e-mailing 12.5 naïve café owners & <b>their</b> dogs",
    "日本の赤いりんご, красное яблоко, تفاحة 🍎 ½ #42 snake_case\ttabs\nlines  blanks",
    "two children play with a ball on the beach while a brown dog watches them " * 12,
)
KINDS: dict[str, tuple[Library, Callable[[Path], Path]]] = {
    "clip": ("transformers", checkpoints.clip),
    "old-clip": ("transformers", checkpoints.old_clip),
    "chinese-clip": ("transformers", checkpoints.chinese_clip),
    "siglip": ("transformers", checkpoints.siglip),
    "open-clip-vit": ("open_clip", checkpoints.open_clip_vit),
    "open-clip-siglip": ("open_clip", checkpoints.open_clip_siglip),
}
Rows = NDArray[np.float32]


class TransformersOracle:
    """The transformers library, used as its own documentation shows."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModel.from_pretrained(folder).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.pictures = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")

    def texts(self, texts: tuple[str, ...]) -> Rows:
        padding = "max_length" if self.model.config.model_type == "siglip" else True
        limit = min(self.tokenizer.model_max_length, 77)
        inputs = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt"
        )
        return unit(self.model.get_text_features(**inputs).pooler_output)

    def picture(self, image: Image.Image) -> Rows:
        pixels = self.pictures(image, return_tensors="pt").pixel_values
        return unit(self.model.get_image_features(pixel_values=pixels).pooler_output)


class OpenClipOracle:
    """open_clip, used as its own documentation shows."""

    def __init__(self, folder: Path) -> None:
        self.model, self.preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.model.eval()

    def texts(self, texts: tuple[str, ...]) -> Rows:
        return unit(self.model.encode_text(self.tokenizer(list(texts))))

    def picture(self, image: Image.Image) -> Rows:
        return unit(self.model.encode_image(self.preprocess(image)[None]))


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


def unit(rows: torch.Tensor) -> Rows:
    return torch.nn.functional.normalize(rows, dim=-1).numpy()


def drawing(seed: int, width: int, height: int) -> Image.Image:
    """A picture of waves, smooth as photographs are."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(across * x + down * y) for across, down in random.uniform(2, 12, (3, 2))]
    return Image.fromarray((127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def document(encoder: Encoder, data: bytes) -> Document:
    return Document((encoder.preprocessor.picture(data, max_pixels=1_000_000),))


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


@pytest.fixture
def spoilt(clip: Path, tmp_path: Path) -> Path:
    """A copy of it, free to be spoilt."""
    return Path(shutil.copytree(clip, tmp_path / "checkpoint"))


def test_an_imported_bundle_serves_searches(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    with TestClient(create_app(settings)) as api:
        assert api.put("/v1/collections/c").json()["encoder_id"].startswith("tiny-clip-")
        for seed in range(4):
            files = {"image": (f"{seed}.png", encoded(drawing(seed, 80, 60)), "image/png")}
            assert api.put(f"/v1/collections/c/items/{seed}", files=files).is_success
        reply = api.post("/v1/collections/c/search", files={"image": encoded(drawing(2, 80, 60))}).json()
        assert reply["results"][0]["id"] == "2"
        assert reply["results"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert len(api.post("/v1/collections/c/search", json={"query": "a dog"}).json()["results"]) == 4


def test_half_precision_halves_the_weights_and_keeps_the_rows(clip: Path, tmp_path: Path) -> None:
    whole = import_checkpoint("transformers", clip, tmp_path / "whole")
    half = import_checkpoint("transformers", clip, tmp_path / "half", precision="fp16")
    sizes = [bundle.manifest.files["text.weights"].bytes for bundle in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    documents = [Document((text,)) for text in TEXTS]
    rows = [Encoder.load(bundle, device="cpu").embed(documents) for bundle in (whole, half)]
    assert (rows[0] * rows[1]).sum(axis=1).min() > 0.9999
    assert Encoder.load(half, device="cpu").precision == "fp16"
    assert half.encoder_id != whole.encoder_id
    again = import_checkpoint("transformers", clip, tmp_path / "again")
    assert again.encoder_id == whole.encoder_id
    weights = tmp_path / "again" / "text.weights"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    with pytest.raises(BundleError, match=r"text\.weights"):
        Bundle.open(tmp_path / "again")


def test_a_bundle_that_disagrees_with_its_library_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints.open_clip_vit(tmp_path / "checkpoint")
    from models.importing import writing

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


def edit_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        found = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(
            json.dumps({key: value for key, value in found.items() if value != "gone"})
        )

    return edit


def drop_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def booby_trap(folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (folder / "sprung",)

    (folder / "model.safetensors").unlink()
    torch.save({"weights": Trap()}, folder / "pytorch_model.bin")


PICTURES = "preprocessor_config.json"


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "checkpoint: "),
        (drop_a_weight, "1 missing keys of CLIPModel, such as text_projection.weight"),
        (booby_trap, "checkpoint: "),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: Expecting"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / PICTURES).unlink(), f"there is no {PICTURES}"),
        (edit_json("config.json", model_type="bert"), "the dual encoders known here are clip, "),
        (edit_json("config.json", model_type="blip"), "sides are fused"),
        (edit_json("config.json", model_type="siglip2"), "NaFlex"),
        (edit_json("config.json", model_type="gone"), "model type None"),
        (edit_json(PICTURES, do_center_crop=False), "are not the 32 pixel squares"),
        (edit_json(PICTURES, crop_size={"height": 24, "width": 24}), "are not the 32 pixel squares"),
        (edit_json(PICTURES, size={"shortest_edge": 24}), "are not the 32 pixel squares"),
        (edit_json(PICTURES, size={"longest_edge": 32}), "are not the 32 pixel squares"),
        (edit_json(PICTURES, do_resize=False), "are not the 32 pixel squares"),
        (edit_json(PICTURES, resample=0), "resample 0"),
        (edit_json(PICTURES, image_mean=[0.5], image_std=[0.5]), "1 channels"),
    ],
)
def test_what_cannot_be_imported_is_named_in_one_line(
    spoilt: Path, spoil: Callable[[Path], object], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(spoilt)
    refused(spoilt, "transformers", complaint, capsys)
    assert not (spoilt / "sprung").exists()


def refused(folder: Path, library: Library, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "bundle"
    with pytest.raises(SystemExit) as ended:
        cli.main(["bundle", "import", str(folder), "--from", library, "--out", str(out)])
    assert ended.value.code == 2
    *steps, line = capsys.readouterr().err.splitlines()
    assert line.startswith("CommandError: ")
    assert complaint in line
    assert all(step.startswith("reading ") for step in steps)
    assert not [path for path in folder.parent.iterdir() if "bundle" in path.name]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"text_cfg": {"hf_model_name": "roberta-base"}},
            "its text side is 'roberta-base' of another library",
        ),
        ({"text_cfg": {"tokenizer_kwargs": {"strip_sep_token": True}}}, "only 'clean' is supported"),
        ({"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize", "language": "de"}}}, "only 'clean'"),
        ({"vision_cfg": {"image_size": [32, 64]}}, "pictures of 32x64"),
        ({"vision_cfg": {"timm_model_name": "no_such_model"}}, "checkpoint: "),
        ({"text_cfg": {"width": 64}}, "checkpoint: "),
    ],
)
def test_what_of_open_clip_cannot_be_imported_is_named_too(
    tmp_path: Path, changes: dict[str, dict[str, Any]], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoints.open_clip_vit(tmp_path / "checkpoint")
    whole = json.loads((folder / "open_clip_config.json").read_text())
    for part, change in changes.items():
        whole["model_cfg"][part] |= change
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    refused(folder, "open_clip", complaint, capsys)


def test_a_folder_of_another_library_is_not_taken(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no open_clip_config\.json"):
        import_checkpoint("open_clip", clip, tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        import_checkpoint("open_clip", tmp_path / "typo", tmp_path / "bundle")
    with pytest.raises(CheckpointError, match="there is something already"):
        import_checkpoint("transformers", clip, tmp_path)
    with pytest.raises(CheckpointError, match="cannot be a name"):
        import_checkpoint("transformers", clip, tmp_path / "bundle", name="猫")


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.importing.libraries.find_spec", lambda name: None)
    with pytest.raises(
        CheckpointError, match=r"torch, onnxscript, transformers; pip install 'momoseek\[import\]'"
    ):
        import_checkpoint("transformers", clip, tmp_path / "bundle")


def test_importing_is_there_to_be_asked_for_without_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import models.importing"
    subprocess.run(
        [sys.executable, "-c", script], cwd=Path(cli.__file__).parent.parent, check=True, timeout=60
    )


def test_weights_in_the_older_format_are_read(spoilt: Path) -> None:
    expected = TransformersOracle(spoilt).texts(TEXTS)
    torch.save(transformers.CLIPModel.from_pretrained(spoilt).state_dict(), spoilt / "pytorch_model.bin")
    (spoilt / "model.safetensors").unlink()
    with torch.no_grad():
        assert unit(from_transformers.read(spoilt).library_rows(TEXTS)) == pytest.approx(expected, abs=1e-5)


RULES: list[dict[str, Any]] = [
    {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True},
    {"size": {"height": 36, "width": 36}, "crop_size": 32, "do_center_crop": True, "resample": 2},
    {"size": {"height": 32, "width": 32}, "do_center_crop": False, "crop_size": None, "resample": 1},
    {"size": 32, "crop_size": 32, "do_center_crop": True, "do_normalize": False},
    {"size": 32, "crop_size": 32, "do_center_crop": True, "do_rescale": False, "image_mean": [100, 110, 120]},
    {"size": 32, "crop_size": 32, "do_center_crop": True, "rescale_factor": 1 / 127.5},
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_picture_rule_means_what_it_means_to_the_library(
    rule: dict[str, Any], nested: bool, tmp_path: Path
) -> None:
    own = {"image_processor_type": "CLIPImageProcessor"} | rule
    file = "processor_config.json" if nested else PICTURES
    (tmp_path / file).write_text(json.dumps({"image_processor": own} if nested else own))
    read = from_transformers.preprocessing_of(tmp_path, from_transformers.CLIP_PICTURES, 32)
    preprocessor = Preprocessor(read, Bundle.default_path() / "tokenizer.json", max_tokens=16)
    library = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    for image in (drawing(3, 160, 120), drawing(4, 80, 100)):
        picture = preprocessor.picture(encoded(image), max_pixels=1_000_000)
        theirs = library(image, return_tensors="np").pixel_values[0]
        ours = preprocessor.pixels([picture])[0]
        scale = np.ptp(theirs)
        assert (
            np.abs(ours - theirs).max() <= 0.02 * scale
        )  # cropping before resizing shifts by part of a pixel
        assert np.abs(ours - theirs).mean() <= 0.005 * scale


def test_the_byte_pair_tokenizer_splits_as_open_clip_does() -> None:
    own = open_clip.SimpleTokenizer()
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    plain = byte_pairs(own.encoder, merges, start="<start_of_text>", end="<end_of_text>")
    rebuilt = cleaned(plain, "lower")
    random = np.random.default_rng(0)
    words = [
        *" ".join(TEXTS).split(),
        "I’LL",
        "“quoted”",
        "ﬁne",
        "Tom &amp; Jerry",
        "x̂",
        "…",
        "<end_of_text>",
        "\x07",
        "😀👍🏽",
    ]
    for _ in range(300):
        text = " ".join(random.choice(words, random.integers(1, 12)))
        assert rebuilt.encode(text).ids == [49406, *own.encode(text), 49407]


def test_the_rebuilt_pieces_of_siglip_are_the_librarys(tmp_path: Path) -> None:
    folder = checkpoints.siglip(tmp_path / "checkpoint")
    own = transformers.AutoTokenizer.from_pretrained(folder)
    rebuilt = from_transformers.read(folder).tokenizer
    random = np.random.default_rng(0)
    words = [
        *" ".join(TEXTS).split(),
        "...",
        "“quoted”",
        "ﬁne",
        "¿qué?",
        "C++",
        "½",
        "ＦＵＬＬ",
        "e\u0301",
        "😀👍🏽",
    ]
    for _ in range(300):
        text = " ".join(random.choice(words, random.integers(1, 30)))
        assert rebuilt.encode(text).ids == own(text, padding="max_length", truncation=True)["input_ids"]


def test_open_clip_says_how_its_pictures_are_read(tmp_path: Path) -> None:
    usual = {
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    half, quarter = (127.5,) * 3, (63.75,) * 3
    assert from_open_clip.preprocessing_of(tmp_path, usual) == Preprocessing(
        32, "squash", "bilinear", half, quarter
    )
    with pytest.raises(CheckpointError, match="resize mode 'longest'"):
        from_open_clip.preprocessing_of(tmp_path, usual | {"resize_mode": "longest"})
