"""Tails: growing one never changes what a reader of an older one sees."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from index.filters import parse
from index.records import Change
from index.tail import Tail, positions
from index.terms import terms_of
from tests.indexing import DIM, assert_nearest, unit_rows

ROWS = unit_rows(5000)
QUERY = unit_rows(1, seed=1)


def added(*seqs: int) -> list[Change]:
    """Changes that each add the row of their seq, of an item of that number."""
    return [Change(seq, None, 0.0, ROWS[seq], terms_of(str(seq), "text", {"n": seq})) for seq in seqs]


def picture(tail: Tail) -> tuple[bytes, bytes, bytes]:
    """All that a reader of a tail can see."""
    found = parse({"must_not": [{"key": "n", "range": {"lt": 0}}]})
    rows = b"".join(bytes(found.rows(part).serialize()) for part in tail.fields)
    return tail.seqs.tobytes(), tail.vectors.tobytes(), tail.alive.tobytes() + rows


def test_a_tail_holds_what_was_added_and_not_replaced() -> None:
    tail = Tail.empty(DIM).extended(added(1, 2, 3))
    tail = tail.extended([Change(4, 2, 0.0, ROWS[4]), Change(5, 1, 0.0, None), Change(6, 99, 0.0, ROWS[6])])
    assert tail.seqs.tolist() == [1, 2, 3, 4, 6]
    assert tail.alive.tolist() == [False, False, True, True, True]
    np.testing.assert_array_equal(tail.vectors, ROWS[[1, 2, 3, 4, 6]])


def test_a_row_replaced_in_the_same_breath_is_not_alive() -> None:
    tail = Tail.empty(DIM).extended([*added(1, 2), Change(3, 1, 0.0, None)])
    assert tail.seqs[tail.alive].tolist() == [2]


def test_growing_never_changes_an_older_tail() -> None:
    dice = random.Random(5)
    tails = [Tail.empty(DIM)]
    pictures = [picture(tails[0])]
    seq = 0
    while seq < 4600:
        older = tails[-1] if dice.random() < 0.9 else dice.choice(tails)  # sometimes a second successor
        count = dice.choice([0, 1, 1, 2, 40, 300])
        changes = added(*range(seq + 1, seq + 1 + count))
        if count and len(older.seqs):
            changes[0] = Change(seq + 1, int(dice.choice(older.seqs)), 0.0, None)
        tails.append(older.extended(changes))
        pictures.append(picture(tails[-1]))
        seq += count
    assert [picture(tail) for tail in tails] == pictures
    for tail in tails:
        np.testing.assert_array_equal(tail.vectors, ROWS[tail.seqs])
        assert sum(part.count for part in tail.fields) == len(tail.seqs)
        assert len(tail.fields) < 20


def test_growing_by_one_row_does_not_copy_the_others() -> None:
    tail = Tail.empty(DIM).extended(added(*range(1, 1001)))
    longer = tail.extended(added(1001))
    assert np.shares_memory(tail.vectors, longer.vectors)
    other = tail.extended(added(2002))
    assert not np.shares_memory(tail.vectors, other.vectors)
    assert (longer.seqs[-1], other.seqs[-1]) == (1001, 2002)


def test_successors_made_at_once_do_not_share_a_row() -> None:
    tail = Tail.empty(DIM).extended(added(*range(1, 11)))
    with ThreadPoolExecutor(8) as pool:
        successors = list(pool.map(lambda seq: tail.extended(added(seq)), range(100, 200)))
    assert [successor.seqs[-1] for successor in successors] == list(range(100, 200))
    for successor in successors:
        np.testing.assert_array_equal(successor.vectors, ROWS[successor.seqs])


def test_a_search_is_exact_among_the_allowed_and_alive() -> None:
    tail = Tail.empty(DIM).extended(added(*range(1, 401)))
    tail = tail.extended(
        [Change(401 + n, replaced, 0.0, None) for n, replaced in enumerate(range(1, 401, 3))]
    )
    for wanted in (None, range(0, 2000, 7), range(0), range(1, 4), range(100, 300)):
        seqs = tail.seqs[tail.alive]
        if wanted is not None:
            seqs = np.intersect1d(seqs, np.array(wanted, np.int64))
            tree = {"key": "n", "match": {"any": list(wanted)}}
        scores, found = tail.search(QUERY, 10, None if wanted is None else parse({"must": [tree]}))
        assert scores.shape == found.shape == (1, 10)
        hits = [(int(seq), float(score)) for seq, score in zip(found[0], scores[0], strict=True) if seq >= 0]
        assert_nearest(hits, seqs, ROWS[seqs], QUERY[0], 10)
        assert np.all(scores[0, len(hits) :] < -1.01)


def test_positions_leave_out_what_is_not_there() -> None:
    ascending = np.array([2, 4, 6])
    assert positions(ascending, np.array([6, 2, 5, 1, 7, 2])).tolist() == [2, 0, 0]
    assert positions(ascending[:0], np.array([1])).tolist() == []
    assert positions(ascending, np.array([], np.int64)).tolist() == []
