"""Clusters to test with: one in memory that computes, Milvus Lite, and a real server that can be killed."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from index.engines import Mask, Scores
from index.engines.cluster import Cluster, ClusterUnavailable, Codes, RowsMissing, now_ms
from index.recall import exact_top_k
from index.vectors import Seqs, Vectors

SERVER = os.environ.get("MILVUS_SERVER", "")  # the program milvus-server; `make test-milvus` installs it
TOKEN = "root:Milvus"  # of a server that was just installed
_STARTING_S = 600.0  # it unpacks itself first, which takes minutes where others work

needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("milvus_lite") is None, reason="milvus-lite is not installed"
)
needs_server = pytest.mark.skipif(not SERVER, reason="no Milvus server is installed: make test-milvus")


KINDS = ["memory", pytest.param("lite", marks=needs_lite), pytest.param("server", marks=needs_server)]


def cluster_of(request: pytest.FixtureRequest, folder: Path) -> Cluster:
    """A cluster of the kind that a fixture is parametrized with."""
    if request.param == "memory":
        return MemoryCluster()
    if request.param == "lite":
        return LiteCluster(str(folder / "milvus.db"))
    server: Server = request.getfixturevalue("milvus")
    return Cluster(server.url, TOKEN)


class LiteCluster(Cluster):
    """Milvus Lite, in this process, in a file. It has no segments that could be waited for."""

    def settle(self, name: str) -> None:
        """See Cluster."""


class MemoryCluster(Cluster):
    """A cluster in memory. It searches exactly, but never meets ``unreachable`` seqs, and may not be asked
    for more than ``most`` hits."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.collections: dict[str, dict[int, tuple[Vectors, int]]] = {}
        self._packed: dict[str, tuple[Seqs, Codes, Vectors]] = {}  # what walks meet, until the next write
        self.unreachable: set[int] = set()
        self.most = 16_384
        self.down = False
        self.searches: list[str] = []  # the conditions asked for
        self.delivered: list[int] = []  # seqs

    def names(self) -> list[str]:
        self._check()
        return list(self.collections)

    def create(self, name: str, dim: int) -> None:
        self._check()
        self.collections.setdefault(name, {})

    def drop(self, name: str) -> None:
        self._check()
        self.collections.pop(name, None)

    def upsert(self, name: str, seqs: Seqs, vectors: Vectors, modalities: Codes) -> None:
        rows = zip(vectors.copy(), modalities.tolist(), strict=True)
        self._rows(name).update(zip(seqs.tolist(), rows, strict=True))
        self.delivered += seqs.tolist()
        self._packed.pop(name, None)

    def delete(self, name: str, seqs: Seqs) -> None:
        for seq in seqs.tolist():
            self._rows(name).pop(seq, None)
        self._packed.pop(name, None)

    def settle(self, name: str) -> None:
        self._rows(name)

    def seqs(self, name: str, as_of_ms: int) -> Iterator[Seqs]:
        yield np.array(sorted(self._rows(name)), np.int64)

    def rows(self, name: str, dim: int, seqs: Seqs, as_of_ms: int) -> tuple[Seqs, Vectors]:
        rows = self._rows(name)
        found = [seq for seq in sorted(seqs.tolist()) if seq in rows]
        vectors = np.array([rows[seq][0] for seq in found], np.float32)
        return np.array(found, np.int64), vectors.reshape(-1, dim)

    def search(
        self, name: str, queries: Vectors, top_k: int, condition: str, ef: int, as_of_ms: int
    ) -> tuple[Scores, Seqs]:
        assert top_k <= self.most
        assert as_of_ms <= now_ms()
        self.searches.append(condition)
        rows = self._rows(name)
        if name not in self._packed:
            met = sorted(set(rows) - self.unreachable)
            vectors = np.array([rows[seq][0] for seq in met], np.float32).reshape(-1, queries.shape[1])
            codes = np.array([rows[seq][1] for seq in met], np.int8)
            self._packed[name] = np.array(met, np.int64), codes, vectors
        seqs, codes, vectors = self._packed[name]
        meets = _met(condition, seqs, codes)
        scores, places = exact_top_k(vectors[meets], queries, top_k)
        return scores, np.append(seqs[meets], -1)[places]

    def lose(self, name: str, seqs: Seqs) -> None:
        """Forget rows, as no cluster should."""
        self.delete(name, seqs)

    def _rows(self, name: str) -> dict[int, tuple[Vectors, int]]:
        self._check()
        if name not in self.collections:
            raise RowsMissing(f"there is no {name}")
        return self.collections[name]

    def _check(self) -> None:
        if self.down:
            raise ClusterUnavailable("the cluster is down")


def _met(condition: str, seqs: Seqs, codes: Codes) -> Mask:
    condition, _, modalities = condition.partition(" and modality in ")
    numbers = np.array(re.findall(r"\d+", condition), np.int64)
    if condition.startswith("seq in"):
        return np.isin(seqs, numbers)
    met: Mask = (seqs >= numbers[0]) & (seqs <= numbers[1])
    return met & np.isin(codes, json.loads(modalities)) if modalities else met


class Server:
    """A standalone Milvus server that asks for a token, on loopback, with its files in a folder.

    It binds more ports than it is told to, so that a machine has room for one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [SERVER, "--data", str(self.folder), "--proxy-port", str(self.port)]
        with (self.folder.parent / "milvus.log").open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--authorization-enabled", "true"],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until = time.monotonic() + _STARTING_S
        while time.monotonic() < until:
            try:
                Cluster(self.url, TOKEN, timeout_s=5).names()
            except ClusterUnavailable:
                time.sleep(0.5)
            else:
                return
        self.kill()
        raise AssertionError(f"the server did not start: see {self.folder.parent / 'milvus.log'}")

    def kill(self) -> None:
        """SIGKILL the server and what started it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
