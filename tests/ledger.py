"""What writers were told, kept outside of everything that can be killed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Settings with which every change makes a rebuild due: the worker builds and publishes without a pause.
EAGER = {
    "rebuild_interval_s": 0.001,
    "rebuild_min_changes": 1,
    "rebuild_tail_share": 0.0,
    "rebuild_max_age_s": 0.0,
}


@dataclass
class Ledger:
    """What one writer was told about its items: their contents by id.

    A batch is intended before it is sent and acknowledged after the reply. When either side died in between,
    all of the batch was kept or nothing of it.
    """

    said: dict[str, str] = field(default_factory=dict)
    intended: dict[str, str | None] = field(default_factory=dict)  # None: a delete
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)  # acknowledged, and missing or other than it was said
    resurrected: list[str] = field(default_factory=list)  # deleted or never said, and there

    def intend(self, batch: Mapping[str, str | None]) -> None:
        """The batch is about to be sent."""
        self.intended = dict(batch)

    def acknowledge(self) -> None:
        """The batch that was intended is durable, says the other side."""
        self.acknowledged += len(self.intended)
        self.said = _applied(self.said, self.intended)
        self.intended = {}

    def settle(self, found: Mapping[str, str]) -> None:
        """Compare with what is there after a crash, note what should not be so, and go on from there."""
        possible = (self.said, _applied(self.said, self.intended))
        expected = min(possible, key=lambda state: len(_differences(state, found)))
        for item_id in sorted(_differences(expected, found)):
            (self.lost if item_id in expected else self.resurrected).append(item_id)
        self.said, self.intended = dict(found), {}


@dataclass
class Summary:
    """What the kills did. ``unfinished``: how many of them hit a publication half-way; ``restored``: how
    many restores had been completed by then."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    resurrected: int = 0
    digest_mismatches: int = 0
    unfinished: int = 0
    restored: int = 0
    generations: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, ledger: Ledger) -> None:
        """Count what a writer's ledger noted."""
        self.acknowledged += ledger.acknowledged
        self.lost += len(ledger.lost)
        self.resurrected += len(ledger.resurrected)


def _applied(said: Mapping[str, str], batch: Mapping[str, str | None]) -> dict[str, str]:
    after = {**said, **batch}
    return {item_id: content for item_id, content in after.items() if content is not None}


def _differences(a: Mapping[str, str], b: Mapping[str, str]) -> set[str]:
    return {item_id for item_id in a.keys() | b.keys() if a.get(item_id) != b.get(item_id)}
