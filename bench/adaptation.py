"""What adapters learn from so many labelled pictures of a domain, and what the gate says of them.

    python -m bench.adaptation [--bundle DIR] [--out FILE]

Adapters are learned from the training halves of grocery, clothing and flickr8k among all pictures of their
half, as the job does it, and measured on the other halves (decisions/0018 says what these decided).
"elsewhere" is what an adapter does to queries that it is not for: those of flickr8k-val, or of grocery-test
for that of flickr8k.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.classification import SHARED
from models.adaptation import Lesson, TooFewPairs, learned
from models.bundle import Bundle
from models.encoder import Encoder
from models.evaluate import Rows, read_pairs, recall_at_k
from models.measures import embed
from models.preprocess import Document

COUNTS = (50, 100, 300, 1000, 5000)  # labelled pictures
SEEDS = 3
MAX_PAIRS = 10_000  # as many as the API takes
DOMAINS = {"grocery": "flickr8k-val", "clothing": "flickr8k-val", "flickr8k": "grocery-test"}
TESTS = {"grocery": "grocery-test", "clothing": "clothing-test", "flickr8k": "flickr8k-val"}
_MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class Set:
    """A set's unit rows: of its captions (c, dim), each once, and its pictures (n, dim); and which captions
    each picture has."""

    texts: Rows
    pictures: Rows
    captions: list[list[int]]

    @classmethod
    def read(cls, encoder: Encoder, name: str) -> "Set":
        """Embed a set, some pictures at a time."""
        pairs = read_pairs(SHARED / name)
        numbers = {
            text: n for n, text in enumerate(dict.fromkeys(t for pair in pairs for t in pair.captions))
        }
        pictures = [
            embed(encoder, [_picture(encoder, pair.image) for pair in pairs[start : start + 64]])
            for start in range(0, len(pairs), 64)
        ]
        texts = embed(encoder, [Document((text,)) for text in numbers])
        return cls(texts, np.concatenate(pictures), [[numbers[t] for t in pair.captions] for pair in pairs])

    def recall(self, queries: Rows) -> dict[str, float]:
        """Of the captions, adapted or not: in percent, whether a picture that has it is found."""
        having: list[list[int]] = [[] for _ in self.texts]
        for picture, own in enumerate(self.captions):
            for text in own:
                having[text].append(picture)
        return recall_at_k(queries, self.pictures, having)


@dataclass(frozen=True)
class Outcome:
    """Means over seeds: how many were let through, and recalls of all that were learned, in percent."""

    domain: str
    pictures: int
    accepted: int
    refused: int
    before_1: float
    after_1: float
    before_10: float
    after_10: float
    spread_10: float
    elsewhere_before: float
    elsewhere_after: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="write the outcomes into this file, as JSON")
    arguments = parser.parse_args()
    encoder = Encoder.load(arguments.bundle or Bundle.default_path(), device="cpu")
    print(encoder.id, flush=True)
    tests = {name: Set.read(encoder, name) for name in sorted({*TESTS.values(), *DOMAINS.values()})}
    outcomes = []
    for domain, elsewhere in DOMAINS.items():
        taught = Set.read(encoder, f"{domain}-train")
        for count in (count for count in COUNTS if count < len(taught.pictures)):
            outcome = measured(domain, count, taught, tests[TESTS[domain]], tests[elsewhere])
            outcomes.append(outcome)
            print(row(outcome), flush=True)
    if arguments.out is not None:
        told = {"encoder_id": encoder.id, "seeds": SEEDS, "outcomes": [asdict(each) for each in outcomes]}
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")


def measured(domain: str, count: int, taught: Set, test: Set, elsewhere: Set) -> Outcome:
    """Adapters from ``count`` pictures each, drawn by lot."""
    accepted, ones, tens, others, seconds = 0, list[float](), list[float](), list[float](), list[float]()
    for seed in range(SEEDS):
        try:
            found = learned(lesson(taught, count, seed))
        except TooFewPairs:
            continue
        accepted += found.verdict.accepted
        after = test.recall(found.adapter(test.texts))
        ones.append(after["R@1"])
        tens.append(after["R@10"])
        others.append(elsewhere.recall(found.adapter(elsewhere.texts))["R@10"])
        seconds.append(found.verdict.seconds)
    before = test.recall(test.texts)
    return Outcome(
        domain=domain,
        pictures=count,
        accepted=accepted,
        refused=SEEDS - accepted,
        before_1=before["R@1"],
        after_1=_mean(ones),
        before_10=before["R@10"],
        after_10=_mean(tens),
        spread_10=float(np.std(tens)) if tens else 0.0,
        elsewhere_before=elsewhere.recall(elsewhere.texts)["R@10"],
        elsewhere_after=_mean(others),
        seconds=_mean(seconds),
    )


def lesson(taught: Set, count: int, seed: int) -> Lesson:
    """What so many pictures, drawn by lot, have to teach among all."""
    drawn = np.random.default_rng(seed).permutation(len(taught.pictures))[:count]
    pairs = [(text, picture) for picture in drawn for text in taught.captions[picture]][:MAX_PAIRS]
    nothing, kinds = np.empty((0, 2), np.int64), np.zeros(len(taught.pictures), np.int8)
    return Lesson(taught.texts, taught.pictures, np.array(pairs), nothing, kinds, ("image",))


def row(outcome: Outcome) -> str:
    """A line of the table."""
    return (
        f"| {outcome.domain} | {outcome.pictures:,} "
        f"| {outcome.accepted} of {outcome.accepted + outcome.refused} "
        f"| {outcome.before_1:.1f} → {outcome.after_1:.1f} "
        f"| {outcome.before_10:.1f} → {outcome.after_10:.1f} ± {outcome.spread_10:.1f} "
        f"| {outcome.elsewhere_before:.1f} → {outcome.elsewhere_after:.1f} | {outcome.seconds:.0f} s |"
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _picture(encoder: Encoder, path: Path) -> Document:
    return Document((encoder.preprocessor.picture(path.read_bytes(), max_pixels=_MAX_PIXELS),))


if __name__ == "__main__":
    main()
