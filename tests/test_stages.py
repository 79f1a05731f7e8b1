"""The corpus and the stages: batches by seed, what each stage learns, and what must never be learned from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.momo import Sequence, SharedEncoder
from models.training.corpus import Corpus, Mixture, teacher_rows
from models.training.drawings import Neighbours
from models.training.fit import Plan, fit
from models.training.reading import CLS, SEP
from models.training.stages import Recipe, Stage, Streams, rates
from tests.training_folder import CONCEPTS, TINY, classes, classifier, tokenizer, write

MIXTURE = Mixture(drawings=4, virtual=3, scenes=3, composed=3)
RECIPE = Recipe(pictures=4, texts=8, matched=4, documents=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return Corpus(folder, classes(), classifier(), tokenizer(), MIXTURE, TINY)


@pytest.fixture(scope="module")
def streams(corpus: Corpus) -> Streams:
    rows = np.random.default_rng(0).normal(size=(len(corpus.texts.texts), TINY.dim)).astype(np.float16)
    return Streams(corpus, rows, TINY, RECIPE)


def fresh() -> SharedEncoder:
    torch.manual_seed(0)
    return SharedEncoder(TINY)


def test_only_the_training_split_is_learned_from(corpus: Corpus) -> None:
    assert {record.style for record in corpus.drawings.records} == {"noto", "stamps-photo"}
    assert {record.name for record in corpus.drawings.records} == set(CONCEPTS) - {"fox"}
    assert not any("fox" in text for text in corpus.texts.texts)


def test_a_batch_depends_on_its_seed_alone(corpus: Corpus) -> None:
    first, again, other = (corpus.pairs(seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(first.pictures.patches, again.pictures.patches)
    assert first.groups == again.groups
    assert not torch.equal(first.pictures.patches, other.pictures.patches)


def test_a_pair_holds_a_text_of_its_own_picture(corpus: Corpus) -> None:
    for step in range(20):
        pairs = corpus.pairs((0, step))
        concepts = {record.concept: record.name for record in corpus.drawings.records}
        for text, group in zip(pairs.texts, pairs.groups, strict=True):
            words = corpus.texts.texts[text]
            if group in concepts:
                assert concepts[group] in words
            elif group.startswith("class"):
                shown = [classes()[int(number)] for number in group.split()[1:]]
                assert words in shown[0].all_texts() or all(each.name in words for each in shown)
            else:
                assert words in corpus.texts.texts


def test_the_first_half_of_few_wishes_is_left_to_the_look_and_comes_in_batches(corpus: Corpus) -> None:
    batches = list(corpus.wishes(batch=4))
    assert [len(batch.texts) for batch in batches] == [4, 2]  # of 12
    first = corpus._triplets.read(np.arange(12))
    for side, shown in enumerate(("references", "targets")):
        pooled = torch.cat([getattr(batch, shown).pooled for batch in batches])
        assert torch.equal(pooled, first.pooled[side::2])
    said = [corpus.texts.texts[text] for batch in batches for text in batch.texts]
    assert said == [str(note["text"]) for note in corpus._triplets.notes[:6]]


def test_what_the_look_is_fitted_to_is_trained_on_by_nothing_else(corpus: Corpus) -> None:
    untrained = {text for batch in corpus.wishes() for text in batch.texts.tolist()}
    trained = {text for step in range(20) for text in corpus.composed((0, step)).texts.tolist()}
    assert len(untrained) == len(trained) == 6
    assert not untrained & trained


def test_some_drawings_come_with_their_names(corpus: Corpus) -> None:
    batches = list(corpus.named(3, batch=2))
    assert [len(pictures.pooled) for pictures, _ in batches] == [2, 1]
    known = {record.name for record in corpus.drawings.records}
    assert {corpus.texts.texts[text] for _, texts in batches for text in texts} <= known


def test_neighbours_are_drawings_whose_names_are_near(corpus: Corpus) -> None:
    order = ["apple", "boat", "cat", "drum", "egg"]
    angles = np.array([0.1 * order.index(record.name) for record in corpus.drawings.records])
    names = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    near = Neighbours(corpus.drawings, names)
    assert [order[i] for i in near._near[0][:2]] == ["boat", "cat"]
    drawn = near.draw(np.random.default_rng(0), 10)
    assert len(drawn) == 10
    assert len({corpus.drawings.records[i].concept for i in drawn[:4]}) == 4


def test_virtual_pictures_lean_towards_their_classes(corpus: Corpus) -> None:
    pairs = corpus.pairs((0, 0), times=10)
    virtual = [
        (i, [int(number) for number in group.split()[1:]])
        for i, group in enumerate(pairs.groups)
        if group.startswith("class")
    ]
    assert len(virtual) == 10 * MIXTURE.virtual
    assert {len(numbers) for _, numbers in virtual} == {1, 2}
    best = (pairs.pictures.patches[:, :, :12].numpy() @ classifier().T).max(1)
    leans = [best[i, number] > best[i].mean() for i, numbers in virtual for number in numbers]
    assert np.mean(leans) > 0.8


def test_named_pictures_are_taught_without_reading_a_word(streams: Streams) -> None:
    model = fresh()
    named = next(stream for stream in streams.of(2) if stream.name == "named")
    losses = named.losses(model, named.batch((0, 0)))
    losses["itc"].backward()
    assert model.itc.weight.grad is not None
    # The two markers of a picture's sequence, and nothing else.
    assert model.words.weight.grad is not None
    assert model.words.weight.grad.abs().sum(1).nonzero().flatten().tolist() == [CLS, SEP]


def test_a_document_of_a_picture_and_a_text_is_asked_for_by_its_pictures_text(
    corpus: Corpus, streams: Streams
) -> None:
    numbers = corpus.pairs((0, 0)).texts
    count = len(numbers)
    tokens = torch.arange(count)[:, None, None].expand(count, TINY.picture_tokens, TINY.token_width).float()

    class Reader:
        """Its row says which picture a document shows, or which stands so many places further on."""

        def __init__(self, further: int) -> None:
            self.further = further

        def embed(self, sequence: Sequence) -> torch.Tensor:
            assert ((sequence.word_slots >= 0).sum(1) > 2).all()
            shown = sequence.picture_tokens[:, 0, 0].long()
            return torch.eye(count)[(shown + self.further) % count]

    right, wrong = (
        streams._documents(
            Reader(further),
            tokens,
            numbers,
            20 * torch.eye(count),
            torch.eye(count),
            np.random.default_rng(1),
        )
        for further in (0, 1)
    )
    assert right < 0.01
    assert wrong > 19


def test_another_text_about_the_same_thing_is_of_the_same_record_class_or_scene(corpus: Corpus) -> None:
    numbers = np.array([corpus.texts.number[text] for text in ("apple", "a photo of a hen", "but blue 1")])
    apple, hen, alone = corpus.others(numbers, np.random.default_rng(0))
    assert corpus.texts.texts[apple] == "apple, thing"
    assert corpus.texts.texts[hen] in classes()[1].all_texts()
    assert hen != numbers[1]
    assert alone == numbers[2]


def test_a_mixture_without_a_source_has_none_of_it(folder: Path) -> None:
    plain = Corpus(folder, classes(), classifier(), tokenizer(), replace(MIXTURE, virtual=0, scenes=0), TINY)
    assert all(group.startswith("1f") for group in plain.pairs((0, 0)).groups)


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        (1, ["pictures", "named"]),
        (2, ["pictures", "named", "texts"]),
        (3, ["named", "texts", "pairs", "composed"]),
    ],
)
def test_each_stage_reads_its_modalities(streams: Streams, stage: Stage, names: list[str]) -> None:
    assert [stream.name for stream in streams.of(stage)] == names


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_stream_of_a_stage_moves_every_layer_of_the_one_trunk(streams: Streams, stage: Stage) -> None:
    for stream in streams.of(stage):
        model = fresh()
        losses = stream.losses(model, stream.batch((0, 0)))
        torch.stack(list(losses.values())).sum().backward()
        for name, weight in model.named_parameters():
            if not name.endswith("qkv.weight"):
                continue
            gradient = weight.grad
            assert gradient is not None, stream.name
            assert gradient.abs().sum() > 0, stream.name


def test_a_stage_lowers_its_losses(streams: Streams, tmp_path: Path) -> None:
    model = fresh()
    model.trust.data.fill_(0.5)  # a concept without a published classifier says nothing
    seen: list[float] = []
    plan = Plan(steps=40, warmup=5, bfloat16=False)
    fit(
        model,
        streams.of(3),
        plan,
        rates(3, front=3e-3, trunk=3e-3),
        tmp_path,
        lambda p: seen.append(sum(p.losses.values())),
    )
    assert np.mean(seen[-8:]) < 0.9 * np.mean(seen[:8])


def test_without_distillation_no_teacher_is_asked(corpus: Corpus) -> None:
    rows = np.full((len(corpus.texts.texts), TINY.dim), np.nan, np.float16)
    recipe = replace(RECIPE, distillation=0.0, softness=0.0)
    for stream in Streams(corpus, rows, TINY, recipe).of(3):
        losses = stream.losses(fresh(), stream.batch((0, 0)))
        assert all(torch.isfinite(loss) for loss in losses.values()), stream.name


def test_what_a_photograph_means_is_not_touched_by_any_stage(streams: Streams, tmp_path: Path) -> None:
    model = fresh()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    fit(model, streams.of(3), Plan(steps=2, bfloat16=False), rates(3), tmp_path)
    kept = {name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])}
    assert {
        "front_end.skip.weight",
        "words.weight",
        "front_end.whole_rows",
        "front_end.photograph.weight",
    } <= kept
    assert not {"itc.weight", "trunk.0.qkv.weight", "front_end.patch.weight"} & kept


def test_the_word_table_and_in_stage_one_the_text_heads_stay_as_they_are() -> None:
    assert rates(3)("words.weight") == 0
    assert rates(3)("look.weight") == 0
    assert rates(1)("mlm.0.weight") == 0
    assert rates(3)("mlm.0.weight") > rates(3)("trunk.0.qkv.weight") > 0


def test_the_teacher_is_asked_once_for_the_same_texts(corpus: Corpus, tmp_path: Path) -> None:
    asked = []

    def embed(ids: object) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        asked.append(ids)
        return np.eye(len(corpus.texts.texts), 4, dtype=np.float32)

    first, second = (teacher_rows(tmp_path, corpus.texts, "one", embed) for _ in range(2))
    assert len(asked) == 1
    assert np.array_equal(first, second)
    teacher_rows(tmp_path, corpus.texts, "another", embed)
    assert len(asked) == 2
