"""A checkpoint as a bundle, and the proof that the two give the same rows."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.bundle import FORMAT, Bundle, CanarySpec, Graph, Licence, Manifest, TokenizerSpec, write_bundle
from models.encoder import Encoder
from models.importing import Precision
from models.importing.answers import CANARY_TEXT, PROBES, TRIALS, canary_picture
from models.importing.checkpoint import Checkpoint, one_line
from models.importing.errors import CheckpointError
from models.importing.graphs import export
from models.preprocess import Document

_TOLERANCE = {"fp32": 1e-4, "fp16": 5e-3}  # the largest difference of a number in a unit row
_PACKAGES = ("onnx", "onnxscript", "onnxruntime", "pillow", "tokenizers", "torch")


def write(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    name: str,
    source: str,
    precision: Precision,
    report: Callable[[str], None],
) -> Bundle:
    """Fill an empty folder; raises CheckpointError where a row of the bundle is not the library's."""
    graphs = _graphs(folder, checkpoint, half=precision == "fp16", report=report)
    checkpoint.tokenizer.save(str(folder / "tokenizer.json"))
    canary_picture().save(folder / "canary.png")
    manifest = Manifest(
        format=FORMAT,
        name=name,
        dim=checkpoint.dim,
        modalities=("text", "image", "mixed"),
        graphs=graphs,
        fusion="mean",
        preprocessing=checkpoint.preprocessing,
        tokenizer=TokenizerSpec("tokenizer.json", checkpoint.max_tokens, checkpoint.padding),
        canary=CanarySpec(CANARY_TEXT, "canary.png", "canary.npy"),
        probes="probes.npy",
        precision={"text": precision, "image": precision},
        licences=(Licence("weights and tokenizer", source, "as stated by whoever gave the checkpoint"),),
        provenance={package: version(package) for package in (checkpoint.package, *_PACKAGES)},
        files={},
    )
    report("comparing the bundle with the library")
    return _answered(folder, manifest, checkpoint, _TOLERANCE[precision])


def _graphs(
    folder: Path, checkpoint: Checkpoint, *, half: bool, report: Callable[[str], None]
) -> dict[Literal["text", "image", "document"], Graph]:
    ids = torch.ones((2, checkpoint.max_tokens), dtype=torch.int64)
    mask = ids.tril()  # with zeros in it, or a library may take the way that needs no mask
    text = {"input_ids": ids} | ({"attention_mask": mask} if checkpoint.masked else {})
    longest = checkpoint.max_tokens if checkpoint.padding == "bucket" else None
    side = checkpoint.preprocessing.image_size
    pixels = {"pixels": torch.zeros(2, 3, side, side)}
    report("exporting the text side")
    with one_line("the text side cannot be exported"):
        text_graph = export(checkpoint.text, text, folder, "text", max_length=longest, half=half)
    report("exporting the image side")
    with one_line("the image side cannot be exported"):
        image_graph = export(checkpoint.image, pixels, folder, "image", max_length=None, half=half)
    return {"text": text_graph, "image": image_graph}


def _answered(folder: Path, manifest: Manifest, checkpoint: Checkpoint, tolerance: float) -> Bundle:
    """Write the manifest twice: the first lets the encoder run and give the second its known answers."""
    for name, count in (("canary.npy", 3), ("probes.npy", 1)):
        np.save(folder / name, np.ones((count, manifest.dim), np.float32))
    first = write_bundle(folder, manifest)
    with one_line("the bundle cannot be compared with the library"):
        encoder = Encoder.load(first, device="cpu")
        _compare(encoder, checkpoint, tolerance)
    np.save(folder / "canary.npy", encoder.embed([canary.document for canary in encoder.canaries()]))
    probes = encoder.embed([Document((text,)) for text in PROBES])
    np.save(folder / "probes.npy", probes.astype(np.float16))
    return write_bundle(folder, manifest)


def _compare(encoder: Encoder, checkpoint: Checkpoint, tolerance: float) -> None:
    texts = [Document((text,)) for text in TRIALS]
    picture = encoder.canaries()[1].document
    pixels = torch.from_numpy(encoder.preprocessor.normalised(picture.pictures))
    with torch.no_grad():
        text_rows = torch.nn.functional.normalize(checkpoint.library_rows(TRIALS), dim=-1).numpy()
        picture_rows = checkpoint.image(pixels).numpy()
    for kind, documents, rows in (("texts", texts, text_rows), ("pictures", [picture], picture_rows)):
        difference = np.abs(encoder.embed(documents) - rows).max()
        if not difference <= tolerance:  # also where it is not a number
            raise CheckpointError(
                f"no bundle is made, because its rows of {kind} differ by {difference:.2g} from the library's"
            )
