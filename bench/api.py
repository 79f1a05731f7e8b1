"""The API under load, beside the bare work that no service can avoid: ``python -m bench.api``.

The bare work runs in this process, on the same bytes and cores, in rounds that alternate with rounds of
requests to a real server, so that a machine whose speed drifts slows both. Each ratio is one of medians or of
rates within a round; the median round is told. The last line is one JSON object; a part that was not run is
null there, and the reason is printed before.
"""

import argparse
import base64
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bench.latency import phrase, picture
from bench.load import (
    Reply,
    closed,
    encoded,
    job_rate,
    json_body,
    offered,
    per_second,
    post,
    quantile_ms,
    send,
    served,
    time_until_calm,
)
from index.catalog import Upsert
from index.vectors import Vectors
from models.encoder import Encoder
from models.preprocess import Document
from service.compose import open_encoder
from service.config import Settings, resolve
from service.stores import open_catalog, open_index, open_rebuilder

_EMBEDDINGS = "/v1/embeddings"
_SEARCH = "/v1/collections/many/search"
_CLIENTS = 32
_TEXTS = 32  # of one request
_ENCODED_AT_ONCE = 32  # texts, and eight pictures, by the bare loop: what the service takes at most
_PICTURES_AT_ONCE = 8
_MAX_PIXELS = 10**7
PARTS = ("embed", "search", "overload", "bulk", "infinity")


