# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""Class rows are told apart by their names."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from models.front_ends import StemFrontEnd
from models.graphs import Weights
from models.image_graph import image_graph
from models.momo import SharedEncoder
from models.refit import concept_head_of
from models.training.apart import at_length_one, told_apart
from models.training.parts import unit
from tests.momo_models import SMALL, random_model, small_stem

CLASSES, DIM = 40, 16


@pytest.fixture
def names() -> np.ndarray:
    """Two ways to name each class, in which neighbours of two are called alike."""
    random = np.random.default_rng(1)
    alike = np.repeat(random.normal(size=(CLASSES // 2, DIM)), 2, axis=0)
    ways = [alike + 0.4 * random.normal(size=(CLASSES, DIM)) for _ in range(2)]
    return unit(np.stack(ways))


def itself(rows: Tensor) -> Tensor:
    return rows


def found_by_name(rows: np.ndarray, names: np.ndarray) -> float:
    """How often the row that is nearest to a name is its class's."""
    return float(np.mean((unit(rows) @ names.transpose(0, 2, 1)).argmax(1) == np.arange(CLASSES)))


def margin(rows: np.ndarray, names: np.ndarray) -> float:
    """By how much a row is nearer to its own name than to that of the class that is called alike."""
    near = unit(rows) @ names.transpose(0, 2, 1)
    own, other = np.arange(CLASSES), np.arange(CLASSES) ^ 1
    return float(np.mean(near[:, own, own] - near[:, own, other]))


def test_rows_are_found_by_their_names_and_stay_near_to_where_they_were(names: np.ndarray) -> None:
    table = (names.mean(0) + 0.2 * np.random.default_rng(2).normal(size=(CLASSES, DIM))).astype(np.float32)
    moved = told_apart(table, names, itself)
    assert found_by_name(moved, names) > found_by_name(table, names)
    assert margin(moved, names) > 1.5 * margin(table, names)
    assert np.linalg.norm(moved - table) < 0.6 * np.linalg.norm(table)
    assert np.array_equal(moved, told_apart(table, names, itself))


def test_what_goes_around_the_trunk_is_told_apart_and_not_what_goes_in(names: np.ndarray) -> None:
    turned = torch.from_numpy(np.linalg.qr(np.random.default_rng(3).normal(size=(DIM, DIM)))[0]).float()
    table = np.asarray(names.mean(0) @ turned.numpy().T, np.float32)
    moved = told_apart(table, names, lambda rows: rows @ turned)
    assert margin(moved @ turned.numpy(), names) > 1.2 * margin(table @ turned.numpy(), names)


def test_rows_have_length_one_in_the_mean_and_keep_their_proportions(names: np.ndarray) -> None:
    table = (names[0] * np.linspace(0.5, 3, CLASSES)[:, None]).astype(np.float32)
    rows = at_length_one(table)
    assert np.square(rows).sum(1).mean() == pytest.approx(1, abs=1e-5)
    assert np.allclose(rows / rows[0], table / table[0], rtol=1e-4)


def test_a_bundle_tells_how_its_concepts_go_around_the_trunk() -> None:
    model: SharedEncoder = random_model(SMALL)
    front = model.front_end
    assert isinstance(front, StemFrontEnd)
    weights = Weights({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    made: onnx.ModelProto = image_graph(SMALL, weights, small_stem(SMALL), quantised=True)
    norm, around = concept_head_of(made)
    rows = front.whole_rows.detach()
    wanted = front.skip(front.concept_norm(rows)).detach()
    weight, bias = torch.from_numpy(np.array(norm.weight)), torch.from_numpy(np.array(norm.bias))
    found = F.layer_norm(rows, weight.shape, weight, bias, eps=1e-12) @ torch.from_numpy(around).T
    assert torch.allclose(found, wanted, atol=0.02)
