"""Scenes do what their captions say: counts, colours and sides are read off the pixels."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.data.captions import NUMBERS, RELATED, article, captions, needs_colour, phrase
from models.data.colours import TARGETS, profile, recoloured
from models.data.edits import KINDS, edited
from models.data.plans import Group, Plan, Relation
from models.data.records import RecordError
from models.data.scenery import PAPERS, PHRASES, Backdrop
from models.data.scenes import Library, NothingFits, compose, draw, placed, planned, recast
from tests.packages import disc
from tests.things import NOUNS, blobs, library

WHITE = Backdrop("white", 0)
SIZE = 128


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return library(tmp_path_factory.mktemp("things"))


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def group(things: Library, noun: str, count: int = 1, paint: str | None = None) -> Group:
    return Group(things.by_noun[noun][0], count, paint)


def of_colour(pixels: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    """Where a picture on white has a colour, by the nearest of the colours that are told apart here."""
    known = {"red": (216, 33, 33), "blue": (43, 101, 217), "white": (255, 255, 255)}
    far = [np.abs(pixels.astype(int) - np.array(rgb)).sum(-1) for rgb in known.values()]
    found: NDArray[np.bool_] = np.argmin(far, axis=0) == list(known).index(colour)
    return found


def test_a_scene_is_a_pure_function_of_its_seed_and_number(things: Library) -> None:
    scenes = [compose(things, 7, number, SIZE) for number in range(6)]
    again = [compose(things, 7, number, SIZE) for number in reversed(range(6))][::-1]
    for one, other in zip(scenes, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.captions == other.captions
        assert one.plan == other.plan
    assert len({scene.pixels.tobytes() for scene in scenes}) == 6
    assert compose(things, 8, 0, SIZE).captions != scenes[0].captions
    assert scenes[0].pixels.shape == (SIZE, SIZE, 3)
    assert scenes[0].pixels.dtype == np.uint8


@pytest.mark.parametrize("count", NUMBERS)
def test_as_many_things_are_drawn_as_the_caption_says(things: Library, count: int) -> None:
    for seed in range(8):
        plan = placed(Plan(WHITE, (group(things, "apple", count, "red"),)), random(seed))
        assert blobs(of_colour(draw(things, plan, SIZE), "red")) == count
        expected = "a red apple" if count == 1 else f"{NUMBERS[count]} red apples"
        assert captions(plan, random(seed))[0] == expected


@pytest.mark.parametrize("relation", list(RELATED))
def test_left_is_left_and_above_is_above_in_every_caption(things: Library, relation: Relation) -> None:
    axis = 1 if relation == "left" else 0
    for seed in range(12):
        groups = (group(things, "apple", 1, "red"), group(things, "cup", 1, "blue"))
        plan = placed(Plan(WHITE, groups, relation), random(seed))
        pixels = draw(things, plan, SIZE)
        red, blue = (np.argwhere(of_colour(pixels, colour)).mean(0)[axis] for colour in ("red", "blue"))
        assert red < blue
        for caption in captions(plan, random(seed)):
            said = re.search(
                r"(apple|cup)s? (?:to the |at the |on the |is )?(left|right|above|below|over|under|top|bot)",
                caption,
            )
            if said:
                first = {"left": True, "above": True, "over": True, "top": True}.get(said[2], False)
                assert (said[1] == "apple") == first, caption


def test_every_target_colour_is_the_colour_that_is_seen() -> None:
    picture = disc((214, 30, 30))
    hue = profile(picture).hue
    assert hue is not None
    for colour in TARGETS:
        assert profile(recoloured(picture, hue, colour)).colour == colour


@pytest.mark.parametrize("rgb", [(214, 30, 30), (40, 90, 200), (250, 215, 60), (120, 60, 20), (90, 200, 120)])
def test_a_drawing_of_any_hue_can_be_painted(rgb: tuple[int, int, int]) -> None:
    picture = disc(rgb)
    hue = profile(picture).hue
    assert hue is not None
    assert profile(recoloured(picture, hue, "purple")).colour == "purple"


def test_colours_between_two_words_have_no_name() -> None:
    assert profile(disc((230, 90, 30))).colour is None  # red or orange
    assert profile(disc((96, 132, 128))).colour is None
    half = disc((214, 30, 30))
    half.paste((40, 90, 200, 255), (48, 0, 96, 96), half.crop((48, 0, 96, 96)))
    assert profile(half).colour is None
    assert profile(half).hue is None
    assert profile(Image.new("RGBA", (8, 8))).hue is None


def test_painting_keeps_shape_and_other_colours() -> None:
    picture = disc((214, 30, 30))
    picture.paste((20, 20, 20, 255), (40, 40, 56, 56))
    hue = profile(picture).hue
    assert hue is not None
    painted = recoloured(picture, hue, "green")
    assert painted.getchannel("A").tobytes() == picture.getchannel("A").tobytes()
    assert painted.getpixel((48, 48)) == (20, 20, 20, 255)


@pytest.mark.parametrize("name", [*PHRASES, *PAPERS])
def test_backdrops_repeat_themselves_and_fill_the_picture(name: str) -> None:
    drawn = Backdrop(name, 5).draw(96)
    assert drawn.shape == (96, 96, 3)
    assert np.array_equal(drawn, Backdrop(name, 5).draw(96))
    if name in PAPERS:
        paper = Image.fromarray(drawn).convert("RGBA")
        assert profile(paper).colour in (name, None)


def test_what_stands_on_the_ground_stands_below_the_horizon(things: Library) -> None:
    for seed in range(20):
        backdrop = Backdrop("grass", seed)
        plan = placed(Plan(backdrop, (group(things, "apple", 1 + seed % 5),)), random(seed))
        for place in plan.groups[0].places:
            assert place.grounded
            assert place.bottom > backdrop.horizon


def test_things_do_not_overlap(things: Library) -> None:
    for seed in range(60):
        places = [place for group in planned(things, random(seed)).groups for place in group.places]
        for number, one in enumerate(places):
            for other in places[:number]:
                apart = (
                    one.right <= other.left + 1e-9
                    or other.right <= one.left + 1e-9
                    or one.bottom <= other.top + 1e-9
                    or other.bottom <= one.top + 1e-9
                )
                assert apart


def test_plans_are_of_every_kind_and_nothing_vanishes_in_its_background(things: Library) -> None:
    plans = [planned(things, random(seed)) for seed in range(300)]
    assert {len(plan.groups) for plan in plans} == {1, 2, 3, 4}
    assert {plan.relation for plan in plans} == {None, "left", "above"}
    assert {group.count for plan in plans for group in plan.groups} == {1, 2, 3, 4, 5}
    for plan in plans:
        assert plan.backdrop.name not in {group.colour for group in plan.groups}
        nouns = [group.thing.noun for group in plan.groups]
        assert len(set(nouns)) == len(nouns) or len({group.colour for group in plan.groups}) == 2
        if plan.backdrop.horizon:
            assert plan.relation != "above"


def test_captions_name_the_colours_where_nothing_else_tells_the_things_apart(things: Library) -> None:
    plan = Plan(WHITE, (group(things, "cup", 1, "red"), group(things, "cup", 1, "blue")), "left")
    assert needs_colour(plan)
    for seed in range(20):
        for caption in captions(plan, random(seed)):
            assert "red cup" in caption
            assert "blue cup" in caption


def test_the_fullest_caption_says_the_place_and_no_caption_is_said_twice(things: Library) -> None:
    plan = Plan(Backdrop("snow", 0), (group(things, "dog", 2),))
    for seed in range(20):
        said = captions(plan, random(seed))
        assert "snow" in said[0]
        assert len(set(said)) == len(said)


def test_a_synonym_takes_the_place_of_a_single_noun_only(things: Library) -> None:
    dog = replace(things.by_noun["dog"][0], synonyms=("hound",), colour=None, hue=None)
    said = {
        caption
        for seed in range(60)
        for caption in captions(Plan(WHITE, (Group(dog, 1, None),)), random(seed))
    }
    assert {"a dog", "a hound"} <= said
    said = {
        caption
        for seed in range(60)
        for caption in captions(Plan(WHITE, (Group(dog, 3, None),)), random(seed))
    }
    assert not [caption for caption in said if "hound" in caption]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("apple", "an"),
        ("unicorn", "a"),
        ("umbrella", "an"),
        ("hourglass", "an"),
        ("horse", "a"),
        ("ewe", "a"),
    ],
)
def test_articles_go_by_the_sound(words: str, expected: str) -> None:
    assert article(words) == expected


def test_what_cannot_be_counted_is_some(things: Library) -> None:
    bread = Group(replace(things.by_noun["dog"][0], noun="bread", countable=False, colour=None), 1, None)
    assert phrase(bread) == "some bread"


CHANGES: dict[str, Callable[[Plan, Plan], bool]] = {
    "colour": lambda old, new: [g.paint for g in old.groups] != [g.paint for g in new.groups],
    "count": lambda old, new: old.groups[0].count != new.groups[0].count,
    "place": lambda old, new: old.backdrop.name != new.backdrop.name,
    "add": lambda old, new: len(new.groups) == len(old.groups) + 1,
    "remove": lambda old, new: len(new.groups) == len(old.groups) - 1,
    "swap": lambda old, new: [g.thing for g in new.groups] == [g.thing for g in old.groups][::-1],
    "replace": lambda old, new: len({g.thing for g in old.groups} - {g.thing for g in new.groups}) == 1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_changes_what_it_says_and_nothing_else(things: Library, kind: str) -> None:
    found = 0
    for seed in range(120):
        rng = random(seed)
        plan = planned(things, rng)
        edit = edited(plan, things, rng, kind)
        if edit is None:
            continue
        found += 1
        assert edit.kind == kind
        assert edit.text
        assert CHANGES[kind](plan, edit.plan)
        if kind in ("colour", "count", "place"):
            for other in {"colour", "count", "place"} - {kind}:
                assert not CHANGES[other](plan, edit.plan)
    assert found >= 10


def test_some_edit_fits_every_plan(things: Library) -> None:
    kinds = set()
    for seed in range(60):
        rng = random(seed)
        edit = edited(planned(things, rng), things, rng)
        assert edit is not None
        kinds.add(edit.kind)
    assert kinds == set(KINDS)


def test_recasting_keeps_everything_but_one_thing(things: Library) -> None:
    plan = Plan(WHITE, (group(things, "cup", 1, "red"), group(things, "dog", 1, "blue")), "left")
    other = recast(plan, 1, things, random())
    assert other.groups[0].thing == plan.groups[0].thing
    assert other.groups[1].thing.noun not in ("cup", "dog")
    assert (other.groups[1].paint, other.relation, other.backdrop) == ("blue", "left", WHITE)


def test_every_noun_is_as_likely_however_many_drawings_it_has(things: Library) -> None:
    crowd = [replace(things.by_noun["dog"][0], id=f"noto/dog-{number}") for number in range(50)]
    full = Library.of(things.folder, [*things.things, *crowd])
    rng = random()
    picked = [full.pick(rng).noun for _ in range(1300)]
    assert picked.count("dog") == pytest.approx(1300 / (len(NOUNS) + 1), rel=0.35)


def test_a_library_that_is_too_small_says_so(things: Library, tmp_path: Path) -> None:
    alone = Library.of(things.folder, things.by_noun["dog"])
    with pytest.raises(NothingFits):
        recast(Plan(WHITE, (group(things, "dog"),)), 0, alone, random())
    with pytest.raises(RecordError, match=r"objects\.jsonl"):
        Library.read(tmp_path)
