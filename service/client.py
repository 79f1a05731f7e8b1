"""A client of the REST API, sync and async, on nothing but the standard library's HTTP.

    from momoseek.client import Client

    with Client("http://127.0.0.1:8000", key="momo_…") as momoseek:
        momoseek.index("shop", [{"id": path.name, "image": path} for path in Path("photos").iterdir()])
        best = momoseek.search("shop", "a red apple").results[0]

A content is a text, or a mapping as the API takes it: ``{"text": …, "image": …}`` or ``{"content": […]}``.
A picture is its bytes, its Path, or base64.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass

from service.client_adapters import AdapterCalls
from service.client_admin import AdminCalls
from service.client_inference import InferenceCalls
from service.client_items import Item, ItemCalls
from service.client_jobs import JobCalls
from service.schemas_items import ItemsReply, ItemStatus
from service.transport import ClientError, Refused, Unreachable, json_of

__all__ = ["Client", "ClientError", "Indexed", "Refused", "Unreachable"]

_BATCH_BYTES = 8_000_000  # of items written in one request, well below a server's limit


@dataclass(frozen=True)
class Indexed:
    """How far an indexing has come: the number of items by status, and those that failed."""

    total: int | None  # None: not known before the end
    statuses: Mapping[str, int]  # created, updated, unchanged, failed
    failures: Sequence[ItemStatus]
    seconds: float
    write_token: str | None = None  # of the newest write

    @property
    def done(self) -> int:
        """How many items were sent and answered."""
        return sum(self.statuses.values())


class Client(InferenceCalls, ItemCalls, AdminCalls, AdapterCalls, JobCalls):
    """The API's calls; what it takes, how it tries again and what it raises is the Transport's."""

    def index(
        self,
        collection: str,
        items: Iterable[Item],
        *,
        progress: Callable[[Indexed], None] = lambda indexed: None,
        batch: int = 64,
    ) -> Indexed:
        """Write any number of items, ``batch`` or fewer to a request; memory stays at one batch.

        Calls ``progress`` after each. An item that fails does so alone: ``failures`` has its problem.
        """
        started = time.monotonic()
        total = len(items) if isinstance(items, Sized) else None
        statuses: dict[str, int] = {}
        failures: list[ItemStatus] = []
        state = Indexed(total, {}, (), 0.0, None)
        for lines in _batches(items, batch):
            try:
                reply = self._put_lines(collection, lines)
            except Refused as error:
                if error.problem.status != 413 or len(lines) > 1:
                    raise
                failed = ItemStatus(id=json.loads(lines[0]).get("id"), status="failed", problem=error.problem)
                reply = ItemsReply(items=[failed], errors=True, write_token=state.write_token)
            for entry in reply.items:
                statuses[entry.status] = statuses.get(entry.status, 0) + 1
            failures += [entry for entry in reply.items if entry.problem is not None]
            seconds = time.monotonic() - started
            state = Indexed(total, dict(statuses), tuple(failures), seconds, reply.write_token or None)
            progress(state)
        return state


def _batches(items: Iterable[Item], most: int) -> Iterator[list[str]]:
    """Items as JSON, at most so many and about _BATCH_BYTES together."""
    batch: list[str] = []
    size = 0
    for item in items:
        line = json_of(item)
        if batch and (len(batch) == most or size + len(line) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    if batch:
        yield batch
