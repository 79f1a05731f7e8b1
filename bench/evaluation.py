"""Every quality number of an encoder in one table: retrieval, composed queries, reranking, paraphrases.

    python -m bench.evaluation --bundle models/bundles/momo-mini --bundle DIR --out docs/evaluation

Bundles are columns, measures are rows; a set that is not there is left out and named at the end.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.encoder import Encoder
from models.evaluate import evaluate_pairs
from models.measures import composed, paraphrases, reranked

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
OWN = ROOT / "training" / "sets"
PAIRS = {
    "flickr8k-val": SHARED / "flickr8k-val",
    "imagenet-samples": SHARED / "imagenet-samples",
    "grocery-test": SHARED / "grocery-test",
    "clothing-test": SHARED / "clothing-test",
    "unseen style": OWN / "unseen-style",
    "unseen concept": OWN / "unseen-concept",
}
TRIPLETS = OWN / "triplets"
RERANKED = ("flickr8k-val", "unseen style")

Recalls = dict[str, float]  # R@1, R@5, R@10 in percent


@dataclass(frozen=True)
class Row:
    """One measure on one set."""

    set: str
    measure: str
    recalls: Recalls

    @property
    def cell(self) -> str:
        return " / ".join(f"{value:.1f}" for value in self.recalls.values())


def measure(encoder: Encoder, report: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """All rows of one encoder, for the sets that are there."""
    rows: list[Row] = []

    def add(name: str, what: str, recalls: Recalls) -> None:
        rows.append(Row(name, what, recalls))
        report(rows[-1])

    for name, folder in PAIRS.items():
        if folder.is_dir():
            found = evaluate_pairs(folder, encoder)
            add(name, "text to image", found["t2i"])
            add(name, "image to text", found["i2t"])
    if PAIRS["flickr8k-val"].is_dir():
        add("flickr8k-val", "caption to sibling captions", paraphrases(PAIRS["flickr8k-val"], encoder))
    if TRIPLETS.is_dir():
        for query, recalls in composed(TRIPLETS, encoder).items():
            add("composed triplets", f"query as {query}", recalls)
    if encoder.matches:
        for name in RERANKED:
            if PAIRS[name].is_dir():
                for when, recalls in reranked(PAIRS[name], encoder).items():
                    add(name, f"top 20 {when} reranking, 1,000 captions", recalls)
    return rows


def table(columns: dict[str, Sequence[Row]]) -> str:
    """Markdown: one line a measure, one column a bundle, cells R@1 / R@5 / R@10 in percent."""
    keys = list(dict.fromkeys((row.set, row.measure) for rows in columns.values() for row in rows))
    cells = {(name, row.set, row.measure): row.cell for name, rows in columns.items() for row in rows}
    lines = [
        f"| set | measure | {' | '.join(columns)} |",
        "|" + "---|" * (2 + len(columns)),
    ]
    for key in keys:
        found = " | ".join(cells.get((name, *key), "-") for name in columns)
        lines.append(f"| {key[0]} | {key[1]} | {found} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bundle", type=Path, action="append", required=True, help="a column; may be repeated"
    )
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    arguments = parser.parse_args()
    started = time.monotonic()
    columns: dict[str, Sequence[Row]] = {}
    for path in arguments.bundle:
        encoder = Encoder.load(path, device="cpu")
        print(encoder.id, flush=True)
        columns[f"{encoder.id}, {encoder.precision}"] = measure(
            encoder, lambda row: print(f"  {row.set}, {row.measure}: {row.cell}", flush=True)
        )
    missing = [
        name for name, folder in [*PAIRS.items(), ("composed triplets", TRIPLETS)] if not folder.is_dir()
    ]
    text = "R@1 / R@5 / R@10 in percent.\n\n" + table(columns)
    if missing:
        text += f"\nNot measured, the set is not there: {', '.join(missing)}.\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text(text, encoding="utf-8")
    document = {
        "machine": f"{platform.machine()}, {platform.system()}",
        "seconds": round(time.monotonic() - started),
        "bundles": {
            name: [{"set": row.set, "measure": row.measure} | row.recalls for row in rows]
            for name, rows in columns.items()
        },
        "missing": missing,
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
