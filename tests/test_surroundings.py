# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Where things are met: what is seen all over a photograph counts where words ask for it."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from models.config import MET
from models.front_ends import Features, StemFrontEnd
from models.graphs import FLOOR, GraphBuilder, Weights
from models.image_graph import image_graph
from models.momo import Sequence, SharedEncoder
from models.refit import tables_of, with_tables_in
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


@pytest.mark.parametrize("quantised", [False, True])
def test_a_graph_of_before_becomes_as_a_new_one(model: SharedEncoder, quantised: bool) -> None:
    stem, front = small_stem(SMALL), model.front_end
    assert isinstance(front, StemFrontEnd)
    with torch.no_grad():
        front.shares[2] = MET
    made = image_graph(SMALL, weights_of(model), stem, quantised=quantised)
    pixels = np.random.default_rng(3).normal(size=(4, 3, 40, 40)).astype(np.float32)
    wanted = answered(made, pixels)
    before = with_whole_stretched(made)
    assert np.abs(answered(before, pixels) - wanted).max() > 0.01
    whole, patch = (rows.detach().numpy() for rows in (front.whole_rows, front.patch_rows))
    again = with_tables_in(before, whole, patch)
    assert np.abs(answered(again, pixels) - wanted).max() < 1e-5
    once_more = answered(with_tables_in(again, whole, patch), pixels)
    assert np.array_equal(once_more, answered(again, pixels))
    others = answered(with_tables_in(again, -whole, patch), pixels)
    assert np.abs(others[:, 0] - wanted[:, 0]).max() > 0.01


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


def test_a_picture_is_also_where_such_things_are_met(model: SharedEncoder) -> None:
    seen, front = features(SMALL, 3), model.front_end
    assert isinstance(front, StemFrontEnd)
    before = front(seen)
    with torch.no_grad():
        front.shares[2] += 1
    moved = front(seen)
    assert not torch.equal(moved[:, 0], before[:, 0])
    assert torch.equal(moved[:, 1:], before[:, 1:])  # each patch tells of itself


def test_the_surer_the_classifier_the_more_the_picture_is_of_its_class(model: SharedEncoder) -> None:
    front = model.front_end
    assert isinstance(front, StemFrontEnd)
    patches, pooled = features(SMALL, 3)
    with torch.no_grad():
        front.whole_rows.sub_(front.whole_rows.mean(0))
        front.class_bias.zero_()
    moved = []
    for certainty in (0.01, 3.0):
        with torch.no_grad():
            front.logit_scale[0] = certainty
            before = front(Features(patches, pooled))[:, 0]
            front.whole_rows.mul_(3)
            moved.append((front(Features(patches, pooled))[:, 0] - before).norm())
            front.whole_rows.div_(3)
    assert moved[1] > 5 * moved[0] > 0  # at length one, longer rows would move nothing


def concepts(shown: Sequence) -> torch.Tensor:
    """What goes around the trunk, a view: (n, picture tokens, dim)."""
    return shown.picture_tokens[..., SMALL.width :]


def weights_of(model: SharedEncoder) -> Weights:
    return Weights({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def answered(graph: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    (tokens,) = ort.InferenceSession(graph.SerializeToString()).run(["tokens"], {"pixels": pixels})
    return np.asarray(tokens)


def with_whole_stretched(graph: onnx.ModelProto) -> onnx.ModelProto:
    """As graphs were before: what is expected of a picture at length one, and no surroundings in it."""
    before = onnx.ModelProto()
    before.CopyFrom(graph)
    makers = {output: node for node in before.graph.node for output in node.output}
    norm = next(node for node in before.graph.node if node.op_type == "LayerNormalization")
    joined = makers[norm.input[0]]
    joined.input[0] = makers[joined.input[0]].input[0]
    first = makers[makers[joined.input[0]].input[0]]  # the concept of the patches, added to the whole
    g = GraphBuilder(prefix="stretched_")
    first.input[0], place = g.unit(first.input[0], floor=FLOOR), list(before.graph.node).index(first)
    nodes = [*before.graph.node[:place], *g.nodes, *before.graph.node[place:]]
    del before.graph.node[:]
    before.graph.node.extend(nodes)
    before.graph.initializer.extend(g.constants)
    return before
