"""Kinds of index: what a factory string says, and which kind a collection gets."""

from pathlib import Path

import pytest

from index.engines.faiss import FaissEngine
from index.engines.kinds import InvalidKind, Kind, choose
from tests.indexing import unit_rows

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("factory", "kind"),
    [
        ("Flat", Kind("Flat")),
        ("HNSW32,Flat", Kind("HNSW32,Flat", links=32)),
        ("HNSW16,SQ8,RFlat", Kind("HNSW16,SQ8,RFlat", links=16, bits=8)),
        ("IVF4096,SQfp16,RFlat", Kind("IVF4096,SQfp16,RFlat", lists=4096, bits=16)),
        ("IVF64,RaBitQfs4,RFlat", Kind("IVF64,RaBitQfs4,RFlat", lists=64, bits=4)),
    ],
)
def test_a_factory_string_is_read(factory: str, kind: Kind) -> None:
    assert Kind.of(factory) == kind
    assert kind.has_codes is factory.endswith("RFlat")


@pytest.mark.parametrize(
    "factory",
    [
        "",
        "flat",
        "HNSW",
        "HNSW0,Flat",
        "HNSW1,Flat",
        "HNSW1000,Flat",
        "HNSW32",
        "HNSW32,SQ8",
        "IVF64,RaBitQfs9,RFlat",
        "IVF-1,Flat",
        "HNSW32,RaBitQfs4,RFlat",
        "IVF64,PQ8",
        "IVF1000000,Flat",
        "Flat,RFlat",
        "HNSW32,Flat\n",
    ],
)
def test_what_there_is_not_is_refused_by_name(factory: str) -> None:
    with pytest.raises(InvalidKind, match="It may be Flat, or HNSW32"):
        Kind.of(factory)
    with pytest.raises(InvalidKind):
        FaissEngine.build(unit_rows(10), factory)


@pytest.mark.parametrize(
    ("count", "budget_bytes", "factory"),
    [
        (0, None, "Flat"),
        (20_000, 1, "Flat"),
        (20_001, None, "HNSW32,Flat"),
        (MILLION, None, "HNSW32,Flat"),
        (MILLION, 2_000_000_000, "HNSW32,Flat"),
        (MILLION, 1_000_000_000, "HNSW32,SQ8,RFlat"),
        (MILLION, 500_000_000, "IVF4096,RaBitQfs4,RFlat"),
        (MILLION, 100_000_000, "IVF4096,RaBitQfs1,RFlat"),
        (MILLION, 1, "IVF4096,RaBitQfs1,RFlat"),
        (5 * MILLION, 1_500_000_000, "IVF8192,RaBitQfs4,RFlat"),
    ],
)
def test_the_fastest_kind_within_the_budget_is_chosen(
    count: int, budget_bytes: int | None, factory: str
) -> None:
    assert choose(count, 384, budget_bytes).factory == factory


@pytest.mark.parametrize("factory", ["HNSW32,Flat", "HNSW32,SQ8,RFlat", "IVF64,RaBitQfs4,RFlat"])
def test_the_estimate_of_memory_is_near_the_truth(factory: str, tmp_path: Path) -> None:
    """What searches touch is the index, and the vectors unless codes stand in for them."""
    rows, kind = unit_rows(10_000, 128), Kind.of(factory)
    names = FaissEngine.build(rows, factory).save(tmp_path)
    searched = [name for name in names if name != "vectors.faiss" or not kind.has_codes]
    size = sum((tmp_path / name).stat().st_size for name in searched)
    assert size == pytest.approx(kind.resident_bytes(*rows.shape), rel=0.15)
