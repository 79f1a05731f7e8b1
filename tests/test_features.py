"""What is computed once of every picture: in order, resumable, and with or without a stem."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from models.training.features import (
    MEAN,
    PIXELS_GRID,
    PIXELS_SIDE,
    STD,
    Drawn,
    FeatureSet,
    as_squares,
    compute,
)

COUNT = 150


def draw(broken: int | None, i: int) -> Drawn:
    """Two noisy pictures of an entry; one number may be broken."""
    if i == broken:
        raise OSError("no such picture")
    noise = np.random.default_rng(i).integers(0, 256, (2, 80, 80, 3), np.uint8)
    return Drawn([*noise], {"number": i})


def test_a_square_holds_its_own_pixels() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (PIXELS_SIDE, PIXELS_SIDE, 3), np.uint8)
    squares, pooled = as_squares()([picture])
    side = PIXELS_SIDE // PIXELS_GRID
    assert squares.shape == (1, PIXELS_GRID**2, 3 * side**2)
    assert len(pooled) == 1
    found = squares[0, PIXELS_GRID + 2].reshape(3, side, side).transpose(1, 2, 0) * STD + MEAN
    assert found == pytest.approx(picture[side : 2 * side, 2 * side : 3 * side].astype(np.float32), abs=0.01)


def test_a_set_that_was_cut_is_completed_as_if_it_had_not_been(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such picture"):
        # One worker: of two, the one still at work would be stopped in the middle of its chunk.
        compute({tmp_path / "cut": (COUNT, partial(draw, 140))}, as_squares, workers=1)
    kept = {path.name for path in (tmp_path / "cut" / "chunks").iterdir()}
    assert {"0.npz", "64.npz"} <= kept
    with pytest.raises(FileNotFoundError):
        FeatureSet(tmp_path / "cut")
    # What was done is not drawn again: it would fail now.
    compute({tmp_path / "cut": (COUNT, partial(draw, 0))}, as_squares)
    compute({tmp_path / "whole": (COUNT, partial(draw, None))}, as_squares)
    cut, whole = FeatureSet(tmp_path / "cut"), FeatureSet(tmp_path / "whole")
    assert np.array_equal(cut.patches, whole.patches)
    assert cut.notes == whole.notes == [{"number": i} for i in range(COUNT)]
    assert len(whole.patches) == 2 * COUNT


def test_several_sets_are_filled_together_and_those_that_are_whole_are_left_alone(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    compute({few: (3, partial(draw, None))}, as_squares)
    # Entry 1 of the whole set would fail.
    compute({few: (3, partial(draw, 1)), many: (70, partial(draw, None))}, as_squares)
    assert [len(FeatureSet(folder).notes) for folder in (few, many)] == [3, 70]
    assert np.array_equal(FeatureSet(few).patches, FeatureSet(many).patches[:6])
