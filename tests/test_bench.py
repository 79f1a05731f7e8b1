"""The benches measure what they say: vectors that are uneven, and numbers that follow from what was timed."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest

from bench.corpus import corpus
from bench.halts import halts_noted, is_halted
from bench.load import offered, post
from bench.peers import measured
from bench.swap import _Asked, _changes, _numbers, _table
from index.recall import exact_top_k
from tests.indexing import unit_rows


def test_a_corpus_is_of_both_kinds_uneven_and_without_its_queries(tmp_path: Path) -> None:
    embeddings = {"image": unit_rows(300, 32, seed=1), "text": unit_rows(200, 32, seed=2)}
    np.savez(tmp_path / "embeddings.npz", image=embeddings["image"], text=embeddings["text"])
    made = corpus(5000, tmp_path / "embeddings.npz")
    assert made.rows.shape == (5000, 32)
    assert made.is_picture.mean() == 0.7
    np.testing.assert_allclose(np.linalg.norm(made.rows, axis=1), 1, atol=1e-5)
    nearest = np.argmax(made.rows @ np.concatenate(list(embeddings.values())).T, axis=1)
    crowds = np.sort(np.bincount(nearest, minlength=500))
    assert crowds[-50:].sum() > 2 * crowds[:250].sum()
    for direction, real in embeddings.items():
        assert len(made.queries[direction]) + len(made.probes[direction]) == len(real) // 10
        assert (made.queries[direction] @ real.T).max(axis=1).min() > 0.999
        assert (made.probes[direction] @ made.queries[direction].T).max() < 0.999
    np.testing.assert_array_equal(corpus(5000, tmp_path / "embeddings.npz").rows, made.rows)


def test_recall_of_a_peer_is_counted_by_what_it_found() -> None:
    rows, queries = unit_rows(500, 16), unit_rows(20, 16, seed=1)
    truth, numbers = exact_top_k(rows, queries, 10)
    answers = iter(numbers.tolist())
    assert measured(lambda query: next(answers)[::-1], queries, rows, truth, np.inf)["recall"] == 1.0
    answers = iter(numbers.tolist())
    assert measured(lambda query: next(answers)[:5], queries, rows, truth, np.inf)["recall"] == 0.5


def test_a_swap_is_judged_by_the_searches_around_it() -> None:
    calm = [_Asked(second / 10, 0.010, False) for second in range(100)]
    busy = [_Asked(10 + second / 10, 0.015, False) for second in range(100)]
    busy[60] = _Asked(15.95, 0.080, True)
    numbers = _numbers([*calm, *busy], build_at=10.0, swap_at=16.0, halts=[])
    assert numbers["searches"] == 200
    assert numbers["swap_failed"] == 1
    assert 1.5 <= numbers["swap_p99_ratio"] < 8
    assert numbers["swap_pause_ms"] == 70.0
    phases = [row["phase"] for row in _table([*calm, *busy], build_at=10.0, swap_at=16.0)]
    assert phases == sorted(phases)
    assert set(phases) == {"before", "building", "swap and after"}


def test_searches_during_which_the_machine_halted_judge_no_swap() -> None:
    asked = [_Asked(second / 10, 0.010, False) for second in range(200)]
    asked[30] = _Asked(3.0, 0.3, False)
    asked[159] = _Asked(15.9, 0.2, True)
    numbers = _numbers(asked, build_at=10.0, swap_at=16.0, halts=[(2.95, 3.05), (16.05, 16.09)])
    assert (numbers["searches"], numbers["halted"], numbers["swap_failed"]) == (200, 2, 1)
    assert numbers["swap_p99_ratio"] == 1.0
    assert numbers["swap_pause_ms"] == 0.0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no process to a core")
def test_a_halt_of_a_core_is_noted_and_a_busy_one_is_not() -> None:
    others = psutil.Process().children()
    with halts_noted() as halts:
        watching = [child for child in psutil.Process().children() if child not in others]
        until = time.monotonic() + 0.5
        while time.monotonic() < until:  # busy, and the watching begins
            pass
        for process in watching:
            process.suspend()
        stopped_at = time.monotonic()
        time.sleep(0.2)
        for process in watching:
            process.resume()
        time.sleep(0.2)
    assert len(watching) == len(os.sched_getaffinity(0))
    of_ours = [halt for halt in halts if is_halted(stopped_at, stopped_at + 0.1, [halt])]
    assert len(of_ours) == len(watching)
    assert all(end - start >= 0.19 for start, end in of_ours)


def test_each_swap_has_changes_of_its_own_however_few_queries_there_are() -> None:
    queries = np.eye(3, 8, dtype=np.float32)
    first, second = (_changes(turn, queries) for turn in (0, 1))
    assert len({write.id for write in first} | {write.id for write in second}) == 1000
    assert all((write.vector == queries[n % 3]).all() for n, write in enumerate(first))


class Moody(BaseHTTPRequestHandler):
    """Answers in two pieces, refuses, or hangs up, by turns."""

    protocol_version = "HTTP/1.1"
    turns: Iterator[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        turn = next(self.turns)
        if turn == "hang up":
            self.close_connection = True
            return
        body = b"x" * 300_000 if turn == "answer" else b"{}"
        self.send_response(200 if turn == "answer" else 429)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:7])
        self.wfile.flush()
        self.wfile.write(body[7:])

    def log_message(self, *_: object) -> None:
        pass


def test_offered_load_counts_what_is_answered_refused_and_lost() -> None:
    Moody.turns = cycle(("answer", "refuse", "answer", "hang up"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        replies = offered(url, [post("/v1/embeddings", b"{}")], per_second=200, seconds=1)
    finally:
        server.shutdown()
        server.server_close()
    counts = Counter(reply.status for reply in replies)
    asked = len(replies)
    assert 120 < asked < 280
    assert counts.keys() == {200, 429, 0}
    assert abs(counts[200] - asked / 2) <= 2
    assert abs(counts[429] - asked / 4) <= 2
    assert all(0 < reply.seconds < 10 for reply in replies)


def test_offered_load_that_nobody_takes_is_lost() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        replies = offered(url, [post("/", b"")], per_second=100, seconds=0.2)
    assert {reply.status for reply in replies} == {0}
