"""Which documents share a batch."""

import numpy as np
import pytest

from service.grouping import UNREAD, batch_limit, beside, group_of, pauses

PICTURE = np.zeros((2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("parts", "group"),
    [
        (("red",), "text-60"),
        (("r" * 60,), "text-60"),
        (("r" * 60, "x"), "text-125"),
        (("r" * 5000,), "text-long"),
        ((b"encoded",), "image"),
        ((PICTURE,), "image"),
        ((PICTURE, "red"), "mixed"),
    ],
)
def test_a_content_and_its_document_are_of_one_group(parts: tuple[object, ...], group: str) -> None:
    assert group_of(parts) == group


def test_the_longer_the_texts_the_smaller_their_batches() -> None:
    limits = [batch_limit(64)(f"text-{name}") for name in (60, 125, 250, 500, 1000, "long")]
    assert limits == [64, 32, 16, 8, 4, 2]
    assert batch_limit(1)("text-60") == 1
    assert [batch_limit(64, on_cores=True)(group) for group in ("text-60", "text-long", "image")] == [
        32,
        2,
        2,
    ]
    assert batch_limit(32)("match#7") == 4


def test_texts_fill_batches_of_other_texts_and_those_of_like_length_first() -> None:
    assert list(beside("text-60")) == ["text-125", "text-250", "text-500", "text-1000", "text-long"]
    assert list(beside("text-250"))[:2] in (["text-125", "text-500"], ["text-500", "text-125"])
    assert [list(beside(group)) for group in ("image", UNREAD, "mixed", "match#7")] == [[], [], [], []]


def test_batches_with_pictures_pause_and_others_do_not() -> None:
    mixed, picture, words = group_of(("a", b"")), group_of((b"",)), group_of(("a",))
    assert [pauses(group) for group in (mixed, picture, UNREAD, words, "match#7")] == [True] * 3 + [False] * 2
