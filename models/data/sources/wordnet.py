"""WordNet 3.0's nouns, read from the files of Debian's wordnet-base."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.data.sources.packages import SourceError

FOLDER = "usr/share/wordnet"
WORDNET = Path("/", FOLDER)


@dataclass(frozen=True)
class Synset:
    """One meaning: its words, the offsets of its hypernyms, its gloss, and what kind of thing it is."""

    lemmas: tuple[str, ...]
    parents: tuple[int, ...]
    gloss: str
    topic: str  # of TOPICS, or empty


# Lexicographer files (lexnames) of things that can be drawn.
TOPICS = {5: "animal", 6: "artifact", 13: "food", 17: "object", 18: "person", 20: "plant", 25: "shape"}


class WordNet:
    """The noun files of a WordNet folder; raises SourceError where they are missing."""

    def __init__(self, folder: Path = WORDNET) -> None:
        try:
            self._data = (folder / "data.noun").read_bytes()
            self._senses = dict(_senses(folder / "index.noun"))
            self.plurals = dict(_plurals(folder / "noun.exc"))
        except OSError as error:
            raise SourceError(f"apt-get install wordnet-base: {error}") from error

    def synset(self, offset: int) -> Synset:
        """The synset at a byte offset of data.noun, which is also the number in an ImageNet wnid."""
        line = self._data[offset : self._data.index(b"\n", offset)].decode()
        head, gloss = line.split(" | ", 1)
        words = head.split()
        count = int(words[3], 16)
        pointers = words[5 + 2 * count :]
        return Synset(
            lemmas=tuple(word.replace("_", " ") for word in words[4 : 4 + 2 * count : 2]),
            parents=tuple(
                int(pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")
            ),
            gloss=gloss.split("; ")[0].strip(),
            topic=TOPICS.get(int(words[1]), ""),
        )

    def knows(self, word: str) -> bool:
        """Whether a word, or what it is the plural of, is a noun of any kind, even a proper name."""
        return any(noun in self._senses for noun in (word.casefold(), word.casefold().removesuffix("s")))

    def first_sense(self, noun: str) -> Synset | None:
        """What a noun means first of all, or None if WordNet does not have it as a common noun."""
        offset = self._senses.get(noun.casefold().replace(" ", "_"))
        if offset is None:
            return None
        synset = self.synset(offset)
        return synset if noun.casefold() in synset.lemmas else None


def _senses(file: Path) -> Iterator[tuple[str, int]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):  # the licence
            fields = line.split()
            yield fields[0], int(fields[6 + int(fields[3])])


def _plurals(file: Path) -> Iterator[tuple[str, str]]:
    """Irregular plurals by their singular, as in "mouse": "mice"; the file's first one counts."""
    for line in reversed(file.read_text(encoding="utf-8").splitlines()):
        plural, singular = line.split()[:2]
        yield singular.replace("_", " "), plural.replace("_", " ")
