"""Reports of the gate: the worker leaves them beside the snapshots, and the API shows them."""

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from index.rebuild import Report
from index.snapshot import SnapshotStore

_NAME = "REPORT.json"


@dataclass(frozen=True)
class GateReport:
    """How many generations the gate let through and refused, by what it found, and the last one.

    ``at`` is in seconds since the epoch.
    """

    published: int
    refused: int
    refused_by: dict[str, int]
    at: float
    last: Report


def read(store: SnapshotStore) -> GateReport | None:
    """The report beside these snapshots; None if there is none that can be read."""
    try:
        members = json.loads(_path(store).read_text())
        last = Report(**members.pop("last"))
        return GateReport(**{field.name: members[field.name] for field in fields(GateReport)[:-1]}, last=last)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def leave(store: SnapshotStore, report: Report) -> None:
    """Put a report in the place of the one before, counting on. Raises OSError."""
    before = read(store)
    causes = Counter(before.refused_by if before else {})
    if not report.published:
        causes[report.cause] += 1
    published = (before.published if before else 0) + report.published
    fresh = GateReport(published, causes.total(), dict(causes), time.time(), report)
    path = _path(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".new")
    part.write_text(json.dumps(asdict(fresh)))
    os.replace(part, path)


def _path(store: SnapshotStore) -> Path:
    return store.root / _NAME
