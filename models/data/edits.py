"""One change to a planned scene, and the words that ask for it: "but blue", "with a dog next to it"."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.data.captions import NUMBERS, needs_colour, phrase
from models.data.colours import TARGETS
from models.data.plans import Group, Plan, Thing
from models.data.scenery import PAPERS, PLACES, Backdrop
from models.data.scenes import MOST, Library, placed

Random = np.random.Generator


@dataclass(frozen=True)
class Edit:
    """What is asked for, and the scene that answers it."""

    kind: str
    text: str
    plan: Plan


def edited(plan: Plan, library: Library, rng: Random, kind: str | None = None) -> Edit | None:
    """A change of this kind, or of any; None if the plan does not allow it. Raises NothingFits."""
    kinds = [kind] if kind is not None else [str(name) for name in rng.permutation(KINDS)]
    found = (_EDITS[name](plan, library, rng) for name in kinds)
    return next((edit for edit in found if edit is not None), None)


def _recoloured(plan: Plan, library: Library, rng: Random) -> Edit | None:
    able = [i for i, group in enumerate(plan.groups) if group.thing.hue is not None]
    if not able or needs_colour(plan):
        return None
    chosen = int(rng.choice(able))
    group = plan.groups[chosen]
    taken = {group.colour, plan.backdrop.name} | (
        {"white"} if plan.backdrop.name in ("white", "snow") else set()
    )
    colour = str(rng.choice([word for word in TARGETS if word not in taken]))
    it = "it" if group.count == 1 else "them"
    if len(plan.groups) == 1:
        texts = [f"but {colour}", f"the same but {colour}", f"make {it} {colour}", f"in {colour}"]
    else:
        verb = "is" if group.count == 1 else "are"
        texts = [f"but the {_named(group)} {verb} {colour}", f"make the {_named(group)} {colour}"]
    return Edit("colour", _pick(texts, rng), _with(plan, chosen, replace(group, paint=colour)))


def _counted(plan: Plan, library: Library, rng: Random) -> Edit | None:
    if len(plan.groups) != 1 or not plan.groups[0].thing.countable:
        return None
    group = plan.groups[0]
    count = int(rng.choice([n for n in range(1, MOST + 1) if n != group.count]))
    number = NUMBERS[count]
    texts = ["but only one", "but just one of them", "only one"]
    if count > 1:
        texts = [f"but {number} of them", f"{number} of them", f"but {number} {group.thing.plural}"]
    return Edit("count", _pick(texts, rng), placed(_with(plan, 0, replace(group, count=count)), rng))


def _moved(plan: Plan, library: Library, rng: Random) -> Edit | None:
    worn = {group.colour for group in plan.groups} | {plan.backdrop.name}
    names = [
        name for name in (*PLACES, *PAPERS) if name not in worn and not (name == "night" and "black" in worn)
    ]
    backdrop = Backdrop(_pick(names, rng), int(rng.integers(2**31)))
    if backdrop.horizon and plan.relation == "above":
        return None  # what stands on the ground is not above anything
    where = _pick(backdrop.phrases, rng)
    text = _pick([f"but {where}", where, f"the same {where}"], rng)
    return Edit("place", text, placed(replace(plan, backdrop=backdrop), rng))


def _added(plan: Plan, library: Library, rng: Random) -> Edit | None:
    if len(plan.groups) != 1 or plan.groups[0].count > 2:
        return None
    first = plan.groups[0]
    thing = library.pick(rng, lambda new: _stands_out(new, plan))
    more = Group(thing, 1, None)
    it = "it" if first.count == 1 else "them"
    said = phrase(more, coloured=False)
    on_left = bool(rng.random() < 0.5)
    side = "left" if on_left else "right"
    texts = [f"with {said} next to {it}", f"with {said} on the {side}", f"and {said} to the {side} of {it}"]
    groups = (more, first) if on_left else (first, more)
    return Edit("add", _pick(texts, rng), placed(replace(plan, groups=groups, relation="left"), rng))


def _removed(plan: Plan, library: Library, rng: Random) -> Edit | None:
    if len(plan.groups) < 2 or needs_colour(plan):
        return None
    gone = plan.groups[int(rng.integers(len(plan.groups)))]
    rest = tuple(group for group in plan.groups if group is not gone)
    texts = [f"without the {_named(gone)}", f"but without the {_named(gone)}", f"remove the {_named(gone)}"]
    relation = None if len(rest) < 2 else plan.relation
    return Edit("remove", _pick(texts, rng), placed(replace(plan, groups=rest, relation=relation), rng))


def _swapped(plan: Plan, library: Library, rng: Random) -> Edit | None:
    if plan.relation is None:
        return None
    sides = "left and right" if plan.relation == "left" else "top and bottom"
    texts = [f"swap {sides}", f"but with {sides} exchanged", "but the other way round"]
    return Edit("swap", _pick(texts, rng), placed(replace(plan, groups=plan.groups[::-1]), rng))


def _replaced(plan: Plan, library: Library, rng: Random) -> Edit | None:
    if needs_colour(plan):
        return None
    chosen = int(rng.integers(len(plan.groups)))
    group = plan.groups[chosen]
    thing = library.pick(rng, lambda new: _stands_out(new, plan))
    count = group.count if thing.countable else 1
    new = replace(group, thing=thing, paint=None, count=count)
    said = phrase(new, coloured=False)
    texts = [f"{said} instead of the {_named(group)}", f"but with {said} instead of the {_named(group)}"]
    return Edit("replace", _pick(texts, rng), placed(_with(plan, chosen, new), rng))


def _stands_out(thing: Thing, plan: Plan) -> bool:
    """Whether a thing can be told from those that are there, and from the background."""
    taken = {word for group in plan.groups for word in group.thing.words}
    return taken.isdisjoint(thing.words) and thing.colour != plan.backdrop.name


def _named(group: Group) -> str:
    return group.thing.noun if group.count == 1 else group.thing.plural


def _with(plan: Plan, number: int, group: Group) -> Plan:
    return replace(plan, groups=(*plan.groups[:number], group, *plan.groups[number + 1 :]))


def _pick(choices: Sequence[str], rng: Random) -> str:
    return choices[int(rng.integers(len(choices)))]


_EDITS: dict[str, Callable[[Plan, Library, Random], Edit | None]] = {
    "colour": _recoloured,
    "count": _counted,
    "place": _moved,
    "add": _added,
    "remove": _removed,
    "swap": _swapped,
    "replace": _replaced,
}
KINDS = tuple(_EDITS)
