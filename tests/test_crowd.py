# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""What is found by everything counts for less, where words ask for a drawing."""

import numpy as np
import pytest
import torch

from models.momo import SharedEncoder
from models.training.crowd import SCALE, crowded, fill_crowd, typical
from tests.momo_models import SMALL, random_model
from tests.test_momo import moved_by, pair, sequence


@pytest.fixture
def model() -> SharedEncoder:
    return random_model(SMALL)


def test_only_words_that_ask_for_a_picture_consult_the_crowd(model: SharedEncoder) -> None:
    moved = moved_by(model, model.crowd_scale)
    assert moved == {("text", "picture"), ("text", "mixed")}


def test_photographs_are_left_alone(model: SharedEncoder) -> None:
    shown = sequence(model, "picture", seed=11)
    shown.picture_tokens[:, :: SMALL.picture_tokens, SMALL.width :] *= 100
    found = pair(sequence(model, "text"), shown)
    before = model.match(found)
    with torch.no_grad():
        model.crowd_scale.add_(1)
    assert torch.equal(model.match(found), before)


def test_a_picture_that_the_crowd_finds_gets_less(model: SharedEncoder) -> None:
    shown = sequence(model, "picture", seed=11)
    found = pair(sequence(model, "text"), shown)
    near = model.embed(shown).detach().numpy()
    fill_crowd(model, -near)
    away = model.match(found)
    fill_crowd(model, near)
    assert (model.match(found) < away).all()


def test_a_new_model_has_no_crowd() -> None:
    model = SharedEncoder(SMALL)
    assert not model.crowd_scale.any()


def test_a_crowd_is_of_the_commonest_names_in_whatever_order_they_come() -> None:
    names = [f"thing {i}" for i in range(50) for _ in range(1 + i // 10)]
    chosen = typical(names, 20)
    assert set(chosen) == {f"thing {i}" for i in range(30, 50)}
    assert typical(names[::-1], 20) == chosen
    assert set(typical(names[:3], 20)) == set(names[:3])


def test_too_few_rows_are_repeated_until_there_are_enough() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = crowded(rows, 7)
    assert found["crowd"].tolist() == [*rows.tolist(), *rows.tolist(), rows[0].tolist()]
    assert found["crowd_scale"].tolist() == pytest.approx(SCALE)
    with pytest.raises(ValueError, match="a crowd needs texts"):
        crowded(rows[:0], 7)
