"""Documents as the shared trunk reads them: one sequence of words and picture tokens, parts told by slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

SLOTS = 8  # of one side; later parts share the last
JUDGE = 2 * SLOTS  # the slot of the word that judges a pair
PADDING = -1  # the slot of what is masked away everywhere

Integers = NDArray[np.int64]
Part = Sequence[int] | int  # a text's word pieces without markers, or the number of a picture
Parts = Sequence[Part]  # a document, in reading order


@dataclass(frozen=True)
class Layout:
    """What the sequences of one encoder have in common.

    A sequence has at most max_tokens words, markers and the judge included. Words are padded to the
    narrowest of widths that holds the longest row, or not beyond that row where none does. Raises ValueError
    where a word of each slot would not fit.
    """

    cls: int  # the marker that opens the words
    sep: int  # the marker that closes each text
    max_tokens: int
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens <= 2 * SLOTS + 2:
            raise ValueError(f"max_tokens is {self.max_tokens}; two sides need more than {2 * SLOTS + 2}")


@dataclass(frozen=True, eq=False)
class Sequences:
    """A batch of n documents, or of n pairs of documents, padded to common lengths.

    A slot says which part a token belongs to and on which side the part stands: 0 to 7 for the parts of a
    document or of a pair's first side, 8 to 15 for those of the second, JUDGE for the [CLS] that ends a
    pair, PADDING for no part. The words of a side are [CLS], then the pieces and a [SEP] of each slot that
    has text, or the two markers alone; they are counted from 0, so that a side reads as it does by itself.
    """

    input_ids: Integers  # (n, L), 0 where padded
    word_positions: Integers  # (n, L), 0 where padded
    word_slots: Integers  # (n, L)
    pictures: Integers  # (n, K), the number of each picture as its part gave it, 0 where there is none
    picture_slots: Integers  # (n, K)

    @classmethod
    def of(cls, documents: Sequence[Parts], layout: Layout) -> Self:
        """The sequences of documents that are embedded."""
        return cls._padded([_Row((document,), layout) for document in documents], layout)

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[Parts, Parts]], layout: Layout) -> Self:
        """The sequences of pairs (query, candidate) that are matched; both share max_tokens."""
        return cls._padded([_Row(pair, layout) for pair in pairs], layout)

    def token_slots(self, picture_tokens: int) -> Integers:
        """The slot (n, P) of every picture token, of which each of the K pictures has picture_tokens."""
        return np.repeat(self.picture_slots, picture_tokens, axis=1)

    def padding(self, picture_tokens: int) -> float:
        """The share of all tokens, words and those of pictures, that belong to no part."""
        words, pictures = self.word_slots, self.picture_slots
        if len(words) == 1 and words[0, -1] != PADDING:
            return 0.0  # as of most queries, for which counting would take microseconds
        none = np.count_nonzero(words == PADDING) + picture_tokens * np.count_nonzero(pictures == PADDING)
        return float(none / (words.size + picture_tokens * pictures.size))

    @classmethod
    def _padded(cls, rows: "Sequence[_Row]", layout: Layout) -> Self:
        longest = max(len(row.ids) for row in rows)
        fitting = (width for width in layout.widths if width >= longest)
        width = min(next(fitting, longest), layout.max_tokens)
        count = max(len(row.pictures) for row in rows)
        return cls(
            _matrix([row.ids for row in rows], width, 0),
            _matrix([row.positions for row in rows], width, 0),
            _matrix([row.slots for row in rows], width, PADDING),
            _matrix([row.pictures for row in rows], count, 0),
            _matrix([row.picture_slots for row in rows], count, PADDING),
        )


class _Row:
    """One sequence, before padding."""

    def __init__(self, sides: Sequence[Parts], layout: Layout) -> None:
        self.pictures: list[int] = []
        self.picture_slots: list[int] = []
        said: list[dict[int, list[int]]] = []
        for side, parts in enumerate(sides):
            texts: dict[int, list[int]] = {}
            for number, part in enumerate(parts):
                slot = SLOTS * side + min(number, SLOTS - 1)
                if isinstance(part, int):
                    self.pictures.append(part)
                    self.picture_slots.append(slot)
                else:
                    texts.setdefault(slot, []).extend(part)
            said.append(texts or {SLOTS * side: []})
        judges = int(len(sides) > 1)
        room = layout.max_tokens - len(sides) - judges
        lengths = iter(_shares([len(words) + 1 for texts in said for words in texts.values()], room))
        self.ids: list[int] = []
        self.slots: list[int] = []
        self.positions: list[int] = []
        for side, texts in enumerate(said):
            ids, slots = [layout.cls], [SLOTS * side]
            for slot, words in texts.items():
                length = next(lengths)
                ids += [*words[: length - 1], layout.sep]
                slots += [slot] * length
            self.ids += ids
            self.slots += slots
            self.positions += range(len(ids))
        self.ids += [layout.cls] * judges
        self.slots += [JUDGE] * judges
        self.positions += [0] * judges


def _shares(lengths: list[int], room: int) -> list[int]:
    """Lengths that add up to at most room: the longest are cut first, to one common length."""
    if sum(lengths) <= room:
        return lengths
    shares, waiting = list(lengths), len(lengths)
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        shares[i] = min(lengths[i], room // waiting)
        room -= shares[i]
        waiting -= 1
    return shares


def _matrix(rows: Sequence[Sequence[int]], width: int, padding: int) -> Integers:
    matrix = np.full((len(rows), width), padding, np.int64)
    for filled, row in zip(matrix, rows, strict=True):
        filled[: len(row)] = row
    return matrix
