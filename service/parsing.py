"""Strict JSON, values checked against a model, and values as JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from index.records import is_storable

M = TypeVar("M", bound=BaseModel)


class InvalidJson(ValueError):
    """The body is not JSON."""


class InvalidBody(ValueError):
    """The body is JSON of the wrong shape. ``errors`` has a pointer and a detail for each finding."""

    def __init__(self, message: str, errors: list[dict[str, str]], param: str | None) -> None:
        super().__init__(message)
        self.errors = errors
        self.param = param

    @staticmethod
    def of(findings: list[dict[str, str]]) -> "InvalidBody":
        """From findings, the first of which becomes the message."""
        first = findings[0]
        return InvalidBody(f"{first['pointer']}: {first['detail']}", findings, first["pointer"])


def parse_json(data: bytes | bytearray | str) -> Any:
    """JSON in UTF-8, without NaN or text that could not be stored. Raises InvalidJson, InvalidBody."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"The body is not valid JSON: {error}") from error
    # Only an escape can smuggle in half a surrogate pair or a NUL; one character is looked for much faster.
    if "\\" in text and "\\u" in text:
        _check_strings(value)
    return value


def validated(model: type[M], value: Any, *, strict: bool = True) -> M:
    """``value`` as a model. Raises InvalidBody.

    JSON has types of its own: "5" is no number there. What comes from a form is text, and not ``strict``.
    """
    try:
        return model.model_validate(value, strict=strict)
    except ValidationError as error:
        findings = [
            {"pointer": pointer(entry["loc"]), "detail": str(entry["msg"])}
            for entry in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidBody.of(findings) from error


def json_of(value: Any) -> bytes:
    """Plain values, models and contiguous NumPy arrays as JSON, in as few digits as a number's type needs."""
    return orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def pointer(location: Sequence[int | str]) -> str:
    """A JSON pointer from pydantic's location, without the tags that tell the members of a union apart."""
    return "/" + "/".join(str(part) for part in location if not str(part).startswith("<"))


def _check_strings(value: Any) -> None:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and not is_storable(value):
            raise InvalidBody.of(
                [{"pointer": "/", "detail": "a string holds a NUL or half a surrogate pair"}]
            )


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} does not fit")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)  # making one takes a while
