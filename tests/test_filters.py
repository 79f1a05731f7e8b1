"""Filters: random ones against a plain reading of the items, and what is not in the grammar."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from index.fields import Fields, grown
from index.filters import InvalidFilter, parse
from index.terms import terms_of, words
from tests.test_conditions import fields_of, found, leaf, within

VALUES: list[Any] = [0, 1, 2, 1.5, -0.5, 2**60, True, False, "a", "b", "1", "", "a b", "B c", "c-a"]


def random_value(dice: random.Random, depth: int = 2) -> Any:
    """A value as metadata has it."""
    kind = dice.random()
    if depth and kind < 0.3:
        return [random_value(dice, depth - 1) for _ in range(dice.randrange(4))]
    if depth and kind < 0.4:
        return {"a": random_value(dice, depth - 1)}
    return dice.choice([*VALUES, None])


def random_filter(dice: random.Random, depth: int = 2) -> dict[str, Any]:
    """A filter that uses all of the grammar."""

    def conditions(most: int = 3) -> list[dict[str, Any]]:
        return [random_condition(dice, depth) for _ in range(dice.randrange(most))]

    tree: dict[str, Any] = {
        name: conditions() for name in ("must", "should", "must_not") if dice.random() < 0.6
    }
    if dice.random() < 0.3 and (several := conditions(5)):
        tree["min_should"] = {"conditions": several, "min_count": dice.randint(1, len(several))}
    return tree


def random_condition(dice: random.Random, depth: int) -> dict[str, Any]:
    """One condition."""
    key, kind = dice.choice("abcd"), dice.randrange(8 if depth else 7)
    some = dice.sample(VALUES, dice.randint(0, 4))
    if kind == 7:
        return random_filter(dice, depth - 1) or {"must": []}
    bounds = dice.sample(["gt", "gte", "lt", "lte"], dice.randint(1, 3))
    leaves: list[dict[str, Any]] = [
        {"key": key, "match": {"value": dice.choice(VALUES)}},
        {"key": key, "match": {"any": some}},
        {"key": key, "match": {"except": some}},
        {"key": key, "match": {"text": dice.choice(["a", "B", "c a", "1"])}},
        {"key": key, "range": {name: dice.choice([-1, 0, 0.5, 1, 1.5, 2, 2**60]) for name in bounds}},
        {"key": key, dice.choice(["is_null", "is_empty"]): dice.random() < 0.5},
        {"has_id": [f"i{dice.randrange(200)}" for _ in range(dice.randrange(40))]},
    ]
    return leaves[kind]


def test_random_filters_match_what_reading_the_items_matches() -> None:
    dice = random.Random(7)
    items = {
        f"i{n}": {key: random_value(dice) for key in dice.sample("abcd", dice.randrange(5))}
        for n in range(200)
    }
    whole, ids = fields_of(items), list(items)
    rows = [terms_of(item_id, "text", metadata) for item_id, metadata in items.items()]
    parts: tuple[Fields, ...] = ()
    for row in rows:
        parts = grown(parts, Fields.of([row]))
    assert len(parts) < 10
    joined, matched = Fields.joined(parts), 0
    for _ in range(600):
        tree = random_filter(dice)
        expected = [row for row, item_id in enumerate(ids) if passes(item_id, items[item_id], tree)]
        assert list(parse(tree).rows(whole)) == expected, tree
        assert list(parse(tree).rows(joined)) == expected
        matched += 0 < len(expected) < 200
    assert matched > 300


def passes(item_id: str, metadata: dict[str, Any], tree: dict[str, Any]) -> bool:
    """What a filter means, read plainly."""
    at_least: dict[str, Any] = tree.get("min_should", {"conditions": [], "min_count": 0})

    def count(conditions: list[dict[str, Any]]) -> int:
        return sum(holds(item_id, metadata, condition) for condition in conditions)

    must, should = tree.get("must", []), tree.get("should", [])
    return (
        count(must) == len(must)
        and (not should or count(should) > 0)
        and count(tree.get("must_not", [])) == 0
        and count(at_least["conditions"]) >= at_least["min_count"]
    )


def holds(item_id: str, metadata: dict[str, Any], condition: dict[str, Any]) -> bool:
    """What a condition means, read plainly."""
    if "has_id" in condition:
        return item_id in condition["has_id"]
    if "key" not in condition:
        return passes(item_id, metadata, condition)
    value = metadata.get(condition["key"])
    if "is_null" in condition:
        return (condition["key"] in metadata and value is None) is condition["is_null"]
    if "is_empty" in condition:
        return (value is None or value == []) is condition["is_empty"]
    held = [
        one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str | int | float)
    ]
    if "range" in condition:
        return any(in_range(one, condition["range"]) for one in held if not isinstance(one, bool | str))
    match = condition["match"]
    if "text" in match:
        said = set[str]().union(*(words(one) for one in held if isinstance(one, str)))
        return words(match["text"]) <= said
    if "except" in match:
        return any(not any(same(one, other) for other in match["except"]) for one in held)
    wanted = match["any"] if "any" in match else [match["value"]]
    return any(same(one, other) for one in held for other in wanted)


def in_range(number: float, bounds: dict[str, float]) -> bool:
    """Whether a number is within all bounds."""
    tests: dict[str, Callable[[float], bool]] = {
        "gt": lambda bound: number > bound,
        "gte": lambda bound: number >= bound,
        "lt": lambda bound: number < bound,
        "lte": lambda bound: number <= bound,
    }
    return all(tests[name](bound) for name, bound in bounds.items())


def same(a: Any, b: Any) -> bool:
    """JSON equality of scalars: numbers by value, and true is no number."""
    return (type(a) in (int, float) and type(b) in (int, float) and a == b) or (type(a) is type(b) and a == b)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"shall": []}, "unknown filter member 'shall'; known are must, should, must_not, min_should"),
        ([], "must be an object"),
        ({"must": {}}, "must must be a list"),
        ({"should": "text"}, "should must be a list"),
        ({"must_not": [1]}, r"must_not\[0\] must be an object"),
        (
            {"must": [leaf(1), {"key": "k"}]},
            r"must\[1\] must have exactly key and one of match, range, is_null",
        ),
        ({"must": [{**leaf(1), "range": {}}]}, r"must\[0\] must have exactly"),
        ({"must": [{"key": "k", "like": 1}]}, r"must\[0\] has the unknown member 'like'"),
        (
            {"must": [{"should": [{"key": 1, "match": {"value": 1}}]}]},
            r"must\[0\].should\[0\].key must be a string",
        ),
        ({"must": [leaf(1, key="\ud800")]}, r"must\[0\].key must be a string of valid text"),
        ({"must": [{"key": "k", "match": {}}]}, r"must\[0\].match must have exactly one of value, any"),
        ({"must": [{"key": "k", "match": {"value": 1, "any": []}}]}, "must have exactly one"),
        ({"must": [{"key": "k", "match": {"regex": 1}}]}, r"must\[0\].match has the unknown member 'regex'"),
        ({"must": [{"key": "k", "match": {"any": "text"}}]}, r"match.any must be a list"),
        ({"must": [{"key": "k", "match": {"except": 1}}]}, r"match.except must be a list"),
        ({"must": [{"key": "k", "match": {"text": 1}}]}, r"match.text must be a text"),
        ({"must": [{"key": "k", "match": {"text": " ?! "}}]}, "at least one word"),
        ({"must": [leaf(None)]}, "compares with a string, a number or a boolean"),
        ({"must": [leaf({"a": 1})]}, "compares with a string"),
        ({"must": [leaf([1], [2])]}, "compares with a string"),
        ({"must": [leaf(2**63)]}, "does not fit in 64 bits"),
        ({"must": [leaf(float("nan"))]}, "not finite"),
        ({"must": [leaf("\0")]}, "not valid text"),
        ({"must": [within()]}, r"must\[0\].range must have at least one of gt, gte, lt, lte"),
        ({"must": [within(above=1)]}, "range has the unknown member 'above'"),
        ({"must": [within(gt="1")]}, r"range.gt must be a number"),
        ({"must": [within(lte=True)]}, r"range.lte must be a number"),
        ({"must": [within(lt=float("inf"))]}, "not finite"),
        ({"must": [{"key": "k", "is_null": 1}]}, r"is_null must be true or false"),
        ({"must": [{"key": "k", "is_empty": None}]}, r"is_empty must be true or false"),
        ({"must": [{"has_id": "one"}]}, r"has_id must be a list of strings"),
        ({"must": [{"has_id": [1]}]}, r"has_id must be a list of strings"),
        ({"min_should": []}, "min_should must have exactly the members conditions and min_count"),
        ({"min_should": {"conditions": [leaf(1)], "min_count": 2}}, "min_count must be from 1 to the number"),
        ({"min_should": {"conditions": [leaf(1)], "min_count": True}}, "min_count must be from 1"),
        ({"must": [leaf(1)] * 65}, "at most 64 conditions"),
        ({"must": [{"should": [leaf(1)] * 40}, {"should": [leaf(1)] * 40}]}, "at most 64 conditions"),
        ({"must": [leaf(*range(3000))], "must_not": [leaf(*range(3000))]}, "at most 4096 values"),
        ({"must": [{"has_id": ["i"] * 5000}]}, "at most 4096 values"),
        (json.loads('{"must": [' * 9 + "]}" * 9), "may be nested 8 deep"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_by_name(tree: Any, message: str) -> None:
    with pytest.raises(InvalidFilter, match=message):
        parse(tree)


def test_the_largest_filter_is_answered() -> None:
    strings = [leaf(*(f"{row}-{n}" for n in range(62)), "1", 1) for row in range(64)]
    assert found(*strings) == {"string", "one", "one point zero", "list", "same twice"}
