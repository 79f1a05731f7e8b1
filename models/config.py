"""ModelConfig: what a SharedEncoder is made of; it travels with the weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

MARKERS = 2  # word tokens of a sequence without words
DRAWN = 0.025  # length of the concept token of a drawing, where a photograph's has 1
MET = 0.3  # share of where things are met in a picture's concept
NAME, SENTENCE = 8, 14  # word pieces of what names a thing at most, and of what tells of a scene at least
CROWD_SHARPNESS = 20.0  # how much the texts of a crowd that are nearest count


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a SharedEncoder. A picture becomes grid² patch tokens, and with a stem one concept token."""

    front_end: Literal["stem", "patches"] = "stem"
    image_size: int = 260  # pixels a side
    grid: int = 4  # patch tokens a side
    features: int = 1448  # numbers per patch: a stem's channels, or the pixel values of a square
    pooled: int = 1280  # the first of them: what the stem's classifier reads
    classes: int = 1000  # of the stem's classifier
    width: int = 384  # of the trunk
    layers: int = 6
    heads: int = 12
    hidden: int = 1536  # of each layer's feed-forward part
    vocabulary: int = 30522
    max_words: int = 256  # word pieces of a sequence, markers included
    slots: int = 9  # the parts of a document, and the judge of a match
    dim: int = 384  # of the embedding
    crowd: int = 1024  # texts that tell how easily a drawing is found

    @property
    def concept_tokens(self) -> int:
        """Tokens before the patches of a picture."""
        return int(self.front_end == "stem")

    @property
    def picture_tokens(self) -> int:
        """Tokens of one picture."""
        return self.concept_tokens + self.grid**2

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint or a manifest."""
        return asdict(self)

    @property
    def token_width(self) -> int:
        """Numbers of a picture token: what the trunk reads, and with a stem the concept around it."""
        return self.width + self.dim * self.concept_tokens

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The config of these values; raises ValueError for an unknown key."""
        if unknown := set(values) - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown keys of a model config: {', '.join(sorted(unknown))}")
        return cls(**values)
