"""The command line's train: one stage of the shared encoder, with progress, resumed where it was cut."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.config import Settings
from service.console import CommandError, out

if TYPE_CHECKING:
    from models.training.fit import Progress

_EVERY = 10  # steps between two lines


def add_command(group: Any) -> None:
    """Add ``momoseek train``."""
    parser: argparse.ArgumentParser = group.add_parser(
        "train", help="train the shared encoder, stage by stage", description=train.__doc__
    )
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--folder", type=Path, default=Path("training"), metavar="DIR", help="[training]")
    parser.add_argument("--name", default="momo-mini", help="of the run [momo-mini]")
    parser.add_argument("--steps", type=int, default=None, metavar="N", help="instead of the stage's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="as torch names it, such as cuda [cpu]")
    parser.set_defaults(run=train)


def train(_: Settings, __: dict[str, str], options: dict[str, Any]) -> int:
    """Train one stage from the weights of the stage before; a killed run goes on from its last checkpoint."""
    try:
        from models.training.curves import draw
        from models.training.train import Course, Trainer
    except ModuleNotFoundError as error:
        raise CommandError(f"training needs {error.name}: make .venv/train.stamp") from error
    course, stage = Course(seed=options["seed"]), options["stage"]
    if options["steps"]:
        steps = list(course.steps)
        steps[stage - 1] = options["steps"]
        course = replace(course, steps=(steps[0], steps[1], steps[2]))
    try:
        trainer = Trainer(options["folder"], options["name"], course, device=options["device"])
        trainer.run(stage, _line)
    except (FileNotFoundError, ValueError, ArithmeticError) as error:
        raise CommandError(str(error)) from error
    draw(trainer.folder(stage))
    out.print(f"stage {stage} is complete: {trainer.folder(stage)}", soft_wrap=True)
    return 0


def _line(progress: "Progress") -> None:
    if progress.step % _EVERY and progress.step != progress.steps:
        return
    losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
    minutes = progress.eta_s / 60
    out.print(f"{progress.step}/{progress.steps}  {losses}  eta {minutes:.0f} min", soft_wrap=True)
