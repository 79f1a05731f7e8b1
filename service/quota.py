"""How many requests one key may make: a token bucket for each, in this process."""

import math
import time
from collections.abc import Callable

_SWEPT_FROM = 1024


class RateLimited(Exception):
    """The key has used up its requests; ``retry_after_s`` says when there is one again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Quota:
    """``per_minute`` requests of each key; 0: no limit. A key that was quiet has a minute's worth at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._per_s = per_minute / 60
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # by key: tokens, and when they were counted
        self._sweep_at = _SWEPT_FROM  # buckets

    def take(self, key: str) -> None:
        """Count one request of a key. Raises RateLimited."""
        if not self._per_minute:
            return
        now = self._clock()
        tokens = self._tokens(key, now)
        enough = tokens >= 1
        if len(self._buckets) >= self._sweep_at:
            self._sweep(now)
        self._buckets[key] = (tokens - enough, now)
        if not enough:
            message = f"This key may make {self._per_minute} requests a minute."
            raise RateLimited(message, math.ceil((1 - tokens) / self._per_s))

    def headers(self, key: str) -> list[tuple[bytes, bytes]]:
        """The limit and what is left of it, as RateLimit-Policy and RateLimit; none without a limit.

        ``q`` requests in ``w`` seconds; ``r`` are left, and in ``t`` seconds all would be there again.
        """
        if not self._per_minute:
            return []
        tokens = self._tokens(key, self._clock())
        full_in_s = math.ceil((self._per_minute - tokens) / self._per_s)
        return [
            (b"ratelimit-policy", f'"key";q={self._per_minute};w=60'.encode()),
            (b"ratelimit", f'"key";r={int(tokens)};t={full_in_s}'.encode()),
        ]

    def _sweep(self, now: float) -> None:
        """Forget the buckets that are full again: of keys there are few, of holders of tokens any number."""
        self._buckets = {
            key: bucket for key, bucket in self._buckets.items() if self._tokens(key, now) < self._per_minute
        }
        self._sweep_at = max(_SWEPT_FROM, 2 * len(self._buckets))

    def _tokens(self, key: str, now: float) -> float:
        tokens, counted_at = self._buckets.get(key, (float(self._per_minute), now))
        return min(self._per_minute, tokens + (now - counted_at) * self._per_s)
