"""The latency of a search in many items, beside bare encoding and bare FAISS."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bench.api_ground import Figures, Ground
from bench.load import closed, json_body, post, quantile_ms, served
from index.catalog import Upsert
from index.vectors import Vectors
from models.encoder import Encoder
from models.preprocess import Document
from service.config import Settings
from service.stores import open_catalog, open_index, open_rebuilder

_SEARCH = "/v1/collections/many/search"


def search(ground: Ground, folder: Path) -> Figures:
    """What one client's search by text takes beyond 1.1 times the bare work, in milliseconds."""
    # The bundle's probes are unlike these rows: what they say of recall must not keep the index from serving.
    own = {"data_dir": folder, "recall_floor": 0.8}
    settings = Settings(**{**ground.settings.model_dump(), **own})
    filled(settings, ground.encoder, ground.options.items)
    catalog = open_catalog(settings)
    engine = open_index(settings, catalog, "many").view.snapshot
    assert engine is not None
    rounds = []
    with served(folder, "--no-worker") as url:
        for _ in range(ground.options.rounds + 1):
            alone = [_bare(ground, engine.engine.search) for _ in range(60)]
            bodies = [post(_SEARCH, json_body({"query": ground.phrase()})) for _ in range(256)]
            replies = uvloop.run(closed(url, bodies, 1, 2.0))
            assert all(reply.ok for reply in replies), {reply.status for reply in replies}
            rounds.append((1000 * statistics.median(alone), quantile_ms(replies, 0.5)))
    catalog.close()
    bare_ms, p50_ms = (statistics.median(values) for values in zip(*rounds[1:], strict=True))
    over = statistics.median(p50 - 1.1 * bare for bare, p50 in rounds[1:])
    print(f"search: p50 {p50_ms:.2f} ms, bare {bare_ms:.2f} ms, beyond 1.1 x bare {over:.2f} ms")
    return {"search_overhead_ms": round(over, 2)}


def _bare(ground: Ground, search: Callable[[Vectors, int], Any]) -> float:
    text = Document((ground.phrase(),))
    started = time.perf_counter()
    search(ground.encoder.embed([text]), 10)
    return time.perf_counter() - started


def filled(settings: Settings, encoder: Encoder, count: int) -> None:
    """A collection ``many`` of so many items with rows in clusters, and a snapshot of it."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2000, encoder.dim), np.float32)
    catalog = open_catalog(settings)
    catalog.create_collection("many", encoder.id, encoder.dim)
    for start in range(0, count, 5000):
        size = min(5000, count - start)
        rows = centres[rng.integers(0, len(centres), size)]
        rows = rows + 0.7 * rng.standard_normal(rows.shape, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        ids = range(start, start + size)
        catalog.commit(
            "many",
            [
                Upsert(f"i{i}", f"{i:064x}", row, "text", text=f"number {i}", metadata={"n": i})
                for i, row in zip(ids, rows, strict=True)
            ],
            encoder.id,
        )
    open_rebuilder(settings, catalog).rebuild("many", "filled", time.time())
    catalog.close()
