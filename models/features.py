"""What the stem sees of every training picture, computed once: the trunk then learns from features.

    python -m models.features --folder training --stem training/stem.onnx

A set is a folder of arrays, filled in chunks; a killed run goes on with the first chunk that is missing.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from models.colours import COLOUR_WORDS
from models.data import Record, read_records
from models.scenes import Library, compose
from models.triplets import Triplets
from models.views import plain, view

SIZE_PX = 260
MEAN, STD = 127.0, 128.0  # of pixel values, as the stem was trained
CHUNK = 64
SEED = 20  # of views, scenes and triplets; evaluation draws none of them
VARIED_SETS = 1
SCENES = 8_000
TRIPLETS = 6_000

Halves = NDArray[np.float16]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """Pictures (k, S, S, 3) uint8 of one entry, and what is noted about it."""

    pictures: list[Pixels]
    note: dict[str, object]


Draw = Callable[[int], Drawn]


class FeatureSet:
    """patches (n, grid², features) and pooled (n, pooled), float16, and one note per entry."""

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError for a set that was not computed."""
        self.patches: Halves = np.load(folder / "patches.npy", mmap_mode="r")
        self.pooled: Halves = np.load(folder / "pooled.npy", mmap_mode="r")
        self.notes = [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]


def compute(folder: Path, count: int, draw: Draw, stem: Path, workers: int = 2) -> None:
    """Fill a set with `count` entries, in order; draw must be a pure function of the entry's number."""
    chunks = folder / "chunks"
    if (folder / "notes.jsonl").exists():
        return
    chunks.mkdir(parents=True, exist_ok=True)
    missing = [start for start in range(0, count, CHUNK) if not (chunks / f"{start}.npz").exists()]
    context = multiprocessing.get_context("fork")
    # Forked workers inherit what they are started with; a task carries only its number.
    with context.Pool(workers, _start_worker, (stem, chunks, count, draw)) as pool:
        for done, _ in enumerate(pool.imap_unordered(_compute_chunk, missing), start=1):
            if done % 50 == 0:
                print(f"{folder.name}: {done} of {len(missing)} chunks", flush=True)
    _join(folder, [chunks / f"{start}.npz" for start in range(0, count, CHUNK)])


def compute_all(folder: Path, stem: Path, workers: int = 2) -> None:
    """Every set of a training folder, below folder/features."""
    records = sorted(read_records(folder), key=lambda record: record.id)
    library, triplets = Library.read(folder), Triplets(folder)
    sets: dict[str, tuple[int, Draw]] = {"plain": (len(records), partial(_plain, folder, records))}
    for number in range(1, VARIED_SETS + 1):
        sets[f"varied-{number}"] = (len(records), partial(_varied, folder, records, number))
    sets["scenes"] = (SCENES, partial(_scene, library))
    sets["triplets"] = (TRIPLETS, partial(_triplet, triplets))
    for name, (count, draw) in sets.items():
        compute(folder / "features" / name, count, draw, stem, workers)


def _plain(folder: Path, records: Sequence[Record], i: int) -> Drawn:
    return Drawn([plain(_opened(folder, records[i]), SIZE_PX)], {"id": records[i].id})


def _varied(folder: Path, records: Sequence[Record], number: int, i: int) -> Drawn:
    record = records[i]
    rng = np.random.default_rng([SEED, number, i])
    words = {word.strip(",.").lower() for text in record.in_language() for word in text.text.split()}
    keep = bool(words & set(COLOUR_WORDS))
    pixels = view(_opened(folder, record), rng, SIZE_PX, strong=True, keep_colours=keep)
    return Drawn([pixels], {"id": record.id})


def _scene(library: Library, i: int) -> Drawn:
    scene = compose(library, SEED, i, SIZE_PX)
    return Drawn([scene.pixels], {"captions": list(scene.captions)})


def _triplet(triplets: Triplets, i: int) -> Drawn:
    found = triplets.triplet(SEED, i, SIZE_PX)
    return Drawn([found.reference, found.target], {"text": found.text, "kind": found.kind})


def _opened(folder: Path, record: Record) -> Image.Image:
    with Image.open(folder / record.image) as picture:
        return picture.convert("RGBA")


@dataclass(frozen=True)
class _Worker:
    stem: ort.InferenceSession
    chunks: Path
    count: int
    draw: Draw


_worker: _Worker  # of this process


def _start_worker(stem: Path, chunks: Path, count: int, draw: Draw) -> None:
    global _worker
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(stem), options, providers=["CPUExecutionProvider"])
    _worker = _Worker(session, chunks, count, draw)


def pixels_of(pictures: Sequence[Pixels]) -> NDArray[np.float32]:
    """Normalised float32 (n, 3, S, S) for the stem."""
    stacked = (np.stack(pictures).astype(np.float32) - MEAN) / STD
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def _compute_chunk(start: int) -> None:
    worker = _worker
    drawn = [worker.draw(i) for i in range(start, min(start + CHUNK, worker.count))]
    pictures = [picture for entry in drawn for picture in entry.pictures]
    found = [
        worker.stem.run(["patches", "pooled"], {"pixels": pixels_of(few)}) for few in _split(pictures, 8)
    ]
    patches, pooled = (np.concatenate(arrays).astype(np.float16) for arrays in zip(*found, strict=True))
    notes = np.array([json.dumps(entry.note, ensure_ascii=False) for entry in drawn])
    partial_file = worker.chunks / f"{start}.partial"
    with partial_file.open("wb") as stream:
        np.savez(stream, patches=patches, pooled=pooled, notes=notes)
    os.replace(partial_file, worker.chunks / f"{start}.npz")


def _split(pictures: Sequence[Pixels], size: int) -> Iterator[Sequence[Pixels]]:
    return (pictures[start : start + size] for start in range(0, len(pictures), size))


def _join(folder: Path, files: Sequence[Path]) -> None:
    """Chunks to whole arrays; notes.jsonl comes last and says that the set is complete."""
    notes: list[str] = []
    counts = []
    for file in files:
        with np.load(file) as chunk:
            counts.append(len(chunk["pooled"]))
            shapes = {name: chunk[name].shape[1:] for name in ("patches", "pooled")}
            notes += [str(note) for note in chunk["notes"]]
    whole = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (sum(counts), *shape))
        for name, shape in shapes.items()
    }
    at = 0
    for file, count in zip(files, counts, strict=True):
        with np.load(file) as chunk:
            for name, array in whole.items():
                array[at : at + count] = chunk[name]
        at += count
        file.unlink()
    for array in whole.values():
        array.flush()
    (folder / "notes.partial").write_text("".join(note + "\n" for note in notes), encoding="utf-8")
    os.replace(folder / "notes.partial", folder / "notes.jsonl")
    (folder / "chunks").rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a training folder with records.jsonl")
    parser.add_argument("--stem", type=Path, required=True)
    arguments = parser.parse_args()
    compute_all(arguments.folder, arguments.stem)


if __name__ == "__main__":
    main()
