"""Plans to sentences: every caption of a plan is true of it, and the first says all that can be said."""

import re
from collections.abc import Sequence

import numpy as np

from models.data.plans import Group, Plan, Relation

Random = np.random.Generator

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
SYNONYM_SHARE = 0.15
COLOUR_SHARE = 0.7
RELATION_SHARE = 0.6
PLACE_SHARE = 0.5

# {a} stands for the first group and {b} for the second; the relation holds from {a} to {b}.
RELATED: dict[Relation, tuple[str, ...]] = {
    "left": (
        "{a} to the left of {b}",
        "{b} to the right of {a}",
        "{a} on the left and {b} on the right",
        "{b} on the right, {a} on the left",
        "{a} left of {b}",
    ),
    "above": (
        "{a} above {b}",
        "{b} below {a}",
        "{b} under {a}",
        "{a} at the top and {b} at the bottom",
        "{a} over {b}",
    ),
}
TOGETHER = ("{a} and {b}", "{b} and {a}", "{a} together with {b}")
BESIDE = ("{a} next to {b}", "{b} beside {a}")
FRAMES = ("{}", "{}", "{}", "a picture of {}", "an image of {}", "a scene with {}", "{} in a picture")


def captions(plan: Plan, rng: Random) -> tuple[str, ...]:
    """Three to six different sentences about a plan, the fullest first."""
    full = _sentence(plan, rng, coloured=True, related=True, placed=True)
    said = [full, _sentence(plan, rng, coloured=True, related=True, placed=False)]
    said += [_varied(plan, rng) for _ in range(4)]
    return tuple(dict.fromkeys(said))


def needs_colour(plan: Plan) -> bool:
    """Whether only the colours tell the groups apart, as in "a red cup and a blue cup"."""
    nouns = [group.thing.noun for group in plan.groups]
    return len(set(nouns)) < len(nouns)


def phrase(group: Group, coloured: bool = True, noun: str = "") -> str:
    """A group in words: "a red apple", "three dogs", "some bread"."""
    one = noun or group.thing.noun
    words = one if group.count == 1 else group.thing.plural
    if coloured and group.colour is not None:
        words = f"{group.colour} {words}"
    if group.count > 1:
        return f"{NUMBERS[group.count]} {words}"
    return f"{article(words)} {words}" if group.thing.countable else f"some {words}"


def article(words: str) -> str:
    """ "a" or "an", by the sound of what follows."""
    vowel = re.match(r"[aeiou]|ho(u|no)r|heir", words) and not re.match(
        r"(uni(?!n)|use|uti|eu|ewe|one\b|once)", words
    )
    return "an" if vowel else "a"


def _varied(plan: Plan, rng: Random) -> str:
    """A sentence that says more or less, as people do."""
    said = _sentence(
        plan,
        rng,
        coloured=bool(rng.random() < COLOUR_SHARE) or needs_colour(plan),
        related=bool(rng.random() < RELATION_SHARE),
        placed=bool(rng.random() < PLACE_SHARE),
    )
    return _pick(FRAMES, rng).format(said)


def _sentence(plan: Plan, rng: Random, *, coloured: bool, related: bool, placed: bool) -> str:
    phrases = [phrase(group, coloured, _noun(group, rng)) for group in plan.groups]
    if len(phrases) == 2 and plan.relation is not None and related:
        said = _pick(RELATED[plan.relation], rng).format(a=phrases[0], b=phrases[1])
    elif len(phrases) == 2:
        beside = BESIDE if plan.relation == "left" else ()
        said = _pick(TOGETHER + beside, rng).format(a=phrases[0], b=phrases[1])
    else:
        order = [phrases[i] for i in rng.permutation(len(phrases))]
        said = " and ".join([", ".join(order[:-1]), order[-1]]) if len(order) > 1 else order[0]
    where = plan.backdrop.phrases
    return f"{said} {_pick(where, rng)}" if placed and where else said


def _noun(group: Group, rng: Random) -> str:
    """Now and then another word for the thing, where there is one and its plural is not needed."""
    others = group.thing.synonyms
    if others and group.count == 1 and rng.random() < SYNONYM_SHARE:
        return _pick(others, rng)
    return group.thing.noun


def _pick(choices: Sequence[str], rng: Random) -> str:
    return choices[int(rng.integers(len(choices)))]
