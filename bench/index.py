"""What does the index find, how fast, in how much memory, and what does it do under writes and swaps?

    python -m bench.index --items 1000000

A collection of so many items is committed to a catalog and built by the worker's own code; then everything is
measured on that snapshot, as a process of the service would open it. The last line has one number for each
promise; the tables behind them go to bench/results/index-<items>/ as CSV and picture. The folder is kept if
named, and what is finished in it is not done again.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench import filters
from bench.corpus import Corpus, corpus
from bench.house import House, content_of, in_child
from bench.swap import swapped_under_load
from bench.tables import RESULTS, Row, machine, save
from index.catalog import Upsert
from index.engines import AUTO, Params, Scores
from index.live import LiveIndex, View
from index.recall import exact_top_k, recall_at_k
from index.vectors import Vectors

TOP_K = 10
ROUNDS, IN_ROUND = 9, 200  # of live and bare searches in turn
EFFORTS = (0.25, 0.5, 0.75, 1, 1.5, 2, 4)  # times what was tuned
TAIL = 50_000
SWAPS = 3
STEPS = ("recall", "speed", "memory", "filters", "restart", "swap", "writes")
LAST_LINE = (
    "items",
    "recall_text",
    "recall_image",
    "qps_ratio",
    "resident_ratio",
    "filter_recall_min",
    "filter_latency_ratio_max",
    "write_to_searchable_p99_ms",
    "swap_failed",
    "swap_p99_ratio",
    "restart_to_ready_s",
)
WRITES = 300


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where catalog and snapshots are kept")
    parser.add_argument("--embeddings", type=Path, help="a .npz of rows 'image' and 'text', made if missing")
    parser.add_argument("--index-type", default="auto", help="as the setting index_type")
    parser.add_argument("--filter-queries", type=int, default=40, help="per direction and filter")
    parser.add_argument("--only", nargs="*", default=list(STEPS), choices=list(STEPS), help="steps to take")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments, folder)
        numbers: dict[str, Any] = {"items": arguments.items}
        for step in arguments.only:
            started = time.monotonic()
            numbers |= getattr(bench, step)()
            say(step=step, seconds=round(time.monotonic() - started, 1))
    print(json.dumps({name: numbers.get(name) for name in LAST_LINE}))


def say(**what: Any) -> None:
    """One JSON line."""
    print(json.dumps(what), flush=True)


class Bench:
    """The steps, each of which gives numbers for the last line."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments = arguments
        self._command = f"python -m bench.index --items {arguments.items}"
        if arguments.index_type != "auto":
            self._command += f" --index-type {arguments.index_type}"
        name = f"index-{arguments.items}" + ("" if arguments.index_type == "auto" else "-compressed")
        self._results = RESULTS / name
        started = time.monotonic()
        self._corpus: Corpus = corpus(arguments.items, arguments.embeddings or folder / "embeddings.npz")
        self._house = House(folder, arguments.index_type, self._corpus.probes["text"])
        made_s = time.monotonic() - started
        if not self._house.has(arguments.items):
            self._house.fill(self._corpus.rows, self._corpus.is_picture, self._metadata())
        filled_s = time.monotonic() - started - made_s
        if self._house.store.current() is None:
            report = in_child(House.rebuilt, self._house)
            say(report=report)
        self._live: LiveIndex = self._house.live()
        manifest = self._snapshot.manifest
        say(
            machine=machine(),
            items=arguments.items,
            corpus_s=round(made_s, 1),
            commit_s=round(filled_s, 1),
            build_s=round(manifest.seconds, 1),
            factory=manifest.factory,
            tuning=manifest.tuning,
            recall_of_probes=manifest.recall_at_10,
        )

    @cached_property
    def _truth(self) -> dict[str, Scores]:
        return {
            direction: exact_top_k(self._corpus.rows, queries, TOP_K)[0]
            for direction, queries in self._corpus.queries.items()
        }

    @property
    def _view(self) -> View:
        return self._live.view

    @property
    def _snapshot(self) -> Any:
        assert self._view.snapshot is not None
        return self._view.snapshot

    def recall(self) -> dict[str, Any]:
        """recall@10 of queries that tuned nothing, at every effort."""
        rows = [row for factor in EFFORTS for row in self._curve(factor)]
        save(
            rows,
            self._results / "curve.csv",
            self._command,
            "recall",
            "queries_per_s",
            ("queries", "who"),
            "y",
        )
        found = {
            row["queries"]: row["recall"] for row in rows if row["effort"] == 1 and row["who"] == "momoseek"
        }
        return {f"recall_{direction}": found[direction] for direction in ("text", "image")}

    def _curve(self, factor: float) -> Iterator[Row]:
        tuned = {
            name: max(1, round(factor * value)) for name, value in self._snapshot.manifest.tuning.items()
        }
        asked = {name: value for name, value in tuned.items() if name != "rescore"}
        bare = self._house.bare(tuned)
        for direction, queries in self._corpus.queries.items():
            for who, search in (("momoseek", self._searching(Params(**asked))), ("bare FAISS", bare)):
                scores, taken_s = asked_one_by_one(search, queries)
                yield {
                    "queries": direction,
                    "who": who,
                    "effort": factor,
                    **asked,
                    "recall": round(recall_at_k(self._truth[direction], scores), 4),
                    "queries_per_s": round(1 / statistics.median(taken_s), 1),
                }

    def _searching(self, params: Params = AUTO) -> Any:
        view = self._view

        def search(query: Vectors) -> list[float]:
            return [hit.score for hit in view.search(query, TOP_K, params=params)[0]]

        return search

    def speed(self) -> dict[str, Any]:
        """Queries a second of the live index and of bare FAISS, in turns of one process."""
        live, bare = self._searching(), self._house.bare(self._snapshot.manifest.tuning)
        queries = np.concatenate(list(self._corpus.queries.values()))
        random, rows, all_s = np.random.default_rng(1), list[Row](), list[float]()
        for turn in range(ROUNDS):
            chosen = queries[random.choice(len(queries), IN_ROUND)]
            each_s = {
                who: asked_one_by_one(search, chosen)[1] for who, search in (("live", live), ("bare", bare))
            }
            all_s += each_s["live"]
            taken_s = {who: statistics.median(seconds) for who, seconds in each_s.items()}
            per_s = {f"{who}_per_s": round(1 / seconds, 1) for who, seconds in taken_s.items()}
            rows.append({"round": turn, **per_s, "ratio": round(taken_s["bare"] / taken_s["live"], 3)})
        save(rows, self._results / "speed.csv", self._command, "round", "ratio", marks={"promise": 0.9})
        say(
            queries_per_s={
                name: statistics.median(row[name] for row in rows) for name in ("live_per_s", "bare_per_s")
            },
            live_ms={f"p{q}": round(1000 * float(np.percentile(all_s, q)), 2) for q in (50, 95, 99)},
        )
        return {"qps_ratio": round(statistics.median(row["ratio"] for row in rows), 3)}

    def memory(self) -> dict[str, Any]:
        """Resident memory of a process that has answered all queries, beyond what it had before it opened the
        index; the bare index is read by FAISS into memory of its own."""
        queries = np.concatenate(list(self._corpus.queries.values()))
        live = in_child(House.resident_bytes, self._house, queries)
        bare = in_child(House.bare_resident_bytes, self._house, queries)
        rows = [{"who": 0, "resident_mb": round(live / 1e6)}, {"who": 1, "resident_mb": round(bare / 1e6)}]
        say(resident_mb={"live": rows[0]["resident_mb"], "bare": rows[1]["resident_mb"]})
        return {"resident_ratio": round(live / bare, 3)}

    def filters(self) -> dict[str, Any]:
        """Recall and time of filtered searches beside a scan of all that matches."""
        rows = []
        for share in filters.SHARES:
            for kind in ("range", "far"):
                for direction, queries in self._corpus.queries.items():
                    asked = queries[: self._arguments.filter_queries]
                    found = filters.measured(self._view, kind, share, asked)
                    rows.append({"share": share, "filter": kind, "queries": direction, **found})
        for y, mark in (("recall", 0.99), ("ratio", 1.2)):
            file = self._results / f"filters_{y}.csv"
            save(rows, file, self._command, "share", y, ("filter", "queries"), "x", {"promise": mark})
        return {
            "filter_recall_min": min(row["recall"] for row in rows),
            "filter_latency_ratio_max": max(row["ratio"] for row in rows),
        }

    def restart(self) -> dict[str, Any]:
        """From starting a process to its first answer, files in the page cache; the median of three."""
        query = self._corpus.queries["text"][:1]
        return {
            "restart_to_ready_s": round(statistics.median(self._house.restart_s(query) for _ in range(3)), 2)
        }

    def swap(self) -> dict[str, Any]:
        """Searches at a steady rate while a generation is built, published and taken over, several times."""
        queries = np.concatenate(list(self._corpus.queries.values()))
        rows, found = list[Row](), list[dict[str, Any]]()
        for turn in range(SWAPS):
            before_s = found[-1]["building_s"] if found else 0.0
            table, numbers = swapped_under_load(self._house, self._live, queries, turn, before_s)
            rows += table
            found.append(numbers)
            say(**numbers)
        save(rows, self._results / "swap.csv", self._command, "second", "p99_ms", ("turn", "phase"), "y")
        return {
            "swap_failed": sum(numbers["swap_failed"] for numbers in found),
            "swap_p99_ratio": statistics.median(numbers["swap_p99_ratio"] for numbers in found),
        }

    def writes(self) -> dict[str, Any]:
        """From a write to where every search finds it, in this process, behind a long tail of others."""
        random = np.random.default_rng(2)
        rows = self._corpus.rows[random.choice(len(self._corpus.rows), TAIL + WRITES)]
        self._house.fill(rows[:TAIL], np.ones(TAIL, np.bool_), iter(lambda: {"range": 0.5}, None), "tail")
        self._live.refresh()
        taken_ms = []
        for number, row in enumerate(rows[TAIL:]):
            item_id = f"new-{number}"
            write = Upsert(item_id, content_of(item_id), row, "image", metadata={"range": 0.5})
            started = time.perf_counter()
            [outcome] = self._house.commit([write])
            view = self._live.refresh()
            taken_ms.append(1000 * (time.perf_counter() - started))
            if outcome.seq not in {hit.seq for hit in view.search(row[None], TOP_K)[0]}:
                raise RuntimeError(f"write {number} is not found")
        table = [
            {"share": round((n + 1) / WRITES, 4), "ms": round(ms, 3)} for n, ms in enumerate(sorted(taken_ms))
        ]
        save(
            table, self._results / "writes.csv", self._command, "share", "ms", log="y", marks={"promise": 50}
        )
        return {"write_to_searchable_p99_ms": round(float(np.quantile(taken_ms, 0.99)), 2)}

    def _metadata(self) -> Iterator[dict[str, float]]:
        """What filters ask for: a number by chance, and the rank of nearness to the queries."""
        towards = np.concatenate(list(self._corpus.queries.values())).mean(axis=0)
        nearness = np.argsort(np.argsort(self._corpus.rows @ towards)) / len(self._corpus.rows)
        chances = np.random.default_rng(3).random(len(nearness))
        for chance, near in zip(chances.tolist(), nearness.tolist(), strict=True):
            yield {"range": chance, "far": near}


def asked_one_by_one(search: Any, queries: Vectors) -> tuple[Vectors, list[float]]:
    """The scores (n, TOP_K) of what one thread finds for each query alone, and the seconds each took."""
    scores, taken_s = np.full((len(queries), TOP_K), -np.inf, np.float32), []
    for number in range(len(queries)):
        query = queries[number : number + 1]
        started = time.perf_counter()
        found = search(query)
        taken_s.append(time.perf_counter() - started)
        scores[number, : len(found)] = found
    return scores, taken_s


if __name__ == "__main__":
    main()
