"""The three stages as a training runs them, but for the published parts, for which a tiny model stands."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer

from models.momo import SharedEncoder
from models.training import parts, train
from models.training.corpus import Mixture
from models.training.stages import Recipe
from models.training.train import Course, Trainer
from tests.training_folder import TINY, classes, classifier, tokenizer, write

COURSE = Course(
    config=TINY,
    mixture=Mixture(drawings=4, virtual=3, scenes=3, composed=3),
    recipe=Recipe(pictures=4, texts=8, matched=4, documents=4),
    steps=(1, 1, 2),
)


def initial(trainer: Trainer) -> SharedEncoder:
    torch.manual_seed(0)
    return SharedEncoder(TINY).eval()


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainer:
    words = tokenizer()
    monkeypatch.setattr(parts, "package_file", lambda package, name: tmp_path / name)
    monkeypatch.setattr(parts.Classifier, "published", lambda: SimpleNamespace(weight=classifier()))
    monkeypatch.setattr(train, "read_concepts", lambda folder: classes())
    monkeypatch.setattr(Tokenizer, "from_file", lambda path: words)
    monkeypatch.setattr(Trainer, "initial", initial)
    return Trainer(write(tmp_path), "tiny", COURSE)


def test_a_training_goes_through_its_stages_and_ends_with_a_look_and_a_mute_judge(trainer: Trainer) -> None:
    for stage in (1, 2):
        model = trainer.run(stage)
        assert not model.look.weight.detach().any()
    model = trainer.run(3)
    assert model.look.weight.detach().any()
    assert not any(parameter.detach().any() for parameter in model.itm[-1].parameters())  # mute
    saved = trainer.weights(3).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    for stage in (1, 2, 3):
        assert {path.name for path in trainer.folder(stage).iterdir()} >= {
            "weights.pt",
            "loss.csv",
            "recall.csv",
        }


def test_a_stage_needs_the_one_before(trainer: Trainer) -> None:
    with pytest.raises(FileNotFoundError):
        trainer.run(2)
