"""A collection to measure: its catalog and snapshots in one folder, and the bare index beside them."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import faiss
import numpy as np
import psutil

from index.catalog import Catalog, Outcome, Upsert
from index.engines import Tuning
from index.engines.building import stored_in
from index.engines.kinds import Kind
from index.folders import store_in
from index.live import LiveIndex
from index.policy import Policy
from index.rebuild import Rebuilder
from index.snapshot import SnapshotStore
from index.vectors import Vectors

P = ParamSpec("P")
T = TypeVar("T")

_faiss: Any = faiss
_NAME, _ENCODER = "bench", "bench-000000000000"
_AT_ONCE = 5000  # items in a transaction


def in_child(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The same in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments, **named).result()


class House:
    """Catalog, snapshots and what builds them; it can be sent to another process."""

    def __init__(self, folder: Path, index_type: str, text_probes: Vectors) -> None:
        self.folder = folder
        self._index_type = index_type
        self._text_probes = text_probes
        self._catalog = Catalog(f"sqlite:///{folder.resolve()}/catalog.db")
        self._catalog.create_collection(_NAME, _ENCODER, text_probes.shape[1])

    def __reduce__(self) -> Any:
        return House, (self.folder, self._index_type, self._text_probes)

    @property
    def store(self) -> SnapshotStore:
        """The snapshots."""
        return store_in(self.folder / "snapshots")(self._catalog.collection(_NAME))

    def has(self, items: int) -> bool:
        """Whether so many items are there already."""
        return self._catalog.count(self._catalog.collection(_NAME)) >= items

    def fill(
        self,
        rows: Vectors,
        is_picture: np.ndarray,
        metadata: Iterator[dict[str, float]],
        prefix: str = "item",
    ) -> None:
        """Commit an item for each row."""
        for start in range(0, len(rows), _AT_ONCE):
            self.commit(
                [
                    Upsert(
                        id=f"{prefix}-{number}",
                        content=content_of(f"{prefix}-{number}"),
                        vector=rows[number],
                        modality="image" if is_picture[number] else "text",
                        metadata=next(metadata),
                    )
                    for number in range(start, min(len(rows), start + _AT_ONCE))
                ]
            )

    def commit(self, writes: Sequence[Upsert]) -> list[Outcome]:
        """Write items."""
        return self._catalog.commit(_NAME, writes, _ENCODER)

    def live(self) -> LiveIndex:
        """The index as the service opens it."""
        return LiveIndex(self._catalog, store_in(self.folder / "snapshots"), _NAME)

    def rebuilt(self, niceness: int = 0) -> dict[str, Any]:
        """Publish a generation, perhaps as nice to others as the worker is; the report."""
        os.nice(niceness)
        policy = Policy(index_type=self._index_type, recall_floor=0.0, keep=1)
        rebuilder = Rebuilder(
            self._catalog, store_in(self.folder / "snapshots"), lambda _: self._text_probes, policy
        )
        report = rebuilder.rebuild(_NAME, "the bench wants it", time.time())
        if not report.published:
            raise RuntimeError(report.reason)
        return asdict(report)

    # -- the same index without us

    def bare(self, tuning: Tuning) -> Callable[[Vectors], list[float]]:
        """A search of FAISS alone in the snapshot's files: the scores of the ten nearest."""
        manifest = self.store.manifest(self.store.current() or 0)
        folder, kind = self.store.root / f"{manifest.generation:06d}", Kind.of(manifest.factory)
        mapped, graph_alone = _faiss.IO_FLAG_MMAP_IFC, bool(kind.links) and not kind.has_codes
        flat = _faiss.read_index(str(folder / "vectors.faiss"), mapped if kind.has_codes else 0)
        if kind.factory == "Flat":
            return lambda query: flat.search(query, 10)[0][0].tolist()
        skipped = _faiss.IO_FLAG_SKIP_STORAGE if graph_alone else 0
        index = _faiss.read_index(str(folder / "index.faiss"), skipped)
        if graph_alone:
            stored_in(flat, index)
        rescore = tuning.get("rescore", 1)
        if kind.links:
            params = _faiss.SearchParametersHNSW(efSearch=max(tuning["ef"], 10 * rescore))
        else:
            params = _faiss.SearchParametersIVF(nprobe=min(tuning["nprobe"], kind.lists))
        if kind.has_codes:
            index = _faiss.IndexRefine(index, flat)
            params = _faiss.IndexRefineSearchParameters(k_factor=rescore, base_index_params=params)
        kept = (flat, index)
        return lambda query: kept[1].search(query, 10, params=params)[0][0].tolist()

    def bare_resident_bytes(self, queries: Vectors) -> int:
        """What reading the bare index and asking it all queries adds to this process."""
        before = _resident()
        search = self.bare(self.store.manifest(self.store.current() or 0).tuning)
        for query in queries:
            search(query[None])
        return _resident() - before

    def resident_bytes(self, queries: Vectors) -> int:
        """The same of the live index: snapshot, tail, fields and catalog."""
        before = _resident()
        live = self.live()
        for query in queries:
            live.view.search(query[None], 10)
        return _resident() - before

    def restart_s(self, query: Vectors) -> float:
        """From starting a process to its first answer."""
        np.save(self.folder / "query.npy", query)
        code = (
            "import sys, numpy; from pathlib import Path; from bench.house import House;"
            "folder = Path(sys.argv[1]); query = numpy.load(folder / 'query.npy');"
            f"house = House(folder, {self._index_type!r}, query);"
            "assert len(house.live().view.search(query, 10)[0]) == 10;"
            "print('ready', flush=True); sys.stdin.read()"
        )
        started = time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-c", code, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            ready_s = time.monotonic() - started
            process.communicate("")
        return ready_s


def content_of(item_id: str) -> str:
    """The hash that stands for what an item says."""
    return hashlib.sha256(item_id.encode()).hexdigest()


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
