"""The adapters that serve: which one answers a search, as the catalog stood at the last look."""

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from collections.abc import Collection as Names
from dataclasses import dataclass

from index.adapters import Adapter, AdapterNotFound
from index.catalog import Catalog, Collection
from models.preprocess import Modality
from models.query_adapter import AdapterDamaged, QueryAdapter
from models.relevance import KINDS, Curve

log = logging.getLogger(__name__)
NONE = "none"  # asked for, it leaves the encoder alone


class AdapterUnusable(Exception):
    """The adapter that a search asks for is of another collection, or of another encoder."""


@dataclass(frozen=True)
class Serving:
    """An adapter ready to be used. ``curves`` are those of relevance, by the modality of items."""

    id: str
    adapt: QueryAdapter
    curves: Mapping[Modality, Curve]


@dataclass(frozen=True)
class _Standing:
    """What answers the searches of one collection."""

    promoted: Serving | None = None
    trial: Serving | None = None
    share: float = 0.0


class ServingAdapters:
    """Any thread may ask. ``count`` is told of each search whose words are adapted: its collection, and why
    ("promoted", "trial" or "asked")."""

    def __init__(
        self,
        catalog: Catalog,
        encoder_id: str,
        dim: int,
        count: Callable[[str, str], None] = lambda collection, why: None,
    ) -> None:
        self._catalog = catalog
        self._encoder_id = encoder_id
        self._dim = dim
        self._count = count
        self._looking = threading.Lock()  # so that no older look replaces a newer one
        self._loaded: dict[str, Serving] = {}
        self._standing: dict[str, _Standing] = {}  # by the uid of the collection
        self._names: dict[str, str] = {}  # of collections, by the id of the adapter

    def refresh(self) -> None:
        """Look at the catalog. One that cannot be read serves nothing, and its collection's searches go on.

        Raises StorageUnavailable.
        """
        with self._looking:
            self._look()

    def ids(self, within: Names[str] | None = None) -> list[str]:
        """Those that serve, of the collections named in ``within``; None: of all."""
        return sorted(id for id, name in self._names.items() if within is None or name in within)

    def choose(self, collection: Collection, words: str) -> Serving | None:
        """What adapts a search for ``words``: the same search is always on the same side of a trial."""
        standing = self._standing.get(collection.uid)
        if standing is None or not words:
            return None
        on_trial = standing.trial is not None and _lot(standing.trial.id, words) < standing.share
        found = standing.trial if on_trial else standing.promoted
        if found is not None:
            self._count(collection.name, "trial" if on_trial else "promoted")
        return found

    def named(self, collection: Collection, id: str, words: str) -> Serving:
        """The adapter that a search for ``words`` asks for, whatever the gate said of it. Reads the catalog.

        Raises AdapterNotFound, AdapterUnusable.
        """
        adapter = self._catalog.adapters.get(id)
        if adapter.collection != collection.uid or adapter.encoder_id != self._encoder_id:
            raise AdapterUnusable(f"Adapter {id!r} is not of collection {collection.name!r} as it is now.")
        try:
            found = self._loaded.get(id) or self._load(adapter)
        except AdapterDamaged as error:
            raise AdapterUnusable(f"Adapter {id!r} cannot be used: {error}") from error
        if words:
            self._count(collection.name, "asked")
        return found

    def _look(self) -> None:
        standing, loaded, names = dict[str, _Standing](), dict[str, Serving](), dict[str, str]()
        for adapter in self._catalog.adapters.serving():
            if adapter.encoder_id != self._encoder_id:
                continue
            try:
                serving = self._loaded.get(adapter.id) or self._load(adapter)
            except (AdapterDamaged, AdapterNotFound) as error:
                log.error("adapter %s does not serve: %s", adapter.id, error)
                continue
            loaded[adapter.id], names[adapter.id] = serving, adapter.name
            known = standing.get(adapter.collection, _Standing())
            if adapter.state == "promoted":
                found = _Standing(serving, known.trial, known.share)
            else:
                found = _Standing(known.promoted, serving, adapter.share)
            standing[adapter.collection] = found
        self._loaded, self._standing, self._names = loaded, standing, names

    def _load(self, adapter: Adapter) -> Serving:
        curves = {kind: Curve(**adapter.curves[kind]) for kind in KINDS if kind in adapter.curves}
        weights = self._catalog.adapters.weights(adapter.id)
        return Serving(adapter.id, QueryAdapter.from_bytes(weights, self._dim), curves)


def _lot(id: str, words: str) -> float:
    """A number from 0 to 1, drawn by a search and an adapter."""
    digest = hashlib.sha256(f"{id} {words}".encode("utf-8", "surrogatepass")).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)
