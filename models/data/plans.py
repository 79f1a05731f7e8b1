"""What a scene is before it is drawn: which things, how many, in which colour, where, before what."""

from dataclasses import dataclass
from typing import Literal

from models.data.records import Split
from models.data.scenery import Backdrop

OBJECTS = "objects.jsonl"
Relation = Literal["left", "above"]


@dataclass(frozen=True)
class Thing:
    """A drawing that can stand in a scene."""

    id: str  # of its record
    image: str
    style: str
    split: Split
    concept: str
    noun: str
    plural: str
    synonyms: tuple[str, ...]
    countable: bool
    colour: str | None  # its own, where that is beyond doubt
    hue: int | None  # 0..255, where it has one main hue and can be recoloured

    @property
    def words(self) -> frozenset[str]:
        """Everything that it may be called in a caption."""
        return frozenset({self.noun, *self.synonyms})


@dataclass(frozen=True)
class Place:
    """A cell (shares of the side, from the top left), how much of it is filled, and a tilt in degrees."""

    left: float
    top: float
    right: float
    bottom: float
    fill: float
    tilt: float
    grounded: bool  # stands at the bottom of its cell rather than floating in its middle


@dataclass(frozen=True)
class Group:
    """One drawing once or several times, painted another colour or not."""

    thing: Thing
    count: int
    paint: str | None
    places: tuple[Place, ...] = ()

    @property
    def colour(self) -> str | None:
        """The colour that a caption may name."""
        return self.paint or self.thing.colour


@dataclass(frozen=True)
class Plan:
    """A scene before it is drawn. The relation holds from the first group to the second."""

    backdrop: Backdrop
    groups: tuple[Group, ...]
    relation: Relation | None = None
