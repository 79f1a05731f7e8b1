"""Terms: what an item can be found by, as byte strings whose order is that of the numbers among them.

A term is a metadata key, a NUL (which no key holds), a kind, and a value. Equality is equality of terms, and
a range of numbers is a range of terms.
"""

import hashlib
import re
import struct
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

Scalar = str | int | float | bool

_BOOLEAN, _NUMBER, _STRING, _LONG_STRING, _WORD = b"b", b"n", b"s", b"h", b"w"
_NULL, _FILLED, _HOLDING = b"0", b"f", b"c"
# Of the item itself, with the empty key, where the kinds above never stand.
_ID, _MODALITY, _TEXT_WORD = b"i", b"m", b"t"
_MAX_BYTES = 128  # of a key or a value that stands in a term as it is; a longer one's digest does
_TEXT_CHARS = 20_000  # of an item's text whose words it can be found by
_DIGEST_BYTES = 16  # 2^64 texts until two share one by chance
_WITHOUT_SPACES = r"\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Chinese and Japanese
_WORD_PATTERN = re.compile(rf"[{_WITHOUT_SPACES}]|[^\W{_WITHOUT_SPACES}]+")


def terms_of(item_id: str, modality: str, metadata: Mapping[str, Any], text: str | None = None) -> set[bytes]:
    """Every term that an item has."""
    terms = {has_id(item_id), of_modality(modality)}
    if text is not None:
        terms.update([text_word(one) for one in words(text[:_TEXT_CHARS])])
    for key, value in metadata.items():
        start = _start(key)
        if value is None:
            terms.add(start + _NULL)
        elif not isinstance(value, list | tuple):
            terms.add(start + _FILLED)
            terms |= _of_scalars(start, (value,))
        elif value:
            terms.add(start + _FILLED)
            terms |= _of_scalars(start, value)
    return terms


def equals(key: str, value: Scalar) -> bytes:
    """The term of items whose member ``key`` is this value or a list holding it; 1 is 1.0, and not true."""
    return _start(key) + _scalar(value)


def numbers(key: str) -> tuple[bytes, bytes]:
    """The first term of numbers of a key, and the end of their terms."""
    start = _start(key) + _NUMBER
    return start, start + b"\xff" * 11


def after(term: bytes) -> bytes:
    """The end of a range that a number's term is the last of: what sorts next."""
    return term + b"\0"


def word(key: str, text: str) -> bytes:
    """The term of items whose member ``key`` has this word, as ``words`` gives it."""
    return _start(key) + _WORD + _short(text)


def text_word(word: str) -> bytes:
    """The term of items whose own text has this word, as ``words`` gives it."""
    return _start("") + _TEXT_WORD + _short(word)


def words(text: str) -> set[str]:
    """The words of a text, without regard to case; where a script has no spaces each character is one."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return set(_WORD_PATTERN.findall(plain.casefold()))


def values(key: str) -> list[tuple[bytes, bytes]]:
    """The first and the end of each range of terms that stand for values of a key, ascending."""
    start = _start(key)
    kinds = sorted((_BOOLEAN, _NUMBER, _STRING, _LONG_STRING))
    return [(start + kind, start + bytes([kind[0] + 1])) for kind in kinds]


def value_of(key: str, term: bytes) -> Scalar | None:
    """The value of a key that one of its terms stands for; None for a long string, which left a digest.

    A number that is whole comes back as an int: 1 and 1.0 have one term.
    """
    said = term[len(_start(key)) :]
    kind, value = said[:1], said[1:]
    if kind == _BOOLEAN:
        return value == b"1"
    if kind == _STRING:
        return value.decode()
    return _number(value) if kind == _NUMBER else None


def is_null(key: str) -> bytes:
    """The term of items whose member ``key`` is null."""
    return _start(key) + _NULL


def is_filled(key: str) -> bytes:
    """The term of items that have a member ``key`` which is neither null nor an empty list."""
    return _start(key) + _FILLED


def holds(key: str, count: int) -> bytes:
    """The term of items whose member ``key`` holds at least so many different scalars."""
    return _start(key) + _HOLDING + count.to_bytes(4)


def has_id(item_id: str) -> bytes:
    """The term of one item."""
    return _start("") + _ID + _short(item_id)


def of_modality(modality: str) -> bytes:
    """The term of items of one modality."""
    return _start("") + _MODALITY + modality.encode()


def _of_scalars(start: bytes, values: Iterable[Any]) -> set[bytes]:
    scalars = [value for value in values if isinstance(value, Scalar)]
    terms = {start + _scalar(value) for value in scalars}
    terms.update([start + _HOLDING + count.to_bytes(4) for count in range(1, len(terms) + 1)])
    for value in scalars:
        if isinstance(value, str):
            terms.update([start + _WORD + _short(one) for one in words(value)])
    return terms


def _scalar(value: Scalar) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return _STRING + text if len(text) <= _MAX_BYTES else _LONG_STRING + _digest(text)
    if isinstance(value, bool):
        return _BOOLEAN + (b"1" if value else b"0")
    return _NUMBER + _ordered(value)


def _start(key: str) -> bytes:
    return _short(key) + b"\0"


def _short(text: str) -> bytes:
    """The text, or its start and a digest; two NULs tell the second from all texts, and no kind is NUL."""
    whole = text.encode()
    return whole if len(whole) <= _MAX_BYTES else whole[:32] + b"\0\0" + _digest(whole)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest()


def _ordered(number: int | float) -> bytes:
    """A number as 10 bytes in the order of numbers: its nearest double, and what an integer has beyond."""
    nearest = float(number) + 0.0  # so that -0.0 is 0.0
    (bits,) = struct.unpack(">Q", struct.pack(">d", nearest))
    bits ^= 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else 1 << 63
    beyond = number - int(nearest) if isinstance(number, int) else 0  # at most 512 either way in 64 bits
    return struct.pack(">QH", bits, beyond + 2**15)


def _number(ordered: bytes) -> int | float:
    bits, beyond = struct.unpack(">QH", ordered)
    bits ^= 1 << 63 if bits >> 63 else 0xFFFF_FFFF_FFFF_FFFF
    nearest: float = struct.unpack(">d", struct.pack(">Q", bits))[0]
    return int(nearest) + beyond - 2**15 if nearest.is_integer() and abs(nearest) <= 2**63 else nearest
