"""Stored rows come back bit for bit, and digests add up like the sets they stand for."""

from typing import Any

import numpy as np
import pytest

from index.vectors import VectorError, digest, from_bytes, to_bytes
from tests.indexing import unit_rows

SEQS = np.arange(1, 101)
ROWS = unit_rows(100)


def test_rows_come_back_bit_for_bit() -> None:
    again = from_bytes([to_bytes(row, 8) for row in ROWS], 8)
    assert again.tobytes() == ROWS.tobytes()
    assert again.dtype == np.float32
    assert from_bytes([], 8).shape == (0, 8)


def test_stored_bytes_are_little_endian_float32() -> None:
    row = np.zeros(4, ">f4")
    row[2] = 1.0
    assert to_bytes(row, 4).hex() == "00000000" * 2 + "0000803f" + "00000000"


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (unit_rows(1)[0] * 1.01, "length 1.01"),
        (unit_rows(1)[0] * 0, "length 0"),
        (np.full(8, np.nan), "length nan"),
        (np.full(8, np.inf), "length inf"),
        (unit_rows(1, 7)[0], r"expected 8 numbers.*\(7,\)"),
        (unit_rows(1), r"expected 8 numbers.*\(1, 8\)"),
        (np.float32(1), r"expected 8 numbers.*\(\)"),
    ],
)
def test_what_is_no_unit_row_is_refused(vector: Any, message: str) -> None:
    with pytest.raises(VectorError, match=message):
        to_bytes(vector, 8)


def test_rows_rounded_to_half_precision_are_still_unit_rows() -> None:
    for row in unit_rows(200, 384).astype(np.float16).astype(np.float32):
        to_bytes(row, 384)


def test_a_digest_ignores_order() -> None:
    order = np.random.default_rng(1).permutation(100)
    assert digest(SEQS[order], ROWS[order]) == digest(SEQS, ROWS)


def test_the_digest_of_a_union_is_the_sum_of_the_digests() -> None:
    left, right = digest(SEQS[:40], ROWS[:40]), digest(SEQS[40:], ROWS[40:])
    assert (left + right) % 2**64 == digest(SEQS, ROWS)
    assert digest(SEQS[:0], ROWS[:0]) == 0


def test_rows_beyond_one_block_count_as_well() -> None:
    seqs, rows = np.arange(10_000), unit_rows(10_000, 4)
    assert (
        digest(seqs, rows)
        == sum(digest(seqs[i : i + 99], rows[i : i + 99]) for i in range(0, 10_000, 99)) % 2**64
    )


def test_a_digest_never_changes_between_versions() -> None:
    rows = np.array([[1, 0, 0], [0, 0.6, -0.8]], np.float32)
    assert f"{digest(np.array([7, 2**40]), rows):016x}" == "f968727ebe3e8377"


@pytest.mark.parametrize(
    "change", ["one bit", "swapped seqs", "swapped columns", "sign of zero", "lost", "twice"]
)
def test_any_change_of_the_set_changes_the_digest(change: str) -> None:
    seqs, rows = SEQS.copy(), ROWS.copy()
    rows[0, 0] = 0.0
    before = digest(seqs, rows)
    if change == "one bit":
        rows.view(np.uint32)[50, 3] ^= 1
    elif change == "swapped seqs":
        seqs[[3, 4]] = seqs[[4, 3]]
    elif change == "swapped columns":
        rows[7, [1, 2]] = rows[7, [2, 1]]
    elif change == "sign of zero":
        rows[0, 0] = -0.0
    elif change == "lost":
        seqs, rows = seqs[1:], rows[1:]
    else:
        seqs, rows = np.append(seqs, seqs[0]), np.vstack((rows, rows[:1]))
    assert digest(seqs, rows) != before


def test_no_two_of_many_pairs_have_the_same_hash() -> None:
    singles = {digest(np.array([seq]), ROWS[row : row + 1]) for seq in range(100) for row in range(100)}
    assert len(singles) == 10_000
