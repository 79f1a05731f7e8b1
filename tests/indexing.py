"""Parts that the tests of the index share: rows, items, and an oracle that knows nothing of indexes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from index.catalog import Catalog, Upsert
from index.vectors import Seqs, Vectors

ENCODER = "fake-0123456789ab"
DIM = 8


def unit_rows(count: int, dim: int = DIM, seed: int = 0) -> Vectors:
    """Random (count, dim) unit rows."""
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def row_of(content: str, dim: int = DIM) -> Vectors:
    """The row that the encoder of these tests gives a content: one content, one row."""
    row: Vectors = unit_rows(1, dim, seed=int.from_bytes(content.encode(), "big"))[0]
    return row


def upsert(item_id: str, content: str | None = None, **fields: Any) -> Upsert:
    """An item that says ``content`` (its id when not given)."""
    content = item_id if content is None else content
    fields = {"modality": "text", "text": content, "vector": row_of(content)} | fields
    return Upsert(id=item_id, content=content, **fields)


def filled(catalog: Catalog, name: str, count: int, prefix: str = "item") -> list[str]:
    """Commit ``count`` new items to a collection (made if missing); their ids."""
    catalog.create_collection(name, ENCODER, DIM)
    ids = [f"{prefix}-{number}" for number in range(count)]
    catalog.commit(name, [upsert(item_id) for item_id in ids], ENCODER)
    return ids


def contents(catalog: Catalog, name: str) -> tuple[Seqs, Vectors]:
    """Every seq and row of a collection, read item by item."""
    items = catalog.scroll(name, "", 1_000_000)
    dim = catalog.collection(name).dim
    seqs = np.array([item.seq for item in items], np.int64)
    return seqs, np.array([row_of(item.content, dim) for item in items], np.float32).reshape(-1, dim)


def assert_nearest(
    found: Sequence[tuple[int, float]], seqs: Seqs, vectors: Vectors, query: Vectors, top_k: int
) -> None:
    """The hits are the ``top_k`` nearest rows, best first, with their true scores; ties may swap places."""
    true = vectors @ query
    expected = np.sort(true)[::-1][:top_k]
    scores = np.array([score for _, score in found], np.float32)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    by_seq = dict(zip(seqs.tolist(), true.tolist(), strict=True))
    np.testing.assert_allclose(scores, [by_seq[seq] for seq, _ in found], atol=1e-5)
    assert len({seq for seq, _ in found}) == len(found)
