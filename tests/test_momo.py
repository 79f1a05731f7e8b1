# mypy: disable-error-code="import-not-found,import-untyped,no-any-unimported"
"""One trunk for words, pictures and both: what must be shared, what must not change a row, and what must."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import ModelConfig
from models.front_ends import Features
from models.momo import CANDIDATE, Sequence, SharedEncoder, agreement
from models.sequences import JUDGE
from models.training.reading import Read
from tests.momo_models import PATCHES, SMALL, random_model

CONFIGS = {"stem": SMALL, "patches": PATCHES}
KINDS = ("text", "picture", "mixed")
Pair = tuple[str, str]
PAIRS = [("text", "picture"), ("picture", "text"), ("text", "text"), ("text", "mixed"), ("mixed", "picture")]


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


def sequence(model: SharedEncoder, kind: str, count: int = 3, seed: int = 1) -> Sequence:
    """Documents of one kind: text alone, a picture alone, or a text and then a picture."""
    config = model.config
    ids = words(config, count, 2 if kind == "picture" else 6, seed + 1)
    tokens = model.front_end(features(config, count, seed))
    if kind == "text":
        tokens = tokens[:, :0]
    slots = torch.full(tokens.shape[:2], int(kind == "mixed"))
    return Sequence(ids, torch.arange(ids.shape[1]).expand_as(ids), torch.zeros_like(ids), tokens, slots)


def pair(query: Sequence, candidate: Sequence) -> Sequence:
    """Documents beside others to match, and the judge as the last of their words."""
    one = torch.ones_like(query.input_ids[:, :1])
    return Sequence(
        torch.cat([query.input_ids, candidate.input_ids, one], dim=1),
        torch.cat([query.word_positions, candidate.word_positions, 0 * one], dim=1),
        torch.cat([query.word_slots, candidate.word_slots + CANDIDATE, JUDGE * one], dim=1),
        torch.cat([query.picture_tokens, candidate.picture_tokens], dim=1),
        torch.cat([query.picture_slots, candidate.picture_slots + CANDIDATE], dim=1),
    )


def padded(model: SharedEncoder, plain: Sequence) -> Sequence:
    """The same, with words and a picture that are no part of it."""
    count = len(plain.input_ids)
    tokens = 5 * torch.randn(count, model.config.picture_tokens, model.config.token_width)
    return Sequence(
        torch.cat([plain.input_ids, words(model.config, count, 4, seed=9)], dim=1),
        torch.cat([plain.word_positions, torch.full((count, 4), 3)], dim=1),
        torch.cat([plain.word_slots, torch.full((count, 4), -1)], dim=1),
        torch.cat([plain.picture_tokens, tokens], dim=1),
        torch.cat([plain.picture_slots, torch.full(tokens.shape[:2], -1)], dim=1),
    )


def sides(model: SharedEncoder, kinds: Pair) -> tuple[Sequence, Sequence]:
    return sequence(model, kinds[0]), sequence(model, kinds[1], seed=11)


def moved_by(model: SharedEncoder, scale: torch.nn.Parameter) -> set[Pair]:
    """The kinds of the sides, the asked and the shown, whose matches are others when a scale is."""
    kinds = ("text", "picture", "mixed")
    pairs = {
        (asked, shown): pair(sequence(model, asked), sequence(model, shown, seed=11))
        for asked in kinds
        for shown in kinds
    }
    before = {sides: model.match(found) for sides, found in pairs.items()}
    with torch.no_grad():
        scale.add_(1)
    return {sides for sides, found in pairs.items() if not torch.equal(model.match(found), before[sides])}


def without_judge(model: SharedEncoder, alike: float, found: float) -> SharedEncoder:
    """The model, whose logits are these weights of the sides' cosine and of their agreement."""
    with torch.no_grad():
        judged: Any = model.itm[-1]
        judged.weight.zero_()
        judged.bias.zero_()
        model.match_scale.copy_(torch.tensor([alike, found, 0.0]))
        model.crowd_scale.zero_()
        model.scene_scale.zero_()
    return model


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
def test_what_is_in_padding_does_not_change_a_row(model: SharedEncoder, kind: str) -> None:
    plain = sequence(model, kind)
    assert torch.allclose(model.embed(plain), model.embed(padded(model, plain)), atol=1e-5)


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


