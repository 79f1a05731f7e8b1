"""The command line's key group: create, list, revoke."""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from rich.markup import escape
from rich.table import Table

from service.config import Settings
from service.console import CommandError, err, out


def add_commands(keys: Any, add_settings: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the sub-parsers of ``momoseek key``."""
    creating = keys.add_parser("create", help="make a key and print it, this once")
    creating.add_argument("name", help="what it is for")
    creating.add_argument("--scope", choices=("read", "write", "admin"), required=True)
    creating.add_argument(
        "--collection", action="append", default=None, help="one it may touch; may be repeated; default: all"
    )
    creating.set_defaults(run=create)
    listing = keys.add_parser("list", help="all keys, the revoked ones included")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=show)
    revoking = keys.add_parser("revoke", help="refuse a key from now on")
    revoking.add_argument("prefix", help="the beginning of the key, as `momoseek key list` shows it")
    revoking.set_defaults(run=revoke)
    for parser in (creating, listing, revoking):
        add_settings(parser)


def create(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Make a key; the secret alone goes to standard output."""
    from service.audit_log import record_command
    from service.parsing import InvalidBody, validated
    from service.schemas_keys import KeyRequest
    from service.stores import open_catalog

    members = {"name": options["name"], "scope": options["scope"], "collections": options["collection"]}
    try:
        wanted = validated(KeyRequest, members)
    except InvalidBody as error:
        raise CommandError(str(error)) from error
    with closing(open_catalog(settings)) as catalog:
        key, secret = catalog.keys.create(wanted.name, wanted.scope, wanted.collections)
    record_command("momoseek key create", key.prefix)
    print(secret)
    err.print(f"It is shown this once and kept nowhere. Revoke it with: momoseek key revoke {key.prefix}")
    return 0


def show(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Print the keys, without their secrets."""
    from service.schemas_keys import KeyReply
    from service.stores import check_catalog, open_catalog

    check_catalog(settings)
    with closing(open_catalog(settings)) as catalog:
        keys = catalog.keys.ring().keys
    if options["json"]:
        print(json.dumps([KeyReply.of(key).model_dump() for key in keys]))
        return 0
    table = Table("prefix", "name", "scope", "collections", "created", "last used", "revoked", box=None)
    for key in keys:
        within = "all" if key.collections is None else " ".join(key.collections)
        times = map(_shown, (key.created_at, key.last_used_at, key.revoked_at))
        table.add_row(key.prefix, escape(key.name), key.scope, within, *times)
    out.print(table)
    return 0


def revoke(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Refuse a key from now on, in running servers within a second."""
    from service.audit_log import record_command
    from service.stores import check_catalog, open_catalog

    check_catalog(settings)
    with closing(open_catalog(settings)) as catalog:
        key = catalog.keys.revoke(options["prefix"])
    record_command("momoseek key revoke", key.prefix)
    err.print(f"{key.prefix} ({escape(key.name)}) is revoked")
    return 0


def _shown(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
