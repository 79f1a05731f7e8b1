"""Conditions: what each of them means, and that databases do not change it."""

from typing import Any

import pytest

from index.catalog import Catalog
from index.fields import Fields
from index.filters import of_modalities, parse
from index.terms import terms_of
from tests.indexing import DIM, ENCODER, upsert

METADATA: dict[str, dict[str, Any]] = {
    "string": {"k": "1"},
    "one": {"k": 1},
    "one point zero": {"k": 1.0},
    "true": {"k": True},
    "false": {"k": False},
    "zero": {"k": 0},
    "minus zero": {"k": -0.0},
    "null": {"k": None},
    "object": {"k": {"k": 1, "deep": "1"}},
    "list": {"k": [1, "a", True, None, {"x": 2}, [3]]},
    "same twice": {"k": [1, 1.0]},
    "empty list": {"k": []},
    "empty object": {"k": {}},
    "missing": {"other": 1},
    "nothing": {},
    "json in a string": {"k": '[1, "a"]'},
    "half": {"k": 0.5},
    "big": {"k": 2**53 + 1},
    "bigger": {"k": 2**63 - 1},
    "negative": {"k": -(2**63)},
    "huge": {"k": 1e300},
    "unicode": {"k": "é猫🙂"},
    "decomposed": {"k": "e\u0301猫🙂"},
    "capital": {"k": "A"},
    "small": {"k": "a"},
    "spaces": {"k": " a "},
    "long": {"k": "x" * 1000},
    "longer": {"k": "x" * 1001},
}
ALL = set(METADATA)
NUMBERS = {
    "one", "one point zero", "zero", "minus zero", "list", "same twice", "half", "big", "bigger", "negative",
    "huge",
}  # fmt: skip


def fields_of(items: dict[str, dict[str, Any]]) -> Fields:
    """The fields of items, a row each."""
    return Fields.of(terms_of(item_id, "text", metadata) for item_id, metadata in items.items())


def matching(items: dict[str, dict[str, Any]], tree: Any) -> set[str]:
    """The ids of the items that a filter matches."""
    ids = list(items)
    return {ids[row] for row in parse(tree).rows(fields_of(items))}


def found(*must: Any, **clauses: Any) -> set[str]:
    """The items in METADATA that a filter matches."""
    return matching(METADATA, {"must": list(must)} | clauses)


def leaf(*values: Any, key: str = "k") -> dict[str, Any]:
    """A condition on one key."""
    return {"key": key, "match": {"value": values[0]} if len(values) == 1 else {"any": list(values)}}


def within(key: str = "k", **bounds: Any) -> dict[str, Any]:
    """A range condition."""
    return {"key": key, "range": bounds}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", {"string"}),
        (1, {"one", "one point zero", "list", "same twice"}),
        (1.0, {"one", "one point zero", "list", "same twice"}),
        (True, {"true", "list"}),
        (False, {"false"}),
        (0, {"zero", "minus zero"}),
        (-0.0, {"zero", "minus zero"}),
        (0.5, {"half"}),
        (2**53 + 1, {"big"}),
        (2**53, set()),
        (2**63 - 1, {"bigger"}),
        (float(2**63), set()),
        (-(2**63), {"negative"}),
        ("a", {"small", "list"}),
        ("A", {"capital"}),
        (" a ", {"spaces"}),
        ("é猫🙂", {"unicode"}),
        ("e\u0301猫🙂", {"decomposed"}),
        ('[1, "a"]', {"json in a string"}),
        ("x" * 1000, {"long"}),
        ("x" * 999, set()),
        (3, set()),  # inside a list inside the list
        (2, set()),  # inside an object inside the list
        ("null", set()),
        ("[]", set()),
        ("{}", set()),
        ("", set()),
    ],
)
def test_a_value_matches_its_equals_and_lists_holding_one(value: Any, expected: set[str]) -> None:
    assert found(leaf(value)) == expected
    assert found(must_not=[leaf(value)]) == ALL - expected


def test_any_matches_each_of_its_values() -> None:
    assert found(leaf("1", 0.5, False)) == {"string", "half", "false"}
    assert found({"key": "k", "match": {"any": []}}) == set()
    assert found(must_not=[{"key": "k", "match": {"any": []}}]) == ALL


def test_except_matches_what_has_another_value_too() -> None:
    tags: dict[str, dict[str, Any]] = {
        "a": {"k": "a"},
        "ab": {"k": ["a", "b"]},
        "aa": {"k": ["a", "a"]},
        "abc": {"k": ["c", "b", "a", None]},
        "null": {"k": None},
        "none": {"k": []},
        "missing": {},
        "number": {"k": 1},
        "objects": {"k": [{}, "a"]},
    }

    def other_than(*values: Any) -> set[str]:
        return matching(tags, {"must": [{"key": "k", "match": {"except": list(values)}}]})

    assert other_than("a") == {"ab", "abc", "number"}
    assert other_than("a", "b") == {"abc", "number"}
    assert other_than("a", "b", "c", 1.0) == set()
    assert other_than() == {"a", "ab", "aa", "abc", "number", "objects"}


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"gt": -(2**63)}, NUMBERS - {"negative"}),
        ({"gte": -(2**63)}, NUMBERS),
        ({"gt": 0}, NUMBERS - {"negative", "zero", "minus zero"}),
        ({"gte": -0.0, "lt": 1}, {"zero", "minus zero", "half"}),
        ({"gte": 0.5, "lte": 1}, {"half", "one", "one point zero", "list", "same twice"}),
        ({"gt": 2**53}, {"big", "bigger", "huge"}),
        ({"gt": 2**53 + 1}, {"bigger", "huge"}),
        ({"gt": float(2**53), "lt": 2**53 + 2}, {"big"}),
        ({"gt": 2**63 - 1}, {"huge"}),
        ({"gte": 1, "gt": 1, "lte": 1e300, "lt": 1e300}, {"big", "bigger"}),
        ({"gt": 5, "lt": 3}, set()),
        ({"lt": -1e300}, set()),
    ],
)
def test_a_range_compares_numbers_exactly(bounds: dict[str, Any], expected: set[str]) -> None:
    assert found(within(**bounds)) == expected


