"""kill -9 at random points of ingest, rebuild, publish, swap and restore loses and resurrects nothing.

``make test-crash KILLS=300`` does it more often.
"""

from pathlib import Path

from tests.crash import crash

KILLS = 24


def test_no_kill_loses_or_resurrects_anything(tmp_path: Path) -> None:
    summary = crash(tmp_path, KILLS, seed=1)
    assert summary.kills == KILLS
    assert summary.acknowledged > KILLS
    assert summary.generations > KILLS // 3
    assert summary.restored > 0
    assert summary.problems == []
    assert (summary.lost, summary.resurrected, summary.digest_mismatches) == (0, 0, 0)
