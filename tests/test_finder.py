"""Rankings of a view against brute force, and what a search finds in snapshot and tail together."""

from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.live import View
from index.vectors import Seqs, Vectors
from service.finder import BestOf, Finder, Nearest, Ranking, Wanted
from service.reranker import Found
from service.selection import Ranked, Selection, best_of
from tests.house import House
from tests.indexing import DIM, ENCODER, contents, filled, row_of, unit_rows

COUNT = 300
NOTHING = np.array([], np.int64)
POSITIVE, NEGATIVE = unit_rows(3, seed=7), unit_rows(2, seed=8)
WEIGHTS = np.array([1.0, 0.7, 1.6], np.float32)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Two thirds of the items in a snapshot, one in the tail."""
    house = House(tmp_path)
    filled(house.catalog, "c", COUNT * 2 // 3, prefix="old")
    house.rebuild()
    filled(house.catalog, "c", COUNT // 3, prefix="new")
    yield house
    house.catalog.close()


def examples(negative: Vectors) -> BestOf:
    return BestOf(POSITIVE, WEIGHTS, negative, np.ones(len(negative), np.float32))


def ranked(ranking: Ranking, view: View, count: int, skipped: Seqs = NOTHING) -> Ranked:
    found = ranking.rank(view, count, None, skipped)
    assert np.all(np.diff(found.scores) <= 0)
    assert len(set(found.seqs.tolist())) == len(found.seqs)
    return found


def found(house: House, ranking: Ranking, wanted: Wanted, named: Set[str] = frozenset()) -> list[Found]:
    return Finder(house.live(), ENCODER, named, wanted).find(ranking).results


@pytest.mark.parametrize("negative", [NEGATIVE, NEGATIVE[:0]])
def test_what_a_ranking_by_examples_is_sure_of_is_the_true_order(house: House, negative: Vectors) -> None:
    seqs, rows = contents(house.catalog, "c")
    scores = best_of(rows @ POSITIVE.T * WEIGHTS, rows @ negative.T)
    true = seqs[np.argsort(-scores, kind="stable")]
    view, sure = house.live().view, list[int]()
    for count in (5, 20, 80, COUNT - 1):
        found = ranked(examples(negative), view, count)
        assert not found.complete
        np.testing.assert_array_equal(found.seqs[: found.sure], true[: found.sure])
        sure.append(found.sure)
    assert 0 < sure[0] < sure[-1]
    whole = ranked(examples(negative), view, COUNT + 1)
    assert (whole.complete, whole.sure) == (True, COUNT)
    np.testing.assert_array_equal(whole.seqs, true)


@pytest.mark.parametrize("ranking", [Nearest(POSITIVE[:1]), examples(NEGATIVE)])
def test_skipped_items_leave_as_many_others(house: House, ranking: Ranking) -> None:
    view = house.live().view
    plain = ranked(ranking, view, COUNT + 1).seqs
    skipped = plain[[0, 3, 250]]
    found = ranked(ranking, view, 10, skipped)
    assert len(found.seqs) >= 10
    expected = [seq for seq in plain.tolist() if seq not in skipped]
    assert found.seqs[: found.sure].tolist() == expected[: found.sure]


def test_as_many_results_come_back_as_the_selection_leaves(house: House) -> None:
    selection = Selection(dedup=0.6)
    _, rows = contents(house.catalog, "c")
    for ranking in (Nearest(POSITIVE[:1]), examples(NEGATIVE)):
        whole = found(house, ranking, Wanted(selection=selection, limit=COUNT))
        kept = np.array([row_of(each.item.id) for each in whole])
        assert np.triu(kept @ kept.T, 1).max() < 0.6
        assert ((rows @ kept.T).max(axis=1) >= 0.6 - 1e-5).all()  # whoever is missing has its like
        part = found(house, ranking, Wanted(selection=selection, offset=3, limit=6))
        assert [each.item.id for each in part] == [each.item.id for each in whole[3:9]]


def test_named_items_are_left_out_and_vectors_come_along(house: House) -> None:
    query, wanted = Nearest(row_of("old-5").reshape(1, DIM)), Wanted(limit=5, with_vectors=True)
    first = found(house, query, wanted)
    assert first[0].item.id == "old-5"
    rest = found(house, query, replace(wanted, limit=4), {"old-5", "never there"})
    assert [each.item.id for each in rest] == [each.item.id for each in first[1:]]
    for each in first:
        assert each.vector is not None
        np.testing.assert_allclose(each.vector, row_of(each.item.id), atol=1e-6)
