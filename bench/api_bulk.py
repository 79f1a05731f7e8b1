"""A bulk job on pictures, beside a bare pipeline, and who asks meanwhile."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from bench.api_ground import EMBEDDINGS, Figures, Ground
from bench.latency import picture
from bench.load import closed, encoded, job_rate, json_body, post, quantile_ms, send, served

_JOBS = 5
_BARE = 300  # pictures of a job
_ASKING_S = 15.0
_SETTLING_S = 3.0  # until the server's worker has started, which takes a core for a while


def bulk(ground: Ground, folder: Path) -> Figures:
    """The rate of a job over that of the bare pipeline before and after it, the median of some jobs; and the
    p99 of single texts beside a job over that without one."""
    warming = _lines([picture(ground.rng) for _ in range(64)])
    jobs = [[picture(ground.rng) for _ in range(ground.options.pictures)] for _ in range(_JOBS)]
    bare, rates = list[float](), list[float]()
    with _settled(folder / "alone", warming, "--no-worker") as url:
        for pictures in jobs:
            bare.append(ground.bare_pipeline(pictures[:_BARE]))
            rates.append(job_rate(url, _lines(pictures)))
        bare.append(ground.bare_pipeline(pictures[:_BARE]))
    ratios = [rate / mean(around) for rate, around in zip(rates, pairwise(bare), strict=True)]
    ratio, lines = median(ratios), _lines(pictures)
    with _settled(folder / "indexed", warming) as url:
        indexed = job_rate(url, lines)
    print(
        f"bulk: {_told(rates)} pictures/s, bare {_told(bare)} around them, ratios {_told(ratios)}; "
        f"{indexed:.1f}/s where the worker builds indexes of them meanwhile",
        flush=True,
    )
    return {"bulk_ratio": round(ratio, 3), "interactive_p99_ratio": _beside(ground, folder / "beside", lines)}


@contextmanager
def _settled(folder: Path, warming: bytes, *flags: str) -> Iterator[str]:
    """The address of a server that has done its first job."""
    with served(folder, *flags) as url:
        send(url, "PUT", "/v1/collections/bulk", b"{}")
        job_rate(url, warming)
        time.sleep(_SETTLING_S)
        yield url


def _told(figures: Iterable[float]) -> str:
    return ", ".join(f"{figure:.3g}" for figure in figures)


def _lines(pictures: list[bytes]) -> bytes:
    items = ({"id": sha256(data).hexdigest(), "image": encoded(data)} for data in pictures)
    return b"\n".join(json_body({"item": item}) for item in items)


def _beside(ground: Ground, folder: Path, lines: bytes) -> float:
    asking = [post(EMBEDDINGS, body) for body in ground.single_bodies()]
    with served(folder) as url:
        send(url, "PUT", "/v1/collections/bulk", b"{}")
        uvloop.run(closed(url, asking, 1, 2.0))
        alone = uvloop.run(closed(url, asking, 1, _ASKING_S))
        send(url, "POST", "/v1/collections/bulk/bulk", lines, "application/x-ndjson")
        beside = uvloop.run(closed(url, asking, 1, _ASKING_S))
        encoded_meanwhile = _pictures_encoded(url)
    ratio = quantile_ms(beside, 0.99) / quantile_ms(alone, 0.99)
    print(
        f"interactive beside bulk: p99 {quantile_ms(beside, 0.99):.1f} ms, alone "
        f"{quantile_ms(alone, 0.99):.1f} ms, ratio {ratio:.2f}; {encoded_meanwhile} pictures were "
        f"encoded meanwhile",
        flush=True,
    )
    return round(ratio, 2)


def _pictures_encoded(url: str) -> int:
    """Since the server began. A job tells of whole chunks, of which there may be none in a short time."""
    families = text_string_to_metric_families(send(url, "GET", "/metrics").decode())
    samples = (sample for family in families for sample in family.samples)
    counts = (
        s.value
        for s in samples
        if s.name == "momoseek_encoder_items_total" and s.labels["modality"] == "image"
    )
    return int(sum(counts))
