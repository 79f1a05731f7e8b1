"""From how many queries on should FAISS's exact search use BLAS? Prints medians of both, and their ratio.

    python -m bench.faiss_threshold --count 20000 --dim 384

index/engines/faiss.py sets the threshold that this suggests.
"""

import argparse
import json
import platform
import statistics
import time
from typing import Any

import faiss
import numpy as np

from index.vectors import Vectors

_faiss: Any = faiss  # its stubs do not take arrays
_NEVER = 10**9


def main() -> None:
    """Measure and print one JSON line per number of queries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20_000, help="rows in the index")
    parser.add_argument("--dim", type=int, default=384, help="length of a row")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rows = _unit_rows(arguments.count, arguments.dim)
    index = _faiss.IndexFlatIP(arguments.dim)
    index.add(rows)
    print(json.dumps(vars(arguments) | {"faiss": faiss.__version__, "machine": platform.machine()}))
    for queries in (1, 4, 8, 12, 16, 20, 32, 64, 256):
        plain_ms, blas_ms = measured(index, rows[:queries], arguments.top_k, arguments.repeats)
        ratio = round(plain_ms / blas_ms, 2)
        print(json.dumps({"queries": queries, "plain_ms": plain_ms, "blas_ms": blas_ms, "ratio": ratio}))


def measured(index: Any, queries: Vectors, top_k: int, repeats: int) -> tuple[float, float]:
    """Median milliseconds without and with BLAS, in turns, so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    before = _faiss.cvar.distance_compute_blas_threshold
    for _ in range(repeats + 1):
        for threshold, taken in zip((_NEVER, 0), times, strict=True):
            _faiss.cvar.distance_compute_blas_threshold = threshold
            started = time.perf_counter()
            index.search(queries, top_k)
            taken.append((time.perf_counter() - started) * 1000)
    _faiss.cvar.distance_compute_blas_threshold = before
    plain_ms, blas_ms = (round(statistics.median(taken[1:]), 2) for taken in times)  # the first one warms up
    return plain_ms, blas_ms


def _unit_rows(count: int, dim: int) -> Vectors:
    rows = np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


if __name__ == "__main__":
    main()
