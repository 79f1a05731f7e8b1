"""Views of one drawing: plain ones are exact, varied ones differ but never mirror or recolour it unasked."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.data.colours import profile
from models.data.views import MARGIN, plain, view
from tests.packages import disc


def two_sided() -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGBA", (120, 80), (214, 30, 30, 255))
    picture.paste((30, 60, 214, 255), (60, 0, 120, 80))
    return picture


def middle(mask: NDArray[np.bool_]) -> float:
    return float(np.argwhere(mask)[:, 1].mean())


@pytest.mark.parametrize("shape", [(120, 80), (40, 200), (1, 90), (320, 320)])
def test_a_plain_view_is_centred_on_white_with_a_margin(shape: tuple[int, int]) -> None:
    pixels = plain(Image.new("RGBA", shape, (10, 20, 30, 255)), 100)
    assert pixels.shape == (100, 100, 3)
    inked = np.argwhere((pixels < 200).all(-1))
    top, left = inked.min(0)
    bottom, right = 99 - inked.max(0)
    assert abs(top - bottom) <= 1
    assert abs(left - right) <= 1
    assert min(top, left) == pytest.approx(100 * MARGIN, abs=1)
    assert (pixels[0] == 255).all()


def test_a_plain_view_shows_white_through_what_is_transparent() -> None:
    pixels = plain(disc((214, 30, 30)), 100)
    assert (pixels[8, 8] == 255).all()
    assert tuple(pixels[50, 50]) == (214, 30, 30)


@pytest.mark.parametrize("strong", [False, True])
def test_views_repeat_with_their_seed_and_differ_without(strong: bool) -> None:
    views = [view(two_sided(), np.random.default_rng(seed), 96, strong, False) for seed in range(24)]
    for seed, pixels in enumerate(views):
        assert pixels.shape == (96, 96, 3)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, view(two_sided(), np.random.default_rng(seed), 96, strong, False))
    assert len({pixels.tobytes() for pixels in views}) == len(views)


def test_about_half_of_the_views_are_on_white() -> None:
    corners = []
    for seed in range(200):
        pixels = view(Image.new("RGBA", (40, 40)), np.random.default_rng(seed), 32)
        red, green, blue = (int(channel) for channel in pixels[0, 0])
        corners.append(max(red, green, blue) - min(red, green, blue) <= 1 and (pixels == pixels[0, 0]).all())
    assert 0.4 < np.mean(corners) < 0.6


def test_views_that_keep_colours_never_mirror_and_never_change_the_hue() -> None:
    for seed in range(60):
        pixels = view(two_sided(), np.random.default_rng(seed), 128, strong=True).astype(int)
        red = pixels[..., 0] - np.maximum(pixels[..., 1], pixels[..., 2]) > 90
        blue = pixels[..., 2] - np.maximum(pixels[..., 0], pixels[..., 1]) > 90
        if red.sum() > 100 and blue.sum() > 100 and seed_is_on_plain_ground(seed):
            assert middle(red) < middle(blue)


def seed_is_on_plain_ground(seed: int) -> bool:
    """Whether nothing of the background of this seed's view is red or blue itself."""
    ground = view(Image.new("RGBA", (120, 80)), np.random.default_rng(seed), 128, strong=True).astype(int)
    return bool((np.ptp(ground, axis=-1) < 60).all())


def test_hues_move_only_where_colours_need_not_be_kept() -> None:
    def seen(keep_colours: bool) -> set[str | None]:
        colours = set()
        for seed in range(80):
            pixels = view(disc((214, 30, 30)), np.random.default_rng(seed), 96, True, keep_colours)
            centre = Image.fromarray(pixels).convert("RGBA").crop((40, 40, 56, 56))
            colours.add(profile(centre).colour)
        return colours

    assert "red" in seen(True)
    assert len(seen(False) & {"green", "blue", "purple"}) >= 1
