"""A Milvus cluster: rows under their seqs, written, read and searched over the network."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.engines import Scores
from index.vectors import Seqs, Vectors

Codes = NDArray[np.int8]  # (n,), each a small number that stands for a modality

MOST_HITS = 16_384  # that Milvus gives to one query
AT_ONCE = 2_048  # vectors in one reply or one delivery: some megabytes

_SEQS_AT_ONCE = 8_192
_LINKS, _EF_CONSTRUCTION = 32, 160
_CLOCKS_MS = 1_000  # the clocks of the cluster and of those who write to it differ by less
_PAUSE_S = 3.0  # a cluster that could not be reached is left alone for so long: callers must not pile up
_MOST_EF = 32_768  # that Milvus takes
_LEAST_FOR_GRAPH = 1024  # rows; Milvus scans smaller segments
_NO_COLLECTION = 100  # Milvus's code
_SETTLING_S, _LOOK_S = 600.0, 0.5
_NO_SCORE = np.float32(-np.inf)


class ClusterUnavailable(Exception):
    """The cluster cannot be reached or refuses; its message never has the token."""


class RowsMissing(ClusterUnavailable):
    """The cluster lacks rows that it was given: it must be given them again."""


class Cluster:
    """A Milvus cluster. Safe in many threads; connects when first used; all raises ClusterUnavailable."""

    def __init__(self, url: str, token: str = "", timeout_s: float = 10.0) -> None:
        """``url`` as in ``http://host:19530``; https for TLS. ``token``: an API key or ``user:password``."""
        self._url = url
        self._token = token
        self._timeout_s = timeout_s
        self._connecting = threading.Lock()
        self._client: Any = None
        self._paused_until = 0.0  # on the monotonic clock

    def close(self) -> None:
        """Give the connection up; the next use makes another."""
        with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def names(self) -> list[str]:
        """Its collections, other people's too."""
        with self._connected() as (_, client):
            return list(client.list_collections(timeout=self._timeout_s))

    def create(self, name: str, dim: int) -> None:
        """Make a collection for rows of this length, unless it is there."""
        with self._connected() as (pymilvus, client):
            if client.has_collection(name, timeout=self._timeout_s):
                return
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("seq", pymilvus.DataType.INT64, is_primary=True)
            schema.add_field("modality", pymilvus.DataType.INT8)
            schema.add_field("vector", pymilvus.DataType.FLOAT_VECTOR, dim=dim)
            graph = client.prepare_index_params()
            effort = {"M": _LINKS, "efConstruction": _EF_CONSTRUCTION}
            graph.add_index("vector", index_type="HNSW", metric_type="IP", params=effort)
            client.create_collection(name, schema=schema, index_params=graph, timeout=self._timeout_s)

    def drop(self, name: str) -> None:
        """Remove a collection if it is there."""
        with self._connected() as (_, client):
            client.drop_collection(name, timeout=self._timeout_s)

    def upsert(self, name: str, seqs: Seqs, vectors: Vectors, modalities: Codes) -> None:
        """Write (n, dim) rows. One that is there is replaced, so that twice is as good as once."""
        with self._connected() as (_, client):
            for part in parts(len(seqs), AT_ONCE):
                fields = zip(seqs[part].tolist(), modalities[part].tolist(), vectors[part], strict=True)
                rows = [{"seq": seq, "modality": code, "vector": vector} for seq, code, vector in fields]
                client.upsert(name, rows, timeout=self._timeout_s)

    def delete(self, name: str, seqs: Seqs) -> None:
        """Remove rows; those that are not there are no error."""
        with self._connected() as (_, client):
            for part in parts(len(seqs), _SEQS_AT_ONCE):
                client.delete(name, ids=seqs[part].tolist(), timeout=self._timeout_s)

    def settle(self, name: str) -> None:
        """Wait until what was written is searched by its graph, ten minutes at most.

        Until then a scan finds it, or an index made in a hurry, which finds less: both measure wrong.
        """
        until = time.monotonic() + _SETTLING_S
        with self._connected() as (_, client):
            client.flush(name, timeout=_SETTLING_S)
            while not self._is_settled(client, name) and time.monotonic() < until:
                time.sleep(_LOOK_S)

    def _is_settled(self, client: Any, name: str) -> bool:
        written = client.list_persistent_segments(name, timeout=self._timeout_s)
        loaded = client.list_loaded_segments(name, timeout=self._timeout_s)
        ready = {one.segment_id for one in loaded if one.index_id or one.num_rows < _LEAST_FOR_GRAPH}
        return {one.segment_id for one in written} <= ready

    def seqs(self, name: str, as_of_ms: int) -> Iterator[Seqs]:
        """The seqs of all its rows, a part at a time, in any order."""
        seen = _seen(as_of_ms)
        with self._connected() as (_, client):
            pages = client.query_iterator(
                name, _SEQS_AT_ONCE, filter="seq >= 0", output_fields=["seq"], **seen
            )
            while page := pages.next():
                yield np.array([row["seq"] for row in page], np.int64)
            pages.close()

    def rows(self, name: str, dim: int, seqs: Seqs, as_of_ms: int) -> tuple[Seqs, Vectors]:
        """Those of at most AT_ONCE rows that are there: their seqs, ascending, and (n, dim) vectors."""
        fields, condition = ["seq", "vector"], among(seqs)
        with self._connected() as (_, client):
            rows = client.query(name, condition, fields, timeout=self._timeout_s, **_seen(as_of_ms))
        found, first = np.unique(np.array([row["seq"] for row in rows], np.int64), return_index=True)
        vectors = np.array([rows[place]["vector"] for place in first], np.float32)
        return found, vectors.reshape(-1, dim)

    def search(
        self, name: str, queries: Vectors, top_k: int, condition: str, ef: int, as_of_ms: int
    ) -> tuple[Scores, Seqs]:
        """The ``top_k`` nearest rows that meet a condition: (n, top_k) arrays, padded with -inf and -1.

        ``top_k`` is at most MOST_HITS.
        """
        scores = np.full((len(queries), top_k), _NO_SCORE)
        seqs = np.full((len(queries), top_k), -1, np.int64)
        with self._connected() as (_, client):
            lines = client.search(
                name,
                list(queries),
                condition,
                top_k,
                output_fields=[],
                search_params={"metric_type": "IP", "params": {"ef": min(max(ef, top_k), _MOST_EF)}},
                timeout=self._timeout_s,
                **_seen(as_of_ms),
            )
        for number, line in enumerate(lines):
            scores[number, : len(line)], seqs[number, : len(line)] = line.distances, line.ids
        return scores, seqs

    @contextmanager
    def _connected(self) -> Iterator[tuple[Any, Any]]:
        """The library, which only those load who have a cluster, and a client."""
        try:
            import grpc
            import pymilvus
        except ImportError as error:
            raise ClusterUnavailable("pymilvus is not installed: pip install 'momoseek[milvus]'") from error
        try:
            yield pymilvus, self._opened(pymilvus)
        except pymilvus.MilvusException as error:
            if not isinstance(error.code, int):  # of the way there: the cluster itself answers with numbers
                self._paused_until = time.monotonic() + _PAUSE_S
            kind = RowsMissing if error.code == _NO_COLLECTION else ClusterUnavailable
            raise kind(f"the Milvus cluster cannot be used: {error.message}") from error
        except grpc.RpcError as error:
            raise ClusterUnavailable(f"the Milvus cluster cannot be used: {_details(error)}") from error

    def _opened(self, pymilvus: Any) -> Any:
        with self._connecting:
            if time.monotonic() < self._paused_until:
                raise ClusterUnavailable("the Milvus cluster could not be reached a moment ago")
            if self._client is None:
                logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises as well
                try:
                    self._client = pymilvus.MilvusClient(
                        self._url, token=self._token, timeout=self._timeout_s
                    )
                except pymilvus.MilvusException:
                    self._paused_until = time.monotonic() + _PAUSE_S
                    raise
            return self._client


def now_ms() -> int:
    """A moment by which all that was written so far was written, in milliseconds since the epoch."""
    return int(time.time() * 1000) + _CLOCKS_MS


def among(seqs: Seqs) -> str:
    """The condition that a row is one of these."""
    return f"seq in {seqs.tolist()}"


def between(first: int, last: int) -> str:
    """The condition that a row's seq is in a range, both ends included."""
    return f"seq >= {first} and seq <= {last}"


def of_modalities(codes: Sequence[int]) -> str:
    """The condition that a row's modality is one of these."""
    return f"modality in {list(codes)}"


def parts(count: int, size: int) -> list[slice]:
    """Slices of at most ``size`` that make up ``count``."""
    return [slice(start, start + size) for start in range(0, count, size)]


def _details(error: Any) -> str:
    return str(error.details() if hasattr(error, "details") else error)


def _seen(as_of_ms: int) -> Mapping[str, Any]:
    """Makes a reading see all that was written by then.

    "Strong" would wait for what is written now, too, some 0.4 s each time; "Bounded", as Milvus reads by
    itself, may miss what is 5 s old. Milvus's time is milliseconds above a counter of 18 bits.
    """
    return {"consistency_level": "Customized", "guarantee_timestamp": as_of_ms << 18}
