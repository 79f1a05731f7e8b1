"""What does a filter cost, and what does it lose? Recall@10 and latency at shares of 50 % to 0.01 %.

    python -m bench.filters --items 100000

One JSON line per share of matching items, kind of filter and query direction: recall@10 of a filtered search
against the exact answer, its median time, and that of the plainest exact search: find the matching rows, scan
them all where they are. `scan_ms` is the scan alone. The last line has the worst of each. Filters: `match` on
a flag and `range` on a number that differs for every item, both blind to the vectors, and `far`, which
matches the items furthest from the queries: the hard case of a graph.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.catalog import Collection
from index.engines.faiss import FaissEngine
from index.engines.kinds import choose
from index.engines.scanning import scan
from index.fields import Fields, numbers
from index.filters import Filter, parse
from index.live import Hit, View
from index.manifest import Manifest
from index.recall import exact_top_k, recall_at_k
from index.snapshot import Snapshot
from index.terms import terms_of
from index.vectors import Seqs, Vectors

SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001, 0.0001)
TOP_K = 10
TARGET_RECALL = 0.98


def main() -> None:
    """Build an index of the wanted size, measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384, help="length of a row, without --embeddings")
    parser.add_argument("--embeddings", type=Path, help="a .npy of unit rows to multiply by jitter")
    parser.add_argument("--queries", type=int, default=100, help="per direction")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    centres = _centres(arguments.embeddings, arguments.dim, random)
    rows = jittered(centres, arguments.items, 0.7, random)
    queries = {
        "image": jittered(centres, arguments.queries, 0.7, random),
        "text": unit(
            jittered(centres, arguments.queries, 0.9, random)
            + 0.5 * unit(random.normal(size=(1, rows.shape[1])))
        ),
    }
    started = time.perf_counter()
    engine = built(rows, np.concatenate(list(queries.values())))
    build_s, started = time.perf_counter() - started, time.perf_counter()
    fields = Fields.of_many(items(rows, np.concatenate(list(queries.values())), random))
    about = {
        "items": len(rows),
        "dim": rows.shape[1],
        "machine": platform.machine(),
        "factory": engine.factory,
        "tuning": engine.tuning,
        "build_s": round(build_s, 1),
        "fields_s": round(time.perf_counter() - started, 1),
        "fields_bytes": fields.size_bytes,
    }
    print(json.dumps(about), flush=True)
    view = view_of(engine, fields)
    steps = []
    for share in SHARES:
        for kind in ("match", "range", "far"):
            for direction, asked in queries.items():
                steps.append(
                    {
                        "share": share,
                        "filter": kind,
                        "queries": direction,
                        **measured(view, kind, share, asked),
                    }
                )
                print(json.dumps(steps[-1]), flush=True)
    worst = {
        "items": len(rows),
        "filter_recall_min": min(step["recall"] for step in steps),
        "filter_latency_ratio_max": max(step["ratio"] for step in steps),
    }
    print(json.dumps(worst))


def measured(view: View, kind: str, share: float, queries: Vectors) -> dict[str, Any]:
    """Recall and latency of one filter; the times are medians over the queries, asked in turns."""
    wanted, matching = condition(kind, share), 0
    scores = np.full((2, len(queries), TOP_K), -np.inf, np.float32)
    taken: tuple[list[float], list[float], list[float]] = ([], [], [])
    for number, query in enumerate(queries):
        started = time.perf_counter()
        hits = view.search(query[None], TOP_K, wanted)[0]
        searched = time.perf_counter()
        rows, chosen_at, exact = exactly(view, query[None], wanted)
        ended = time.perf_counter()
        for times, seconds in zip(
            taken, (searched - started, ended - searched, ended - chosen_at), strict=True
        ):
            times.append(seconds)
        matching = rows
        for line, found in zip(scores[:, number], (exact, hits), strict=True):
            line[: len(found)] = [hit.score for hit in found]
    search_ms, exact_ms, scan_ms = (1000 * statistics.median(times) for times in taken)
    return {
        "matching": matching,
        "recall": round(recall_at_k(scores[0], scores[1]), 4),
        "search_ms": round(search_ms, 3),
        "exact_ms": round(exact_ms, 3),
        "scan_ms": round(scan_ms, 3),
        "ratio": round(search_ms / exact_ms, 2),
    }


