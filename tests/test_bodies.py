"""Request bodies: strict JSON, and findings that point at what is wrong."""

import pytest

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
