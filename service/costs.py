"""What encoding one document costs, by its kind, as learned from batches."""

from collections import Counter
from collections.abc import Callable, Sequence

_UNKNOWN_S = 0.02  # of encoding one document of a kind that was not met yet
_BATCHES = 32  # that count, of a kind: times of single ones are noise


def kind_of(group: str) -> str:
    """The kind of a group of documents, of which there are few: "match" of "match#7"."""
    return group.partition("#")[0]


class Costs:
    """Smoothed seconds of one core for one document of each kind."""

    def __init__(self, max_batch: Callable[[str], int]) -> None:
        self._max_batch = max_batch
        self._seconds: dict[str, float] = {}
        self._learned: Counter[str] = Counter()  # batches

    def seconds(self, group: str) -> float:
        """What one document of a group costs."""
        return self._seconds.get(kind_of(group), _UNKNOWN_S)

    def learn(self, groups: Sequence[str], seconds: float) -> None:
        """A batch of documents of these groups took so long: each kind by what it cost before."""
        counts = Counter(groups)
        # What is met for the first time costs the more, the fewer share a batch.
        parts = {group: 1 / self._max_batch(group) for group in counts}
        of_part = seconds / sum(parts[group] * count for group, count in counts.items())
        before = {group: self._seconds.get(kind_of(group)) or of_part * parts[group] for group in counts}
        foretold = sum(before[group] * count for group, count in counts.items())
        slower = seconds / foretold if foretold else 1.0  # of a clock that has not moved
        for group, each in before.items():
            kind = kind_of(group)
            self._learned[kind] += 1
            weight = 1 / min(_BATCHES, self._learned[kind])
            self._seconds[kind] = each + weight * (slower - 1) * each