def main() -> None:
    """Measure, and print one JSON object at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=100_000, help="of the collection that is searched")
    parser.add_argument("--pictures", type=int, default=1000, help="of the bulk job")
    parser.add_argument("--overload-s", type=float, default=60)
    parser.add_argument("--infinity", help="address of an infinity-emb server, see bench/infinity.sh")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be repeated")
    options = parser.parse_args()
    bench = Bench(options)
    wanted = options.only or [part for part in PARTS if part != "infinity" or options.infinity]
    for part in PARTS:
        if part in wanted:
            started = time.perf_counter()
            bench.run(part)
            print(f"  ({part}: {time.perf_counter() - started:.0f} s)", flush=True)
        else:
            why = "no --infinity ADDRESS" if part == "infinity" and not options.only else "not asked for"
            print(f"{part}: not run, {why}", flush=True)
    print(json.dumps(bench.figures))


class Bench:
    """The parts, each of which fills in its figures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.figures: dict[str, float | None] = dict.fromkeys(
            (
                "embed_text_ratio",
                "embed_image_ratio",
                "infinity_ratio",
                "search_overhead_ms",
                "overload_goodput_ratio",
                "overload_refusal_p99_ms",
                "bulk_ratio",
                "interactive_p99_ratio",
            )
        )
        self._options = options
        self._rng = np.random.default_rng(0)
        self._settings, _ = resolve({}, os.environ)
        self._encoder: Encoder = open_encoder(self._settings)

    def run(self, part: str) -> None:
        """Run one part on a server of its own."""
        with tempfile.TemporaryDirectory() as folder:
            getattr(self, f"_{part}")(Path(folder))

    # -- throughput at saturation

    def _embed(self, folder: Path) -> None:
        texts = [json_body({"input": [self._phrase() for _ in range(_TEXTS)]}) for _ in range(64)]
        single = [json_body({"input": self._phrase()}) for _ in range(256)]
        pictures = [json_body({"input": [{"image": encoded(picture(self._rng))}]}) for _ in range(64)]
        # Nobody is refused here: 32 clients may have to wait for as long as it takes.
        with served(folder, "--max-wait-s", "600") as url:
            self.figures["embed_text_ratio"] = self._beside(url, "texts", texts, _TEXTS, self._read_texts)
            self.figures["embed_image_ratio"] = self._beside(url, "pictures", pictures, 1, self._read_picture)
            self._beside(url, "single texts", single, 1, self._read_texts)

    def _beside(
        self,
        url: str,
        name: str,
        bodies: list[bytes],
        size: int,
        read: Callable[[bytes], list[Document]],
    ) -> float:
        """The rate of a saturated server over that of the bare loop, both in documents a second."""
        requests, rounds = [post(_EMBEDDINGS, body) for body in bodies], []
        for _ in range(self._options.rounds + 1):
            bare = self._bare_rate(bodies, read, 2.5)
            replies = uvloop.run(closed(url, requests, _CLIENTS, 4.0))
            refused = sum(not reply.ok for reply in replies)
            rounds.append((size * per_second(replies), bare, quantile_ms(replies, 0.5), refused))
        rate, bare, p50_ms, refused = map(statistics.median, zip(*rounds[1:], strict=True))  # the first warms
        ratio = statistics.median(served / alone for served, alone, _, _ in rounds[1:])
        print(
            f"{name}: {rate:.0f}/s of {bare:.0f}/s bare, ratio {ratio:.3f}; p50 {p50_ms:.0f} ms with "
            f"{_CLIENTS} clients, {refused:.0f} refused",
            flush=True,
        )
        return round(ratio, 3)

    def _bare_rate(
        self, bodies: list[bytes], read: Callable[[bytes], list[Document]], seconds: float
    ) -> float:
        """Documents a second of the plain loop: decode as many as share a batch, encode them."""
        done, number, started = 0, 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            batch: list[Document] = []
            while len(batch) < (_PICTURES_AT_ONCE if read == self._read_picture else _ENCODED_AT_ONCE):
                batch += read(bodies[number % len(bodies)])
                number += 1
            self._encoder.embed(batch)
            done += len(batch)
        return done / (time.perf_counter() - started)

    def _read_texts(self, body: bytes) -> list[Document]:
        given = json.loads(body)["input"]
        return [Document((text,)) for text in (given if isinstance(given, list) else [given])]

    def _read_picture(self, body: bytes) -> list[Document]:
        return [self._document(base64.b64decode(json.loads(body)["input"][0]["image"]))]

    def _document(self, data: bytes) -> Document:
        return Document((self._encoder.preprocessor.picture(data, max_pixels=_MAX_PIXELS),))

    def _phrase(self) -> str:
        """Three to sixteen words."""
        return " ".join(phrase(self._rng) for _ in range(4)).rsplit(" ", int(self._rng.integers(4, 18)))[0]

    # -- latency of a search

    def _search(self, folder: Path) -> None:
        settings = Settings(**{**self._settings.model_dump(), "data_dir": folder})
        filled(settings, self._encoder, self._options.items)
        catalog = open_catalog(settings)
        engine = open_index(settings, catalog, "many").view.snapshot
        assert engine is not None
        rounds = []
        with served(folder, "--no-worker") as url:
            for _ in range(self._options.rounds + 1):
                alone = [self._bare_search(engine.engine.search) for _ in range(60)]
                bodies = [post(_SEARCH, json_body({"query": self._phrase()})) for _ in range(256)]
                replies = uvloop.run(closed(url, bodies, 1, 2.0))
                assert all(reply.ok for reply in replies), {reply.status for reply in replies}
                rounds.append((1000 * statistics.median(alone), quantile_ms(replies, 0.5)))
        catalog.close()
        bare_ms, p50_ms = (statistics.median(values) for values in zip(*rounds[1:], strict=True))
        over = statistics.median(p50 - 1.1 * bare for bare, p50 in rounds[1:])
        print(f"search: p50 {p50_ms:.2f} ms, bare {bare_ms:.2f} ms, beyond 1.1 x bare {over:.2f} ms")
        self.figures["search_overhead_ms"] = round(over, 2)

    def _bare_search(self, search: Callable[[Vectors, int], Any]) -> float:
        text = Document((self._phrase(),))
        started = time.perf_counter()
        search(self._encoder.embed([text]), 10)
        return time.perf_counter() - started

    # -- more than it can do

    def _overload(self, folder: Path) -> None:
        requests = [
            post(_EMBEDDINGS, json_body({"input": [self._phrase() for _ in range(_TEXTS)]}))
            for _ in range(64)
        ]
        with served(folder) as url:
            uvloop.run(closed(url, requests, 4, 3.0))
            unloaded = uvloop.run(closed(url, requests, 1, 5.0))
            # As many clients as keep the encoder busy, and no more: the best rate there is.
            peak = per_second(uvloop.run(closed(url, requests, 4, 8.0)))
            limit_ms = round(3 * quantile_ms(unloaded, 0.99))
            timed = [
                post(
                    _EMBEDDINGS,
                    json_body({"input": [self._phrase() for _ in range(_TEXTS)], "timeout_ms": limit_ms}),
                )
                for _ in range(64)
            ]
            for name, offer in (("no deadline", requests), (f"timeout_ms {limit_ms}", timed)):
                replies = uvloop.run(offered(url, offer, 4 * peak, self._options.overload_s))
                recovered_s = time_until_calm(url, requests, quantile_ms(unloaded, 0.99))
                self._tell_overload(name, replies, peak, quantile_ms(unloaded, 0.99), recovered_s)

    def _tell_overload(
        self, name: str, replies: list[Reply], peak: float, unloaded_ms: float, recovered_s: float
    ) -> None:
        good = [reply for reply in replies if reply.ok]
        refused = [reply for reply in replies if reply.status in (429, 503, 504)]
        goodput, refusal_ms = per_second(replies) / peak, quantile_ms(refused, 0.99)
        print(
            f"overload, {name}: {len(replies)} requests at 4 x {peak:.1f}/s, {len(good)} answered (goodput "
            f"ratio {goodput:.2f}, p99 {quantile_ms(good, 0.99):.0f} ms, unloaded {unloaded_ms:.0f}), "
            f"{len(refused)} refused (p99 {refusal_ms:.1f} ms), {len(replies) - len(good) - len(refused)} "
            f"failed; calm after {recovered_s:.1f} s",
            flush=True,
        )
        self.figures["overload_goodput_ratio"] = round(goodput, 3)
        self.figures["overload_refusal_p99_ms"] = round(refusal_ms, 1)

    # -- a bulk job, and who asks meanwhile

    def _bulk(self, folder: Path) -> None:
        pictures = [picture(self._rng) for _ in range(self._options.pictures)]
        lines = b"\n".join(
            json_body({"item": {"id": f"p{number}", "image": encoded(data)}})
            for number, data in enumerate(pictures)
        )
        bare = self._bare_pipeline(pictures)
        with served(folder) as url:
            send(url, "PUT", "/v1/collections/bulk", b"{}")
            rate = job_rate(url, lines)
        print(f"bulk: {rate:.1f} pictures/s of {bare:.1f}/s bare, ratio {rate / bare:.3f}", flush=True)
        self.figures["bulk_ratio"] = round(rate / bare, 3)
        asking = [post(_EMBEDDINGS, json_body({"input": self._phrase()})) for _ in range(256)]
        with tempfile.TemporaryDirectory() as another, served(Path(another)) as url:
            send(url, "PUT", "/v1/collections/bulk", b"{}")
            uvloop.run(closed(url, asking, 1, 2.0))
            alone = uvloop.run(closed(url, asking, 1, 15.0))
            send(url, "POST", "/v1/collections/bulk/bulk", lines, "application/x-ndjson")
            beside = uvloop.run(closed(url, asking, 1, 15.0))
            done = json.loads(send(url, "GET", "/v1/jobs"))["jobs"][0]["counts"]["done"]
        ratio = quantile_ms(beside, 0.99) / quantile_ms(alone, 0.99)
        print(
            f"interactive beside bulk: p99 {quantile_ms(beside, 0.99):.1f} ms, alone "
            f"{quantile_ms(alone, 0.99):.1f} ms, ratio {ratio:.2f}; {done} pictures were done meanwhile",
            flush=True,
        )
        self.figures["interactive_p99_ratio"] = round(ratio, 2)

    def _bare_pipeline(self, pictures: Sequence[bytes]) -> float:
        """Pictures a second where decoding runs ahead of encoding on other threads."""
        with ThreadPoolExecutor(self._settings.decode_threads) as decoders:
            documents: Iterator[Document] = decoders.map(self._document, pictures)
            batch, started = [next(documents)], time.perf_counter()
            self._encoder.embed(batch)
            batch = []
            for document in documents:
                batch.append(document)
                if len(batch) == _PICTURES_AT_ONCE:
                    self._encoder.embed(batch)
                    batch = []
            if batch:
                self._encoder.embed(batch)
            return len(pictures) / (time.perf_counter() - started)

    # -- another server

    def _infinity(self, folder: Path) -> None:
        other = self._options.infinity
        phrases = [self._phrase() for _ in range(256)]
        ours = [post(_EMBEDDINGS, json_body({"input": text})) for text in phrases]
        theirs = [post("/embeddings", json_body({"model": "minilm", "input": text})) for text in phrases]
        rounds = []
        with served(folder) as url:
            for _ in range(self._options.rounds + 1):
                here = uvloop.run(closed(url, ours, _CLIENTS, 5.0))
                there = uvloop.run(closed(other, theirs, _CLIENTS, 5.0))
                rounds.append(
                    (
                        per_second(here) / per_second(there),
                        per_second(here),
                        per_second(there),
                        quantile_ms(here, 0.99),
                        quantile_ms(there, 0.99),
                    )
                )
        ratio, here, there, here_ms, there_ms = map(statistics.median, zip(*rounds[1:], strict=True))
        print(
            f"single texts, {_CLIENTS} clients: {here:.0f}/s, p99 {here_ms:.0f} ms; infinity-emb "
            f"{there:.0f}/s, p99 {there_ms:.0f} ms; ratio {ratio:.2f}",
            flush=True,
        )
        self.figures["infinity_ratio"] = round(ratio, 2)


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


if __name__ == "__main__":
    main()
