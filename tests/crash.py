"""kill -9 at random points of ingest, rebuild, publish, swap and restore, many times.

``KILLS=300 python -m tests.crash`` ends with one line of JSON. Half of the kills hit a bare writer or worker,
a quarter a real server or its worker, over HTTP, and a quarter a restore. ``CRASH_SEED`` sets which.
"""

import json
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from tests.joint_bundle import build
from tests.killing_processes import kill_writers_and_workers
from tests.killing_restores import kill_restores
from tests.killing_servers import kill_servers
from tests.ledger import Summary

_TOLD = ("kills", "acknowledged", "lost", "resurrected", "digest_mismatches")


def crash(folder: Path, kills: int, seed: int) -> Summary:
    """Kill so often, all that is written being below ``folder``."""
    summary, dice = Summary(), random.Random(seed)
    bundle = folder / "bundle"
    bundle.mkdir()
    build(bundle)
    quarter = kills // 4
    kill_writers_and_workers(folder / "bare", bundle, kills - 2 * quarter, dice, summary)
    kill_servers(folder / "served", bundle, quarter, dice, summary)
    kill_restores(folder / "restored", quarter, dice, summary)
    return summary


def main() -> None:
    """Tell what became of it; status 1 if anything was lost."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        summary = crash(
            Path(folder), int(os.environ.get("KILLS") or 50), int(os.environ.get("CRASH_SEED") or 1)
        )
    found = asdict(summary)
    print(json.dumps(found | {"seconds": round(time.monotonic() - started, 1)}))
    print(json.dumps({name: found[name] for name in _TOLD}))
    sys.exit(bool(summary.lost or summary.resurrected or summary.digest_mismatches or summary.problems))


if __name__ == "__main__":
    main()
