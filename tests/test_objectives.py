"""Objectives: against values worked out by hand, and against what must fail."""

import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from models.training import objectives


def units(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_itc_of_matching_rows_with_a_high_scale_is_near_zero() -> None:
    rows = torch.eye(4)
    assert objectives.itc(rows, rows, torch.eye(4), torch.tensor(50.0)).item() < 1e-6


def test_itc_of_a_constant_embedding_is_the_chance_level() -> None:
    rows = torch.ones(4, 8) / math.sqrt(8)
    loss = objectives.itc(rows, rows, torch.eye(4), torch.tensor(10.0))
    assert loss.item() == pytest.approx(math.log(4), abs=1e-5)


def test_itc_with_the_identity_is_infonce_both_ways() -> None:
    pictures, texts = units(6, 16, 1), units(6, 16, 2)
    logits = 7.0 * pictures @ texts.T
    wanted = (F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2
    assert objectives.itc(pictures, texts, torch.eye(6), torch.tensor(7.0)) == pytest.approx(wanted)


def test_itc_does_not_mind_how_targets_are_scaled() -> None:
    pictures, texts, scale = units(5, 8, 1), units(5, 8, 2), torch.tensor(5.0)
    targets = torch.rand(5, 5, generator=torch.Generator().manual_seed(3)) + 0.1
    once = objectives.itc(pictures, texts, targets, scale)
    assert objectives.itc(pictures, texts, 9 * targets, scale) == pytest.approx(once.item(), rel=1e-5)


def test_contrast_is_the_cross_entropy_with_shared_targets_both_ways() -> None:
    pictures, texts, scale = units(5, 8, 1), units(7, 8, 2), torch.tensor(5.0)
    targets = torch.rand(5, 7, generator=torch.Generator().manual_seed(3)) + 0.1
    logits = scale * pictures @ texts.T
    there = -((targets / targets.sum(1, keepdim=True)) * logits.log_softmax(1)).sum(1).mean()
    back = -((targets / targets.sum(0)) * logits.log_softmax(0)).sum(0).mean()
    for loss in (
        objectives.contrast(logits, targets),
        objectives.itc(pictures, texts, targets, scale),
    ):
        assert loss.item() == pytest.approx((there + back).item() / 2, rel=1e-5)


def test_hard_negatives_are_never_excluded_ones() -> None:
    scores = torch.zeros(64, 8)
    scores[:, 0] = 100
    excluded = torch.zeros(64, 8, dtype=torch.bool)
    excluded[:, 0] = True
    drawn = objectives.hard_negatives(scores, excluded)
    assert drawn.shape == (64,)
    assert (drawn != 0).all()


def test_hard_negatives_prefer_what_scores_high() -> None:
    torch.manual_seed(0)
    scores = torch.zeros(500, 4)
    scores[:, 2] = 3
    share = (objectives.hard_negatives(scores, torch.zeros(500, 4, dtype=torch.bool)) == 2).float().mean()
    assert share == pytest.approx(math.exp(3) / (math.exp(3) + 3), abs=0.06)


def test_a_row_with_everything_excluded_still_draws() -> None:
    drawn = objectives.hard_negatives(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
    assert ((drawn >= 0) & (drawn < 3)).all()


def test_masking_asks_for_a_share_of_words_and_corrupts_most_of_them() -> None:
    torch.manual_seed(0)
    ids = torch.full((200, 50), 7)
    maskable = torch.ones_like(ids, dtype=torch.bool)
    maskable[:, 0] = False
    read, labels = objectives.mask_words(ids, maskable, mask_id=3, vocabulary=1000, share=0.15)
    asked = labels != objectives.IGNORED
    assert not asked[:, 0].any()
    assert asked[:, 1:].float().mean() == pytest.approx(0.15, abs=0.01)
    assert (labels[asked] == 7).all()
    assert (read[~asked] == 7).all()
    assert (read[asked] == 3).float().mean() == pytest.approx(0.8, abs=0.03)
    assert (read[asked] == 7).float().mean() == pytest.approx(0.1, abs=0.03)


def test_mim_counts_hidden_patches_only() -> None:
    target = torch.zeros(2, 4, 3)
    predicted = torch.zeros(2, 4, 3)
    predicted[0, 1] = 2.0  # hidden: an error of 4
    predicted[1, 3] = 9.0  # seen
    hidden = torch.tensor([[False, True, False, False], [True, False, False, False]])
    assert objectives.mim(predicted, target, hidden).item() == pytest.approx(2.0)


def test_alike_is_zero_for_the_teacher_itself_and_two_for_its_opposite() -> None:
    rows = units(5, 8)
    assert objectives.alike(rows, rows).item() == pytest.approx(0, abs=1e-6)
    assert objectives.alike(-rows, rows).item() == pytest.approx(2, abs=1e-6)


def test_relations_are_kept_by_a_rotation_and_lost_by_a_constant() -> None:
    rows = units(12, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(4)))[0]
    assert objectives.relations(rows @ rotation, rows, 0.1).item() == pytest.approx(0, abs=1e-4)
    constant = rows[:1].expand(12, -1)
    assert objectives.relations(constant, rows, 0.1).item() > 0.1


def test_itm_of_sure_and_right_logits_is_near_zero() -> None:
    labels = torch.tensor([1.0, 0.0])
    assert objectives.itm(torch.tensor([20.0, -20.0]), labels).item() < 1e-6
    assert objectives.itm(torch.zeros(2), labels).item() == pytest.approx(math.log(2), abs=1e-6)
