# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""What drawings look like by themselves, beside words; and other heads over a bundle's trunk."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from models.bundle import Licence
from models.encoder import Encoder
from models.export import export
from models.graphs import Weights
from models.momo import Sequence as Laid
from models.momo import SharedEncoder
from models.momo_graphs import with_other_heads
from models.preprocess import Document
from models.refit import heads_of
from models.training import reading
from models.training.look import SHARE, WISH_SHARE, Beside, fit_look, fitted, missing
from tests.joint_bundle import tokenizer
from tests.momo_models import SMALL, random_model, small_stem
from tests.test_export import documents
from tests.test_momo import features, sequence

HEADS = ("itc.", "trust", "itm.", "match_scale", "look.", "crowd", "scene_scale")


def heads(model: SharedEncoder) -> dict[str, np.ndarray]:
    return {name: t.numpy().copy() for name, t in model.state_dict().items() if name.startswith(HEADS)}


def bundled(folder: Path, model: SharedEncoder) -> Encoder:
    folder.mkdir()
    tokenizer().save(str(folder / "letters.json"))
    made = export(
        model, folder / "bundle", stem=small_stem(SMALL), tokenizer=folder / "letters.json", precision="int8",
        licences=[Licence("weights", "dice", "CC0-1.0")], provenance={}, probes=["a dog"],
    )  # fmt: skip
    return Encoder.load(made, device="cpu", threads=1)


def pictures(seed: int, count: int = 64) -> torch.Tensor:
    """Tokens of drawings, more or less: the concept around the trunk is short."""
    with torch.no_grad():
        return torch.as_tensor(random_model(SMALL).front_end(features(SMALL, count, seed)))


def test_a_look_changes_documents_of_words_and_drawings_alone() -> None:
    model = random_model(SMALL)
    rows = {kind: model.embed(sequence(model, kind)) for kind in ("text", "picture", "mixed")}
    with torch.no_grad():
        model.look.bias.add_(1)
    changed = {kind for kind, row in rows.items() if not torch.equal(model.embed(sequence(model, kind)), row)}
    assert changed == {"mixed"}


def test_a_photograph_beside_words_has_its_concept_and_no_look() -> None:
    model = random_model(SMALL)
    mixed = sequence(model, "mixed")
    step, width = SMALL.picture_tokens, SMALL.width
    mixed.picture_tokens[:, ::step, width:] *= 100
    row = model.embed(mixed)
    with torch.no_grad():
        model.look.bias.add_(1)
    assert torch.equal(model.embed(mixed), row)


def test_a_new_model_has_no_look() -> None:
    model = SharedEncoder(SMALL)
    assert not any(parameter.any() for parameter in model.look.parameters())


def test_the_look_tells_a_share_of_rows_that_are_linear_in_what_is_shown() -> None:
    random = np.random.default_rng(0)
    shown, weight = random.normal(size=(4000, 6)), random.normal(size=(3, 6))
    rows = shown @ weight.T + [1.0, 2.0, 3.0]
    found, bias = fitted(shown.astype(np.float32), rows.astype(np.float32))
    told = shown @ found.T + bias
    # A ridge of a sixth of the variance takes a seventh away from what is not the mean.
    assert told == pytest.approx(SHARE * (rows.mean(0) + (rows - rows.mean(0)) * 6 / 7), abs=0.05)


def test_what_rows_are_short_of_is_told_in_part_and_documents_stay() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(3, 6))
    asked, named = (random.normal(size=(4000, 6)) for _ in range(2))
    asked[:, 5], named[:, 5] = 1, -1  # one input tells wishes from names
    rows = random.normal(size=(4000, 3))
    lacking = 0.1 * asked @ weight.T
    queries, documents = (Beside(read.astype(np.float32), rows.astype(np.float32)) for read in (asked, named))
    found, bias = missing(queries, (rows + lacking).astype(np.float32), documents)
    told = asked @ found.T + bias
    assert np.abs(named @ found.T + bias).mean() < np.abs(told).mean()
    assert (told * lacking).sum() / (lacking**2).sum() == pytest.approx(WISH_SHARE / 2, abs=0.12)


def wished(model: SharedEncoder, seeds: Sequence[int]) -> Iterator[tuple[Laid, torch.Tensor]]:
    for seed in seeds:
        shown = pictures(seed, count=8)
        beside = reading.documents([[i, [20 + i, 40 + i]] for i in range(8)], shown)
        yield beside, pictures(seed + 100, count=8)


def test_a_fitted_look_leans_to_what_is_wished_for() -> None:
    model = random_model(replace(SMALL, vocabulary=reading.SEP + 1))
    with torch.no_grad():
        for parameter in model.look.parameters():
            parameter.zero_()
    seeds = range(1, 9)
    documents = [beside for beside, _ in wished(model, [50])]

    def nearness() -> torch.Tensor:
        rows = torch.cat([model.embed(beside) for beside, _ in wished(model, seeds)])
        targets = torch.cat([model.embed(reading.shown(tokens)) for _, tokens in wished(model, seeds)])
        return (rows * targets).sum(1)

    before = nearness()
    fit_look(model, (pictures(seed) for seed in seeds), wished(model, seeds), iter(documents))
    assert (nearness() > before).float().mean() > 0.9


def test_the_heads_of_a_bundle_can_be_read_back(tmp_path: Path) -> None:
    model = random_model(SMALL)
    encoder = bundled(tmp_path / "a", model)
    wanted = heads(model)
    found = heads_of(onnx.load(encoder.bundle.file("document.onnx")))
    assert set(found) == set(wanted)
    for name, values in found.items():
        assert values.shape == wanted[name].shape
        assert values == pytest.approx(wanted[name], abs=0.01)


def test_other_heads_over_a_trunk_are_those_of_a_model_that_has_them(tmp_path: Path) -> None:
    model = random_model(SMALL)
    first = bundled(tmp_path / "a", model)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith(HEADS):
                tensor.mul_(1.25)
    second = bundled(tmp_path / "b", model)
    weights = Weights(heads(model))
    grafted = with_other_heads(onnx.load(first.bundle.file("document.onnx")), SMALL, weights)
    assert weights.left == set()
    session = ort.InferenceSession(grafted.SerializeToString(), providers=["CPUExecutionProvider"])
    trunks = [first.bundle.file("document.onnx"), second.bundle.file("document.onnx")]
    assert _outputs(session, second, documents(8, seed=1)) == pytest.approx(
        second.embed(documents(8, seed=1)), abs=1e-5
    )
    assert len({json.dumps(_trunk(file)) for file in trunks}) == 1


def _trunk(file: Path) -> list[str]:
    """The kinds of nodes up to the last norm."""
    kinds = [node.op_type for node in onnx.load(file).graph.node]
    return kinds[: len(kinds) - kinds[::-1].index("SkipLayerNormalization")]


def _outputs(session: ort.InferenceSession, encoder: Encoder, asked: list[Document]) -> np.ndarray:
    """The rows of documents by another document graph than the encoder's own."""
    encoder._graphs["document"] = (session, encoder._graphs["document"][1])
    return encoder.embed(asked)
