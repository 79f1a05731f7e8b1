# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Where things are met: what is seen all over a photograph counts where words ask for it."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from models.front_ends import StemFrontEnd
from models.graphs import Weights
from models.image_graph import image_graph
from models.momo import Sequence, SharedEncoder
from models.refit import tables_of, with_scene_in
from models.training.parts import class_tables, surroundings, told_by, unit
from tests.momo_models import SMALL, random_model, small_stem
from tests.test_momo import features, moved_by, pair, sequence


@pytest.fixture
def model() -> SharedEncoder:
    return random_model(SMALL)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """The few words of these tests are a sentence."""
    monkeypatch.setattr("models.momo.NAME", 0)
    monkeypatch.setattr("models.momo.SENTENCE", 4)


@pytest.mark.usefixtures("brief")
def test_only_words_that_ask_for_a_picture_are_told(model: SharedEncoder) -> None:
    moved = moved_by(model, model.scene_scale)
    assert moved == {("text", "picture"), ("text", "mixed")}


def test_a_name_asks_for_the_thing_alone(model: SharedEncoder) -> None:
    found = pair(sequence(model, "text"), sequence(model, "picture", seed=11))
    before = model.match(found)
    with torch.no_grad():
        model.scene_scale.add_(1)
    assert torch.equal(model.match(found), before)


@pytest.mark.usefixtures("brief")
def test_drawings_are_left_alone(model: SharedEncoder) -> None:
    shown = sequence(model, "picture", seed=11)
    concepts(shown)[:, 0] = 0
    found = pair(sequence(model, "text"), shown)
    before = model.match(found)
    with torch.no_grad():
        model.scene_scale.add_(1)
    assert torch.equal(model.match(found), before)


@pytest.mark.usefixtures("brief")
def test_a_photograph_gets_more_the_nearer_its_patches_are_to_the_words(model: SharedEncoder) -> None:
    words, shown = sequence(model, "text"), sequence(model, "picture", seed=11)
    row = model.embed(words).detach()
    scored = []
    for direction in (-1, 1):
        concepts(shown)[:, 0] = row  # photographs that are as near in each case
        concepts(shown)[:, 1:] = direction * row[:, None]
        both = pair(words, shown)
        length = both.input_ids.shape[1]
        query, candidate = both.slots.clone() == 0, torch.zeros_like(both.slots, dtype=torch.bool)
        candidate[:, length:] = True
        scored.append(model.scene(row, both, query, candidate))
    assert (scored[1] > scored[0]).all()


def test_a_graph_of_before_gets_what_a_new_one_has(model: SharedEncoder) -> None:
    stem = small_stem(SMALL)
    made = image_graph(SMALL, weights_of(model), stem, quantised=False)
    pixels = np.random.default_rng(3).normal(size=(4, 3, 40, 40)).astype(np.float32)
    wanted = answered(made, pixels)
    before = without_scene(made)
    assert np.abs(answered(before, pixels) - wanted).max() > 0.01
    front = model.front_end
    assert isinstance(front, StemFrontEnd)
    scene = (front.scene.weight * front.scale[: SMALL.pooled]).detach().numpy()
    again = with_scene_in(before, scene, SMALL)
    assert np.abs(answered(again, pixels) - wanted).max() < 1e-5
    with pytest.raises(ValueError, match="already"):
        with_scene_in(again, scene, SMALL)


def test_a_map_tells_the_surroundings_of_a_class_from_its_weights() -> None:
    random = np.random.default_rng(5)
    weight = random.normal(size=(20, 64)).astype(np.float32) * 3
    rows, contexts = (unit(random.normal(size=(20, 16))) for _ in range(2))
    wanted = surroundings(*class_tables(rows, contexts))
    near = unit((weight - weight.mean(0)) @ told_by(weight, wanted).T) @ wanted.T
    assert (near.argmax(1) == np.arange(20)).all()
    assert np.mean(np.sum(wanted * contexts, 1)) > np.mean(np.sum(wanted * rows, 1)) > 0


def test_a_quantised_graph_tells_its_tables_of_classes(model: SharedEncoder) -> None:
    made = image_graph(SMALL, weights_of(model), small_stem(SMALL), quantised=True)
    front = model.front_end
    assert isinstance(front, StemFrontEnd)
    for found, wanted in zip(tables_of(made), (front.whole_rows, front.patch_rows), strict=True):
        assert np.abs(found - wanted.detach().numpy()).max() < 0.01


def test_features_without_a_scene_have_the_concepts_of_before(model: SharedEncoder) -> None:
    seen = features(SMALL, 3)
    before: Any = model.front_end(seen)
    with torch.no_grad():
        front = model.front_end
        assert isinstance(front, StemFrontEnd)
        front.scene.weight.zero_()
    after: Any = model.front_end(seen)
    assert torch.equal(after[..., : SMALL.width], before[..., : SMALL.width])  # the trunk reads the same
    assert torch.equal(after[:, 0], before[:, 0])  # and so is the row of the picture
    assert not torch.equal(after[:, 1:], before[:, 1:])


def concepts(shown: Sequence) -> torch.Tensor:
    """What goes around the trunk, a view: (n, picture tokens, dim)."""
    return shown.picture_tokens[..., SMALL.width :]


def weights_of(model: SharedEncoder) -> Weights:
    return Weights({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def answered(graph: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    (tokens,) = ort.InferenceSession(graph.SerializeToString()).run(["tokens"], {"pixels": pixels})
    return np.asarray(tokens)


def without_scene(graph: onnx.ModelProto) -> onnx.ModelProto:
    """As graphs were before there was one."""
    before = onnx.ModelProto()
    before.CopyFrom(graph)
    makers = {output: node for node in before.graph.node for output in node.output}
    norm = next(node for node in before.graph.node if node.op_type == "LayerNormalization")
    joined = makers[norm.input[0]]
    joined.input[1] = makers[joined.input[1]].input[0]
    return before
