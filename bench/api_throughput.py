"""Throughput at saturation, beside bare loops and beside another server."""

import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import uvloop

from bench.api_ground import EMBEDDINGS, TEXTS, Figures, Ground, Read
from bench.load import closed, json_body, per_second, post, quantile_ms, served

_CLIENTS = 32
_PATIENT = ("--max-wait-s", "600")  # nobody is refused: so many clients may have to wait as long as it takes
_INFINITY = "http://127.0.0.1:7997"


def embed(ground: Ground, folder: Path) -> Figures:
    """Texts and pictures on a saturated server, over what bare loops do with the same bytes."""
    texts, pictures, single = ground.text_bodies(), ground.picture_bodies(), ground.single_bodies()
    with served(folder, *_PATIENT) as url:
        figures: Figures = {
            "embed_text_ratio": _beside(ground, url, "texts", texts, TEXTS, ground.read_texts),
            "embed_image_ratio": _beside(ground, url, "pictures", pictures, 1, ground.read_picture),
        }
        _beside(ground, url, "single texts", single, 1, ground.read_texts)
    return figures


def _beside(ground: Ground, url: str, name: str, bodies: list[bytes], size: int, read: Read) -> float:
    """The rate of a saturated server over that of the bare loops, both in documents a second."""
    requests, rounds = [post(EMBEDDINGS, body) for body in bodies], []
    for _ in range(ground.options.rounds + 1):
        bare = ground.bare_rate(bodies, read, 2.5)
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


def infinity(ground: Ground, folder: Path) -> Figures:
    """The same texts on infinity-emb, which serves MiniLM: its requests a second under ours.

    ``--infinity`` is its address, or a folder in which bench/infinity.sh sets it up.
    """
    where: str = ground.options.infinity
    with _infinity(where) as other, served(folder, *_PATIENT) as url:
        ratio = _against(ground, url, other, f"requests of {TEXTS} texts", ground.texts())
        _against(ground, url, other, "single texts", [[ground.phrase()] for _ in range(256)])
    return {"infinity_ratio": ratio}


def _against(ground: Ground, url: str, other: str, name: str, texts: list[list[str]]) -> float:
    ours = [post(EMBEDDINGS, json_body({"input": each})) for each in texts]
    theirs = [post("/embeddings", json_body({"model": "minilm", "input": each})) for each in texts]
    rounds = []
    for _ in range(ground.options.rounds + 1):
        here = uvloop.run(closed(url, ours, _CLIENTS, 4.0))
        there = uvloop.run(closed(other, theirs, _CLIENTS, 4.0))
        rates = per_second(here), per_second(there)
        rounds.append((rates[0] / rates[1], *rates, quantile_ms(here, 0.99), quantile_ms(there, 0.99)))
    ratio, here_s, there_s, here_ms, there_ms = map(statistics.median, zip(*rounds[1:], strict=True))
    print(
        f"{name}, {_CLIENTS} clients: {here_s:.1f} requests/s, p99 {here_ms:.0f} ms; infinity-emb "
        f"{there_s:.1f}/s, p99 {there_ms:.0f} ms; ratio {ratio:.2f}",
        flush=True,
    )
    return float(round(ratio, 2))


@contextmanager
def _infinity(where: str) -> Iterator[str]:
    """The address of a server, which is started here if ``where`` is a folder."""
    if where.startswith("http"):
        yield where
        return
    with subprocess.Popen(
        [Path(__file__).with_name("infinity.sh"), where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not _answers(f"{_INFINITY}/health"):
                if process.poll() is not None:
                    raise RuntimeError(f"bench/infinity.sh ended with {process.returncode}")
                time.sleep(0.5)
            yield _INFINITY
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    with suppress(OSError), urlopen(url, timeout=5):
        return True
    return False
