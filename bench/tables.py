# mypy: disable-error-code="import-not-found,import-untyped"
"""A table of numbers as CSV, and as a picture beside it."""

import csv
import platform
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"

Row = dict[str, Any]


def machine() -> str:
    """What these numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{sum(line.startswith('processor') for line in lines)} cores of {model or platform.machine()}"


def save(
    rows: Sequence[Row],
    file: Path,
    command: str,
    x: str,
    y: str,
    line: Sequence[str] = (),
    log: str = "",
    marks: dict[str, float] | None = None,
) -> None:
    """Write ``file`` (.csv) and draw it (.png): ``y`` over ``x``, a line for each value of ``line``.

    ``log`` names axes with a logarithmic scale, "x", "y" or "xy"; ``marks`` are levels of y to be reached.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        stream.write(f"# {command}, on {machine()}\n")
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=colormaps["tab20"](range(20)))

    def name(row: Row) -> str:
        return ", ".join(str(row[part]) for part in line)

    for label, part in groupby(sorted(rows, key=name), key=name):
        points = sorted((row[x], row[y]) for row in part)
        axes.plot(*zip(*points, strict=True), marker=".", label=label)
    for label, level in (marks or {}).items():
        axes.axhline(level, color="grey", linestyle=":", label=label)
    for axis in log:
        getattr(axes, f"set_{axis}scale")("log")
    axes.set(xlabel=x, ylabel=y)
    axes.set_title(f"{command}\n{machine()}", fontsize=8)
    axes.grid(alpha=0.3)
    if line or marks:
        axes.legend(fontsize=7)
    figure.savefig(file.with_suffix(".png"), dpi=90)
