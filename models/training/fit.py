"""The training loop: a step adds up the gradients of all streams; a killed run resumes as if never cut."""

import csv
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]  # by name; their sum is minimised
Rates = Callable[[str], float]  # a parameter's name -> its learning rate at the peak; 0 freezes it

CHECKPOINT = "checkpoint.pt"
CURVE = "loss.csv"


class NonFiniteLoss(ArithmeticError):
    """A loss became infinite or not a number; the checkpoint before it is intact."""


@dataclass(frozen=True)
class Stream:
    """One modality of a stage. batch(seed) reads data; losses(model, batch) says what to minimise."""

    name: str
    batch: Callable[[Sequence[int]], Any]
    losses: Callable[[nn.Module, Any], Losses]


@dataclass(frozen=True)
class Plan:
    """How one stage is run. Batches depend on (seed, step) alone, so nothing else need be remembered."""

    steps: int
    seed: int = 0
    warmup: int = 50  # steps to the peak, then a cosine down to `final` of it
    final: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0  # of the gradient's norm
    bfloat16: bool = True  # products under autocast
    round_robin: bool = False  # one stream a step instead of all: the ablation, not the method
    checkpoint_s: float = 120.0


@dataclass(frozen=True)
class Progress:
    """Where a run is. seconds counts the training itself, over all its lives."""

    step: int
    steps: int
    seconds: float
    losses: dict[str, float]

    @property
    def eta_s(self) -> float:
        """Seconds to the end, at the mean pace so far."""
        return self.seconds / max(self.step, 1) * (self.steps - self.step)


def fit(
    model: nn.Module,
    streams: Sequence[Stream],
    plan: Plan,
    rates: Rates,
    folder: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train in place until plan.steps; continue where the folder's checkpoint stands.

    Cross-modality gradient accumulation (MoMo, arXiv 2304.05523): each step adds up the gradients of every
    stream before the optimiser moves. Raises NonFiniteLoss, and ValueError for a checkpoint of another plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = _groups(model, rates, plan.weight_decay)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    done, seconds = _resume(folder / CHECKPOINT, model, optimiser, plan)
    curve = _Curve(folder / CURVE, done)
    saved = started = time.monotonic()
    begun = seconds
    model.train()
    device = next(model.parameters()).device.type
    for step in range(done, plan.steps):
        torch.manual_seed(_number(plan.seed, step))
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * _share_of_peak(step, plan)
        optimiser.zero_grad(set_to_none=True)
        chosen = [streams[step % len(streams)]] if plan.round_robin else streams
        losses: dict[str, float] = {}
        for stream in chosen:
            batch = stream.batch((plan.seed, step))
            with torch.autocast(device, torch.bfloat16, enabled=plan.bfloat16):
                found = stream.losses(model, batch)
            if found:  # a small batch may have too few words hidden to be asked for any
                torch.stack(list(found.values())).sum().backward()
            losses |= {f"{stream.name}.{name}": loss.item() for name, loss in found.items()}
        if bad := [name for name, loss in losses.items() if not math.isfinite(loss)]:
            raise NonFiniteLoss(f"step {step}: {', '.join(bad)}")
        norm = nn.utils.clip_grad_norm_(model.parameters(), plan.clip).item()
        if not math.isfinite(norm):
            raise NonFiniteLoss(f"step {step}: the gradient")
        optimiser.step()
        now = time.monotonic()
        seconds = begun + now - started
        curve.add({"step": step, "seconds": round(seconds, 2), "gradient": norm} | losses)
        report(Progress(step + 1, plan.steps, seconds, losses))
        if now - saved > plan.checkpoint_s or step + 1 == plan.steps:
            curve.flush()
            _save(folder / CHECKPOINT, model, optimiser, plan, step + 1, seconds)
            saved = now
    model.eval()


def generator(*numbers: int) -> np.random.Generator:
    """A source of chance fixed by these numbers."""
    return np.random.default_rng(numbers)


def _number(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _share_of_peak(step: int, plan: Plan) -> float:
    rise = min((step + 1) / max(plan.warmup, 1), 1.0)
    fall = (1 + math.cos(math.pi * step / max(plan.steps, 1))) / 2
    return rise * (plan.final + (1 - plan.final) * fall)


def _groups(model: nn.Module, rates: Rates, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters by learning rate; vectors and numbers are not decayed. A rate of 0 freezes."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = rates(name)
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": members, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]


def _resume(file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, plan: Plan) -> tuple[int, float]:
    if not file.exists():
        return 0, 0.0
    checkpoint = torch.load(file, weights_only=True)
    if checkpoint["plan"] != asdict(plan):
        raise ValueError(f"{file} is of another plan; remove its folder to begin anew")
    model.load_state_dict(checkpoint["model"])
    optimiser.load_state_dict(checkpoint["optimiser"])
    return checkpoint["step"], checkpoint["seconds"]


def _save(
    file: Path, model: nn.Module, optimiser: torch.optim.Optimizer, plan: Plan, step: int, seconds: float
) -> None:
    """Replace the checkpoint at one stroke: a kill leaves the old one or the new one, never half of one."""
    checkpoint = {
        "model": model.state_dict(), "optimiser": optimiser.state_dict(), "plan": asdict(plan),
        "step": step, "seconds": seconds,
    }  # fmt: skip
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        torch.save(checkpoint, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)


class _Curve:
    """loss.csv: one row a step. Rows after the checkpoint, of a life that was cut, are dropped."""

    def __init__(self, file: Path, done: int) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []
        if file.exists():
            with file.open(newline="") as stream:
                self._rows = [row for row in csv.DictReader(stream) if int(row["step"]) < done]
        self._write("w")

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def flush(self) -> None:
        self._write("w")

    def _write(self, mode: str) -> None:
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        with self._file.open(mode, newline="") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(self._rows)
