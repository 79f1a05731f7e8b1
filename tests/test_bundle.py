import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import MANIFEST, Bundle, BundleError, write_bundle

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the bundle that ships, free to be spoilt."""
    return Path(shutil.copytree(Bundle.default_path(), tmp_path / "bundle"))


def edit_manifest(folder: Path, edit: Edit) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_the_bundle_that_ships_opens_and_is_small_enough() -> None:
    bundle = Bundle.open(Bundle.default_path())
    assert bundle.name == "momo-mini"
    assert bundle.dim == 384
    assert bundle.modalities == ("text", "image", "mixed")
    assert sum(entry.bytes for entry in bundle.manifest.files.values()) <= 40_000_000
    assert max(entry.bytes for entry in bundle.manifest.files.values()) < 45_000_000


def test_every_part_of_the_bundle_that_ships_names_its_licence() -> None:
    manifest = Bundle.open(Bundle.default_path()).manifest
    assert all(part.part and part.source and part.licence for part in manifest.licences)
    card = (Bundle.default_path() / "MODEL_CARD.md").read_text()
    assert all(part.source.split()[-1] in card for part in manifest.licences)


def test_the_encoder_id_is_the_name_and_twelve_hex_digits() -> None:
    name, digits = Bundle.open(Bundle.default_path()).encoder_id.rsplit("-", 1)
    assert name == "momo-mini"
    assert len(digits) == 12
    int(digits, 16)


def test_probes_are_unit_rows_of_the_bundles_dim() -> None:
    bundle = Bundle.open(Bundle.default_path())
    probes = bundle.probes()["text"]
    assert probes.shape == (200, bundle.dim)
    assert probes.dtype == np.float32
    assert np.linalg.norm(probes, axis=1) == pytest.approx(np.ones(200), abs=1e-6)
    assert len(np.unique(probes.round(4), axis=0)) > 195


@pytest.mark.parametrize(
    "name", ["document.onnx", "image.onnx", "tokenizer.json", "canary.png", "probes.npy"]
)
def test_an_altered_file_is_named(copy: Path, name: str) -> None:
    flip_a_byte(copy / name)
    with pytest.raises(BundleError, match=name):
        Bundle.open(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "image.onnx").unlink()
    with pytest.raises(BundleError, match=r"image\.onnx: missing"):
        Bundle.open(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda m: m.update(colour="red"), "unknown or missing keys: colour"),
        (lambda m: m.pop("dim"), "unknown or missing keys: dim"),
        (
            lambda m: m["preprocessing"].update(gamma=2),
            r"manifest\.preprocessing: unknown or missing keys: gamma",
        ),
        (lambda m: m.update(dim="384"), r"manifest\.dim: '384' is not int"),
        (lambda m: m.update(dim=True), r"manifest\.dim: True is not int"),
        (lambda m: m.update(format=1), "format 1 is not 2"),
        (lambda m: m.update(format=3, fusion="mean"), "format 3 is not 1 or 2"),
        (lambda m: m.update(fusion="sum"), r"manifest\.fusion: 'sum'"),
        (lambda m: m["graphs"].pop("document"), "needs an image graph, a document graph and a joint section"),
        (lambda m: m.update(joint={"picture_tokens": 4}), "unknown or missing keys: width"),
        (lambda m: m.update(joint="yes"), r"manifest\.joint: unknown or missing keys"),
        (
            lambda m: m.update(joint={"picture_tokens": 4, "width": 8, "match": 1}),
            r"manifest\.joint\.match: 1 is not",
        ),
        (lambda m: m["preprocessing"].update(mean=[1, 2]), r"manifest\.preprocessing\.mean"),
        (lambda m: m["graphs"].update(audio=m["graphs"]["image"]), "'audio'"),
        (lambda m: m["files"].pop("document.onnx"), r"files lists no document\.onnx"),
        (
            lambda m: m["files"].update({"../document.onnx": m["files"]["document.onnx"]}),
            "is not a plain file name",
        ),
        (
            lambda m: m["files"].update({"/etc/hostname": m["files"]["document.onnx"]}),
            "is not a plain file name",
        ),
    ],
)
def test_a_manifest_outside_the_schema_is_refused(copy: Path, edit: Edit, complaint: str) -> None:
    edit_manifest(copy, edit)
    with pytest.raises(BundleError, match=complaint):
        Bundle.open(copy)


def test_a_manifest_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match=MANIFEST):
        Bundle.open(copy)


def test_what_is_written_is_what_is_read(copy: Path) -> None:
    bundle = Bundle.open(copy)
    again = write_bundle(copy, replace(bundle.manifest, files={}))
    assert again == bundle
    assert (copy / MANIFEST).read_text() == (Bundle.default_path() / MANIFEST).read_text()


def test_one_changed_weight_byte_is_another_encoder(copy: Path) -> None:
    before = Bundle.open(copy)
    flip_a_byte(copy / "image.onnx")
    assert write_bundle(copy, before.manifest).encoder_id != before.encoder_id


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["preprocessing"].update(image_size=256),
        lambda m: m["preprocessing"].update(std=[128.0, 128.0, 127.0]),
        lambda m: m["preprocessing"].update(interpolation="bilinear"),
        lambda m: m["preprocessing"].update(resize="squash"),
        lambda m: m["tokenizer"].update(max_tokens=128),
    ],
)
def test_one_changed_constant_is_another_encoder(copy: Path, edit: Edit) -> None:
    before = Bundle.open(copy).encoder_id
    edit_manifest(copy, edit)
    assert Bundle.open(copy).encoder_id != before


def test_words_about_a_bundle_do_not_change_its_encoder_id(copy: Path) -> None:
    before = Bundle.open(copy).encoder_id
    edit_manifest(copy, lambda m: (m["licences"].pop(), m.update(provenance={"by": "hand"})))
    assert Bundle.open(copy).encoder_id == before
