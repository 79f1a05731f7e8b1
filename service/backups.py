"""The command line's snapshot group: create, list, restore."""

import argparse
import json
import re
import time
import uuid
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
    from index.archive import Archive
    from index.backup import Backups
    from index.catalog import Catalog
    from index.restoring import Restorer
    from service.shelf import Entry


def add_commands(group: Any, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the sub-parsers of ``momoseek snapshot``."""
    creating = group.add_parser("create", help="back up while the service runs", description=create.__doc__)
    creating.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="default: backups/TIME.tar in the data folder"
    )
    creating.add_argument("--collection", metavar="NAME", help="this one alone")
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
    restoring.add_argument("--collection", metavar="NAME", help="this one alone, also while the service runs")
    restoring.add_argument(
        "--as", dest="target", metavar="NAME", help="of one alone: under another name; default: its own"
    )
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
    path, name = options["file"], options["collection"]
    with _backups(settings) as (backups, _restorer, catalog):
        if path is None:
            path = _new_path(settings, None if name is None else catalog.collection(name).name)
        started = time.monotonic()
        contents = backups.create(path, name, skip_damaged=options["skip_damaged"])
    items = sum(held.items for held in contents.collections)
    err.print(
        f"{items} items in {len(contents.collections)} collections, {contents.pictures} pictures: "
        f"{path.stat().st_size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s"
    )
    out.print(str(path), soft_wrap=True, markup=False)
    return 0


def show(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """List archives with what they hold; exits with 1 if one is damaged, as far as was looked."""
    from service.shelf import Shelf, entries_in

    folder = options["folder"]
    if folder and not folder.is_dir():
        raise CommandError(f"there is no folder {folder}")
    root = Shelf(settings.data_dir).root
    folders = [folder] if folder else [root, *sorted(root.glob("collections/*"))]
    entries = [_told_of(entry) for one in folders for entry in entries_in(one, verify=options["verify"])]
    if options["json"]:
        print(json.dumps(entries))
    else:
        table = Table("archive", "of", "made at", "MB", "items", "pictures", "state", box=None)
        for entry in entries:
            made_at, items, pictures = entry["created_at"], entry["items"], entry["pictures"]
            shown = "" if made_at is None else f"{datetime.fromtimestamp(made_at, UTC):%Y-%m-%d %H:%M:%SZ}"
            size = f"{entry['size_bytes'] / 1e6:.1f}"
            counts = ["" if count is None else str(count) for count in (items, pictures)]
            state = escape(entry["problem"] or entry["state"])
            table.add_row(
                escape(entry["path"]), escape(entry["collection"] or "all"), shown, size, *counts, state
            )
        out.print(table)
    return 1 if any(entry["problem"] for entry in entries) else 0


def restore(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Put an archive in place of what the data folder and the catalog hold: stop serve and worker first. Or
    put one collection of it in place of what there is of this name, while they run."""
    from index.archive import Archive
    from index.backup import Contents
    from service.stores import open_bundle

    name = options["collection"]
    if options["target"] and not name:
        raise CommandError("--as is of one collection: name it with --collection")
    with _told():
        archive = Archive(options["file"])
        if not options["any_encoder"]:
            Contents.of(archive).check_encoder(open_bundle(settings).encoder_id, name)
    with _backups(settings) as (backups, restorer, catalog):
        if name:
            _restore_one(settings, archive, options, restorer, catalog)
            return 0
        contents = backups.restore(archive, force=options["force"])
    for held in contents.collections:
        err.print(f"{held.name}: {held.items} items, the log up to {held.watermark}", markup=False)
    err.print("restored; prove it with: momoseek audit")
    return 0


def _restore_one(
    settings: Settings, archive: "Archive", options: dict[str, Any], restorer: "Restorer", catalog: "Catalog"
) -> None:
    from index.aliases import check_own_name
    from index.backup import TargetNotEmpty
    from index.catalog import CollectionNotFound
    from index.restoring import Plan
    from service.schemas import COLLECTION_PATTERN

    source, target = options["collection"], options["target"] or options["collection"]
    if options["target"] and not re.fullmatch(COLLECTION_PATTERN, target):
        raise CommandError(f"{target!r} cannot be a collection's name: letters, digits, - and _ only")
    replaces = None
    try:
        found = catalog.collection(target)
        check_own_name(found, target)
        replaces = found.uid
        if not options["force"]:
            raise TargetNotEmpty(f"there is a collection {target!r}")
    except CollectionNotFound:
        pass
    plan = Plan(source, target, uuid.uuid4().hex, replaces)
    restored = restorer.restore(
        archive, plan, pause=lambda seconds: time.sleep(2 * seconds + 2 * settings.refresh_s)
    )
    items = catalog.count(restored)
    err.print(f"{target}: {items} items, the log up to {restored.last_seq}", markup=False)
    err.print(f"restored; prove it with: momoseek audit --collection {target}", markup=False)


def _told_of(entry: "Entry") -> dict[str, Any]:
    contents = entry.contents
    held = contents.collections if contents else []
    return {
        "path": str(entry.path),
        "size_bytes": entry.size_bytes,
        "created_at": contents and contents.created_at,
        "collection": held[0].name if contents and not contents.whole else None,
        "items": entry.items,
        "pictures": contents and contents.pictures,
        "encoder_ids": contents and sorted({one.encoder_id for one in held}),
        "state": entry.state,
        "problem": entry.problem,
    }


def _new_path(settings: Settings, collection: str | None) -> Path:
    from service.shelf import Shelf

    name, shelf = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}", Shelf(settings.data_dir)
    path = shelf.root / f"{name}.tar" if collection is None else shelf.path(collection, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _backups(settings: Settings) -> "Iterator[tuple[Backups, Restorer, Catalog]]":
    from index.backup import Backups
    from index.folders import store_in
    from index.restoring import Restorer
    from service.stores import open_catalog

    catalog = open_catalog(settings)
    parts = catalog, settings.data_dir, store_in(settings.snapshots_dir)
    try:
        with _told():
            yield Backups(*parts), Restorer(*parts), catalog
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
