"""When the index of a collection is built anew, what it becomes, and what it must reach."""

from dataclasses import dataclass

from index.engines.kinds import FLAT_LIMIT, Kind, choose
from index.manifest import Manifest
from index.records import Collection

_BUILD_SHARE = 20  # a rebuild for age alone waits this many times the seconds that the last one took


@dataclass(frozen=True)
class Policy:
    """When a rebuild is due and what it must reach."""

    min_changes: int = 256  # a shorter tail waits for its age
    tail_share: float = 0.1  # changes, additions and removals alike, as a share of the snapshot's size
    dead_share: float = 0.2  # of the snapshot's rows; with more of them dead it is built anew, not grown
    max_age_s: float = 10.0
    target_recall: float = 0.98  # what the search effort is tuned to
    recall_floor: float = 0.95  # below it nothing is published
    retry_s: float = 300.0  # after a refusal
    keep: int = 2  # older generations kept for rollback
    flat_limit: int = FLAT_LIMIT
    step_rows: int = 500_000  # of a graph that is built anew, after which it is set aside for the first time
    index_type: str = "auto"  # or a factory string, see index.engines.kinds.Kind
    memory_budget_bytes: int | None = None  # of one index, see index.engines.kinds.choose

    def due(self, manifest: Manifest, changes: int, dead: int, age_s: float) -> str | None:
        """Why a snapshot must be replaced, or None: it lacks so many changes, the oldest of that age, and so
        many of its rows are dead."""
        if changes and dead >= max(self.min_changes, self.dead_share * manifest.count):
            return f"{dead} of the snapshot's {manifest.count} rows are dead"
        if changes >= max(self.min_changes, self.tail_share * manifest.count):
            return f"{changes} changes are not in the snapshot"
        patience_s = max(self.max_age_s, _BUILD_SHARE * manifest.seconds)
        if changes and age_s >= patience_s:
            return f"the oldest of {changes} changes is older than {patience_s:.0f} s"
        return None

    def kind(self, collection: Collection, count: int) -> Kind:
        """What kind of index a collection with so many items gets. Raises InvalidKind."""
        own = collection.index or {}
        type = own.get("type", self.index_type)
        if type != "auto":
            return Kind.of(type)
        budget_bytes = own.get("memory_budget_bytes", self.memory_budget_bytes)
        return choose(count, collection.dim, budget_bytes, self.flat_limit)

    def recall_of(self, collection: Collection) -> float:
        """What the search effort of a collection is tuned to."""
        return float((collection.index or {}).get("target_recall", self.target_recall))


DEFAULT_POLICY = Policy()
