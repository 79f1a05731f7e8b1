"""Which drawings can stand in a scene: those named by a countable noun, with its plural and their colour.

Written once into objects.jsonl, because the nouns come from WordNet and the colours from every pixel.
"""

import json
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from models.data.colours import COLOUR_WORDS, TARGETS, Profile, profile
from models.data.plans import OBJECTS, Thing
from models.data.processes import FRESH
from models.data.records import Record
from models.data.sources.wordnet import WordNet


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TOPICS = {"animal", "artifact", "food", "object", "plant"}
# WordNet's first sense is another one, or the word names a part, a place or a matter rather than a thing.
UNSUITABLE = _words(
    """
    automatic back baggage bank bar base bottom building burner button card cattle circuit cloth
    clothing confetti connector control controls cross cursor data dice door down end exit export fan
    female file filter fishery flat floor floppy food frame front fruit furniture gateway ground head
    hearth hole home hub ice icon icons image import interface internet island land left light line
    loading logo lot luggage map meat menu metro middle mine monitor mortar network nursery object
    orange page pane panel part photo picture place plant point portrait print road round screen sea
    shade shadow shape side sign simple sky sole square stable station stop street symbol system table
    terminal text thread tool top town transport up upload vehicle video view water world
    """
)
PEOPLE = _words(
    """
    angel artist astronaut baby boy bride child clown cook detective elf fairy farmer firefighter genie
    girl guard judge man mechanic mermaid ninja pilot pirate prince princess robot scientist singer
    student teacher vampire woman zombie
    """
)
SHAPES = _words(
    """
    circle diamond heart square star triangle
    """
)
MASS = _words(
    """
    bacon bread broccoli butter cheese chocolate coffee corn cotton custard garlic ginger grass hay
    honey lettuce lotion milk money oil paint paprika pasta pepper popcorn rice salt sand seaweed smoke
    snow soap soup spaghetti sugar sushi tofu wheat wine wood
    """
)
INVARIANT = _words(
    """
    aircraft deer sheep shrimp spacecraft squid
    """
)
# WordNet knows a Latin plural that nobody uses in a caption.
REGULAR = _words(
    """
    abacus amphora antenna banjo bus camera cow echidna flamingo octopus stadium taxi tux
    """
)
ES_AFTER_O = _words(
    """
    buffalo hero mango mosquito potato tomato torpedo volcano
    """
)


def write_objects(folder: Path, records: Iterable[Record], wordnet: WordNet, *, processes: int = 2) -> int:
    """Write folder/objects.jsonl for the records of a training folder; returns how many things it has."""
    named = [(record, noun) for record in records if (noun := noun_of(record.name, wordnet)) is not None]
    with ProcessPoolExecutor(processes, FRESH) as pool:
        images = [folder / record.image for record, _ in named]
        profiles = list(pool.map(_profile, images, chunksize=32))
    things = [
        _thing(record, noun, seen, wordnet) for (record, noun), seen in zip(named, profiles, strict=True)
    ]
    lines = (json.dumps(asdict(thing), ensure_ascii=False) + "\n" for thing in things)
    (folder / OBJECTS).write_text("".join(lines), encoding="utf-8")
    return len(things)


def noun_of(name: str, wordnet: WordNet) -> str | None:
    """The countable noun that a name is, without its colour, or None: "red apple" -> "apple"."""
    words = name.casefold().split()
    noun = " ".join(words[1:] if words[0] in COLOUR_WORDS and len(words) > 1 else words)
    if (
        noun in COLOUR_WORDS
        or not UNSUITABLE.isdisjoint(noun.split())
        or not re.fullmatch(r"[a-z][a-z '-]{2,}", noun)
    ):
        return None
    if noun in PEOPLE | SHAPES or re.fullmatch(r"[a-z]+ face", noun):
        return noun
    if noun.endswith("s") and not noun.endswith(("ss", "us")):
        return None  # a plural, or a pair
    meaning = wordnet.first_sense(noun)
    return noun if meaning is not None and meaning.topic in TOPICS else None


def plural_of(noun: str, irregular: dict[str, str]) -> str:
    """ "palm tree" -> "palm trees", "mouse" -> "mice", "bird of prey" -> "birds of prey"."""
    head, joint, rest = noun.partition(" of ")
    first, _, last = head.rpartition(" ")
    if last in INVARIANT or last.endswith("fish") or noun in MASS:
        many = last
    elif last.endswith("man") and len(last) > 4 and last not in ("human", "talisman"):
        many = f"{last[:-3]}men"
    elif last in irregular and last not in REGULAR:
        many = irregular[last]
    elif re.search(r"(s|x|z|ch|sh)$", last) or last in ES_AFTER_O:
        many = f"{last}es"
    elif re.search(r"[^aeiou]y$", last):
        many = f"{last[:-1]}ies"
    else:
        many = f"{last}s"
    return f"{first} {many}".strip() + joint + rest


def _thing(record: Record, noun: str, seen: Profile, wordnet: WordNet) -> Thing:
    said = record.name.casefold().split()[0]
    meaning = wordnet.first_sense(noun)
    others = [
        lemma
        for lemma in (meaning.lemmas[:3] if meaning else ())
        if lemma != noun and lemma.islower() and wordnet.first_sense(lemma) == meaning
    ]
    return Thing(
        id=record.id,
        image=record.image,
        style=record.style,
        split=record.split,
        concept=record.concept,
        noun=noun,
        plural=plural_of(noun, wordnet.plurals),
        synonyms=tuple(others[:2]),
        countable=noun not in MASS,
        # The name knows better than the pixels.
        colour=said if said in TARGETS and said != noun else seen.colour,
        hue=seen.hue,
    )


def _profile(image: Path) -> Profile:
    with Image.open(image) as picture:
        return profile(picture.convert("RGBA"))
