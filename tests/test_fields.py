"""Fields: an index of rows by term that is the same in memory, merged, and read back from a file."""

import random
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from index.fields import Fields, FieldsError, grown, marked, numbers
from index.terms import equals, has_id, holds, is_null, of_modality, terms_of

COUNT = 5000  # enough for bitmaps and for long lists of rows


def rows_with(seed: int, count: int = COUNT) -> list[set[bytes]]:
    """Terms of rows: some that most of them have, some that few have, some of one row each."""
    dice = random.Random(seed)
    return [
        {
            b"half" if dice.random() < 0.5 else b"other",
            b"few %d" % dice.randrange(100),
            b"one %05d" % dice.randrange(100_000),
        }
        for _ in range(count)
    ]


def everything(fields: Fields) -> dict[bytes, list[int]]:
    """Each term with its rows."""
    terms = [fields._terms[number] for number in range(len(fields._terms))]
    assert terms == sorted(set(terms))
    return {term: list(fields.having(term)) for term in terms}


def test_each_term_gives_the_rows_that_have_it() -> None:
    rows = rows_with(0)
    fields = Fields.of(rows)
    assert fields.count == COUNT
    for term in (b"half", b"other", b"few 0", b"few 99", *list(rows[17]), b"", b"zzz", b"hal", b"half "):
        assert list(fields.having(term)) == [row for row, terms in enumerate(rows) if term in terms]


def test_a_range_gives_the_rows_with_any_of_its_terms() -> None:
    rows = rows_with(1)
    fields = Fields.of(rows)
    ends = (b"", b"few 3", b"half", b"half\0", b"one 00000", b"one 00100", b"one 50000", b"one 99999", b"z")
    for first in ends:
        for end in ends:
            expected = [row for row, terms in enumerate(rows) if any(first <= term < end for term in terms)]
            assert list(fields.between(first, end)) == expected


def test_the_answer_is_the_callers_to_change() -> None:
    fields = Fields.of(rows_with(2))
    for term in (b"half", b"few 1"):
        before = list(fields.having(term))
        rows = fields.having(term)
        rows -= rows
        assert list(fields.having(term)) == before


def test_parts_joined_are_as_if_built_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_with(3)
    whole = everything(Fields.of(rows))
    cuts = [0, 0, 1, 2, 1500, 1500, 4999, COUNT]
    parts = [Fields.of(rows[start:end]) for start, end in pairwise(cuts)]
    assert everything(Fields.joined(parts)) == whole
    assert Fields.joined([]).count == Fields.of([]).count == 0
    for at_once in (COUNT, 1000, 333):
        monkeypatch.setattr("index.fields._ROWS_AT_ONCE", at_once)
        fields = Fields.of_many(iter(rows))
        fields.save(tmp_path / "fields.bin")
        assert fields.count == COUNT
        assert everything(Fields.load(tmp_path / "fields.bin")) == everything(fields) == whole


def test_growing_keeps_few_parts_and_never_merges_large_ones() -> None:
    rows = rows_with(4, 9000)
    parts: tuple[Fields, ...] = ()
    most, start, dice = 0, 0, random.Random(1)
    while start < len(rows):
        end = start + dice.choice([1, 1, 1, 2, 5, 40])
        before, parts = parts, grown(parts, Fields.of(rows[start:end]))
        assert [part for part in parts if part.count > 1024] == []
        assert parts[:-1] == before[: len(parts) - 1]
        most, start = max(most, len(parts)), end
    assert most < 30
    assert everything(Fields.joined(parts)) == everything(Fields.of(rows))
    large = Fields.of(rows[:8000])
    assert grown((large,), Fields.of(rows[:8000]))[0] is large


def test_it_outlives_the_file_it_was_loaded_from(tmp_path: Path) -> None:
    fields = Fields.of(rows_with(5))
    fields.save(tmp_path / "fields.bin")
    loaded = Fields.load(tmp_path / "fields.bin")
    (tmp_path / "fields.bin").unlink()
    assert everything(loaded) == everything(fields)
    assert loaded.size_bytes == fields.size_bytes


def test_a_file_that_holds_no_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fields.bin"
    Fields.of(rows_with(6, 50)).save(path)
    whole = path.read_bytes()
    lie = struct.pack("<Q", 2**60)
    for data in (b"", b"MOMO", whole[:-1], whole + b"\0", b"X" + whole[1:], whole[:16] + lie + whole[24:]):
        path.write_bytes(data)
        with pytest.raises(FieldsError):
            Fields.load(path)


def test_numbers_have_the_order_of_their_terms() -> None:
    dice = random.Random(3)
    edges = [
        0,
        -0.0,
        0.5,
        1,
        -1,
        5e-324,
        -5e-324,
        1.7e308,
        -1.7e308,
        2**53,
        2**63 - 1,
        -(2**63),
        float(2**63),
    ]
    values: list[int | float] = [*edges, *(dice.randrange(-(2**63), 2**63) for _ in range(300))]
    values += [
        near + dice.randrange(-600, 600) for near in (2**53, 2**60, 2**62, -(2**61)) for _ in range(50)
    ]
    values += [dice.uniform(-1, 1) * 10 ** dice.randrange(-300, 300) for _ in range(300)]
    for a in values:
        for b in dice.sample(values, 100):
            x, y = equals("k", a), equals("k", b)
            assert (x < y, x == y) == (a < b, a == b)


def test_an_item_has_the_terms_of_its_members_and_no_others() -> None:
    terms = terms_of("it", "mixed", {"a": [1, True, None, [2], {"b": 3}], "b": None, "c": {"d": 1}})
    assert {has_id("it"), of_modality("mixed"), equals("a", 1), equals("a", True), is_null("b")} < terms
    assert {holds("a", 1), holds("a", 2)} < terms
    assert not {holds("a", 3), equals("a", 2), equals("b", 3), equals("d", 1), is_null("a")} & terms


def test_terms_of_different_things_differ() -> None:
    keys = ["", "a", "i", "m", "b1", "s", "k" * 128, "k" * 129, "k" * 130, "é" * 64, "é" * 65]
    values: list[str | int] = ["", "1", "true", "k" * 128, "k" * 129, "k" * 130, 1, 0, -1, True, False]
    terms = [equals(key, value) for key in keys for value in values]
    terms += [has_id(item_id) for item_id in keys] + [of_modality("text")]
    assert len(set(terms)) == len(terms)
    assert max(map(len, terms)) < 300


def test_sets_of_rows_and_masks_tell_the_same() -> None:
    mask = np.random.default_rng(0).random(COUNT) < 0.3
    assert numbers(marked(mask)).tolist() == np.flatnonzero(mask).tolist()
    assert numbers(marked(mask[:0])).tolist() == []
