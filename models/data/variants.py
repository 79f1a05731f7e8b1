"""Families of emoji that differ in one thing: who, which hair, mood, hour, way or colour.

In a family every member says what is asked for when it is the target: from "man farmer" to "woman farmer" the
wish is "a woman". Flags are left out.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from models.data.captions import article
from models.data.colours import TARGETS

JOINT = "-200d-"
# Sets before 2019 draw "a person" as a man or a woman, so nobody can be asked for one.
PEOPLE: dict[str, str | None] = {"1f9d1": None, "1f468": "a man", "1f469": "a woman"}
SIGNS = {"2642": "a man", "2640": "a woman"}
HAIR = {"1f9b0": "with red hair", "1f9b1": "with curly hair", "1f9b2": "bald", "1f9b3": "with white hair"}
TURNED = "27a1"
# Couples and families: more than one person, so no single "who".
COMPANY = frozenset({"2764", "1f91d", "1f48b", "1f466", "1f467", "1f468", "1f469", "1f9d1", "1f9d2"})
NO_MOOD = re.compile(
    r"moon|clown|cowboy|wind|clouds|dotted|(mouse|cow|tiger|rabbit|cat|dragon|horse|monkey|dog|pig) face"
)
WAYS = ("left", "right", "up", "down", "leftwards", "rightwards", "upwards", "downwards")
TEMPLATES = ("but {}", "the same but {}", "{} instead", "the same picture but {}", "now {}")


@dataclass(frozen=True)
class Variant:
    """A concept of a family; without a wish it can only be the reference."""

    concept: str
    wish: str | None


@dataclass(frozen=True)
class Family:
    """Concepts that differ in one thing only, and which thing that is."""

    kind: str
    variants: tuple[Variant, ...]


def families(names: Mapping[str, str]) -> list[Family]:
    """The families among emoji, given their English names by concept key; in a fixed order."""
    plain = {key: name for key, name in sorted(names.items()) if "/" not in key and "flag" not in name}
    known = {name: key for key, name in plain.items()}
    grouped: dict[tuple[str, str], dict[str, Variant]] = defaultdict(dict)
    for key, name in plain.items():
        for rule in _RULES:
            for kind, skeleton, wish in rule(key, name):
                grouped[kind, skeleton][key] = Variant(key, wish)
    for (kind, skeleton), members in grouped.items():
        base = known.get(skeleton)
        if kind in ("colour", "addition") and base is not None:
            members.setdefault(base, Variant(base, None))
    for name, key in known.items():
        whole = known.get(name.removesuffix(" face"))
        if whole not in (None, key) and "moon" not in name:
            members = grouped["part", name]
            members[key], members[whole] = Variant(key, "only the face"), Variant(whole, "the whole animal")
    families = [Family(kind, tuple(members.values())) for (kind, _), members in sorted(grouped.items())]
    return [family for family in families if _usable(family)]


def _usable(family: Family) -> bool:
    return len({variant.wish for variant in family.variants}) > 1


Found = Iterator[tuple[str, str, str | None]]  # kind, what the members share, the wish


def _who(key: str, name: str) -> Found:
    first, *rest = key.split(JOINT)
    if COMPANY & set(rest) or TURNED in rest:
        return
    if first in PEOPLE and rest and rest[0] not in HAIR:
        yield "who", JOINT.join(rest), PEOPLE[first]
        yield "role", first, _role(name, first != "1f9d1")
    elif rest and rest[-1] in SIGNS:
        yield "who", first, SIGNS[rest[-1]]
        yield "role", SIGNS[rest[-1]], _role(name, True)
    elif not rest and name.startswith("person "):
        yield "who", first, None
        yield "role", "1f9d1", _role(name, True)


def _role(name: str, named_person: bool) -> str:
    """ "woman farmer" -> "a farmer", "man running" -> "running", "person in bed" -> "in bed"."""
    role = name.partition(" ")[2] if named_person and " " in name else name
    if role == "blond hair":
        return "with blond hair"
    doing = re.match(r"(in|with|\w+ing)\b", role)
    return role if doing else f"{article(role)} {role}"


def _hair(key: str, name: str) -> Found:
    first, *rest = key.split(JOINT)
    if first in PEOPLE and len(rest) == 1 and rest[0] in HAIR:
        yield "hair", first, HAIR[rest[0]]
        yield "who", rest[0], PEOPLE[first]


def _turned(key: str, name: str) -> Found:
    if name.endswith(": facing right"):
        yield "way", name.removesuffix(": facing right"), "facing right"
    elif re.match(r"(person|man|woman) (walking|running|kneeling|with white cane|in \w+ wheelchair)$", name):
        yield "way", name, "facing left"


def _mood(key: str, name: str) -> Found:
    if NO_MOOD.search(name):
        return
    if (mood := re.fullmatch(r"((?:[\w-]+ ?){1,3}) face", name)) or (
        mood := re.fullmatch(r"(?:smiling )?face (with .+|without .+)", name)
    ):
        yield "mood", "face", mood[1]
    elif mood := re.fullmatch(r"(\w+ing|weary) cat", name):
        yield "mood", "cat", mood[1]


def _hour(key: str, name: str) -> Found:
    if hour := re.fullmatch(r"(\w+) o[\N{RIGHT SINGLE QUOTATION MARK}']clock", name):
        yield "hour", "", f"at {hour[1]} o'clock"
    elif hour := re.fullmatch(r"(\w+)-thirty", name):
        yield "hour", "", f"at half past {hour[1]}"


def _way(key: str, name: str) -> Found:
    words = name.split()
    ways = [word for word in words if word in WAYS]
    if len(ways) == 1 and len(words) > 1 and "half" not in words:
        way = ways[0].removesuffix("wards")
        yield "way", " ".join(word for word in words if word != ways[0]), f"pointing {way}"


def _colour(key: str, name: str) -> Found:
    colour, _, rest = name.partition(" ")
    if colour in TARGETS and rest:
        yield "colour", rest, colour


def _state(key: str, name: str) -> Found:
    state, _, rest = name.partition(" ")
    if state in ("open", "closed") and rest:
        yield "state", rest, state


def _digit(key: str, name: str) -> Found:
    if digit := re.fullmatch(r"keycap: (\w+)", name):
        yield "digit", "", f"{'an' if digit[1] == '8' else 'a'} {digit[1]}"


def _addition(key: str, name: str) -> Found:
    whole, joint, more = name.partition(" with ")
    if joint and ":" not in name and not re.search(r"(face|person|m[ae]n|wom[ae]n|couple|people)$", whole):
        yield "addition", whole, f"with {more}"


_RULES: tuple[Callable[[str, str], Found], ...] = (
    _who,
    _hair,
    _turned,
    _mood,
    _hour,
    _way,
    _colour,
    _state,
    _digit,
    _addition,
)