def exactly(view: View, query: Vectors, wanted: Filter) -> tuple[int, float, list[Hit]]:
    """How many rows match, when that was known, and the nearest of them by a scan of all."""
    assert view.snapshot is not None
    engine, ids = view.snapshot.engine, view.snapshot.ids
    assert isinstance(engine, FaissEngine)
    matching = numbers(wanted.rows(view.snapshot.fields))
    chosen_at = time.perf_counter()
    scores, rows = scan(engine._rows, query, TOP_K, matching)
    hits = zip(ids[rows[0]].tolist(), scores[0].tolist(), strict=True)
    return len(matching), chosen_at, [Hit(*hit) for hit in hits][: len(matching)]


def condition(kind: str, share: float) -> Filter:
    """The filter of one kind that this share of the items passes."""
    if kind == "match":
        return parse({"must": [{"key": f"flag {share}", "match": {"value": True}}]})
    return parse({"must": [{"key": kind, "range": {"lt": share}}]})


def items(rows: Vectors, queries: Vectors, random: np.random.Generator) -> Iterator[set[bytes]]:
    """What each item can be found by."""
    nearness = np.argsort(np.argsort(rows @ queries.mean(axis=0))) / len(rows)
    chances = random.random((len(rows), 2))
    for number, (flag, price) in enumerate(chances.tolist()):
        flags = {f"flag {share}": flag < share for share in SHARES}
        metadata = {**flags, "range": price, "far": float(nearness[number]), "shelf": number % 100}
        yield terms_of(f"item-{number}", "image", metadata)


def built(rows: Vectors, queries: Vectors) -> FaissEngine:
    """An engine as a rebuild makes it."""
    truth = exact_top_k(rows, queries, TOP_K)[0]
    kind = choose(len(rows), rows.shape[1])
    return FaissEngine.build(rows, kind.factory).tuned([(queries, truth)], TARGET_RECALL)


def view_of(engine: FaissEngine, fields: Fields) -> View:
    """A view of just these rows."""
    ids: Seqs = np.arange(1, engine.count + 1)
    collection = Collection("bench", "bench", "bench", engine.dim, engine.count, 0.0)
    manifest = Manifest(
        generation=1,
        collection_uid="bench",
        encoder_id="bench",
        watermark=engine.count,
        watermark_at=0.0,
        count=engine.count,
        dim=engine.dim,
        metric="cosine",
        factory=engine.factory,
        tuning=engine.tuning,
        digest="",
        recall_at_10={},
        tree_hash={},
        built_at=0.0,
        seconds=0.0,
    )
    return View.start(collection, Snapshot(manifest, engine, ids, fields))


def jittered(centres: Vectors, count: int, jitter: float, random: np.random.Generator) -> Vectors:
    """Rows around centres of very different weight, so that neighbourhoods are not uniform."""
    weights = 1 / np.arange(1, len(centres) + 1) ** 0.7
    chosen = random.choice(len(centres), count, p=weights / weights.sum())
    rows = np.empty((count, centres.shape[1]), np.float32)
    for start in range(0, count, 65_536):
        part = centres[chosen[start : start + 65_536]]
        noise = random.normal(size=part.shape).astype(np.float32)
        spread = jitter * random.uniform(0.5, 1.5, (len(part), 1)).astype(np.float32)
        rows[start : start + len(part)] = unit(part + spread * unit(noise))
    return rows


def _centres(path: Path | None, dim: int, random: np.random.Generator) -> Vectors:
    rows = random.normal(size=(5000, dim)) if path is None else np.load(path)
    return unit(rows[random.permutation(len(rows))])


def unit(rows: NDArray[Any]) -> Vectors:
    """The rows at length one."""
    scaled: Vectors = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


if __name__ == "__main__":
    main()
