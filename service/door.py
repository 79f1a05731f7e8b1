"""The door: a request that would be refused inside is refused before it is read."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.types import Scope

from service.admission import Admission, Demand, Overloaded

_SURE = 2  # requests of a kind that were refused in a row, before those like them are not read any more
_FRESH_S = 1.0  # after which some are read again
_KINDS = 256  # that are remembered
_STEPS = 8  # to a doubling of bytes; those within one count as alike


class ClosedDoor(Exception):
    """A request is refused for this reason; ``route`` is where it would have gone."""

    def __init__(self, reason: Overloaded, route: Any) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.route = route


class Kind(NamedTuple):
    """What can be seen of a request from outside: requests of a kind want about the same of the encoder."""

    method: str
    path: str
    keys: tuple[bytes | None, ...]
    size: int

    @staticmethod
    def of(scope: Scope, headers: Mapping[bytes, bytes]) -> "Kind | None":
        """The kind of a request; None: it does not tell its length, or may have been answered already."""
        size = int(headers.get(b"content-length", b"0") or 0)
        if not size or b"idempotency-key" in headers:
            return None
        keys = headers.get(b"authorization"), headers.get(b"x-api-key")
        return Kind(scope["method"], scope["path"], keys, round(_STEPS * math.log2(size)))


@dataclass(frozen=True)
class _Refused:
    """The last of so many of a kind that were refused inside in a row: what it wanted, of which route."""

    demand: Demand
    route: Any
    times: int
    at: float


class Door:
    """Knows requests of what kinds were refused inside, and asks whether another like them would be now.

    What a caller's requests of one length want was the same the last few times; should one want less, it is
    refused all the same while there is no room for the others, for a second at most.
    """

    def __init__(self, admission: Admission, clock: Callable[[], float] = time.monotonic) -> None:
        self._admission = admission
        self._clock = clock
        self._refused: dict[Kind, _Refused] = {}

    def check(self, kind: Kind | None) -> None:
        """Raise ClosedDoor if a request of this kind would be refused inside."""
        refused = self._refused.get(kind) if kind is not None else None
        if refused is not None and refused.times >= _SURE and self._clock() < refused.at + _FRESH_S:
            try:
                self._admission.check(refused.demand)
            except Overloaded as error:
                raise ClosedDoor(error, refused.route) from None

    def note(self, kind: Kind | None, route: Any, demand: Demand | None) -> None:
        """What became of a request that was let in: it was refused for what it wanted, or not (None)."""
        if kind is None:
            return
        now, before = self._clock(), self._refused.get(kind)
        if before is not None and now >= before.at + _FRESH_S:
            before = None
        if demand is not None:
            self._refused.pop(kind, None)  # the latest are last
            self._refused[kind] = _Refused(demand, route, 1 if before is None else before.times + 1, now)
            if len(self._refused) > _KINDS:
                self._refused.pop(next(iter(self._refused)))
        elif before is None or before.times < _SURE:
            self._refused.pop(kind, None)
