"""The command line's data group: build, stats."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.table import Table

from service.config import Settings
from service.console import CommandError, err, out


def add_commands(group: Any) -> None:
    """Add the commands to the sub-parsers of ``momoseek data``."""
    building: argparse.ArgumentParser = group.add_parser(
        "build", help="draw the training pictures and the sets to measure on", description=build.__doc__
    )
    building.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder to fill")
    building.add_argument("--npm", type=Path, required=True, metavar="DIR", help="a node_modules folder")
    building.add_argument(
        "--debian", type=Path, default=Path("/"), metavar="DIR", help="root of the Debian packages [/]"
    )
    building.add_argument(
        "--strangers", type=Path, default=None, metavar="DIR", help="pictures that must not be trained on"
    )
    building.add_argument("--processes", type=int, default=2, metavar="N", help="that draw at once [2]")
    building.set_defaults(run=build)
    counting = group.add_parser("stats", help="how many records there are, by style and split")
    counting.add_argument("folder", type=Path, metavar="DIR")
    counting.add_argument("--json", action="store_true")
    counting.set_defaults(run=stats)


def build(_: Settings, __: dict[str, str], options: dict[str, Any]) -> int:
    """Draw every training picture from the installed packages; the same packages give the same bytes."""
    from rich.progress import Progress

    from models.data.records import RecordError
    from models.data.sources.build import build as build_records
    from models.data.sources.packages import SourceError

    options["out"].mkdir(parents=True, exist_ok=True)
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("drawing", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        try:
            manifest = build_records(
                options["out"],
                options["npm"],
                options["debian"],
                strangers=options["strangers"],
                processes=options["processes"],
                progress=show,
            )
        except (SourceError, RecordError) as error:
            raise CommandError(str(error)) from error
    left_out = sum(count for reasons in manifest["left_out"].values() for count in reasons.values())
    err.print(f"{sum(manifest['splits'].values())} records, {left_out} drawings left out")
    return 0


def stats(_: Settings, __: dict[str, str], options: dict[str, Any]) -> int:
    """Print how many checked records each style has in each split."""
    from models.data.records import RecordError, count_records

    try:
        counts = count_records(options["folder"])
    except RecordError as error:
        raise CommandError(str(error)) from error
    if options["json"]:
        print(json.dumps(counts))
        return 0
    splits = sorted({split for style in counts.values() for split in style})
    table = Table("style", *splits, "all", box=None)
    for style, own in counts.items():
        table.add_row(style, *(str(own.get(split, 0)) for split in splits), str(sum(own.values())))
    totals = [sum(own.get(split, 0) for own in counts.values()) for split in splits]
    table.add_row("all", *map(str, totals), str(sum(totals)))
    out.print(table)
    return 0
