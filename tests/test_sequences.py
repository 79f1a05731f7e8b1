import numpy as np
import pytest

from models.sequences import JUDGE, PADDING, SLOTS, Layout, Part, Sequences

CLS, SEP = 101, 102
LAYOUT = Layout(CLS, SEP, max_tokens=20)
WORDS = [7, 8, 9]


def rows(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[list[int]]:
    return [[int(value) for value in row] for row in array]


def test_a_text_is_its_words_between_two_markers() -> None:
    found = Sequences.of([[WORDS]], LAYOUT)
    assert rows(found.input_ids) == [[CLS, 7, 8, 9, SEP]]
    assert rows(found.word_positions) == [[0, 1, 2, 3, 4]]
    assert rows(found.word_slots) == [[0] * 5]
    assert found.pictures.shape == found.picture_slots.shape == (1, 0)


def test_a_picture_alone_has_the_two_markers_for_words() -> None:
    found = Sequences.of([[3]], LAYOUT)
    assert (rows(found.input_ids), rows(found.word_slots)) == ([[CLS, SEP]], [[0, 0]])
    assert (rows(found.pictures), rows(found.picture_slots)) == ([[3]], [[0]])


def test_the_slots_of_a_document_carry_the_order_of_its_parts() -> None:
    found = Sequences.of([[0, [7], 1, [8, 9]]], LAYOUT)
    assert rows(found.input_ids) == [[CLS, 7, SEP, 8, 9, SEP]]
    assert rows(found.word_slots) == [[0, 1, 1, 3, 3, 3]]
    assert (rows(found.pictures), rows(found.picture_slots)) == ([[0, 1]], [[0, 2]])


def test_the_candidate_of_a_pair_stands_in_the_other_eight_slots() -> None:
    found = Sequences.of_pairs([([[7]], [0, [8]]), ([0], [1])], LAYOUT)
    assert rows(found.input_ids) == [[CLS, 7, SEP, CLS, 8, SEP, CLS], [CLS, SEP, CLS, SEP, CLS, 0, 0]]
    assert rows(found.word_slots) == [[0, 0, 0, 8, 9, 9, JUDGE], [0, 0, 8, 8, JUDGE, PADDING, PADDING]]
    assert rows(found.pictures) == [[0, 0], [0, 1]]
    assert rows(found.picture_slots) == [[8, PADDING], [0, 8]]


def test_a_side_of_a_pair_is_laid_out_as_it_is_alone() -> None:
    documents: list[list[Part]] = [[WORDS], [0], [[7], 0, [8, 9]], [0, [7]]]
    for query in documents:
        for candidate in documents:
            both = Sequences.of_pairs([(query, candidate)], LAYOUT)
            for side, document in enumerate((query, candidate)):
                alone = Sequences.of([document], LAYOUT)
                ours = both.word_slots // SLOTS == side
                assert both.input_ids[ours].tolist() == alone.input_ids[0].tolist()
                assert both.word_positions[ours].tolist() == alone.word_positions[0].tolist()
                assert (both.word_slots[ours] - SLOTS * side).tolist() == alone.word_slots[0].tolist()


def test_every_token_of_a_picture_has_its_pictures_slot() -> None:
    found = Sequences.of([[0, 1], [0]], LAYOUT)
    assert rows(found.token_slots(3)) == [[0, 0, 0, 1, 1, 1], [0, 0, 0, PADDING, PADDING, PADDING]]
    assert Sequences.of([[WORDS]], LAYOUT).token_slots(3).shape == (1, 0)


def test_parts_beyond_the_eighth_share_the_last_slot_and_its_texts_one_marker() -> None:
    found = Sequences.of([[*([part] for part in range(10, 19)), 0]], Layout(CLS, SEP, max_tokens=40))
    assert rows(found.input_ids)[0][-3:] == [17, 18, SEP]
    assert rows(found.word_slots)[0][-3:] == [7, 7, 7]
    assert rows(found.picture_slots) == [[7]]


def test_words_are_padded_to_the_narrowest_width_that_holds_them() -> None:
    layout = Layout(CLS, SEP, max_tokens=20, widths=(2, 4, 16, 32))
    assert Sequences.of([[0]], layout).input_ids.shape == (1, 2)
    assert Sequences.of([[[7]], [[7, 8, 9]]], layout).input_ids.shape == (2, 16)
    assert Sequences.of([[[7] * 40]], layout).input_ids.shape == (1, 20)


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((30,), (18,)),
        ((3, 30), (3, 14)),
        ((30, 3), (14, 3)),
        ((30, 30), (8, 9)),
        ((2, 30, 4), (2, 10, 4)),
        ((9, 8), (9, 8)),
    ],
)
def test_of_texts_that_do_not_fit_the_longest_are_cut_first(
    lengths: tuple[int, ...], kept: tuple[int, ...]
) -> None:
    parts: list[Part] = [list(range(1, length + 1)) for length in lengths]
    words = rows(Sequences.of([parts], LAYOUT).input_ids)[0]
    assert len(words) <= LAYOUT.max_tokens
    expected = [CLS]
    for length in kept:
        expected += [*range(1, length + 1), SEP]
    assert words == expected


def test_a_pair_of_crowded_documents_still_fits_with_something_of_each_slot() -> None:
    crowded: list[Part] = [[5] * 9 for _ in range(64)]
    found = Sequences.of_pairs([(crowded, crowded)], LAYOUT)
    assert found.input_ids.shape == (1, 20)
    assert set(rows(found.word_slots)[0]) == {*range(2 * SLOTS), JUDGE}


def test_fewer_words_than_markers_are_refused() -> None:
    with pytest.raises(ValueError, match="18"):
        Layout(CLS, SEP, max_tokens=18)


def test_padding_is_what_belongs_to_no_part() -> None:
    assert Sequences.of([[WORDS]], LAYOUT).padding(4) == 0.0
    assert Sequences.of([[WORDS], [[7]]], LAYOUT).padding(4) == 2 / 10  # of twice five words
    # Twice three words, and two pictures of four tokens each: a word and a picture are not there.
    assert Sequences.of([[0, [7]], [[]]], LAYOUT).padding(4) == (1 + 4) / (6 + 8)
    assert Sequences.of_pairs([([[7]], [0, [8]]), ([0], [1])], LAYOUT).padding(4) == (2 + 4) / (14 + 16)
