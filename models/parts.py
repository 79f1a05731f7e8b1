# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""The published parts a SharedEncoder starts from: MiniLM's layers, EfficientNet-lite2's classifier, class texts."""

from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.momo import SharedEncoder, StemFrontEnd

Floats = NDArray[np.float32]
# Chosen on flickr8k-val, as far as imagenet-samples stayed above its bar.
WHITENING = 0.2  # share of the decorrelation of class texts (ZCA) that ITC starts from
CONTEXT = (0.15, 1.0)  # weight of the texts about a class's surroundings, for the picture and for a patch
CENTRING = 0.8  # how much of the mean class row is taken away, against the modality gap
RIDGE = 10.0


def package_file(package: str, ending: str) -> Path:
    """The first file of an installed package whose path ends so."""
    files = distribution(package).files or []
    return next(Path(str(file.locate())) for file in files if str(file).endswith(ending))


def start_from_minilm(model: SharedEncoder, tensors: Mapping[str, Tensor]) -> None:
    """Fill the words and the trunk from a BERT encoder's tensors, named as in its safetensors file."""
    table = dict(tensors)
    with torch.no_grad():
        model.words.weight.copy_(table["embeddings.word_embeddings.weight"])
        kinds = table["embeddings.token_type_embeddings.weight"][0]
        positions = table["embeddings.position_embeddings.weight"][: model.config.max_words]
        model.word_positions.weight.copy_(positions + kinds)
        _copy(model.word_norm, table, "embeddings.LayerNorm")
        for i, layer in enumerate(model.trunk):
            at = f"encoder.layer.{i}."
            for kind in ("weight", "bias"):
                parts = [table[f"{at}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
                getattr(layer.qkv, kind).copy_(torch.cat(parts))
            _copy(layer.out, table, f"{at}attention.output.dense")
            _copy(layer.attention_norm, table, f"{at}attention.output.LayerNorm")
            _copy(layer.up, table, f"{at}intermediate.dense")
            _copy(layer.down, table, f"{at}output.dense")
            _copy(layer.norm, table, f"{at}output.LayerNorm")


def start_from_classifier(
    front_end: StemFrontEnd,
    weight: Floats,
    bias: Floats,
    mean: Floats,
    scale: Floats,
    rows: Floats,
    contexts: Floats,
) -> None:
    """Fill the front end: the classifier as it is, class rows from texts, and a ridge map from weights to rows.

    weight (classes, pooled), bias (classes,): the classifier; mean, scale (features,): of the stem's channels;
    rows, contexts (classes, dim): unit rows of the classes' texts, and of texts about where they are met.
    """
    tables = [unit(rows + share * contexts) for share in CONTEXT]
    whole, patch = (table - CENTRING * table.mean(0) for table in tables)
    centred = weight - weight.mean(0)
    wanted = unit(rows + 0.3 * contexts)
    gram = centred.T @ centred + RIDGE * np.eye(weight.shape[1], dtype=np.float32)
    ridge = np.linalg.solve(gram, centred.T @ (wanted - wanted.mean(0)))  # (pooled, dim)
    values = {
        "class_weight": weight, "class_bias": bias, "mean": mean, "scale": scale, "whole_rows": whole,
        "patch_rows": patch, "direct.weight": (ridge / scale[: len(ridge), None]).T,
    }  # fmt: skip
    state = front_end.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(torch.from_numpy(np.asarray(value, np.float32)))


def start_heads(model: SharedEncoder, texts: Floats) -> None:
    """ITC and the concept skip begin as a partial whitening of texts (n, dim); the concept leads at first."""
    values, vectors = np.linalg.eigh(np.cov((texts - texts.mean(0)).T))
    whitening = (vectors * np.maximum(values, 1e-4) ** (-WHITENING / 2)) @ vectors.T
    with torch.no_grad():
        for head in (model.itc, model.skip):
            head.weight.copy_(torch.from_numpy(whitening.astype(np.float32)))
        model.gate.weight.zero_()
        model.gate.bias.fill_(3.0)


def unit(rows: NDArray[Any]) -> Floats:
    """Rows at length one."""
    found: Floats = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return found


def _copy(module: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    module.weight.copy_(tensors[f"{name}.weight"])
    module.bias.copy_(tensors[f"{name}.bias"])
