# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""One trunk for words, pictures and both: what must be shared, what must not change a row, and what must."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import ModelConfig
from models.momo import CANDIDATE, Features, Sequence, SharedEncoder
from tests.momo_models import PATCHES, SMALL, random_model

CONFIGS = {"stem": SMALL, "patches": PATCHES}
KINDS = ("text", "picture", "mixed")


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> SharedEncoder:
    return random_model(CONFIGS[request.param])


def features(config: ModelConfig, count: int, seed: int = 1) -> Features:
    random = torch.Generator().manual_seed(seed)
    patches = torch.randn(count, config.grid**2, config.features, generator=random)
    return Features(patches, patches.mean(1)[:, : config.pooled])


def words(config: ModelConfig, count: int, length: int = 6, seed: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocabulary, (count, length), generator=random)


def sequence(model: SharedEncoder, kind: str, count: int = 3) -> Sequence:
    """Documents of one kind: text alone, a picture alone, or a text and then a picture."""
    config = model.config
    ids = words(config, count, 2 if kind == "picture" else 6)
    tokens = model.front_end(features(config, count))
    if kind == "text":
        tokens = tokens[:, :0]
    slots = torch.full(tokens.shape[:2], int(kind == "mixed"))
    return Sequence(ids, torch.zeros_like(ids), tokens, slots)


def pair(model: SharedEncoder, query: Tensor, candidate: Tensor) -> Sequence:
    """Texts (n, length) beside texts to match."""
    ids = torch.cat([query, candidate], dim=1)
    slots = torch.zeros_like(ids)
    slots[:, query.shape[1] :] = CANDIDATE
    none = torch.zeros(len(ids), 0, model.config.width)
    return Sequence(ids, slots, none, torch.zeros(len(ids), 0, dtype=torch.long))


def used_by(model: SharedEncoder, kind: str) -> set[int]:
    """The identities of the trunk's parameters that a forward pass of this kind of document runs through."""
    used: set[int] = set()

    def note(module: Any, *_: Any) -> None:
        used.update(id(parameter) for parameter in module.parameters(recurse=False))

    hooks = [module.register_forward_hook(note) for module in model.trunk.modules()]
    model.embed(sequence(model, kind))
    for hook in hooks:
        hook.remove()
    return used


def test_every_modality_runs_through_the_same_weights_and_there_are_no_others(model: SharedEncoder) -> None:
    trunk = {id(parameter) for parameter in model.trunk.parameters()}
    assert len(trunk) == 12 * model.config.layers
    assert {kind: used_by(model, kind) == trunk for kind in KINDS} == dict.fromkeys(KINDS, True)
    elsewhere = [
        name for name, _ in model.named_parameters() if "qkv" in name and not name.startswith("trunk.")
    ]
    assert elsewhere == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_each_modality_reaches_every_weight_of_the_trunk(
    model: SharedEncoder, kind: str
) -> None:
    target = torch.randn(3, model.config.dim, generator=torch.Generator().manual_seed(3))
    (model.embed(sequence(model, kind)) * target).sum().backward()
    untouched = [
        name
        for name, parameter in model.trunk.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 1e-7
    ]
    assert untouched == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_length_one_and_does_not_depend_on_its_neighbours(model: SharedEncoder, kind: str) -> None:
    rows = model.embed(sequence(model, kind))
    assert rows.shape == (3, model.config.dim)
    assert torch.allclose(rows.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(model.embed(sequence(model, kind, 1)), rows[:1], atol=1e-5)
    assert (rows @ rows.T - 2 * torch.eye(3)).max() < 0.9999


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_padding_does_not_change_an_answer(model: SharedEncoder, kind: str) -> None:
    plain = sequence(model, kind)
    shape = (3, model.config.picture_tokens)
    padded = Sequence(
        torch.cat([plain.input_ids, words(model.config, 3, 4, seed=9)], dim=1),
        torch.cat([plain.word_slots, torch.full((3, 4), -1)], dim=1),
        torch.cat([plain.picture_tokens, 5 * torch.randn(*shape, model.config.width)], dim=1),
        torch.cat([plain.picture_slots, torch.full(shape, -1)], dim=1),
    )
    for answer in (model.embed, model.match):
        assert torch.allclose(answer(plain), answer(padded), atol=1e-5)


def test_the_order_of_parts_and_of_words_matters(model: SharedEncoder) -> None:
    mixed = sequence(model, "mixed")
    picture_first = replace(
        mixed,
        word_slots=torch.ones_like(mixed.word_slots),
        picture_slots=torch.zeros_like(mixed.picture_slots),
    )
    backwards = replace(mixed, input_ids=mixed.input_ids.flip(1))
    for other in (picture_first, backwards):
        assert (model.embed(mixed) * model.embed(other)).sum(1).max() < 0.9999


def test_a_match_reads_both_sides_together_and_tells_them_apart(model: SharedEncoder) -> None:
    query, candidate = words(model.config, 4), words(model.config, 4, seed=5)
    logits = model.match(pair(model, query, candidate))
    assert logits.shape == (4,)
    alike = (model.embed(text_alone(model, query)) * model.embed(text_alone(model, candidate))).sum(1)
    from_rows = model.match_scale[0] * alike + model.match_scale[1]
    assert (logits - from_rows).abs().min() > 1e-3
    assert (logits - model.match(pair(model, candidate, query))).abs().min() > 1e-3


def text_alone(model: SharedEncoder, ids: Tensor) -> Sequence:
    return pair(model, ids, ids[:, :0])


def test_a_picture_part_is_told_from_another_by_its_slot(model: SharedEncoder) -> None:
    tokens = model.front_end(features(model.config, 2)).flatten(0, 1)[None]
    count = model.config.picture_tokens
    ids = words(model.config, 1, 2)
    slots = torch.tensor([[0] * count + [1] * count])
    both = Sequence(ids, torch.zeros_like(ids), tokens, slots)
    exchanged = replace(both, picture_slots=1 - slots)
    assert (model.embed(both) * model.embed(exchanged)).sum() < 0.9999


def test_word_logits_ask_the_word_table_again(model: SharedEncoder) -> None:
    states = model.states(sequence(model, "text"))
    assert model.word_logits(states).shape == (3, 6, model.config.vocabulary)
    model.word_logits(states).sum().backward()
    assert model.words.weight.grad is not None


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_config_travels_as_plain_values_and_refuses_what_it_does_not_know(config: ModelConfig) -> None:
    assert ModelConfig.of(config.as_dict()) == config
    with pytest.raises(ValueError, match="unknown keys of a model config: depth, heads_"):
        ModelConfig.of(config.as_dict() | {"heads_": 3, "depth": 4})
