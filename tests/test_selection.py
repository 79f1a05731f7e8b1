"""What is kept of candidates, and in what order, against plain definitions of it."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from index.vectors import Seqs, Vectors
from service.selection import (
    Diversity,
    Ranked,
    Selection,
    best_of,
    distinct,
    diverse,
    grouped,
    select,
)
from tests.indexing import unit_rows

COUNT, DIM = 400, 8


@dataclass
class Things:
    """Rows with many near neighbours, ranked exactly by a query; rank notes how many it was asked for."""

    rows: Vectors
    query: Vectors
    groups: Sequence[Hashable | None]

    def __post_init__(self) -> None:
        self.asked = list[int]()
        self.scores = (self.rows @ self.query).astype(np.float32)
        self.order = np.argsort(-self.scores, kind="stable")

    def rank(self, count: int) -> Ranked:
        self.asked.append(count)
        seqs = self.order[:count]
        return Ranked(seqs, self.scores[seqs], len(seqs), len(seqs) < count)

    def rows_of(self, seqs: Seqs) -> Vectors:
        return self.rows[seqs]

    def groups_of(self, key: str, seqs: Seqs) -> Sequence[Hashable | None]:
        assert key == "kind"
        return [self.groups[seq] for seq in seqs.tolist()]

    def select(self, wanted: Selection, count: int, most: int = 10_000) -> list[int]:
        found = select(wanted, count, self.rank, self.rows_of, self.groups_of, most)
        np.testing.assert_array_equal(found.scores, self.scores[found.seqs])
        self.cut_short = found.cut_short
        return [int(seq) for seq in found.seqs]


@pytest.fixture(params=range(5))
def things(request: pytest.FixtureRequest) -> Things:
    """Clusters of near-identical rows, a third of them in no group."""
    dice = np.random.default_rng(request.param)
    rows = unit_rows(40, DIM, seed=request.param)[dice.integers(0, 40, COUNT)]
    rows += dice.normal(scale=0.05, size=rows.shape).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    groups = [None if draw > 20 else draw for draw in dice.integers(0, 30, COUNT).tolist()]
    return Things(rows, unit_rows(1, DIM, seed=99)[0], groups)


def test_nothing_asked_is_the_plain_order(things: Things) -> None:
    assert things.select(Selection(), 25) == things.order[:25].tolist()
    assert things.asked == [64]
    assert things.select(Selection(), COUNT + 1) == things.order.tolist()


@pytest.mark.parametrize("count", [1, 30, COUNT])
def test_a_threshold_keeps_all_that_reach_it_and_no_other(things: Things, count: int) -> None:
    passing = [seq for seq in things.order.tolist() if things.scores[seq] >= 0.3]
    assert 0 < len(passing) < COUNT
    assert things.select(Selection(score_threshold=0.3), count) == passing[:count]
    assert not things.cut_short


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("count", [5, COUNT])
def test_no_two_results_are_nearer_than_the_threshold_and_none_is_missing(
    things: Things, threshold: float, count: int
) -> None:
    found = things.select(Selection(dedup=threshold), count)
    kept = list[int]()
    for seq in things.order.tolist():
        if all(things.rows[seq] @ things.rows[other] < threshold for other in kept):
            kept.append(seq)
    assert found == kept[:count]


def test_distinct_stops_where_it_is_told_across_its_blocks() -> None:
    rows = np.repeat(unit_rows(700, 64, seed=1), 2, axis=0)
    assert distinct(rows, 0.9999, 10_000).tolist() == list(range(0, 1400, 2))
    assert distinct(rows, 0.9999, 600).tolist() == list(range(0, 1200, 2))
    assert distinct(rows[:0], 0.5, 3).tolist() == []


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("count", [7, COUNT])
def test_groups_have_their_best_and_what_is_in_none_stands_alone(
    things: Things, size: int, count: int
) -> None:
    found = things.select(Selection(group_by="kind", group_size=size), count)
    seen = Counter[Hashable]()
    expected = list[int]()
    for seq in things.order.tolist():
        seen[things.groups[seq]] += 1
        if things.groups[seq] is None or seen[things.groups[seq]] <= size:
            expected.append(seq)
    assert found == expected[:count]
    assert grouped([], size).tolist() == []


def test_as_many_come_back_as_exist_though_the_nearest_are_all_alike() -> None:
    rows = np.vstack((np.repeat(unit_rows(1, DIM, seed=1), 390, axis=0), unit_rows(10, DIM, seed=2)))
    things = Things(rows, rows[0], ["same"] * 390 + [*range(10)])
    for wanted in (Selection(dedup=0.999), Selection(group_by="kind")):
        found = things.select(wanted, 8)
        assert len(found) == 8
        assert found[0] < 390
        assert min(found[1:]) >= 390
        assert not things.cut_short
        assert len(things.select(wanted, 50)) == 11
        assert not things.cut_short


def test_what_was_not_looked_at_is_told() -> None:
    things = Things(np.repeat(unit_rows(1, DIM), 400, axis=0), unit_rows(1, DIM)[0], ["same"] * 400)
    assert len(things.select(Selection(group_by="kind"), 3, most=100)) == 1
    assert things.cut_short
    assert max(things.asked) == 100


def test_lambda_one_is_the_plain_order_and_every_lambda_a_reordering(things: Things) -> None:
    plain = things.order[:60].tolist()
    assert things.select(Selection(diversity=Diversity(1.0, 40)), 60) == plain
    for weight in (0.0, 0.3, 0.7):
        found = things.select(Selection(diversity=Diversity(weight, 40)), 60)
        assert sorted(found[:40]) == sorted(plain[:40])
        assert found[40:] == plain[40:]
        assert found[0] == plain[0]
        assert found[:10] == things.select(Selection(diversity=Diversity(weight, 40)), 10)


def test_diverse_is_the_greedy_choice_by_definition(things: Things) -> None:
    pool = things.order[:50]
    scores, rows = things.scores[pool], things.rows[pool]
    order = diverse(scores, rows, 0.6).tolist()
    for place in range(1, 50):
        before, left = order[:place], sorted(order[place:])
        worth = {i: 0.6 * scores[i] - 0.4 * max(rows[i] @ rows[j] for j in before) for i in left}
        assert worth[order[place]] == pytest.approx(max(worth.values()), abs=1e-5)


def test_a_diverse_page_repeats_itself_less(things: Things) -> None:
    def nearest_pair(seqs: list[int]) -> float:
        cosines = things.rows[seqs] @ things.rows[seqs].T
        return float(np.triu(cosines, 1).max())

    plain, varied = things.select(Selection(), 10), things.select(Selection(diversity=Diversity(0.3)), 10)
    assert nearest_pair(varied) < nearest_pair(plain)


def test_all_together_hold_at_once(things: Things) -> None:
    wanted = Selection(0.0, 0.95, "kind", 2, Diversity(0.5, 30))
    found = things.select(wanted, 20)
    assert len(set(found)) == len(found) > 5
    assert (things.scores[found] >= 0.0).all()
    cosines = things.rows[found] @ things.rows[found].T
    assert np.triu(cosines, 1).max() < 0.95
    counts = Counter(things.groups[seq] for seq in found if things.groups[seq] is not None)
    assert max(counts.values()) <= 2


def test_the_best_of_examples_is_the_nearest_less_what_a_negative_is_nearer() -> None:
    positive = np.array([[0.9, 0.1], [0.2, 0.4], [-0.5, -0.6]], np.float32)
    negative = np.array([[0.3], [0.6], [-0.4]], np.float32)
    np.testing.assert_allclose(best_of(positive, negative), [0.9, 0.2, -0.6], atol=1e-6)
    np.testing.assert_allclose(best_of(positive, negative[:, :0]), [0.9, 0.4, -0.5], atol=1e-6)
