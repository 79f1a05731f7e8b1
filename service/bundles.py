"""The command line's bundle group: info, import."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.config import Settings
from service.console import CommandError, err, out


def add_commands(bundles: Any, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the sub-parsers of ``momoseek bundle``."""
    showing = bundles.add_parser("info", help="what a bundle is made of, after checking every file")
    showing.add_argument("path", nargs="?", default=None, help="default: the bundle in force")
    showing.add_argument("--json", action="store_true")
    showing.set_defaults(run=info)
    add_settings(showing)
    importing = bundles.add_parser(
        "import", help="make a bundle of a CLIP or SigLIP checkpoint", description=import_bundle.__doc__
    )
    importing.add_argument("folder", type=Path, metavar="DIR", help="the checkpoint, as its library saved it")
    importing.add_argument("--from", dest="library", choices=("open_clip", "transformers"), required=True)
    importing.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="a folder to make")
    importing.add_argument("--name", default=None, help="default: the name of DIR")
    importing.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp32", help="of the stored weights [fp32]"
    )
    importing.set_defaults(run=import_bundle)


def info(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Print a bundle's manifest after checking its files."""
    from models.bundle import Bundle, BundleError
    from service.stores import open_bundle

    try:
        bundle = Bundle.open(options["path"]) if options["path"] else open_bundle(settings)
    except BundleError as error:
        raise CommandError(str(error)) from error
    about = {"encoder_id": bundle.encoder_id, "path": str(bundle.path), **asdict(bundle.manifest)}
    if options["json"]:
        print(json.dumps(about))
        return 0
    out.print(f"[bold]{bundle.encoder_id}[/]  {bundle.path}")
    out.print_json(json.dumps(asdict(bundle.manifest)))
    return 0


def import_bundle(_: Settings, __: dict[str, str], options: dict[str, Any]) -> int:
    """Make a bundle of a local dual-encoder checkpoint, without any network, and prove that the two agree."""
    from models.importing import CheckpointError, import_checkpoint

    try:
        bundle = import_checkpoint(
            options["library"],
            options["folder"],
            options["out"],
            name=options["name"],
            precision=options["precision"],
            report=lambda step: err.print(step, style="dim", soft_wrap=True, markup=False),
        )
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    size = sum(entry.bytes for entry in bundle.manifest.files.values())
    out.print(f"{bundle.encoder_id}  {bundle.path}  {size / 1e6:.1f} MB", soft_wrap=True, markup=False)
    err.print(f"serve it with: momoseek serve --bundle {bundle.path}", soft_wrap=True, markup=False)
    return 0
