"""Query adapters: what pairs of a query and the item that answers it teach the rows of queries.

The form is the New Knowledge Extractor of MultiWay-Adapter (Long et al. 2023, arXiv 2309.01516): a bottleneck
beside a frozen path, which adds nothing at first. There one stands in every block, for each modality; here a
single one stands behind the last, for queries of text. So items keep their rows: nothing is embedded again,
no index is built, and the way back is to leave it out.
"""

import io
from dataclasses import dataclass
from typing import Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Places = NDArray[np.int64]

BOTTLENECK = 64
STEPS = 300
_LOOK_EVERY = 50  # steps, at the pairs that are kept for it
_BATCH = 256
_WARM_UP = 20  # steps
_RATE = 1e-3
_SCALE = 30.0  # of cosines before the softmax
# How much a query is kept where it was: else queries of other kinds lose twice as much (decisions/0018).
_ANCHOR = 3.0
_TIE = 1e-6  # scores this close are one score: rounding must not decide a place
_MASKED = np.float32(-1e9)
_AT_ONCE = 64  # queries whose scores of all items are in memory


class AdapterDamaged(ValueError):
    """Bytes that are no adapter of rows of this length."""


@dataclass(frozen=True)
class QueryAdapter:
    """Maps the row x of a query to the direction of x + up · relu(down · x + bias).

    ``down`` (bottleneck, dim), ``bias`` (bottleneck,), ``up`` (dim, bottleneck), all float32.
    """

    down: Rows
    bias: Rows
    up: Rows

    @classmethod
    def neutral(cls, dim: int, bottleneck: int = BOTTLENECK, seed: int = 0) -> Self:
        """One that changes nothing, to be trained: the extractor's last layer is zero, the first is not."""
        drawn = np.random.default_rng(seed).normal(size=(bottleneck, dim)) * 3 / np.sqrt(dim)
        zeros = np.zeros(bottleneck, np.float32)
        return cls(drawn.astype(np.float32), zeros, np.zeros((dim, bottleneck), np.float32))

    def __call__(self, rows: Rows) -> Rows:
        """Unit rows (..., dim) of queries to unit rows of the same shape."""
        moved = rows + np.maximum(rows @ self.down.T + self.bias, 0) @ self.up.T
        found: Rows = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
        return found

    def to_bytes(self) -> bytes:
        """As it is kept."""
        file = io.BytesIO()
        np.savez(file, down=self.down, bias=self.bias, up=self.up)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, dim: int) -> Self:
        """What ``to_bytes`` made. Raises AdapterDamaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                found = cls(*(np.asarray(file[name], np.float32) for name in ("down", "bias", "up")))
        except (BadZipFile, EOFError, OSError, ValueError, KeyError) as error:
            raise AdapterDamaged(f"no adapter can be read: {error}") from error
        wide = len(found.bias)
        if [part.shape for part in found._parts] != [(wide, dim), (wide,), (dim, wide)]:
            raise AdapterDamaged(f"the adapter is not one of rows of length {dim}")
        return found

    @property
    def _parts(self) -> tuple[Rows, Rows, Rows]:
        return self.down, self.bias, self.up


def fit(
    queries: Rows,
    items: Rows,
    pairs: Places,
    kept: Places,
    *,
    seed: int = 0,
) -> tuple[QueryAdapter, int]:
    """The adapter that puts the items of pairs before others, and how many steps it was trained for.

    ``queries`` (q, dim) and ``items`` (n, dim) are unit rows; ``pairs`` (p, 2) says which query belongs to
    which item. Training is by InfoNCE, from the query's side, over the items of a batch, those left out that
    are known to belong to the query:

        L = CE(30 · u · items, own) - 3 · u · x    for a query x and what becomes of it, u

    Of every fiftieth step's adapters it is the one by which the pairs ``kept`` (v, 2) rank best; that may be
    the neutral one, after no steps. A seed fixes the result.
    """
    random = np.random.default_rng(seed)
    best = trained = QueryAdapter.neutral(queries.shape[1], seed=seed)
    best_gain, best_at = _mean_gain(trained, queries, items, kept), 0
    moments = [(np.zeros_like(part), np.zeros_like(part)) for part in trained._parts]
    for step in range(1, STEPS + 1):
        batch = pairs[random.choice(len(pairs), min(_BATCH, len(pairs)), replace=False)]
        slopes = _slopes(trained, queries[batch[:, 0]], items[batch[:, 1]], batch)
        rate = _RATE * min(1.0, step / _WARM_UP) * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        moved = (
            part - _adam(slope, moment, step, rate)
            for part, slope, moment in zip(trained._parts, slopes, moments, strict=True)
        )
        trained = QueryAdapter(*moved)
        if step % _LOOK_EVERY == 0:
            gain = _mean_gain(trained, queries, items, kept)
            if gain > best_gain:
                best, best_gain, best_at = trained, gain, step
    return best, best_at


def _slopes(adapter: QueryAdapter, x: Rows, y: Rows, batch: Places) -> tuple[Rows, Rows, Rows]:
    """The slopes of the loss of queries (b, dim) and their items (b, dim)."""
    inner = x @ adapter.down.T + adapter.bias
    open_ = np.maximum(inner, 0)
    moved = x + open_ @ adapter.up.T
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    u = moved / length
    logits = np.float32(_SCALE) * (u @ y.T)
    same = (batch[:, :1] == batch[:, 0]) | (batch[:, 1:] == batch[:, 1])
    own = np.eye(len(batch), dtype=bool)
    logits[same & ~own] = _MASKED
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    by_u = (np.float32(_SCALE) * (shares - own).astype(np.float32) @ y - np.float32(_ANCHOR) * x) / len(batch)
    by_moved = (by_u - u * (by_u * u).sum(1, keepdims=True)) / length
    by_inner = (by_moved @ adapter.up) * (inner > 0)
    return by_inner.T @ x, by_inner.sum(0), by_moved.T @ open_


def _adam(slope: Rows, moment: tuple[Rows, Rows], step: int, rate: float) -> Rows:
    mean, square = moment
    mean += 0.1 * (slope - mean)
    square += 0.001 * (slope * slope - square)
    unbiased = mean / (1 - 0.9**step), square / (1 - 0.999**step)
    change: Rows = (rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)).astype(np.float32)
    return change


def _mean_gain(adapter: QueryAdapter, queries: Rows, items: Rows, pairs: Places) -> float:
    """Over pairs, of the item's place among all items, the query's other ones left out."""
    return float(np.mean(gain_of(ranks(adapter(queries), items, pairs, pairs))))


def ranks(rows: Rows, items: Rows, pairs: Places, known: Places) -> Floats:
    """The place (p,) of the item of each pair, from 1, among all items but those that are ``known`` to belong
    to the query. ``rows`` (q, dim) are those of the queries."""
    found = np.empty(len(pairs))
    asked = np.unique(pairs[:, 0])
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        for query, scores in zip(some, rows[some] @ items.T, strict=True):
            here = np.flatnonzero(pairs[:, 0] == query)
            others = np.delete(scores, known[known[:, 0] == query, 1])
            found[here] = places(scores[pairs[here, 1]], others)
    return found


def places(own: Rows, others: Rows) -> Floats:
    """The place (n,) of each of the scores ``own`` (n,) among ``others`` (m,), from 1.

    Of equals half come first: to give all the same score is as good as chance, and no worse.
    """
    above = [np.count_nonzero(others > score + _TIE) for score in own]
    level = [np.count_nonzero(np.abs(others - score) <= _TIE) for score in own]
    return 1 + np.array(above, np.float64) + 0.5 * np.array(level)


def gain_of(ranks: Floats) -> Floats:
    """What the places of items are worth, counted from 1: 1 / log2(1 + place), as in nDCG.

    From place 300 to 30 is a gain, too: reciprocal ranks hardly tell it, and need more pairs to show one.
    """
    worth: Floats = 1 / np.log2(1 + ranks)
    return worth