def test_a_text_is_found_by_its_words() -> None:
    texts: dict[str, dict[str, Any]] = {
        "shoe": {"t": "A Red-Brown SHOE, size 42"},
        "list": {"t": ["red", "boots", 42]},
        "german": {"t": "Große Äpfel"},
        "japanese": {"t": "赤いりんご"},
        "decomposed": {"t": "cafe\u0301"},
        "number": {"t": 42},
    }

    def saying(text: str) -> set[str]:
        return matching(texts, {"must": [{"key": "t", "match": {"text": text}}]})

    assert saying("red") == {"shoe", "list"}
    assert saying("brown red") == {"shoe"}
    assert saying("RED boots!") == {"list"}
    assert saying("shoes") == set()
    assert saying("GROSSE äpfel") == {"german"}
    assert saying("りんご") == {"japanese"}
    assert saying("café") == {"decomposed"}
    assert saying("42") == {"shoe"}


def test_null_and_empty_tell_apart_what_is_missing_from_what_is_null() -> None:
    assert found({"key": "k", "is_null": True}) == {"null"}
    assert found({"key": "k", "is_null": False}) == ALL - {"null"}
    assert found({"key": "k", "is_empty": True}) == {"null", "empty list", "missing", "nothing"}
    assert found({"key": "k", "is_empty": False}) == ALL - {"null", "empty list", "missing", "nothing"}


def test_ids_and_modalities_are_conditions_too() -> None:
    assert found({"has_id": ["one", "list", "unknown"]}) == {"one", "list"}
    assert found(must_not=[{"has_id": list(METADATA)[1:]}]) == {"string"}
    assert found({"has_id": []}) == set()
    long: dict[str, dict[str, Any]] = {"i" * 900: {}, "i" * 901: {}}
    assert matching(long, {"must": [{"has_id": ["i" * 901]}]}) == {"i" * 901}
    modalities = ("text", "image", "mixed", "image")
    fields = Fields.of(terms_of(str(row), modality, {}) for row, modality in enumerate(modalities))
    wanted = of_modalities(None, ["image", "mixed"])
    assert wanted is not None
    assert list(wanted.rows(fields)) == [1, 2, 3]
    wanted = of_modalities(parse({"must": [{"has_id": ["0", "1"]}]}), ["text"])
    assert wanted is not None
    assert list(wanted.rows(fields)) == [0]
    assert of_modalities(None, ()) is None


def test_clauses_are_combined_and_nested() -> None:
    assert found(leaf(1), leaf("a")) == {"list"}
    assert found(leaf(1), must_not=[leaf("a")]) == {"one", "one point zero", "same twice"}
    assert found(should=[leaf("1"), leaf("A")]) == {"string", "capital"}
    assert found(leaf(1, 0.5), should=[leaf("a"), leaf(0.5)], must_not=[leaf(True)]) == {"half"}
    assert found(should=[], must_not=[]) == ALL
    three = [leaf(1), leaf("a"), leaf(True)]
    assert found(min_should={"conditions": three, "min_count": 1}) == found(should=three)
    assert found(min_should={"conditions": three, "min_count": 2}) == {"list"}
    nested = {"should": [{"must": [leaf(1), leaf(True)]}, {"must_not": [within(gte=-(2**63)), leaf("1")]}]}
    assert found(nested) == (ALL - NUMBERS - {"string"}) | {"list"}
    assert found() == found({"must": []}) == ALL


ODD_KEYS = [
    "dot.ted", "dot", "with space", " ", 'quo"ted', "quo'ted", "back\\slash", "$", "$.k", "[0]", "k[0]", "#",
    "*", "é", "e\u0301", "猫🙂", "\n\t", "%", "_", "null", "k') OR 1=1 --", "", "0", "K", "i", "m", "x" * 500,
    "x" * 501,
]  # fmt: skip


def test_a_key_is_taken_as_it_is() -> None:
    items: dict[str, dict[str, Any]] = {odd: {odd: "here"} for odd in ODD_KEYS}
    items["nested"] = {"dot": {"ted": "here"}, "k": ["here"]}
    for key in ODD_KEYS:
        assert matching(items, {"must": [leaf("here", key=key)]}) == {key}
        assert matching(items, {"must_not": [{"key": key, "is_empty": True}]}) - {"nested"} == {key}


def test_both_databases_give_back_what_was_written(url: str) -> None:
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    items = {f"item {n}": m for n, m in enumerate([*METADATA.values(), *({key: "here"} for key in ODD_KEYS)])}
    catalog.commit("c", [upsert(name, metadata=metadata) for name, metadata in items.items()], ENCODER)
    expected = [terms_of(name, "text", metadata, name) for name, metadata in items.items()]
    with catalog.reading("c") as reading:
        assert list(reading.terms(chunk=7)) == expected
        assert [change.terms for change in reading.changes(after=0)] == expected
    catalog.close()
