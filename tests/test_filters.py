"""Filters mean the same on both databases, and the same as a plain reading of the items does."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from index.catalog import Catalog
from index.filters import InvalidFilter, parse
from tests.indexing import DIM, ENCODER, upsert
from tests.postgresql import fresh_database

METADATA: dict[str, dict[str, Any]] = {
    "string": {"k": "1"},
    "one": {"k": 1},
    "one point zero": {"k": 1.0},
    "true": {"k": True},
    "false": {"k": False},
    "zero": {"k": 0},
    "null": {"k": None},
    "object": {"k": {"k": 1, "deep": "1"}},
    "list": {"k": [1, "a", True, None, {"x": 2}, [3]]},
    "empty list": {"k": []},
    "empty object": {"k": {}},
    "missing": {"other": 1},
    "nothing": {},
    "json in a string": {"k": '[1, "a"]'},
    "half": {"k": 0.5},
    "big": {"k": 2**53 + 1},
    "bigger": {"k": 2**63 - 1},
    "negative": {"k": -(2**63)},
    "unicode": {"k": "é猫🙂"},
    "decomposed": {"k": "e\u0301猫🙂"},
    "capital": {"k": "A"},
    "small": {"k": "a"},
    "spaces": {"k": " a "},
}


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    """An empty collection "c" in an empty catalog."""
    url = fresh_database() if request.param == "postgresql" else f"sqlite:///{tmp_path}/catalog.db"
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    yield catalog
    catalog.close()


Found = Callable[..., set[str]]


@pytest.fixture
def found(catalog: Catalog) -> Found:
    """The ids of the items in METADATA that a filter matches."""
    catalog.commit("c", [upsert(name, metadata=metadata) for name, metadata in METADATA.items()], ENCODER)

    def find(must: Any = (), must_not: Any = ()) -> set[str]:
        return matching(catalog, {"must": list(must), "must_not": list(must_not)})

    return find


def matching(catalog: Catalog, tree: dict[str, Any]) -> set[str]:
    """The ids of the items that a filter matches."""
    with catalog.reading("c") as reading:
        seqs = reading.matching(parse(tree)).tolist()
        assert seqs == sorted(seqs)
        return {item.id for item in reading.items_at(seqs).values()}


def leaf(*values: Any, key: str = "k") -> dict[str, Any]:
    """A condition on one key."""
    return {"key": key, "match": {"value": values[0]} if len(values) == 1 else {"any": list(values)}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", {"string"}),
        (1, {"one", "one point zero", "list"}),
        (1.0, {"one", "one point zero", "list"}),
        (True, {"true", "list"}),
        (False, {"false"}),
        (0, {"zero"}),
        (0.5, {"half"}),
        (2**53 + 1, {"big"}),
        (2**53, set()),
        (2**63 - 1, {"bigger"}),
        (-(2**63), {"negative"}),
        ("a", {"small", "list"}),
        ("A", {"capital"}),
        (" a ", {"spaces"}),
        ("é猫🙂", {"unicode"}),
        ("e\u0301猫🙂", {"decomposed"}),
        ('[1, "a"]', {"json in a string"}),
        (3, set()),  # inside a list inside the list
        (2, set()),  # inside an object inside the list
        ("null", set()),
        ("[]", set()),
        ("{}", set()),
        ("", set()),
    ],
)
def test_a_value_matches_its_equals_and_lists_holding_one(
    found: Found, value: Any, expected: set[str]
) -> None:
    assert found(must=[leaf(value)]) == expected
    assert found(must_not=[leaf(value)]) == set(METADATA) - expected


def test_any_matches_each_of_its_values(found: Found) -> None:
    assert found(must=[leaf("1", 0, False)]) == {"string", "zero", "false"}
    assert found(must=[{"key": "k", "match": {"any": []}}]) == set()
    assert found(must_not=[{"key": "k", "match": {"any": []}}]) == set(METADATA)


def test_every_condition_must_hold(found: Found) -> None:
    assert found(must=[leaf(1), leaf("a")]) == {"list"}
    assert found(must=[leaf(1)], must_not=[leaf("a")]) == {"one", "one point zero"}
    assert found(must=[leaf(1, key="other")], must_not=[leaf(1)]) == {"missing"}
    assert found() == set(METADATA)


ODD_KEYS = [
    "dot.ted", "dot", "with space", " ", 'quo"ted', "quo'ted", "back\\slash", "$", "$.k", "[0]", "k[0]", "#",
    "*", "é", "e\u0301", "猫🙂", "\n\t", "%", "_", "null", "k') OR 1=1 --", "", "0", "K",
]  # fmt: skip


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_key_is_taken_as_it_is(catalog: Catalog, key: str) -> None:
    writes = [upsert(f"key {number}", metadata={odd: "here"}) for number, odd in enumerate(ODD_KEYS)]
    nested = upsert("nested", metadata={"dot": {"ted": "here"}, "k": ["here"]})
    catalog.commit("c", [*writes, nested], ENCODER)
    assert matching(catalog, {"must": [leaf("here", key=key)]}) == {f"key {ODD_KEYS.index(key)}"}


INJECTIONS = [
    "' OR 1 --", "'; DROP TABLE items; --", '") OR 1=1 --', "\\'; --", "%", "' UNION SELECT 1 --", "?", ":a",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_text_becomes_sql(catalog: Catalog, text: str) -> None:
    it = upsert("it", metadata={"k": text, text: "k"})
    other = upsert("other", metadata={"k": "k"})
    catalog.commit("c", [it, other], ENCODER)
    assert matching(catalog, {"must": [leaf(text)]}) == {"it"}
    assert matching(catalog, {"must": [leaf("k", key=text)]}) == {"it"}
    assert matching(catalog, {"must_not": [leaf(text, key=text)]}) == {"it", "other"}


def test_modalities_are_a_filter_of_their_own(catalog: Catalog) -> None:
    catalog.commit(
        "c", [upsert(m, modality=m, metadata={"k": 1}) for m in ("text", "image", "mixed")], ENCODER
    )
    with catalog.reading("c") as reading:
        assert len(reading.matching(None, ["image", "mixed"])) == 2
        assert len(reading.matching(parse({"must": [leaf(1)]}), ["text"])) == 1
        assert len(reading.matching(None)) == 3


def test_random_filters_match_what_reading_the_items_matches(catalog: Catalog) -> None:
    dice = random.Random(7)
    values: list[Any] = [0, 1, 1.5, True, False, "a", "b", "1", ""]

    def value(depth: int = 2) -> Any:
        kind = dice.random()
        if depth and kind < 0.3:
            return [value(depth - 1) for _ in range(dice.randrange(4))]
        if depth and kind < 0.4:
            return {"a": value(depth - 1)}
        return dice.choice([*values, None])

    stored = {f"i{n}": {key: value() for key in dice.sample("abcd", dice.randrange(5))} for n in range(200)}
    catalog.commit("c", [upsert(item_id, metadata=metadata) for item_id, metadata in stored.items()], ENCODER)

    def leaves() -> list[dict[str, Any]]:
        count = dice.randrange(3)
        return [leaf(*dice.sample(values, dice.randint(1, 3)), key=dice.choice("abcd")) for _ in range(count)]

    for _ in range(60):
        must, must_not = leaves(), leaves()
        expected = {
            item_id
            for item_id, metadata in stored.items()
            if all(holds(metadata, one) for one in must) and not any(holds(metadata, one) for one in must_not)
        }
        assert matching(catalog, {"must": must, "must_not": must_not}) == expected


def holds(metadata: dict[str, Any], condition: dict[str, Any]) -> bool:
    """What a condition means, read plainly."""
    match, value = condition["match"], metadata.get(condition["key"])
    wanted = match["any"] if "any" in match else [match["value"]]
    held = value if isinstance(value, list) else [value]
    return any(same(one, other) for one in held for other in wanted)


def same(a: Any, b: Any) -> bool:
    """JSON equality of scalars: numbers by value, and true is no number."""
    return (type(a) in (int, float) and type(b) in (int, float) and a == b) or (type(a) is type(b) and a == b)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"should": []}, "unknown filter member 'should'"),
        ([], "must be an object"),
        ({"must": {}}, "must must be a list"),
        ({"must": "text"}, "must must be a list"),
        ({"must_not": [1]}, r"must_not\[0\] must have exactly the members key and match"),
        ({"must": [leaf(1), {"key": "k"}]}, r"must\[1\] must have exactly"),
        ({"must": [{**leaf(1), "range": {}}]}, r"must\[0\] must have exactly"),
        ({"must": [{"key": 1, "match": {"value": 1}}]}, r"must\[0\].key must be a string"),
        ({"must": [leaf(1, key="\ud800")]}, r"must\[0\].key must be a string of valid text"),
        ({"must": [{"key": "k", "match": {}}]}, r"must\[0\].match must have exactly one"),
        ({"must": [{"key": "k", "match": {"value": 1, "any": []}}]}, "must have exactly one"),
        ({"must": [{"key": "k", "match": {"any": "text"}}]}, "any must be a list"),
        ({"must": [leaf(None)]}, "compares with a string, a number or a boolean"),
        ({"must": [leaf({"a": 1})]}, "compares with a string"),
        ({"must": [leaf([1], [2])]}, "compares with a string"),
        ({"must": [leaf(2**63)]}, "does not fit in 64 bits"),
        ({"must": [leaf(float("nan"))]}, "not finite"),
        ({"must": [leaf("\0")]}, "not valid text"),
        ({"must": [leaf(1)] * 65}, "at most 64 conditions"),
        ({"must": [leaf(*range(3000))], "must_not": [leaf(*range(3000))]}, "at most 4096 values"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_by_name(tree: Any, message: str) -> None:
    with pytest.raises(InvalidFilter, match=message):
        parse(tree)


def test_the_largest_filter_is_one_that_both_databases_take(found: Found) -> None:
    strings = [leaf(*(f"{row}-{n}" for n in range(62)), "1", 1) for row in range(64)]
    assert found(must=strings) == {"string", "one", "one point zero", "list"}
