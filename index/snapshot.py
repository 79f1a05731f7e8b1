"""Snapshots: write-once folders holding the index of one log prefix, and the pointer that says which one serves.

Layout: ``<root>/000042/{index.faiss, ids.npy, manifest.json}`` and ``<root>/CURRENT`` holding "000042".
Replacing CURRENT is the commit: a folder that it never named is dead weight.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from index.engines import Engine
from index.engines.faiss import FaissEngine
from index.vectors import Seqs

_INDEX, _IDS, _MANIFEST, _CURRENT, _LOCK = "index.faiss", "ids.npy", "manifest.json", "CURRENT", "LOCK"
_GENERATION = re.compile(r"\d{6,}")


class SnapshotError(Exception):
    """A snapshot that must not be served: damaged, incomplete, or of another collection or encoder."""


@dataclass(frozen=True)
class Manifest:
    """What a snapshot holds. ``watermark``: it is exactly the log up to this seq. ``recall_at_10`` is per query
    direction, measured on this machine before publishing. ``digest``: of all its (seq, vector) pairs."""

    generation: int
    collection_uid: str
    encoder_id: str
    watermark: int
    count: int
    dim: int
    metric: str
    factory: str
    ef_search: int
    digest: str
    recall_at_10: dict[str, float]
    sha256: dict[str, str]
    built_at: float
    seconds: float

    @staticmethod
    def read(path: Path) -> "Manifest":
        """Read a manifest; raises SnapshotError when it is not one."""
        try:
            members = json.loads(path.read_text())
            if set(members) != {field.name for field in fields(Manifest)}:
                raise ValueError("members missing or unknown")
            return Manifest(**members)
        except (OSError, ValueError, TypeError) as error:
            raise SnapshotError(f"{path}: not a readable manifest: {error}") from error


@dataclass(frozen=True)
class Snapshot:
    """An open snapshot: row i of the engine is the version ``ids[i]``; ids ascend."""

    manifest: Manifest
    engine: Engine
    ids: Seqs


class SnapshotStore:
    """The snapshots of one collection under one encoder. One process at a time may publish; any may load."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def current(self) -> int | None:
        """The generation that serves, or None before the first."""
        try:
            text = (self.root / _CURRENT).read_text().strip()
        except FileNotFoundError:
            return None
        return int(text) if _GENERATION.fullmatch(text) else None

    def generations(self) -> list[int]:
        """Every generation that has a folder, complete or not, ascending."""
        if not self.root.is_dir():
            return []
        return sorted(int(path.name) for path in self.root.iterdir() if _GENERATION.fullmatch(path.name))

    def manifest(self, generation: int) -> Manifest:
        """The manifest of a generation. Raises SnapshotError."""
        return Manifest.read(self._folder(generation) / _MANIFEST)

    def load(self, generation: int, collection_uid: str, encoder_id: str) -> Snapshot:
        """Open a generation after checking every file against its manifest. Raises SnapshotError."""
        folder = self._folder(generation)
        manifest = self.manifest(generation)
        if (manifest.collection_uid, manifest.encoder_id) != (collection_uid, encoder_id):
            raise SnapshotError(f"{folder}: belongs to another collection or encoder ({manifest.encoder_id})")
        try:
            for name, expected in manifest.sha256.items():
                if _sha256(folder / name) != expected:
                    raise SnapshotError(f"{folder / name}: its content does not match the manifest")
            ids = np.load(folder / _IDS)
            engine = FaissEngine.load(folder / _INDEX, manifest.ef_search)
        except (OSError, ValueError, RuntimeError) as error:
            raise SnapshotError(f"{folder}: cannot be opened: {error}") from error
        if not engine.count == len(ids) == manifest.count:
            raise SnapshotError(
                f"{folder}: {engine.count} vectors, {len(ids)} ids, {manifest.count} in the manifest"
            )
        return Snapshot(manifest, engine, ids)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Hold the right to publish; waits for another publisher to finish."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def next_generation(self) -> int:
        """A number that no snapshot here has had: numbers only grow, and prune keeps whatever is newest."""
        return max([*self.generations(), self.current() or 0]) + 1

    def write(self, engine: FaissEngine, ids: Seqs, manifest: Manifest) -> None:
        """Write a complete, durable folder for ``manifest.generation``. It serves only after ``set_current``."""
        folder = self._folder(manifest.generation)
        folder.mkdir(parents=True)
        engine.save(folder / _INDEX)
        np.save(folder / _IDS, ids)
        sums = {name: _sha256(folder / name) for name in (_INDEX, _IDS)}
        complete = replace(manifest, sha256=sums, seconds=time.time() - manifest.built_at)
        (folder / _MANIFEST).write_text(json.dumps(asdict(complete), indent=1))
        for path in (*folder.iterdir(), folder, self.root):
            _fsync(path)

    def set_current(self, generation: int) -> None:
        """Make a generation serve: publishing writes the newest, rollback an older one."""
        fresh = self.root / f"{_CURRENT}.new"
        fresh.write_text(f"{generation:06d}\n")
        _fsync(fresh)
        os.replace(fresh, self.root / _CURRENT)
        _fsync(self.root)

    def prune(self, keep: int) -> list[int]:
        """Delete folders older than the current generation but the newest ``keep`` readable ones; what was deleted."""
        current = self.current() or 0
        older = [generation for generation in self.generations() if generation < current]
        kept = (
            [generation for generation in older if (self._folder(generation) / _MANIFEST).exists()][-keep:]
            if keep
            else []
        )
        doomed = [generation for generation in older if generation not in kept]
        for generation in doomed:
            shutil.rmtree(self._folder(generation), ignore_errors=True)
        return doomed

    def _folder(self, generation: int) -> Path:
        return self.root / f"{generation:06d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