@pytest.mark.parametrize("kinds", PAIRS)
def test_neither_padding_nor_neighbours_change_a_logit(model: SharedEncoder, kinds: Pair) -> None:
    both = pair(*sides(model, kinds))
    logits = model.match(both)
    assert logits.shape == (3,)
    assert torch.allclose(model.match(padded(model, both)), logits, atol=1e-4)
    backwards = Sequence(*(tensor.flip(0) for tensor in vars(both).values()))
    assert torch.allclose(model.match(backwards).flip(0), logits, atol=1e-4)


@pytest.mark.parametrize("kinds", PAIRS)
def test_a_side_of_a_match_reads_as_it_does_alone(model: SharedEncoder, kinds: Pair) -> None:
    query, candidate = sides(model, kinds)
    cosines = torch.linalg.vecdot(model.embed(query), model.embed(candidate))
    logits = without_judge(model, alike=1, found=0).match(pair(query, candidate))
    assert torch.allclose(logits, cosines, atol=1e-5)


@pytest.mark.parametrize("kinds", PAIRS)
def test_what_training_finds_of_documents_read_alone_is_a_matchs_agreement(
    model: SharedEncoder, kinds: Pair
) -> None:
    query, candidate = sides(model, kinds)
    found = Read.by(model, padded(model, query)).found_in(Read.by(model, padded(model, candidate)))
    logits = without_judge(model, alike=0, found=1).match(pair(query, candidate))
    assert torch.allclose(logits, found.diagonal(), atol=1e-5)
    assert found.unique().numel() == found.numel()


def test_the_judge_reads_both_sides_and_is_read_by_none(model: SharedEncoder) -> None:
    query, candidate = sides(model, ("text", "mixed"))
    at = query.input_ids.shape[1] + candidate.input_ids.shape[1]
    both = pair(query, candidate)
    before = model.states(both)

    def moved(other: Sequence) -> set[int]:
        """The slots of the tokens that read otherwise than before."""
        differing = (model.states(other) - before).abs().amax(2) > 1e-5
        return {int(slot) for slot in both.slots[differing]}

    another = both.input_ids.clone()
    another[:, at] += 1
    assert moved(replace(both, input_ids=another)) == {JUDGE}
    assert moved(pair(sequence(model, "text", seed=21), candidate)) == {0, JUDGE}
    assert moved(pair(query, sequence(model, "mixed", seed=22))) == {CANDIDATE, CANDIDATE + 1, JUDGE}


def test_a_match_tells_the_sides_apart_and_asks_its_judge(model: SharedEncoder) -> None:
    query, candidate = sides(model, ("text", "text"))
    logits = model.match(pair(query, candidate))
    assert (logits - model.match(pair(candidate, query))).abs().min() > 1e-3
    judged: Any = model.itm[-1]
    with torch.no_grad():
        judged.weight.neg_()
    assert (logits - model.match(pair(query, candidate))).abs().min() > 1e-3


def test_agreement_is_the_mean_of_the_nearest_over_what_counts() -> None:
    cosines = torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.4, -0.3]])
    both, first, none = torch.tensor([[True, True], [True, False], [False, False]])
    whole, last, nothing = torch.tensor([[True, True, False], [False, False, True], [False] * 3])
    cases = [
        (both, whole, 0.65),
        (first, whole, 0.9),
        (both, last, 0.1),
        (none, whole, 0.0),
        (both, nothing, -1.0),
    ]
    asked, shown = (torch.stack(column) for column in list(zip(*cases, strict=True))[:2])
    found = agreement(cosines.expand(5, 2, 3), asked, shown)
    assert found.tolist() == pytest.approx([wanted for _, _, wanted in cases])


def test_a_concept_is_trusted_otherwise_beside_words_than_alone() -> None:
    model = random_model(SMALL)
    before = {kind: model.embed(sequence(model, kind)) for kind in KINDS}
    for number, moved in ((0, "picture"), (1, "mixed")):
        with torch.no_grad():
            model.trust[number] += 0.5
        rows = {kind: model.embed(sequence(model, kind)) for kind in KINDS}
        assert {kind for kind in KINDS if not torch.allclose(rows[kind], before[kind], atol=1e-5)} == {moved}
        before = rows


def test_a_picture_part_is_told_from_another_by_its_slot(model: SharedEncoder) -> None:
    tokens = model.front_end(features(model.config, 2)).flatten(0, 1)[None]
    count = model.config.picture_tokens
    ids = words(model.config, 1, 2)
    slots = torch.tensor([[0] * count + [1] * count])
    both = Sequence(ids, torch.arange(2)[None], torch.zeros_like(ids), tokens, slots)
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
