"""The command line's snapshot group: create, list, restore."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from service.config import Settings
from service.console import CommandError, err, out

if TYPE_CHECKING:
    from index.backup import Backups


def add_commands(group: Any, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the sub-parsers of ``momoseek snapshot``."""
    creating = group.add_parser("create", help="back up while the service runs", description=create.__doc__)
    creating.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="default: backups/TIME.tar in the data folder"
    )
    creating.add_argument(
        "--skip-damaged", action="store_true", help="leave out pictures that cannot be read, and say which"
    )
    creating.set_defaults(run=create)
    listing = group.add_parser("list", help="the archives of a folder", description=show.__doc__)
    listing.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="default: backups in the data folder"
    )
    listing.add_argument("--verify", action="store_true", help="read all of each archive")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=show)
    restoring = group.add_parser(
        "restore", help="make the data folder what an archive holds", description=restore.__doc__
    )
    restoring.add_argument("file", type=Path, metavar="FILE")
    restoring.add_argument("--force", action="store_true", help="replace what the target holds")
    restoring.add_argument(
        "--any-encoder", action="store_true", help="also what the encoder in force cannot search"
    )
    restoring.set_defaults(run=restore)
    for parser in (creating, listing, restoring):
        add_settings(parser)


def create(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Write catalog, pictures and indexes, as they stand at one moment, into one archive; read it back."""
    from service.stores import check_catalog

    check_catalog(settings)
    path = options["file"]
    if path is None:
        path = _folder(settings) / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with _backups(settings) as backups:
        contents = backups.create(path, skip_damaged=options["skip_damaged"])
    items = sum(held.items for held in contents.collections)
    err.print(
        f"{items} items in {len(contents.collections)} collections, {contents.pictures} pictures: "
        f"{path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s"
    )
    out.print(str(path), soft_wrap=True, markup=False)
    return 0


def show(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """List archives with what they hold; exits with 1 if one is damaged, as far as was looked."""
    folder = options["folder"] or _folder(settings)
    if options["folder"] and not folder.is_dir():
        raise CommandError(f"there is no folder {folder}")
    entries = [_entry(path, options["verify"]) for path in sorted(folder.glob("*.tar"))]
    if options["json"]:
        print(json.dumps(entries))
    else:
        table = Table("archive", "made at", "MB", "items", "pictures", "state", box=None)
        for entry in entries:
            made_at, items, pictures = entry["created_at"], entry["items"], entry["pictures"]
            shown = "" if made_at is None else f"{datetime.fromtimestamp(made_at, UTC):%Y-%m-%d %H:%M:%SZ}"
            size = f"{entry['size_bytes'] / 1e6:.1f}"
            counts = ["" if count is None else str(count) for count in (items, pictures)]
            state = escape(entry["problem"] or entry["state"])
            table.add_row(escape(entry["path"]), shown, size, *counts, state)
        out.print(table)
    return 1 if any(entry["problem"] for entry in entries) else 0


def restore(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Put an archive in place of what the data folder and the catalog hold. Stop serve and worker first."""
    from index.archive import Archive
    from index.backup import Contents
    from service.stores import open_bundle

    with _told():
        archive = Archive(options["file"])
        if not options["any_encoder"]:
            Contents.of(archive).check_encoder(open_bundle(settings).encoder_id)
    with _backups(settings) as backups:
        contents = backups.restore(archive, force=options["force"])
    for held in contents.collections:
        err.print(f"{held.name}: {held.items} items, the log up to {held.watermark}", markup=False)
    err.print("restored; prove it with: momoseek audit")
    return 0


def _entry(path: Path, verify: bool) -> dict[str, Any]:
    from index.archive import Archive, ArchiveError
    from index.backup import Contents

    contents, problem = None, None
    try:
        archive = Archive(path)
        contents = Contents.of(archive)
        if verify:
            archive.verify()
    except (ArchiveError, OSError) as error:
        problem = str(error)
    return {
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "created_at": contents and contents.created_at,
        "items": contents and sum(held.items for held in contents.collections),
        "pictures": contents and contents.pictures,
        "encoder_ids": contents and sorted({held.encoder_id for held in contents.collections}),
        "state": "damaged" if problem else "verified" if verify else "complete",
        "problem": problem,
    }


def _folder(settings: Settings) -> Path:
    return settings.data_dir / "backups"


@contextmanager
def _backups(settings: Settings) -> "Iterator[Backups]":
    from index.backup import Backups
    from index.folders import store_in
    from service.stores import open_catalog

    catalog = open_catalog(settings)
    try:
        with _told():
            yield Backups(catalog, settings.data_dir, store_in(settings.snapshots_dir))
    finally:
        catalog.close()


@contextmanager
def _told() -> Iterator[None]:
    from index.archive import ArchiveError
    from index.backup import TargetNotEmpty

    try:
        yield
    except ArchiveError as error:
        raise CommandError(str(error)) from error
    except TargetNotEmpty as error:
        raise CommandError(f"{error}; --force replaces them") from error
