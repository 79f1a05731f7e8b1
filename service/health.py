"""Is the service fit to answer? Known answers from the encoder, and the state of index, store and queue."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from index.catalog import Catalog
from index.vectors import Vectors
from models.preprocess import Document
from service.batcher import Batcher
from service.encoding import Work
from service.grouping import group_of
from service.retriever import Retriever
from service.schemas_health import Check, Readiness

CANARY_FLOOR = 0.98  # int8 kernels of different processors agree better than this; a wrong model does not
_TIMEOUT_S = 5.0
_FRESH_S = 1.0  # probes closer together share one answer


class Canary(Protocol):
    """A document whose row is known."""

    @property
    def document(self) -> Document: ...
    @property
    def expected_row(self) -> Vectors: ...


class Health:
    """Answers readiness; the canary goes the way of every request, so a dead lane is found too."""

    def __init__(
        self,
        retriever: Retriever,
        batcher: Batcher[Work],
        catalog: Catalog,
        canaries: Sequence[Canary],
        provider: str,
        observe_cosine: Callable[[float], None],
    ) -> None:
        self._retriever = retriever
        self._batcher = batcher
        self._catalog = catalog
        self._canaries = canaries
        self._provider = provider
        self._observe_cosine = observe_cosine
        self._checking = asyncio.Lock()
        self._last: tuple[float, Readiness] | None = None

    async def ready(self) -> Readiness:
        """All checks, at most one second old."""
        async with self._checking:
            now = time.monotonic()
            if self._last is None or now - self._last[0] > _FRESH_S:
                self._last = (now, await self._check())
            return self._last[1]

    async def _check(self) -> Readiness:
        checks = {
            "encoder": await self._encoder(),
            "store": await self._store(),
            "index": self._index(),
            "queue": Check(
                ok=True, detail={lane: self._batcher.waiting(lane) for lane in ("interactive", "bulk")}
            ),
        }
        ready = all(check.ok for check in checks.values())
        return Readiness(status="ready" if ready else "not_ready", checks=checks)

    async def _encoder(self) -> Check:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                rows = await asyncio.gather(
                    *(
                        self._batcher.submit(canary.document, group_of(canary.document.parts), "probe")
                        for canary in self._canaries
                    )
                )
        except TimeoutError:
            return Check(ok=False, reason=f"the encoder did not answer within {_TIMEOUT_S:.0f} s")
        except Exception as error:
            return Check(ok=False, reason=f"the encoder failed: {error}")
        cosine = min(
            float(row @ canary.expected_row) for row, canary in zip(rows, self._canaries, strict=True)
        )
        self._observe_cosine(cosine)
        reason = (
            None if cosine >= CANARY_FLOOR else f"known documents give other vectors (cosine {cosine:.4f})"
        )
        return Check(
            ok=reason is None, reason=reason, detail={"provider": self._provider, "canary_cosine": cosine}
        )

    async def _store(self) -> Check:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await asyncio.to_thread(self._catalog.collections, "", 1)
        except TimeoutError:
            return Check(ok=False, reason="the catalog does not answer")
        except Exception as error:
            return Check(ok=False, reason=f"the catalog cannot be read: {error}")
        return Check(ok=True)

    def _index(self) -> Check:
        """A damaged or refused snapshot is told, but the service stays ready: what serves is right."""
        indexes = self._retriever.open_indexes()
        notes = [f"{name}: {index.last_error}" for name, index in indexes.items() if index.last_error]
        generations = {name: index.view.generation for name, index in indexes.items()}
        return Check(ok=True, reason="; ".join(notes) or None, detail={"generations": generations})
