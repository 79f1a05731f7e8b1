"""kill -9 at random points of ingest, rebuild and swap: nothing is lost, nothing deleted comes back.

``KILLS`` in the environment sets how many (50), ``CRASH_SEED`` which. A quarter of them hit a real server and
its worker, over HTTP; the others a bare writer and a worker.
"""

import json
import os
import random
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.killing_processes import kill_writers_and_workers
from tests.killing_servers import kill_servers
from tests.ledger import Summary

KILLS = int(os.environ.get("KILLS") or 50)
SEED = int(os.environ.get("CRASH_SEED") or 1)


def test_no_kill_loses_or_resurrects_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started, summary, dice = time.monotonic(), Summary(), random.Random(SEED)
    of_servers = KILLS // 4
    kill_writers_and_workers(tmp_path / "bare", KILLS - of_servers, dice, summary)
    kill_servers(tmp_path / "served", of_servers, dice, summary)
    with capsys.disabled():
        print(json.dumps(asdict(summary) | {"seconds": round(time.monotonic() - started, 1)}))
    assert summary.kills == KILLS
    assert summary.acknowledged > KILLS
    assert summary.generations > KILLS // 2
    assert summary.unfinished > 0 or KILLS < 30
    assert summary.problems == []
    assert (summary.lost, summary.resurrected, summary.digest_mismatches) == (0, 0, 0)
