"""JSON Schema beyond types: rules about several members, in words that clients can check."""

from pydantic import BeforeValidator
from pydantic.config import JsonDict


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


whole = BeforeValidator(_whole)  # for an int: to JSON 5.0 is one too


def given(name: str) -> JsonDict:
    """JSON Schema of an object that has a member which is not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def one_of(*names: str) -> JsonDict:
    """JSON Schema of an object that has exactly one of these members; null counts as absent."""
    return {"oneOf": [given(name) for name in names]}


def any_of(*names: str) -> JsonDict:
    """JSON Schema of an object that has one or more of these members; null counts as absent."""
    return {"anyOf": [given(name) for name in names]}
