"""What the stem sees of every training picture, computed once: the trunk then learns from features.

    python -m models.training.features --folder training --stem training/stem.onnx
    python -m models.training.features --folder training --stem training/stem.onnx --device cuda --workers 16
    python -m models.training.features --folder training --pixels

A set is a folder of arrays, filled in chunks; a killed run goes on with the first chunk that is missing. With
--pixels they are the pictures themselves, small and in squares: what a front end of pure patches reads.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from models.data.colours import COLOUR_WORDS
from models.data.processes import FRESH
from models.data.records import Record, read_records
from models.data.scenes import Library, compose
from models.data.triplets import Triplets
from models.data.views import plain, view

SIZE_PX = 260
MEAN, STD = 127.0, 128.0  # of pixel values, as the stem was trained
CHUNK = 64
WORKERS = 2
SEED = 20  # of views, scenes and triplets; evaluation draws none of them
VARIED_SETS = 4
SCENES = 12_000
TO_LOOK = 6_400  # the first triplets: what is fitted after training must not have been trained on
TRIPLETS = TO_LOOK + 50_000

PIXELS_SIDE = 64  # of a picture that is read without a stem
PIXELS_GRID = 4  # squares a side
FOLDERS = {"stem": "features", "patches": "features-pixels"}  # by the front end that reads them

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Drawn:
    """Pictures (k, S, S, 3) uint8 of one entry, and what is noted about it."""

    pictures: list[Pixels]
    note: dict[str, object]


Draw = Callable[[int], Drawn]
Look = Callable[[Sequence[Pixels]], tuple[Floats, Floats]]  # pictures -> patches and pooled, of the same rows


class FeatureSet:
    """patches (n, grid², features) and pooled (n, pooled), float16, and one note per entry."""

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError for a set that was not computed."""
        # Copied on writing: torch takes no array that cannot be written to.
        self.patches: Halves = np.load(folder / "patches.npy", mmap_mode="c")
        self.pooled: Halves = np.load(folder / "pooled.npy", mmap_mode="c")
        self.notes = [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]


def compute(
    sets: Mapping[Path, tuple[int, Draw]], opened: Callable[[], Look], workers: int = WORKERS
) -> None:
    """Fill sets, each by its folder with so many entries, in order; a draw must be a pure function of the
    entry's number.

    opened is called once in each worker.
    """
    left = {folder: entry for folder, entry in sets.items() if not (folder / "notes.jsonl").exists()}
    missing: list[tuple[Path, int]] = []
    for folder, (count, _) in left.items():
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        missing += [(folder, start) for start in range(0, count, CHUNK) if not _chunk(folder, start).exists()]
    if missing:
        # Workers get what they need at their start; a task carries only its number.
        with FRESH.Pool(workers, _start_worker, (opened, left)) as pool:
            for done, folder in enumerate(pool.imap_unordered(_compute_chunk, missing), start=1):
                if done % 50 == 0:
                    print(f"{folder.name}: {done} of {len(missing)} chunks", flush=True)
    for folder, (count, _) in left.items():
        _join(folder, [_chunk(folder, start) for start in range(0, count, CHUNK)])


def compute_all(folder: Path, name: str, opened: Callable[[], Look], workers: int = WORKERS) -> None:
    """Every set of a training folder, below folder/name."""
    records = sorted(read_records(folder), key=lambda record: record.id)
    library, triplets = Library.read(folder), Triplets(folder)
    sets: dict[str, tuple[int, Draw]] = {"plain": (len(records), partial(_plain, folder, records))}
    for number in range(1, VARIED_SETS + 1):
        sets[f"varied-{number}"] = (len(records), partial(_varied, folder, records, number))
    sets["scenes"] = (SCENES, partial(_scene, library))
    sets["triplets"] = (TRIPLETS, partial(_triplet, triplets))
    compute({folder / name / found: entry for found, entry in sets.items()}, opened, workers)


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


def through_stem(file: Path) -> Look:
    """The stem at this path, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def look(pictures: Sequence[Pixels]) -> tuple[Floats, Floats]:
        found = [
            session.run(["patches", "pooled"], {"pixels": pixels_of(few)}) for few in _split(pictures, 8)
        ]
        patches, pooled = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return patches, pooled

    return look


def as_squares() -> Look:
    """Small pictures as squares of normalised pixels, row by row; nothing pooled."""

    def look(pictures: Sequence[Pixels]) -> tuple[Floats, Floats]:
        resize = (PIXELS_SIDE, PIXELS_SIDE)
        small = [np.asarray(Image.fromarray(picture).resize(resize)) for picture in pictures]
        side = PIXELS_SIDE // PIXELS_GRID
        split = pixels_of(small).reshape(-1, 3, PIXELS_GRID, side, PIXELS_GRID, side)
        squares = split.transpose(0, 2, 4, 1, 3, 5).reshape(len(small), PIXELS_GRID**2, -1)
        return squares, np.zeros((len(small), 1), np.float32)

    return look


def through_torch(file: Path, device: str) -> Look:
    """The stem at this path, on a device of torch's."""
    import torch  # features of a CPU are computed without

    from models.training.torch_stem import TorchStem

    torch.set_num_threads(1)
    stem = TorchStem(file, device)

    def look(pictures: Sequence[Pixels]) -> tuple[Floats, Floats]:
        found = [stem(torch.from_numpy(pixels_of(few)).to(device)) for few in _split(pictures, 32)]
        patches, pooled = (torch.cat(tensors).cpu().numpy() for tensors in zip(*found, strict=True))
        return patches, pooled

    return look


@dataclass(frozen=True)
class _Worker:
    look: Look
    sets: Mapping[Path, tuple[int, Draw]]


_worker: _Worker  # of this process


def _start_worker(opened: Callable[[], Look], sets: Mapping[Path, tuple[int, Draw]]) -> None:
    global _worker
    _worker = _Worker(opened(), sets)


def pixels_of(pictures: Sequence[Pixels]) -> Floats:
    """Normalised float32 (n, 3, S, S) for the stem."""
    stacked = (np.stack(pictures).astype(np.float32) - MEAN) / STD
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def _compute_chunk(task: tuple[Path, int]) -> Path:
    (folder, start), worker = task, _worker
    count, draw = worker.sets[folder]
    drawn = [draw(i) for i in range(start, min(start + CHUNK, count))]
    found = worker.look([picture for entry in drawn for picture in entry.pictures])
    patches, pooled = (array.astype(np.float16) for array in found)
    notes = np.array([json.dumps(entry.note, ensure_ascii=False) for entry in drawn])
    file = _chunk(folder, start)
    with file.with_suffix(".partial").open("wb") as stream:
        np.savez(stream, patches=patches, pooled=pooled, notes=notes)
    os.replace(file.with_suffix(".partial"), file)
    return folder


def _chunk(folder: Path, start: int) -> Path:
    return folder / "chunks" / f"{start}.npz"


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
    looks = parser.add_mutually_exclusive_group(required=True)
    looks.add_argument("--stem", type=Path)
    looks.add_argument("--pixels", action="store_true")
    parser.add_argument("--device", help="of torch, for the stem; without it ONNX Runtime's CPU")
    parser.add_argument("--workers", type=int, default=WORKERS)
    arguments = parser.parse_args()
    front_end, opened = "patches", as_squares
    if not arguments.pixels:
        front_end, opened = "stem", partial(through_stem, arguments.stem)
        if arguments.device is not None:
            opened = partial(through_torch, arguments.stem, arguments.device)
    compute_all(arguments.folder, FOLDERS[front_end], opened, arguments.workers)


if __name__ == "__main__":
    main()
