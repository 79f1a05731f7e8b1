"""What a query adapter learns, and when the gate lets it serve."""

import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from models.adaptation import TOO_FEW, Learned, Lesson, TooFewPairs, learned
from models.query_adapter import AdapterDamaged, QueryAdapter, fit

DIM, KINDS, SHADES, WORDS = 32, 6, 30, 12


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows, of length one."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def lesson(seed: int = 0) -> Lesson:
    """Of six kinds of things, thirty items each. Twelve queries for each kind point elsewhere, together."""
    random = np.random.default_rng(seed)
    things, names = unit(random.normal(size=(KINDS, DIM))), unit(random.normal(size=(KINDS, DIM)))
    items = unit(np.repeat(things, SHADES, 0) + 0.1 * random.normal(size=(KINDS * SHADES, DIM)))
    queries = unit(np.repeat(names, WORDS, 0) + 0.05 * random.normal(size=(KINDS * WORDS, DIM)))
    pairs = [(item // SHADES * WORDS + item % WORDS, item) for item in range(KINDS * SHADES)]
    crowd = unit(random.normal(size=(300, DIM)))
    kinds = np.zeros(KINDS * SHADES + 300, np.int8)
    nothing = np.empty((0, 2), np.int64)
    return Lesson(queries, np.concatenate([items, crowd]), np.array(pairs), nothing, kinds, ("image",))


def without_crowd(taught: Lesson) -> Lesson:
    """Nothing but the items of pairs: to tell these from others is no gain."""
    count = KINDS * SHADES
    return replace(taught, items=taught.items[:count], modalities=taught.modalities[:count])


def test_before_it_is_trained_an_adapter_changes_nothing() -> None:
    rows = lesson().queries
    np.testing.assert_allclose(QueryAdapter.neutral(DIM)(rows), rows, atol=1e-6)


def test_it_gives_unit_rows_of_one_query_and_of_many_alike() -> None:
    taught = lesson()
    adapter, _ = fit(taught.queries, taught.items, taught.pairs[30:], taught.pairs[:30])
    rows = adapter(taught.queries)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(adapter(taught.queries[3]), rows[3], atol=1e-6)


def test_the_slope_it_follows_is_that_of_its_loss() -> None:
    from models import query_adapter as module

    random = np.random.default_rng(1)
    x, y = unit(random.normal(size=(9, DIM))), unit(random.normal(size=(9, DIM)))
    batch = np.array([(n % 4, n % 7) for n in range(9)])
    parts = [part + 0.3 * random.normal(size=part.shape) for part in QueryAdapter.neutral(DIM, 5)._parts]

    def loss(parts: list[np.ndarray]) -> float:
        moved = x + np.maximum(x @ parts[0].T + parts[1], 0) @ parts[2].T
        u = moved / np.linalg.norm(moved, axis=1, keepdims=True)
        logits = module._SCALE * u @ y.T
        same = (batch[:, :1] == batch[:, 0]) | (batch[:, 1:] == batch[:, 1])
        logits[same & ~np.eye(9, dtype=bool)] = -np.inf
        own = np.log(np.exp(logits).sum(1)) - np.diag(logits)
        return float(np.mean(own - module._ANCHOR * (u * x).sum(1)))

    slopes = module._slopes(QueryAdapter(*(part.astype(np.float32) for part in parts)), x, y, batch)
    for place, slope in enumerate(slopes):
        towards = random.normal(size=slope.shape)
        ahead, behind = list(parts), list(parts)
        ahead[place], behind[place] = parts[place] + 1e-5 * towards, parts[place] - 1e-5 * towards
        assert float((slope * towards).sum()) == pytest.approx((loss(ahead) - loss(behind)) / 2e-5, rel=2e-3)


def test_what_it_learned_holds_of_items_and_queries_that_it_has_not_seen() -> None:
    verdict = learned(lesson()).verdict
    assert verdict.accepted
    assert verdict.held_out.ndcg_after > verdict.held_out.ndcg_before + 0.1
    assert verdict.new is not None
    assert verdict.new.ndcg_after > verdict.new.ndcg_before + 0.1


def test_a_seed_fixes_what_is_learned() -> None:
    assert learned(lesson()).adapter.to_bytes() == learned(lesson()).adapter.to_bytes()
    assert learned(lesson()).adapter.to_bytes() != learned(lesson(), seed=1).adapter.to_bytes()


def test_pairs_that_belong_together_by_chance_are_refused() -> None:
    refused = 0
    for seed in range(5):
        taught = without_crowd(lesson(seed))
        shuffled = np.random.default_rng(seed).permutation(taught.pairs[:, 1])
        found = learned(replace(taught, pairs=np.stack([taught.pairs[:, 0], shuffled], 1)), seed).verdict
        refused += not found.accepted
    assert refused >= 4  # at 95 % confidence one in twenty is let through by chance


def test_one_that_loses_a_golden_pair_is_refused() -> None:
    taught = lesson()
    # A query like those that are moved, and an item beside where it was.
    kept, beside = taught.queries[:1], unit(taught.queries[:1] + 3 * taught.items[-1:])
    golden = replace(
        taught,
        queries=np.concatenate([taught.queries, kept]),
        items=np.concatenate([taught.items, beside]),
        golden=np.array([(len(taught.queries), len(taught.items))]),
        modalities=np.append(taught.modalities, np.int8(0)),
    )
    found = learned(golden).verdict
    assert (found.accepted, found.golden, found.golden_lost) == (False, 1, 1)
    assert "golden" in found.reason


def test_too_few_pairs_are_not_learned_from() -> None:
    with pytest.raises(TooFewPairs, match="20"):
        learned(replace(lesson(), pairs=lesson().pairs[:20]))


def test_relevance_is_told_of_adapted_queries() -> None:
    taught = lesson()
    found = learned(taught)
    rows, curve = found.adapter(taught.queries), found.curves["image"]
    own = [curve.relevance(float(rows[query] @ taught.items[item])) for query, item in taught.pairs]
    strange = [curve.relevance(float(score)) for score in rows @ taught.items[-1]]
    assert np.mean(own) > 0.8
    assert np.mean(strange) < 0.2


def test_it_is_kept_bit_by_bit_and_what_is_none_is_refused() -> None:
    adapter = learned(lesson()).adapter
    assert QueryAdapter.from_bytes(adapter.to_bytes(), DIM).to_bytes() == adapter.to_bytes()
    with pytest.raises(AdapterDamaged):
        QueryAdapter.from_bytes(adapter.to_bytes(), DIM + 1)
    with pytest.raises(AdapterDamaged):
        QueryAdapter.from_bytes(adapter.to_bytes()[:100], DIM)


def process(taught: Lesson) -> subprocess.CompletedProcess[bytes]:
    """Learning in a process of its own."""
    command = [sys.executable, "-P", "-m", "models.adaptation"]
    return subprocess.run(command, input=taught.to_bytes(), capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("queries", [4000, 5], ids=["many queries", "many items to each"])
def test_memory_stays_by_what_there_is_to_learn_from(queries: int) -> None:
    random = np.random.default_rng(0)
    items = unit(random.normal(size=(8000, DIM)))
    pairs = np.array([(item % queries, item) for item in range(4000)])
    kinds, nothing = np.zeros(len(items), np.int8), np.empty((0, 2), np.int64)
    many = Lesson(unit(random.normal(size=(queries, DIM))), items, pairs, nothing, kinds, ("image",))
    tracemalloc.start()
    learned(many)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8 * items.nbytes


def test_a_process_learns_the_same() -> None:
    found = Learned.from_bytes(process(lesson()).stdout, DIM)
    here = learned(lesson())
    assert replace(found.verdict, seconds=0) == replace(here.verdict, seconds=0)
    assert found.adapter.to_bytes() == here.adapter.to_bytes()
    assert found.curves == here.curves


def test_a_process_that_has_too_few_pairs_says_so() -> None:
    ended = process(replace(lesson(), pairs=lesson().pairs[:20]))
    assert ended.returncode == TOO_FEW
    assert ended.stderr.decode().startswith("Of 20 pairs")
