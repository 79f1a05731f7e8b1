"""Snapshots: write-once folders holding the index of one log prefix, and the pointer that says which serves.

Layout: ``<root>/000042/{vectors.faiss, index.faiss, ids.npy, fields.bin, manifest.json}``, of which the
engine writes the first two or one, and ``<root>/CURRENT`` holding "000042". The manifest is written last,
after the gate has passed the files as read back: a folder without a good one never serves and is dead weight.
Replacing CURRENT is the commit. ``<root>/HELD`` is there from a rollback until a person has the index built
anew. ``<root>/NEXT`` names a generation that will serve as soon as its collection is there.

An index that grew from an older one may have *dead* rows, of versions that were gone by the watermark: they
are never found. In ``ids.npy`` the seq of such a row is negative.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from index.engines import Engine, OpenEngine, Rows
from index.engines.faiss import FaissEngine
from index.fields import Fields, RowSet, marked
from index.files import fsync, locked, tree_hash_at
from index.manifest import Manifest, SnapshotError
from index.pointers import GENERATION, named_in, point
from index.vectors import Seqs, digest

_IDS, _FIELDS, _MANIFEST = "ids.npy", "fields.bin", "manifest.json"
_CURRENT, _LOCK, _POINTER_LOCK, _HELD, _NEXT = "CURRENT", "LOCK", "CURRENT.lock", "HELD", "NEXT"
_DIGEST_ROWS = 16_384  # rows copied out of the engine at once


@dataclass(frozen=True)
class Snapshot:
    """An open snapshot: row i of the engine and of the fields is the version ``ids[i]``; ids ascend."""

    manifest: Manifest
    engine: Engine
    ids: Seqs
    fields: Fields
    dead: RowSet = field(default_factory=RowSet)

    @property
    def alive(self) -> RowSet:
        """The rows of items."""
        return self.dead.flip(0, len(self.ids))

    def digest(self, rows: Rows | None = None) -> int:
        """The digest of these rows, of all when none are given."""
        rows = np.arange(len(self.ids)) if rows is None else rows
        parts = np.split(rows, range(_DIGEST_ROWS, len(rows), _DIGEST_ROWS))
        return sum(digest(self.ids[part], self.engine.vectors(part)) for part in parts) % 2**64


class SnapshotStore:
    """The snapshots of one collection under one encoder. One process at a time may publish; any may load."""

    def __init__(self, root: Path, open_engine: OpenEngine = FaissEngine.load) -> None:
        self.root = root
        self._open_engine = open_engine

    def current(self) -> int | None:
        """The generation that serves; None before the first, or when the pointer is damaged."""
        return named_in(self.root / _CURRENT)

    def announced(self) -> int | None:
        """The generation that will serve in a moment, if there is one."""
        return named_in(self.root / _NEXT)

    def has_damaged_pointer(self) -> bool:
        """Whether there is a pointer that names no generation."""
        return self.current() is None and (self.root / _CURRENT).exists()

    def generations(self) -> list[int]:
        """Every generation that has a folder, complete or not, ascending."""
        if not self.root.is_dir():
            return []
        return sorted(int(path.name) for path in self.root.iterdir() if GENERATION.fullmatch(path.name))

    def servable(self) -> Iterator[int]:
        """The generations to try, best first: the current one, then older ones (all, without a pointer)."""
        current = self.current()
        if current is not None:
            yield current
        for generation in reversed(self.generations()):
            if (current is None or generation < current) and self._is_finished(generation):
                yield generation

    def folder(self, generation: int) -> Path:
        """Where a generation's files are."""
        return self.root / f"{generation:06d}"

    def size_bytes(self, generation: int) -> int:
        """How much room a generation's files take; 0 if it is gone."""
        try:
            return sum(path.stat().st_size for path in self.folder(generation).iterdir())
        except FileNotFoundError:
            return 0

    def changed_at(self, generation: int) -> int:
        """When a generation's files were put in place, in nanoseconds since the epoch; 0 if it is gone."""
        try:
            return self.folder(generation).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def manifest(self, generation: int) -> Manifest:
        """The manifest of a generation. Raises SnapshotError."""
        return Manifest.read(self.folder(generation) / _MANIFEST)

    def load(self, generation: int, collection_uid: str, encoder_id: str) -> Snapshot:
        """Open a generation after checking every file against its manifest. Raises SnapshotError."""
        manifest = self.manifest(generation)
        named = (manifest.generation, manifest.collection_uid, manifest.encoder_id)
        if named != (generation, collection_uid, encoder_id):
            raise SnapshotError(f"{self.folder(generation)}: is generation, collection and encoder {named}")
        return self._open(manifest)

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Hold the right to build, publish and prune; waits for another publisher to finish."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / _LOCK):
            yield

    def is_publishing(self) -> bool:
        """Whether somebody builds or publishes now."""
        try:
            with (self.root / _LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # nobody ever did
            return False
        return False

    def is_held(self) -> bool:
        """Whether a rollback stands: nothing but a person's wish replaces what serves."""
        return (self.root / _HELD).exists()

    def next_generation(self) -> int:
        """A number that no snapshot here has had: each attempt leaves its folder until a newer one exists."""
        return max([*self.generations(), self.current() or 0]) + 1

    def publish(
        self,
        manifest: Manifest,
        engine: Engine,
        ids: Seqs,
        fields: Fields,
        gate: Callable[[Snapshot], Manifest],
    ) -> Manifest:
        """Write a new generation and make it current, if ``gate`` accepts it as read back.

        ``gate`` completes the manifest with what it measured, or raises. Raises that, SnapshotError or
        OSError; then what served goes on serving, or what a rollback has made serve meanwhile. A negative
        one of the ``ids`` marks a dead row. The caller holds ``publishing``.
        """
        folder, before = self.folder(manifest.generation), self.current()
        folder.mkdir()
        try:
            manifest = replace(manifest, tree_hash=self._write(folder, engine, ids, fields))
            manifest = gate(self._open(manifest))
            manifest.write(folder / _MANIFEST)
            for path in (folder / _MANIFEST, folder, self.root):
                fsync(path)
        except BaseException:
            for path in folder.iterdir():
                path.unlink()
            raise
        with locked(self.root / _POINTER_LOCK):
            if self.current() != before:
                raise SnapshotError(f"generation {self.current()} was made to serve while this one was built")
            self._serve(manifest.generation)
        return manifest

    def set_current(self, generation: int) -> None:
        """Make a generation serve that was put in place whole."""
        with locked(self.root / _POINTER_LOCK):
            self._serve(generation)

    @contextmanager
    def announcing(self, generation: int) -> Iterator[None]:
        """Let processes know which generation will serve, so that they open it. Hold ``publishing``."""
        point(self.root / _NEXT, generation)
        try:
            yield
        finally:
            (self.root / _NEXT).unlink(missing_ok=True)

    @contextmanager
    def serving(self, generation: int) -> Iterator[None]:
        """Make a generation serve that was put in place whole. If the block fails, what did before does
        again, and is held if it was."""
        before, held = self.current(), self.is_held()
        self.set_current(generation)
        try:
            yield
        except BaseException:
            with locked(self.root / _POINTER_LOCK):
                if before is None:
                    (self.root / _CURRENT).unlink(missing_ok=True)
                else:
                    point(self.root / _CURRENT, before)
                if held:
                    (self.root / _HELD).touch()
            raise

    def roll_back(self, generation: int) -> None:
        """Make a finished generation serve and hold it there. Does not wait for a publisher, who gives up.

        Raises SnapshotError if it is not finished, OSError.
        """
        with locked(self.root / _POINTER_LOCK):
            self.manifest(generation)
            (self.root / _HELD).touch()
            point(self.root / _CURRENT, generation)

    def _serve(self, generation: int) -> None:
        point(self.root / _CURRENT, generation)
        (self.root / _HELD).unlink(missing_ok=True)

    def prune(self, keep: int) -> list[int]:
        """Delete what cannot serve, and what does not but the newest ``keep`` on either side of what does.

        Generations newer than the current one are there after a rollback, or when a publisher died at the
        last moment. Returns what was deleted. Hold ``publishing``, so that no folder is anyone's work.
        """
        with locked(self.root / _POINTER_LOCK):  # nobody rolls back to what is being deleted
            return self._prune(keep)

    def _prune(self, keep: int) -> list[int]:
        (self.root / _NEXT).unlink(missing_ok=True)  # whoever announced it has died
        generations, current = self.generations(), self.current()
        finished = [generation for generation in generations if self._is_finished(generation)]
        older = [generation for generation in finished if current is not None and generation < current]
        newer = [generation for generation in finished if current is not None and generation > current]
        dropped = {*older[: max(0, len(older) - keep)], *newer[: max(0, len(newer) - keep)]}
        # The newest stays in any case, so that its number is not given again.
        spared = {current, *generations[-1:], *(set(finished) - dropped)}
        doomed = [generation for generation in generations if generation not in spared]
        for generation in doomed:
            shutil.rmtree(self.folder(generation), ignore_errors=True)
        return doomed

    def _is_finished(self, generation: int) -> bool:
        try:
            self.manifest(generation)
        except SnapshotError:
            return False
        return True

    def _write(self, folder: Path, engine: Engine, ids: Seqs, fields: Fields) -> dict[str, str]:
        try:
            names = [*engine.save(folder), _IDS, _FIELDS]
        except RuntimeError as error:
            raise SnapshotError(f"{folder}: the index cannot be written: {error}") from error
        np.save(folder / _IDS, ids)
        fields.save(folder / _FIELDS)
        for name in names:
            fsync(folder / name)
        return {name: tree_hash_at(folder / name) for name in names}

    def _open(self, manifest: Manifest) -> Snapshot:
        folder = self.folder(manifest.generation)
        try:
            for name in {*manifest.tree_hash, _IDS, _FIELDS}:
                if tree_hash_at(folder / name) != manifest.tree_hash.get(name):
                    raise SnapshotError(f"{folder / name}: its content does not match the manifest")
            signed: Seqs = np.load(folder / _IDS)
            engine = self._open_engine(folder, manifest.factory, manifest.tuning)
            fields = Fields.load(folder / _FIELDS)
        except (OSError, ValueError, RuntimeError) as error:
            raise SnapshotError(f"{folder}: cannot be opened: {error}") from error
        ids, dead = np.abs(signed), marked(signed < 0)
        ids.flags.writeable = False
        shape = (engine.count, engine.dim)
        if shape != (manifest.count, manifest.dim) or not len(ids) == fields.count == manifest.count:
            raise SnapshotError(
                f"{folder}: {len(ids)} ids, fields of {fields.count} rows and vectors of shape {shape} "
                "are not what it should hold"
            )
        if np.any(np.diff(ids) <= 0) or np.any(ids[-1:] > manifest.watermark):
            raise SnapshotError(f"{folder}: its ids do not ascend to its watermark")
        if len(dead) != manifest.dead:
            raise SnapshotError(f"{folder}: {len(dead)} rows are dead instead of {manifest.dead}")
        return Snapshot(manifest, engine, ids, fields, dead)
