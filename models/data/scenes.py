"""Scenes composed of drawings, whose captions are true because the scene was made to fit them.

A Plan says everything: what stands where, how many, in which colour, before what. `draw` makes pixels of it
and `captions` sentences; nothing is ever mirrored, so left and right mean what they say.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.captions import captions
from models.data.colours import TARGETS, recoloured
from models.data.plans import OBJECTS, Group, Place, Plan, Relation, Thing
from models.data.records import RecordError, Split
from models.data.scenery import PAPERS, PLACES, Backdrop

SIZE_PX = 256
MOST = 5  # things of a kind in one scene
CACHED = 256  # pictures kept decoded, about 0.4 MB each

Pixels = NDArray[np.uint8]
Random = np.random.Generator


class NothingFits(RecordError):
    """The library is too small: it has nothing for a place in a scene."""


@dataclass(frozen=True)
class Scene:
    """A drawn plan: pixels (S, S, 3) RGB, and captions that are all true, the fullest first."""

    pixels: Pixels
    captions: tuple[str, ...]
    plan: Plan


@dataclass(frozen=True)
class Library:
    """The things that scenes are composed of."""

    folder: Path
    things: tuple[Thing, ...]
    by_noun: dict[str, list[Thing]] = field(repr=False)

    @classmethod
    def read(cls, folder: Path, splits: Sequence[Split] = ("train",)) -> "Library":
        """The things of a training folder in these splits; raises RecordError."""
        try:
            lines = (folder / OBJECTS).read_text(encoding="utf-8").splitlines()
            entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
            things = [Thing(**(entry | {"synonyms": tuple(entry["synonyms"])})) for entry in entries]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RecordError(f"{folder / OBJECTS}: {error}") from error
        return cls.of(folder, [thing for thing in things if thing.split in splits])

    @classmethod
    def of(cls, folder: Path, things: Sequence[Thing]) -> "Library":
        """A library of these things."""
        by_noun: dict[str, list[Thing]] = defaultdict(list)
        for thing in things:
            by_noun[thing.noun].append(thing)
        return cls(folder, tuple(things), dict(by_noun))

    def pick(self, rng: Random, fits: Callable[[Thing], bool] = lambda _: True) -> Thing:
        """A fitting thing; every noun is as likely, however many drawings it has. Raises NothingFits."""
        nouns = list(self.by_noun)
        for number in rng.permutation(len(nouns)):
            alike = [thing for thing in self.by_noun[nouns[number]] if fits(thing)]
            if alike:
                return alike[int(rng.integers(len(alike)))]
        raise NothingFits(f"{self.folder}: too few things to compose a scene of")

    def picture(self, thing: Thing) -> Image.Image:
        """Its picture in RGBA."""
        return _opened(self.folder / thing.image)


def compose(library: Library, seed: int, index: int, size: int = SIZE_PX) -> Scene:
    """Scene number `index` of a seed: the same pixels and captions whenever and wherever it is asked for."""
    rng = np.random.default_rng([seed, index])
    plan = planned(library, rng)
    return Scene(draw(library, plan, size), captions(plan, rng), plan)


def planned(library: Library, rng: Random) -> Plan:
    """A random plan: one thing, several of a kind, two in relation, or three to four side by side."""
    kind = rng.choice(["one", "count", "pair", "several"], p=[0.25, 0.25, 0.35, 0.15])
    backdrop = _backdrop(rng)
    if kind == "one":
        groups = [Group(library.pick(rng), 1, None)]
    elif kind == "count":
        several = library.pick(rng, lambda thing: thing.countable)
        groups = [Group(several, int(rng.integers(2, MOST + 1)), None)]
    elif kind == "pair":
        groups = _pair(library, rng)
    else:
        groups = [Group(thing, 1, None) for thing in _different(library, rng, int(rng.integers(3, 5)))]
    relation: Relation | None = None
    if kind == "pair":
        relation = "above" if not backdrop.horizon and rng.random() < 0.4 else "left"
    painted = tuple(paint(group, backdrop, rng) for group in groups)
    return placed(Plan(_contrasting(backdrop, painted, rng), painted, relation), rng)


def paint(group: Group, backdrop: Backdrop, rng: Random) -> Group:
    """The group in another colour, more often than not, if its drawing can be painted."""
    if group.paint is not None or group.thing.hue is None or rng.random() < 0.4:
        return group
    pale = backdrop.name in ("white", "snow", "gradient")
    colours = [word for word in TARGETS if not (pale and word == "white") and word != group.thing.colour]
    return replace(group, paint=str(rng.choice(colours)))


def placed(plan: Plan, rng: Random) -> Plan:
    """The plan with a place for each of its things; none of them overlap."""
    horizon = plan.backdrop.horizon
    top = max(0.03, horizon - 0.22)
    area = (0.03, top, 0.97, 0.97)
    if plan.relation is None:
        count = sum(group.count for group in plan.groups)
        cells = _cells(area, count, one_row=horizon > 0 and count < 4)
        order = rng.permutation(len(cells))[:count]
        groups, start = [], 0
        for group in plan.groups:
            own = [cells[i] for i in order[start : start + group.count]]
            groups.append(replace(group, places=tuple(_place(cell, horizon, rng) for cell in own)))
            start += group.count
        return replace(plan, groups=tuple(groups))
    halves = _halves(area, plan.relation)
    groups = []
    for group, half in zip(plan.groups, halves, strict=True):
        cells = _cells(half, group.count, one_row=False)[: group.count]
        groups.append(replace(group, places=tuple(_place(cell, horizon, rng) for cell in cells)))
    return replace(plan, groups=tuple(groups))


def recast(plan: Plan, number: int, library: Library, rng: Random) -> Plan:
    """The plan with another thing in the part of one group, in the same colour where that was painted."""
    group = plan.groups[number]
    nouns = {word for other in plan.groups for word in other.thing.words}

    def fits(thing: Thing) -> bool:
        alike = (group.count == 1 or thing.countable) and (group.paint is None or thing.hue is not None)
        return alike and nouns.isdisjoint(thing.words)

    thing = library.pick(rng, fits)
    groups = (*plan.groups[:number], replace(group, thing=thing), *plan.groups[number + 1 :])
    return placed(replace(plan, groups=groups), rng)


def draw(library: Library, plan: Plan, size: int = SIZE_PX) -> Pixels:
    """The plan as (size, size, 3) RGB."""
    canvas = Image.fromarray(plan.backdrop.draw(size))
    for group in plan.groups:
        picture = library.picture(group.thing)
        for place in group.places:
            _paste(canvas, _fitted(picture, place, size, group), place, size)
    return np.asarray(canvas)


def _fitted(picture: Image.Image, place: Place, size: int, group: Group) -> Image.Image:
    room = place.fill * size
    scale = min(
        (place.right - place.left) * room / picture.width, (place.bottom - place.top) * room / picture.height
    )
    small = picture.resize((max(2, round(picture.width * scale)), max(2, round(picture.height * scale))))
    if group.paint is not None and group.thing.hue is not None:
        small = recoloured(small, group.thing.hue, group.paint)
    return small.rotate(place.tilt, Image.Resampling.BICUBIC, expand=False) if place.tilt else small


def _paste(canvas: Image.Image, picture: Image.Image, place: Place, size: int) -> None:
    left = round((place.left + place.right) / 2 * size - picture.width / 2)
    middle = round((place.top + place.bottom) / 2 * size - picture.height / 2)
    top = round(place.bottom * size) - picture.height if place.grounded else middle
    canvas.paste(picture, (left, top), picture)


def _place(cell: tuple[float, float, float, float], horizon: float, rng: Random) -> Place:
    tilt = float(rng.uniform(-8, 8)) if rng.random() < 0.3 and not horizon else 0.0
    return Place(*cell, fill=float(rng.uniform(0.7, 0.98)), tilt=tilt, grounded=horizon > 0)


def _cells(
    area: tuple[float, float, float, float], count: int, one_row: bool
) -> list[tuple[float, float, float, float]]:
    """At least `count` equal cells of an area, row by row."""
    left, top, right, bottom = area
    rows = 1 if one_row else max(1, round((count * (bottom - top) / (right - left)) ** 0.5))
    columns = -(-count // rows)
    wide, high = (right - left) / columns, (bottom - top) / rows
    return [
        (left + c * wide, top + r * high, left + (c + 1) * wide, top + (r + 1) * high)
        for r in range(rows)
        for c in range(columns)
    ]


def _halves(
    area: tuple[float, float, float, float], relation: Relation
) -> list[tuple[float, float, float, float]]:
    left, top, right, bottom = area
    if relation == "left":
        middle = (left + right) / 2
        return [(left, top, middle, bottom), (middle, top, right, bottom)]
    middle = (top + bottom) / 2
    return [(left, top, right, middle), (left, middle, right, bottom)]


def _backdrop(rng: Random) -> Backdrop:
    kind = rng.choice(["white", "paper", "gradient", "place"], p=[0.35, 0.13, 0.10, 0.42])
    names = {"paper": list(PAPERS), "place": list(PLACES)}.get(str(kind), [str(kind)])
    return Backdrop(str(rng.choice(names)), int(rng.integers(2**31)))


def _contrasting(backdrop: Backdrop, groups: Sequence[Group], rng: Random) -> Backdrop:
    """Another paper where a thing has the colour of its background and would vanish."""
    worn = {group.colour for group in groups}
    if backdrop.name not in worn and not (backdrop.name == "night" and "black" in worn):
        return backdrop
    free = [name for name in PAPERS if name not in worn]
    return replace(backdrop, name=str(rng.choice(free)))


def _pair(library: Library, rng: Random) -> list[Group]:
    counts = [int(rng.integers(2, 4)) if rng.random() < 0.15 else 1 for _ in range(2)]
    first = library.pick(rng)
    if first.hue is not None and rng.random() < 0.25:  # told apart by nothing but their colours
        colours = rng.choice(list(TARGETS), 2, replace=False)
        return [Group(first, 1, str(colour)) for colour in colours]
    pair = [first, *_different(library, rng, 1, first.words)]
    return [
        Group(thing, count if thing.countable else 1, None) for thing, count in zip(pair, counts, strict=True)
    ]


def _different(library: Library, rng: Random, count: int, taken: frozenset[str] = frozenset()) -> list[Thing]:
    """Things whose nouns do not repeat, so that "the dog" is one dog."""
    nouns = set(taken)
    things: list[Thing] = []
    for _ in range(count):
        things.append(library.pick(rng, lambda thing: nouns.isdisjoint(thing.words)))
        nouns.update(things[-1].words)
    return things


@lru_cache(maxsize=CACHED)
def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGBA")
