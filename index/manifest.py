"""What a snapshot says of itself: its prefix of the log, its files' hashes, and what the gate measured."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from index.engines import Tuning


class SnapshotError(Exception):
    """A snapshot that must not be served: damaged, incomplete, or of another collection or encoder."""


@dataclass(frozen=True)
class Manifest:
    """What a snapshot holds.

    It is exactly the log of ``collection_uid`` up to ``watermark``, whose change was committed at
    ``watermark_at``. ``recall_at_10`` is per query direction, measured on this machine before publishing.
    ``digest`` is that of its (seq, vector) pairs as the catalog holds them. ``count`` rows it has, of which
    ``dead`` are of no item.
    """

    generation: int
    collection_uid: str
    encoder_id: str
    watermark: int
    watermark_at: float  # seconds since the epoch
    count: int
    dim: int
    metric: str
    factory: str
    tuning: Tuning
    digest: str
    recall_at_10: Mapping[str, float]
    tree_hash: Mapping[str, str]  # of each file
    built_at: float  # seconds since the epoch
    seconds: float
    dead: int = 0

    @staticmethod
    def read(path: Path) -> "Manifest":
        """Read a manifest; raises SnapshotError when it is not one, whole and unchanged."""
        try:
            members = json.loads(path.read_bytes())
            if members.pop("checksum") != _checksum(members):
                raise ValueError("its checksum does not match")
            if set(members) != {field.name for field in fields(Manifest)}:
                raise ValueError("members are missing or unknown")
            return Manifest(**members)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SnapshotError(f"{path}: not a readable manifest: {error}") from error

    def write(self, path: Path) -> None:
        """Write the manifest with a checksum over its own members."""
        members = asdict(self)
        path.write_text(json.dumps(members | {"checksum": _checksum(members)}, indent=1))


def _checksum(members: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()
