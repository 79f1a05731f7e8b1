"""Vectors that merely decide between candidates do not stay in memory, and nothing is lost by that."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from index.engines import AUTO, Params
from index.engines import pages as pages_module
from index.engines.faiss import FaissEngine
from index.engines.pages import MappedPages, populate
from tests.indexing import unit_rows

MB = 2**20
BOUND = 8 * MB

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc tells what is mapped")


def resident() -> int:
    """Bytes of mapped files in this process's memory."""
    return int(psutil.Process().memory_info().shared)


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[np.ndarray, Path]:
    """64 MB in a mapped file, behind a head of a few bytes."""
    file = tmp_path / "rows"
    content = np.random.default_rng(0).random((16_384, 1024), np.float32)
    file.write_bytes(b"head" + content.tobytes())
    return np.memmap(file, np.float32, "r", offset=4, shape=content.shape), file


def test_what_was_read_is_let_go_and_reads_the_same_again(mapped: tuple[np.ndarray, Path]) -> None:
    rows, file = mapped
    pages = MappedPages(rows, file, BOUND)
    before, first = resident(), rows.sum(axis=1)
    assert resident() > before + 60 * MB
    pages.trim()
    assert resident() < before + 2 * MB
    np.testing.assert_array_equal(rows.sum(axis=1), first)


def test_a_populated_file_is_at_hand_before_it_is_read(mapped: tuple[np.ndarray, Path]) -> None:
    rows, file = mapped
    before = resident()
    populate(file)
    assert resident() > before + 60 * MB
    assert rows[0, 0] == np.random.default_rng(0).random(1, np.float32)[0]


def test_a_little_stays(mapped: tuple[np.ndarray, Path]) -> None:
    rows, file = mapped
    pages = MappedPages(rows, file, growth_bytes=256 * MB)
    before = resident()
    rows.sum()
    pages.trim()
    assert resident() > before + 60 * MB


def test_growth_counts_from_the_least_there_was(mapped: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    rows, file = mapped
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    passing = np.memmap(other, np.uint8, "r")
    passing.sum()
    pages = MappedPages(rows, file, BOUND)
    del passing
    pages.trim()
    before = resident()
    rows.sum()
    pages.trim()
    assert resident() < before + BOUND


def test_memory_that_no_file_backs_is_refused(mapped: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    rows, file = mapped
    with pytest.raises(ValueError, match="is not mapped from"):
        MappedPages(np.array(rows), file)
    with pytest.raises(ValueError, match="is not mapped from"):
        MappedPages(rows, tmp_path / "another")


def test_a_system_that_names_other_files_costs_memory_and_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    factory, rows = "IVF16,RaBitQfs4,RFlat", unit_rows(2000, 64)
    FaissEngine.build(rows, factory).save(tmp_path)
    (tmp_path / "maps").write_text("7f0000000000-7f0000001000 r--s 00000000 00:00 0  /elsewhere\n")
    monkeypatch.setattr(pages_module, "_MAPS", tmp_path / "maps")
    engine = FaissEngine.load(tmp_path, factory, {"nprobe": 16, "rescore": 8})
    assert "is not mapped from" in caplog.text
    assert engine.search(rows[:1], 1)[1].tolist() == [[0]]


def test_searches_of_codes_keep_their_vectors_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "GROWTH_BYTES", BOUND)
    rows = unit_rows(30_000, 512)
    FaissEngine.build(rows, "IVF16,RaBitQfs4,RFlat").save(tmp_path)
    engine = FaissEngine.load(tmp_path, "IVF16,RaBitQfs4,RFlat", {"nprobe": 16, "rescore": 8})
    queries, exact = unit_rows(50, 512, seed=1), Params(exact=True)
    before = resident()
    for params in (AUTO, exact):
        found = [engine.search(query[None], 10, params=params) for query in queries]
        assert (
            resident() < before + rows.nbytes / 32 * 4 + BOUND + 8 * MB
        )  # the codes, what may stay, and FAISS's own
        true = np.sort(queries @ rows.T, axis=1)[:, :-11:-1]
        recall = np.mean(np.concatenate([scores for scores, _ in found]) >= true[:, -1:] - 1e-6)
        assert recall > 0.95
