"""The command line: serve, worker, index, reembed, search, eval, audit, key, bundle, snapshot, data,
train."""

import argparse
import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from service import __version__, backups, bundles, datasets, keys, training
from service.config import InvalidSettings, Settings, flag_of, resolve, unknown_variables
from service.console import CommandError, err, out
from service.installation import InstallationError, check_installation
from service.tracing import JsonLines, Lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``momoseek``."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("run")
    try:
        check_installation()
        settings, origins = resolve(options, os.environ)
        lines = logging.StreamHandler()
        lines.setFormatter(JsonLines() if settings.log_format == "json" else Lines())
        logging.basicConfig(level=settings.log_level.upper(), handlers=[lines])
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken form is its sender's matter
        for name in unknown_variables(os.environ):
            err.print(f"[yellow]{name} is set but names no setting[/]")
        code = command(settings, origins, options)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not isinstance(error, _mistakes()):
            raise
        err.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    sys.exit(code or 0)


def _mistakes() -> tuple[type[Exception], ...]:
    """What is told in one line: mistakes of the caller and troubles of the machine, but no bugs of ours."""
    from index.engines.cluster import ClusterUnavailable
    from index.records import CatalogError
    from models.bundle import BundleError
    from models.sessions import ProviderError

    ours = (CommandError, InstallationError, InvalidSettings)
    return (*ours, BundleError, CatalogError, ClusterUnavailable, ProviderError, OSError)


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("a number from 1 to 1000")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="momoseek", description="Image-text retrieval, self-hosted.")
    parser.add_argument("--version", action="version", version=f"momoseek {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        _add_settings(sub)
        return sub

    command("serve", run_serve, "run the API and, unless --no-worker, the rebuild worker")
    worker = command("worker", run_worker, "run the rebuild worker alone")
    worker.add_argument("--supervised", action="store_true", help="stop when standard input closes")
    indexing = command("index", index, "index pictures and files of items: a bulk job")
    indexing.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    indexing.add_argument("--collection", default="default")
    indexing.add_argument("--embedding-space", metavar="ID", help="of vectors (.npy): their encoder_id")
    moving = command("reembed", reembed, "move collections to another encoder: see --bundle")
    moving.add_argument("collections", nargs="*", metavar="COLLECTION")
    moving.add_argument("--all", action="store_true", help="every collection")
    moving.add_argument("--drop-unreadable", action="store_true", help="delete what cannot be embedded")
    searching = command("search", search, "search a collection")
    searching.add_argument("words", nargs="?", default="")
    searching.add_argument(
        "--image", type=Path, action="append", default=[], help="a picture; may be repeated"
    )
    searching.add_argument("--collection", default=None, help="default: the gallery if nothing else is there")
    searching.add_argument("--limit", type=_positive, default=10)
    searching.add_argument(
        "--rerank",
        type=_positive,
        default=0,
        metavar="N",
        help="order the first N by how well they match; words and pictures are one document then",
    )
    searching.add_argument("--json", action="store_true")
    evaluating = command("eval", evaluate, "measure recall on a folder with pairs.jsonl")
    evaluating.add_argument("--pairs", type=Path, required=True, metavar="DIR")
    evaluating.add_argument("--split", default=None)
    evaluating.add_argument("--json", action="store_true")
    auditing = command("audit", run_audit, "prove that what can be found is what was written")
    auditing.add_argument("--collection", default=None, help="default: all")
    auditing.add_argument("--json", action="store_true")
    group = commands.add_parser("key", help="API keys")
    keys.add_commands(group.add_subparsers(required=True, metavar="COMMAND"), _add_settings)
    group = commands.add_parser("bundle", help="encoder bundles")
    bundles.add_commands(group.add_subparsers(required=True, metavar="COMMAND"), _add_settings)
    group = commands.add_parser("snapshot", help="backups: catalog, pictures and indexes in one file")
    backups.add_commands(group.add_subparsers(required=True, metavar="COMMAND"), _add_settings)
    group = commands.add_parser("data", help="what the encoder is trained and measured on")
    datasets.add_commands(group.add_subparsers(required=True, metavar="COMMAND"))
    training.add_command(commands)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings", "each also an environment variable, such as MOMOSEEK_PORT")
    for name, field in Settings.model_fields.items():
        if field.annotation is bool:
            group.add_argument(
                flag_of(name), dest=name, action=argparse.BooleanOptionalAction, help=field.description
            )
        else:
            help = f"{field.description} [{field.get_default()}]".replace("%", "%%")
            group.add_argument(flag_of(name), dest=name, metavar="VALUE", help=help)


def run_serve(settings: Settings, origins: dict[str, str], _: dict[str, Any]) -> int:
    """Run the API and its worker."""
    from service.serve import serve

    return serve(settings, origins)


def run_worker(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Run the worker."""
    from service import worker

    worker.run(settings, until_stdin_closes=options["supervised"])
    return 0


def index(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Index files; prints what failed and exits with 1 if anything did."""
    from service.indexing import index as index_sources
    from service.schemas import COLLECTION_PATTERN
    from service.sources import SourceError

    if not re.fullmatch(COLLECTION_PATTERN, options["collection"]):
        raise CommandError(
            f"{options['collection']!r} cannot be a collection's name: letters, digits, - and _ only"
        )
    try:
        wanted = options["paths"], options["collection"], options["embedding_space"]
        failed = asyncio.run(index_sources(settings, *wanted))
    except SourceError as error:
        raise CommandError(str(error)) from error
    return 1 if failed else 0


def reembed(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Move collections to the encoder in force; prints what failed and exits with 1 if anything did."""
    from service.indexing import reembed as reembed_collections
    from service.stores import check_catalog

    if bool(options["collections"]) == options["all"]:
        raise CommandError("name collections, or give --all")
    check_catalog(settings)
    named = None if options["all"] else options["collections"]
    failed = asyncio.run(reembed_collections(settings, named, drop_unreadable=options["drop_unreadable"]))
    return 1 if failed else 0


def search(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Search and print a table, or the reply of the REST API."""
    from service.stores import check_catalog

    if not options["words"] and not options["image"]:
        raise CommandError("give words to search for, or --image FILE")
    check_catalog(settings)
    reply = asyncio.run(_search(settings, options))
    if options["json"]:
        print(json.dumps(reply, ensure_ascii=False))
        return 0
    table = Table("score", "id", "title", box=None)
    for hit in reply["results"]:
        title = hit["metadata"].get("title") or hit.get("text") or ""
        table.add_row(f"{hit['score']:.3f}", hit["id"], str(title)[:80])
    out.print(table)
    return 0


def evaluate(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Measure recall in both directions."""
    from rich.progress import Progress

    from models.evaluate import evaluate_pairs
    from service.compose import open_encoder

    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("embedding", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        try:
            result = evaluate_pairs(
                options["pairs"], open_encoder(settings), split=options["split"], progress=show
            )
        except (ValueError, OSError) as error:
            raise CommandError(str(error)) from error
    if options["json"]:
        print(json.dumps(result))
        return 0
    table = Table("direction", "R@1", "R@5", "R@10", box=None)
    for direction in ("t2i", "i2t"):
        table.add_row(direction, *(f"{result[direction][f'R@{k}']:.1f}" for k in (1, 5, 10)))
    out.print(table, f"{result['images']} images, {result['captions']} captions, {result['encoder_id']}")
    return 0


def run_audit(settings: Settings, _: dict[str, str], options: dict[str, Any]) -> int:
    """Audit collections; exits with 1 if any digest differs."""
    from index.audit import audit
    from service.stores import check_catalog, open_catalog, open_cluster, open_stores

    check_catalog(settings)
    catalog = open_catalog(settings)
    store_of = open_stores(settings, open_cluster(settings))
    named = options["collection"]
    chosen = [catalog.collection(named)] if named else list(catalog.every_collection())
    if not chosen:
        err.print("there are no collections")
    audits = [audit(catalog, store_of, collection.name) for collection in chosen]
    if options["json"]:
        print(json.dumps([asdict(entry) for entry in audits]))
    else:
        for entry in audits:
            verdict = "[green]equal[/]" if entry.equal else "[red]not equal[/]: " + "; ".join(entry.problems)
            out.print(f"[bold]{entry.collection}[/]: {verdict}", soft_wrap=True)
            out.print(f"  {entry.items} items, {entry.searchable} searchable, generation {entry.generation}")
            out.print(f"  catalog  {entry.catalog_digest} = snapshot {entry.snapshot_digest}")
            out.print(f"  - hidden {entry.hidden_digest} + tail     {entry.tail_digest}")
    return 0 if all(entry.equal for entry in audits) else 1


async def _search(settings: Settings, options: dict[str, Any]) -> dict[str, Any]:
    from index.catalog import CatalogError
    from service.compose import running
    from service.finder import Wanted
    from service.metrics import Metrics
    from service.query_terms import Term
    from service.routes.search import reply_of
    from service.schemas_found import SearchReply

    pictures = [file.read_bytes() for file in options["image"]]
    parts = ([options["words"]] if options["words"] else []) + pictures
    terms = [Term(tuple(parts))] if options["rerank"] else [Term((part,)) for part in parts]
    async with running(settings, Metrics()) as service:
        names = [entry.name for entry, _ in await service.retriever.collections("", 1000)]
        name = options["collection"] or ("default" if "default" in names else "gallery")
        try:
            await asyncio.to_thread(service.retriever.adapters.refresh)
            wanted = Wanted(limit=options["limit"])
            answer = await service.retriever.searcher.search(name, terms, wanted, options["rerank"])
        except (CatalogError, ValueError) as error:
            raise CommandError(str(error)) from error
        return SearchReply(**reply_of(name, answer)).model_dump(exclude_none=True)


if __name__ == "__main__":
    main()
