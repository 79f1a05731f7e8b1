"""Mixed load for a long time: does memory stay flat, and does everything succeed? ``python -m bench.soak``.

Searches by words and by picture, embeddings, writes, deletes and bulk jobs go on together on one collection
of bounded size. The first part warms up; then resident memory is compared between the first and the last
fifth of the rest. It ends with one JSON line.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import uvloop

from bench.latency import phrase, picture
from bench.load import KEPT_S, Connection, Reply, encoded, json_body, post, quantile_ms, send, serve

_ITEMS = 2000  # ids that are written again and again
_SAMPLED_EVERY_S = 2.0
_PAUSE_S = 0.05  # of a client between two requests: the machine is busy and not overloaded


def main() -> None:
    """Load a server, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=float, default=0.3, help="share of the time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url = serve(Path(folder))
        try:
            send(url, "PUT", "/v1/collections/soak", b"{}")
            replies, memory = uvloop.run(soaked(url, process.pid, 60 * options.minutes))
        finally:
            process.terminate()
            process.wait(30)
    resident = [sample.resident for sample in memory]
    settled = resident[int(options.warm_up * len(resident)) :]
    fifth = max(1, len(settled) // 5)
    first, last = statistics.median(settled[:fifth]), statistics.median(settled[-fifth:])
    failed = [reply.status for reply in replies if not reply.ok]
    report = {
        "minutes": options.minutes,
        "requests": len(replies),
        "errors": len(failed),
        "p50_ms": round(quantile_ms(replies, 0.5), 1),
        "p99_ms": round(quantile_ms(replies, 0.99), 1),
        "rss_first_mb": round(first / 2**20, 1),
        "rss_last_mb": round(last / 2**20, 1),
        "rss_growth": round(last / first - 1, 4),
    }
    print(f"statuses of errors: {sorted(set(failed))}")
    for tenth in np.array_split(np.array(memory) / 2**20, 10):
        resident, mapped = np.median(tenth, axis=0)
        print(f"resident {resident:.1f} MB, of it mapped files {mapped:.1f}")
    print(json.dumps(report))
    sys.exit(bool(failed) or report["rss_growth"] > 0.03)


class Sample(NamedTuple):
    """Bytes of a process: resident ones, and those of them that are of files."""

    resident: int
    mapped: int


async def soaked(url: str, pid: int, seconds: float) -> tuple[list[Reply], list[Sample]]:
    """All replies, and the memory of the API now and then."""
    replies: list[Reply] = []
    memory: list[Sample] = []
    until = time.monotonic() + seconds

    async def client(requests: Iterator[bytes], pause_s: float) -> None:
        connection = await Connection.open(url)
        while time.monotonic() < until:
            due = time.perf_counter()
            status, _ = await connection.send(next(requests))
            replies.append(Reply(due, time.perf_counter() - due, status))
            await asyncio.sleep(pause_s)
            if pause_s > KEPT_S:
                connection.close()
                connection = await Connection.open(url)
        connection.close()

    async def sample() -> None:
        server = psutil.Process(pid)
        while time.monotonic() < until:
            found = server.memory_info()
            memory.append(Sample(found.rss, found.shared))
            await asyncio.sleep(_SAMPLED_EVERY_S)

    clients = [
        client(work(seed), _PAUSE_S) for seed, work in enumerate((asks, asks, embeds, writes, deletes))
    ]
    await asyncio.gather(sample(), client(jobs(9), 20.0), *clients)
    return replies, memory


def asks(seed: int) -> Iterator[bytes]:
    """Searches, of which one in ten is by a picture."""
    rng = np.random.default_rng(seed)
    while True:
        by_picture = {"image": encoded(picture(rng))}
        query = by_picture if rng.random() < 0.1 else phrase(rng)
        yield post("/v1/collections/soak/search", json_body({"query": query}))


def embeds(seed: int) -> Iterator[bytes]:
    """Embeddings of one to thirty-two texts."""
    rng = np.random.default_rng(seed)
    while True:
        texts = [phrase(rng) for _ in range(rng.integers(1, 33))]
        yield post("/v1/embeddings", json_body({"input": texts}))


def writes(seed: int) -> Iterator[bytes]:
    """Items with a text, and now and then a picture, over items that are there."""
    rng = np.random.default_rng(seed)
    while True:
        image = {"image": encoded(picture(rng))} if rng.random() < 0.3 else {}
        item = {"id": _id(rng), "text": phrase(rng), **image}
        yield post("/v1/collections/soak/items", json_body({"items": [item]}), method="PUT")


def deletes(seed: int) -> Iterator[bytes]:
    """Deletes of a few items, whether or not they are there."""
    rng = np.random.default_rng(seed)
    while True:
        ids = [_id(rng) for _ in range(3)]
        yield post("/v1/collections/soak/items/delete", json_body({"ids": ids}))


def jobs(seed: int) -> Iterator[bytes]:
    """Bulk jobs of a hundred lines."""
    rng = np.random.default_rng(seed)
    while True:
        items = [{"item": {"id": _id(rng), "text": phrase(rng)}} for _ in range(100)]
        lines = b"\n".join(map(json_body, items))
        yield post("/v1/collections/soak/bulk", lines, "application/x-ndjson")


def _id(rng: np.random.Generator) -> str:
    return f"i{rng.integers(_ITEMS)}"


if __name__ == "__main__":
    main()
