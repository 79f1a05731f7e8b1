"""What of a checkpoint is refused, and what of it is carried over to a bundle's own words."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.bundle import Bundle
from models.importing import CheckpointError, Library, from_open_clip, from_transformers, import_checkpoint
from models.importing.texts import byte_pairs, cleaned
from models.preprocess import Preprocessing, Preprocessor
from service import cli
from tests import checkpoints
from tests.oracles import TEXTS, TransformersOracle, drawing, encoded, open_clip, transformers, unit


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to read, never to change."""
    return checkpoints.clip(tmp_path_factory.mktemp("clip") / "tiny clip")


@pytest.fixture
def spoilt(clip: Path, tmp_path: Path) -> Path:
    """A copy of it, free to be spoilt."""
    return Path(shutil.copytree(clip, tmp_path / "checkpoint"))


def edit_json(file: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        found = json.loads((folder / file).read_text()) | changes
        (folder / file).write_text(
            json.dumps({key: value for key, value in found.items() if value != "gone"})
        )

    return edit


def drop_a_weight(folder: Path) -> None:
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


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_an_incomplete_folder_of_open_clip_is_refused(
    tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoints.open_clip_vit(tmp_path / "checkpoint")
    (folder / file).unlink()
    refused(folder, "open_clip", "pretrained weights" if "model" in file else "there is no", capsys)


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
    monkeypatch.delitem(sys.modules, "models.importing.from_transformers")
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
    {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
    {"size": {"height": 240, "width": 240}, "crop_size": 224, "do_center_crop": True, "resample": 2},
    {"size": {"height": 224, "width": 224}, "do_center_crop": False, "crop_size": None, "resample": 1},
    {"size": 224, "crop_size": 224, "do_normalize": False},
    {"size": 224, "crop_size": 224, "do_rescale": False, "image_mean": [100, 110, 120]},
    {"size": 224, "crop_size": 224, "rescale_factor": 1 / 127.5},
    {},
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_picture_rule_means_what_it_means_to_the_library(
    rule: dict[str, Any], nested: bool, tmp_path: Path
) -> None:
    own = {"image_processor_type": "CLIPImageProcessor"} | rule
    file = "processor_config.json" if nested else PICTURES
    (tmp_path / file).write_text(json.dumps({"image_processor": own} if nested else own))
    read = from_transformers.preprocessing_of(tmp_path, from_transformers.CLIP_PICTURES, 224)
    preprocessor = Preprocessor(read, Bundle.default_path() / "tokenizer.json", max_tokens=16)
    library = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    for image in (drawing(3, 640, 480), drawing(4, 300, 423)):
        picture = preprocessor.picture(encoded(image), max_pixels=1_000_000)
        difference = np.abs(preprocessor.pixels([picture])[0] - library(image).pixel_values[0])
        # The library rounds a crop to whole pixels of the resized picture, here it is exact.
        assert difference.max() <= 0.03 * np.ptp(library(image).pixel_values[0])


def test_the_byte_pair_tokenizer_splits_as_open_clip_does() -> None:
    own = open_clip.SimpleTokenizer()
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    plain = byte_pairs(own.encoder, merges, start="<start_of_text>", end="<end_of_text>")
    rebuilt = cleaned(plain, "lower")
    random = np.random.default_rng(0)
    words = [
        *" ".join(TEXTS).split(),
        "I\u2019LL",
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
        "\uff26\uff35\uff2c\uff2c",
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
