"""The page that scrapers read: every series but those of collections beyond so many.

Whoever may write may make collections, so that only some of them have series: memory and bills of whoever
scrapes stay bounded.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MAX_COLLECTIONS = 100  # that have series of their own: those that were seen first


class Exposition(Collector):
    """Shows a registry, and knows the collections that it has shown."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._shown: set[str] = set()

    def text(self) -> bytes:
        """All series in Prometheus's text format, those of collections up to MAX_COLLECTIONS of them."""
        bounded = CollectorRegistry()
        bounded.register(self)
        return generate_latest(bounded)

    @property
    def collections(self) -> set[str]:
        """Those that series were shown of, and that take up room."""
        return self._shown.copy()

    def forget(self, collection: str) -> None:
        """Let another have its room."""
        self._shown.discard(collection)

    def collect(self) -> Iterator[Metric]:
        """What is shown."""
        for metric in self._registry.collect():
            metric.samples = [
                sample
                for sample in metric.samples
                if "collection" not in sample.labels or self._shows(sample.labels["collection"])
            ]
            yield metric

    def _shows(self, collection: str) -> bool:
        if len(self._shown) < MAX_COLLECTIONS:
            self._shown.add(collection)
        return collection in self._shown
