"""Training objectives as pure functions of tensors; formulas in the docstrings."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

IGNORED = -100  # a word that MLM does not ask for


def itc(pictures: Tensor, texts: Tensor, targets: Tensor, logit_scale: Tensor) -> Tensor:
    """Image-text contrast of unit rows (n, dim) by their cosines; targets as in contrast."""
    return contrast(logit_scale * pictures @ texts.T, targets)


def contrast(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft cross-entropy both ways.

    logits (n, m); targets (n, m) >= 0, the share of column j in what row i shows.
    ½ [CE(logits, rows of targets) + CE(logitsᵀ, columns of targets)], the targets normalised each way; with
    the identity as targets it is InfoNCE (Radford et al. 2021, arXiv 2103.00020).
    """
    rows = targets / targets.sum(1, keepdim=True)
    columns = targets.T / targets.sum(0)[:, None]
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2


def itm(logits: Tensor, labels: Tensor) -> Tensor:
    """Matching: mean binary cross-entropy of logits (n,) against labels (n,) of 0 and 1."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def hard_negatives(scores: Tensor, excluded: Tensor) -> Tensor:
    """For each row of scores (n, m) a column (n,) drawn in proportion to softmax(scores), none of excluded.

    Li et al. 2021 (ALBEF, arXiv 2107.07651) draw ITM's negatives so. A row with all excluded draws any.
    """
    open_rows = ~excluded.all(1, keepdim=True)
    weights = scores.masked_fill(excluded & open_rows, -torch.inf).softmax(1)
    return torch.multinomial(weights, 1)[:, 0]


def mask_words(
    input_ids: Tensor,
    maskable: Tensor,
    mask_id: int,
    vocabulary: int,
    share: float,
) -> tuple[Tensor, Tensor]:
    """BERT's corruption (Devlin et al. 2019): ids to read, and labels, IGNORED where nothing is asked.

    A share of the maskable words is asked for: 80 % of them read [MASK], 10 % any word, 10 % themselves.
    """
    device = input_ids.device
    asked = (torch.rand(input_ids.shape, device=device) < share) & maskable
    dice = torch.rand(input_ids.shape, device=device)
    strangers = torch.randint(vocabulary, input_ids.shape, device=device)
    read = torch.where(asked & (dice < 0.8), mask_id, input_ids)
    read = torch.where(asked & (dice >= 0.9), strangers, read)
    return read, torch.where(asked, input_ids, IGNORED)


def mim(predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error over hidden patches only (He et al. 2022, arXiv 2111.06377).

    predicted, target (n, patches, features), target at unit variance; hidden (n, patches) of bool.
    """
    errors = (predicted - target).square().mean(-1)
    weight = hidden.to(errors.dtype)
    return (errors * weight).sum() / weight.sum().clamp(min=1)


def alike(rows: Tensor, teacher: Tensor) -> Tensor:
    """1 - mean cosine of unit rows (n, dim) and a frozen teacher's."""
    return 1 - (rows * teacher).sum(-1).mean()


def relations(rows: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distillation of neighbourhoods: KL(softmax(T Tᵀ / t) || softmax(R Rᵀ / t)) over a batch's other rows.

    Park et al. 2019 (arXiv 1904.05068) give the idea; a constant row does not satisfy it.
    """
    own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    student = (rows @ rows.T / temperature).masked_fill(own, -1e4).log_softmax(1)
    wanted = (teacher @ teacher.T / temperature).masked_fill(own, -1e4).log_softmax(1)
    return F.kl_div(student, wanted, log_target=True, reduction="batchmean")
