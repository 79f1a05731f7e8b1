"""How does the index search where memory is short? In a control group that may hold so many megabytes.

    python -m bench.tight --items 5000000 --folder DIR --limit-mb 1500

DIR is a folder of ``bench.index --folder``. Its snapshot is opened by a process of that group (Linux, root)
that counts the page cache too, after the cache was emptied. The line has recall@10, the times of searches
from a cold start and after as many again, and what the group held at the most.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.corpus import corpus
from bench.house import House, in_child
from index.recall import exact_top_k, recall_at_k
from index.vectors import Vectors

TOP_K = 10
_GROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    """Open, search, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--limit-mb", type=int, required=True)
    parser.add_argument("--embeddings", type=Path, default=Path("build/embeddings.npz"))
    arguments = parser.parse_args()
    made = corpus(arguments.items, arguments.embeddings)
    truth = {direction: exact_top_k(made.rows, rows, TOP_K)[0] for direction, rows in made.queries.items()}
    queries = made.queries
    del made
    house = House(arguments.folder, "auto", queries["text"])
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    with group(arguments.limit_mb) as folder:
        numbers = in_child(searched, folder, house, queries, truth)
    print(json.dumps({"items": arguments.items, "limit_mb": arguments.limit_mb} | numbers))


@contextmanager
def group(limit_mb: int) -> Iterator[Path]:
    """The folder of a control group that may hold so much, of either version."""
    old = _GROUPS / "memory"
    folder = Path(tempfile.mkdtemp(prefix="tight-", dir=old if old.is_dir() else _GROUPS))
    names = ("memory.limit_in_bytes",) if old.is_dir() else ("memory.max", "memory.swap.max")
    for name, limit in zip(names, (limit_mb * 2**20, 0), strict=False):
        (folder / name).write_text(str(limit))
    try:
        yield folder
    finally:
        folder.rmdir()


def searched(
    folder: Path, house: House, queries: dict[str, Vectors], truth: dict[str, Vectors]
) -> dict[str, Any]:
    """Join the group, open the index and ask it everything twice."""
    (folder / "cgroup.procs").write_text(str(os.getpid()))
    started = time.monotonic()
    view, numbers = house.live().view, dict[str, Any]()
    numbers["open_s"] = round(time.monotonic() - started, 2)
    for turn in ("cold", "warm"):
        taken_s = list[float]()
        for direction, rows in queries.items():
            found = np.full((len(rows), TOP_K), -np.inf, np.float32)
            for number in range(len(rows)):
                started = time.perf_counter()
                scores = [hit.score for hit in view.search(rows[number : number + 1], TOP_K)[0]]
                taken_s.append(time.perf_counter() - started)
                found[number, : len(scores)] = scores
            numbers[f"recall_{direction}"] = round(recall_at_k(truth[direction], found), 4)
        times = {f"p{q}": round(1000 * float(np.percentile(taken_s, q)), 2) for q in (50, 95, 99)}
        numbers |= {f"{turn}_{name}_ms": ms for name, ms in times.items()}
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (folder / name).exists():
            numbers["held_mb"] = round(int((folder / name).read_text()) / 1e6)
    (folder.parent / "cgroup.procs").write_text(str(os.getpid()))  # so that the group can go
    return numbers


if __name__ == "__main__":
    main()
