# mypy: disable-error-code="import-not-found,import-untyped"
"""A run's CSV files as pictures."""

import csv
from collections import defaultdict
from pathlib import Path

SMOOTHING = 0.95  # of an exponential mean; single batches are noisy


def draw(folder: Path) -> list[Path]:
    """loss.png and recall.png beside loss.csv and recall.csv of a run's stage; the files written."""
    written = []
    for name, smoothing in (("loss", SMOOTHING), ("recall", 0.0)):
        file = folder / f"{name}.csv"
        if file.exists():
            _plot(
                _columns(file),
                smoothing,
                file.with_suffix(".png"),
                f"{folder.parent.name}, {folder.name}: {name}",
            )
            written.append(file.with_suffix(".png"))
    return written


def _columns(file: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            for name, value in row.items():
                if name not in ("step", "seconds", "gradient") and value:
                    found[name].append((int(row["step"]), float(value)))
    return found


def _plot(columns: dict[str, list[tuple[int, float]]], smoothing: float, file: Path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in columns.items():
        mean, smooth = points[0][1], []
        for _, value in points:
            mean = smoothing * mean + (1 - smoothing) * value
            smooth.append(mean)
        axes.plot([step for step, _ in points], smooth, label=name)
    axes.set(xlabel="step", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=110)
