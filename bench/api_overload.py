"""Four times more than the server can do, for a minute."""

from pathlib import Path
from statistics import mean

import uvloop

from bench.api_ground import EMBEDDINGS, Figures, Ground
from bench.load import Reply, closed, offered, per_second, post, quantile_ms, served, time_until_calm

_TIMES = 4
_CLIENTS = (4, 16)
_RATE_S = 8.0


def overload(ground: Ground, folder: Path) -> Figures:
    """How much is answered, how soon, how soon the rest is refused, and when it is over.

    The best rate there is is that of as many clients as keep the encoder busy, of whom none is refused. It is
    measured before the flood and after it, as is what one client alone waits, for a machine is not always as
    fast as it was a minute ago.
    """
    requests = [post(EMBEDDINGS, body) for body in ground.text_bodies()]
    before, alone = _calm(folder / "before", requests)
    with served(folder / "usual") as url:
        uvloop.run(closed(url, requests, 1, 3.0))
        replies = offered(url, requests, _TIMES * max(before), ground.options.overload_s)
        recovered_s = time_until_calm(url, requests, quantile_ms(alone, 0.99))
    after, alone_after = _calm(folder / "after", requests)
    peak = max(map(mean, zip(before, after, strict=True)))
    return _told(replies, peak, quantile_ms([*alone, *alone_after], 0.99), recovered_s)


def _calm(folder: Path, requests: list[bytes]) -> tuple[list[float], list[Reply]]:
    """Requests a second of few clients and of many, and the replies to one, on a server that refuses none."""
    with served(folder, "--max-wait-s", "600") as url:
        uvloop.run(closed(url, requests, 4, 3.0))
        rates = [per_second(uvloop.run(closed(url, requests, clients, _RATE_S))) for clients in _CLIENTS]
        return rates, uvloop.run(closed(url, requests, 1, _RATE_S))


def _told(replies: list[Reply], peak: float, unloaded_ms: float, recovered_s: float) -> Figures:
    good = [reply for reply in replies if reply.ok]
    refused = [reply for reply in replies if reply.status in (429, 503, 504)]
    goodput, refusal_ms = per_second(replies) / peak, quantile_ms(refused, 0.99)
    good_ms = quantile_ms(good, 0.99)
    slower = good_ms / unloaded_ms
    print(
        f"overload: {len(replies)} requests at {_TIMES} times {peak:.1f}/s, the most there is; {len(good)} "
        f"answered (goodput ratio {goodput:.2f}, p50 {quantile_ms(good, 0.5):.0f} ms, p99 {good_ms:.0f} ms: "
        f"{slower:.2f} times the {unloaded_ms:.0f} ms of one client), {len(refused)} refused (p50 "
        f"{quantile_ms(refused, 0.5):.1f} ms, p99 {refusal_ms:.1f} ms), "
        f"{len(replies) - len(good) - len(refused)} failed; calm after {recovered_s:.1f} s",
        flush=True,
    )
    return {"overload_goodput_ratio": round(goodput, 3), "overload_refusal_p99_ms": round(refusal_ms, 1)}
