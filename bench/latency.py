"""Latency of the real server beside the bare work: ``python -m bench.latency``.

The bare work is what no service can avoid: for a text search tokenise + ONNX Runtime + FAISS, for an upload
decode + ONNX Runtime, in this process and with the same threads. Rounds of bare work and of requests
alternate, so that a machine whose speed drifts slows both; ratios are within a round, and their median is
printed.
"""

import argparse
import http.client
import io
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import faiss
import numpy as np
from PIL import Image

from models.bundle import Bundle
from models.encoder import Encoder
from models.preprocess import Document

_WORDS = [
    "red",
    "apple",
    "small",
    "dog",
    "on",
    "grass",
    "blue",
    "car",
    "old",
    "boat",
    "in",
    "snow",
    "and",
    "fruit",
]
_SEARCH = "/v1/collections/gallery/search"
_ITEMS = "/v1/collections/bench/items"


class Client:
    """One kept-alive connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)

    def send(self, method: str, path: str, body: bytes, media: str = "application/json") -> bytes:
        self._connection.request(method, path, body, {"Content-Type": media})
        reply = self._connection.getresponse()
        data = reply.read()
        if reply.status >= 300:
            raise RuntimeError(f"{method} {path}: {reply.status} {data[:200]!r}")
        return data


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--requests", type=int, default=100, help="text searches in a round; uploads are a quarter"
    )
    options = parser.parse_args()
    encoder = Encoder.load(Bundle.default_path(), device="cpu", side_by_side=True)
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as url:
        Client(url).send("PUT", "/v1/collections/bench", b"{}")
        rng = np.random.default_rng(0)
        report = {
            "text_search": compared(
                lambda n: bare_searches(encoder, rng, n),
                lambda client, n: searches(client, np.random.default_rng(), n),
                url,
                options.rounds,
                options.requests,
            ),
            "picture_upload": compared(
                lambda n: bare_uploads(encoder, rng, n),
                lambda client, n: uploads(client, np.random.default_rng(), n),
                url,
                options.rounds,
                options.requests // 4,
            ),
        }
    print(json.dumps(report, indent=1))


@contextmanager
def served(data_dir: Path) -> Iterator[str]:
    """A real server with the gallery; gives its address."""
    command = [
        sys.executable,
        "-m",
        "service.cli",
        "serve",
        "--gallery",
        "--port",
        "0",
        "--data-dir",
        str(data_dir),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    line = next(line for line in process.stdout if "momoseek is at" in line)
    try:
        yield line.split()[3]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def compared(
    bare: Callable[[int], list[float]],
    requests: Callable[[Client, int], list[float]],
    url: str,
    rounds: int,
    count: int,
) -> dict[str, float]:
    """Bare work and requests by 1 and 16 clients, alternating; medians over the rounds."""
    rows = []
    for _ in range(rounds + 1):
        alone = bare(count)
        one, one_wall = at_once(requests, url, 1, count)
        many, many_wall = at_once(requests, url, 16, count)
        row = {"bare_p50_ms": 1000 * statistics.median(alone)}
        for name, seconds, wall in (("1", one, one_wall), ("16", many, many_wall)):
            row[f"p50_ms_{name}"] = 1000 * statistics.median(seconds)
            row[f"p95_ms_{name}"] = 1000 * statistics.quantiles(seconds, n=20)[-1]
            row[f"per_second_{name}"] = len(seconds) / wall
        row["ratio_1"] = row["p50_ms_1"] / row["bare_p50_ms"]
        row["throughput_ratio_16"] = row["per_second_16"] * row["bare_p50_ms"] / 1000
        rows.append(row)
    return {
        name: round(statistics.median(row[name] for row in rows[1:]), 3) for name in rows[0]
    }  # the first warms up


def at_once(
    requests: Callable[[Client, int], list[float]], url: str, clients: int, count: int
) -> tuple[list[float], float]:
    """``count`` requests shared by clients that each wait for their reply: seconds of each, and of all."""
    seconds: list[float] = []
    share = max(1, count // clients)
    threads = [
        threading.Thread(target=lambda: seconds.extend(requests(Client(url), share))) for _ in range(clients)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, time.perf_counter() - started


def timed(work: Callable[[], object], count: int) -> list[float]:
    """Seconds of each call."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds


def phrase(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(_WORDS, 5))


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG of 640 x 480 that no one has sent before."""
    small = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((640, 480)).save(file, "JPEG", quality=85)
    return file.getvalue()


def bare_searches(encoder: Encoder, rng: np.random.Generator, count: int) -> list[float]:
    index = faiss.IndexFlatIP(encoder.dim)
    index.add(rng.standard_normal((401, encoder.dim), dtype=np.float32))
    return timed(lambda: index.search(encoder.embed([Document((phrase(rng),))]), 10), count)


def searches(client: Client, rng: np.random.Generator, count: int) -> list[float]:
    return timed(
        lambda: client.send("POST", _SEARCH, json.dumps({"query": phrase(rng), "limit": 10}).encode()), count
    )


def bare_uploads(encoder: Encoder, rng: np.random.Generator, count: int) -> list[float]:
    pictures = iter([picture(rng) for _ in range(count)])
    return timed(
        lambda: encoder.embed([Document((encoder.preprocessor.picture(next(pictures), max_pixels=10**7),))]),
        count,
    )


def uploads(client: Client, rng: np.random.Generator, count: int) -> list[float]:
    bodies = iter([form(f"{rng.integers(2**62)}", picture(rng)) for _ in range(count)])
    return timed(lambda: client.send("PUT", _ITEMS, next(bodies), "multipart/form-data; boundary=x"), count)


def form(item_id: str, data: bytes) -> bytes:
    """A multipart body with an id and a picture."""
    head = f'--x\r\nContent-Disposition: form-data; name="id"\r\n\r\n{item_id}\r\n'
    file = '--x\r\nContent-Disposition: form-data; name="image"; filename="p.jpg"\r\n\r\n'
    return head.encode() + file.encode() + data + b"\r\n--x--\r\n"


if __name__ == "__main__":
    main()
