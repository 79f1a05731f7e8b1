"""The training loop: exact resume, gradients of every stream in a step, refusal of what is no number."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.training.fit import CHECKPOINT, CURVE, Losses, NonFiniteLoss, Plan, Progress, Stream, fit

PLAN = Plan(steps=30, warmup=5, checkpoint_s=0.0)


class Line(nn.Module):
    """y = a x + b, with dropout, so that chance is part of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.ones(2))
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.a(self.drop(x))
        return found


def numbers(seed: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.random.default_rng([*seed]).normal(size=(8, 4)).astype(np.float32))


def shrink(model: nn.Module, batch: Tensor) -> Losses:
    return {"size": model(batch).square().mean()}


def grow(model: nn.Module, batch: Tensor) -> Losses:
    return {"distance": (model(batch) - 1).square().mean()}


STREAMS = [Stream("one", numbers, shrink), Stream("two", numbers, grow)]


def rates(name: str) -> float:
    return 0.0 if name == "frozen" else 1e-2


def trained(folder: Path, plan: Plan = PLAN, streams: Sequence[Stream] = STREAMS) -> Line:
    torch.manual_seed(1)
    model = Line()
    fit(model, streams, plan, rates, folder)
    return model


def curve(folder: Path) -> list[list[str]]:
    with (folder / CURVE).open(newline="") as stream:
        return [
            [row[name] for name in ("step", "one.size", "two.distance", "gradient")]
            for row in csv.DictReader(stream)
        ]


def test_a_run_that_was_stopped_half_way_ends_where_an_unbroken_one_ends(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 17:
            raise Stop

    torch.manual_seed(1)
    with pytest.raises(Stop):
        fit(Line(), STREAMS, PLAN, rates, tmp_path / "cut", stop)
    resumed = trained(tmp_path / "cut")

    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_killed_process_resumes_with_the_same_loss_curve(tmp_path: Path) -> None:
    program = (
        "import sys, time, torch; from pathlib import Path; from tests.test_fit import *\n"
        "torch.manual_seed(1)\n"
        "fit(Line(), STREAMS, PLAN, rates, Path(sys.argv[1]), lambda progress: time.sleep(0.2))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cut")]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut" / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()

    trained(tmp_path / "whole")
    trained(tmp_path / "cut")

    assert len(curve(tmp_path / "cut")) == PLAN.steps
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    first = trained(tmp_path)
    again = trained(tmp_path)
    assert torch.equal(first.a.weight, again.a.weight)


def test_each_step_adds_up_the_gradients_of_all_streams(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=1, bfloat16=False, clip=1e9)
    trained(tmp_path, plan)
    torch.manual_seed(1)
    model = Line()
    torch.manual_seed(int(np.random.SeedSequence((plan.seed, 0)).generate_state(1)[0]))
    loss = sum(sum(s.losses(model, s.batch((plan.seed, 0))).values(), torch.zeros(())) for s in STREAMS)
    assert isinstance(loss, Tensor)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert float(curve(tmp_path)[0][3]) == pytest.approx(norm.item(), rel=1e-5)


def test_round_robin_takes_one_stream_a_step(tmp_path: Path) -> None:
    trained(tmp_path, replace(PLAN, steps=4, round_robin=True))
    taken = [(bool(row[1]), bool(row[2])) for row in curve(tmp_path)]
    assert taken == [(True, False), (False, True)] * 2


@pytest.mark.parametrize("round_robin", [False, True])
def test_a_stream_may_ask_for_nothing_in_a_step(tmp_path: Path, round_robin: bool) -> None:
    silent = Stream("silent", numbers, lambda model, batch: {})
    plan = replace(PLAN, steps=4, round_robin=round_robin)
    model = trained(tmp_path, plan, [STREAMS[0], silent])
    assert all(torch.isfinite(weights).all() for weights in model.parameters())
    rows = list(csv.DictReader((tmp_path / CURVE).read_text().splitlines()))
    assert len(rows) == 4
    assert {"one.size"} == {name for row in rows for name in row if "." in (name or "")}


def test_a_rate_of_zero_freezes(tmp_path: Path) -> None:
    assert torch.equal(trained(tmp_path).frozen, torch.ones(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_leaves_the_checkpoint(tmp_path: Path, bad: float) -> None:
    def poisoned(model: nn.Module, batch: Tensor) -> Losses:
        return {"size": model(batch).square().mean() * bad}

    trained(tmp_path, replace(PLAN, steps=3))
    before = (tmp_path / CHECKPOINT).read_bytes()
    longer = tmp_path / "other"
    with pytest.raises(NonFiniteLoss, match=r"step 0: one\.size"):
        trained(longer, streams=[Stream("one", numbers, poisoned)])
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert not (longer / CHECKPOINT).exists()


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, replace(PLAN, steps=3))
    with pytest.raises(ValueError, match="another plan"):
        trained(tmp_path, replace(PLAN, steps=4))


def test_the_learning_rate_rises_and_then_falls_to_its_floor() -> None:
    from models.training.fit import _share_of_peak

    plan = Plan(steps=1000, warmup=100, final=0.05)
    shares = [_share_of_peak(step, plan) for step in range(1000)]
    assert shares[0] < 0.02
    assert max(shares) > 0.97
    assert shares[-1] == pytest.approx(0.05, abs=0.001)


def test_what_is_left_is_estimated_from_the_pace() -> None:
    assert Progress(step=10, steps=40, seconds=20.0, losses={}).eta_s == pytest.approx(60.0)
