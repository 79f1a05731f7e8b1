"""A bulk job on pictures, beside a bare pipeline, and who asks meanwhile."""

import json
import time
from hashlib import sha256
from pathlib import Path

import uvloop

from bench.api_ground import EMBEDDINGS, Figures, Ground
from bench.latency import picture
from bench.load import closed, encoded, job_rate, json_body, post, quantile_ms, send, served

_ASKING_S = 15.0
_SETTLING_S = 3.0  # until the server's worker has started, which takes a core for a while


def bulk(ground: Ground, folder: Path) -> Figures:
    """The rate of a job over that of the bare pipeline, and the p99 of single texts beside a job over that
    without one."""
    pictures = [picture(ground.rng) for _ in range(ground.options.pictures)]
    lines = _lines(pictures)
    warming = _lines([picture(ground.rng) for _ in range(64)])
    bare = [ground.bare_pipeline(pictures)]
    rate = _rate(folder / "alone", warming, lines, "--no-worker")
    bare.append(ground.bare_pipeline(pictures))
    indexed = _rate(folder / "indexed", warming, lines)
    ratio = rate / (sum(bare) / len(bare))
    around = f"{bare[0]:.1f}/s before and {bare[1]:.1f}/s after"
    print(
        f"bulk: {rate:.1f} pictures/s, bare {around}, ratio {ratio:.3f}; {indexed:.1f}/s where the worker "
        "builds indexes of them meanwhile",
        flush=True,
    )
    return {"bulk_ratio": round(ratio, 3), "interactive_p99_ratio": _beside(ground, folder / "beside", lines)}


def _rate(folder: Path, warming: bytes, lines: bytes, *flags: str) -> float:
    """Lines a second of a job on a server of its own, once that has settled."""
    with served(folder, *flags) as url:
        send(url, "PUT", "/v1/collections/bulk", b"{}")
        job_rate(url, warming)
        time.sleep(_SETTLING_S)
        return job_rate(url, lines)


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
        done = json.loads(send(url, "GET", "/v1/jobs"))["jobs"][0]["counts"]["done"]
    ratio = quantile_ms(beside, 0.99) / quantile_ms(alone, 0.99)
    print(
        f"interactive beside bulk: p99 {quantile_ms(beside, 0.99):.1f} ms, alone "
        f"{quantile_ms(alone, 0.99):.1f} ms, ratio {ratio:.2f}; {done} pictures were done meanwhile",
        flush=True,
    )
    return round(ratio, 2)
