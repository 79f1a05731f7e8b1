"""Request bodies: strict JSON, and lines within their limit."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from service.bodies import BodyTooLarge, lines
from service.parsing import InvalidBody, InvalidJson, parse_json, validated
from service.schemas import ImageRef
from service.schemas_search import SearchRequest


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1,]", b"\xff\xfe", b'{"a":NaN}', b"Infinity", b"1e999", b"[" * 100_000, b"9" * 5000],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_json(body)


@pytest.mark.parametrize("body", [b'"\\ud800"', b'{"\\udfff": 1}', b'["a\\u0000b"]'])
def test_text_that_could_not_be_stored_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBody):
        parse_json(body)


@pytest.mark.parametrize(
    "body", [b'"\xed\xa0\x80"', '"\0"'.encode("utf-16"), '"a"'.encode("utf-16"), b"\xef\xbb\xbf1"]
)
def test_json_is_utf8_and_nothing_else(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_json(body)


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert parse_json(b'"C:\\\\u0000"') == "C:\\u0000"


def test_ordinary_escapes_are_fine() -> None:
    assert parse_json(b'"\\u00e9 \\ud83d\\ude00 \\n"') == "é 😀 \n"


def test_a_finding_has_a_json_pointer() -> None:
    with pytest.raises(InvalidBody) as refused:
        validated(SearchRequest, {"query": "x", "limit": 0, "colour": "red"})
    assert {finding["pointer"] for finding in refused.value.errors} == {"/limit", "/colour"}


@pytest.mark.parametrize("reference", [{}, {"base64": "AA", "upload": "f"}, {"path": "/etc/passwd"}])
def test_a_picture_is_named_in_exactly_one_way(reference: dict[str, str]) -> None:
    with pytest.raises(InvalidBody):
        validated(ImageRef, reference)


class Stream:
    """Stands for a request whose body comes in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    async def stream(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def read_lines(limit: int, *pieces: bytes) -> list[bytes]:
    async def run() -> list[bytes]:
        return [bytes(line) async for line in lines(cast(Any, Stream(*pieces)), limit)]

    return asyncio.run(run())


def test_lines_are_put_together_from_pieces() -> None:
    assert read_lines(100, b"on", b"e\ntwo\n", b"\nthr", b"ee") == [b"one", b"two", b"", b"three"]


@pytest.mark.parametrize("pieces", [(b"x" * 50, b"y" * 51), (b"x" * 101 + b"\n",)])
def test_a_line_over_the_limit_is_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(BodyTooLarge):
        read_lines(100, b"fine\n", *pieces)
