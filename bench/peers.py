# mypy: disable-error-code="import-not-found,import-untyped"
"""Recall against queries per second, beside other libraries on the same vectors: a curve for each.

    python -m bench.peers --items 200000 --peers hnswlib usearch lancedb

One thread asks one query at a time through each library's Python API. Peers that are not installed are named
and left out. The graphs are built with equal parameters (32 links, breadth 160); an effort is the breadth of
a search. Two have no effort to choose: Qdrant's local mode compares with every row, and so does Milvus Lite
with the index that it makes by default. Queries per second are the inverse of the median time.
With ``--folder`` our graph is the first generation that ``bench.index --folder`` built of the same items.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bench.corpus import corpus
from bench.filters import view_of
from bench.house import House
from bench.tables import RESULTS, Row, save
from index.engines import Params
from index.engines.building import EF_CONSTRUCTION
from index.engines.faiss import FaissEngine
from index.fields import Fields
from index.recall import exact_top_k, recall_at_k
from index.vectors import Vectors

TOP_K, LINKS = 10, 32
AT_ONCE = 5000  # rows in an insertion
BREADTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512)

Search = Callable[[Vectors], Any]  # one (dim,) query: the rows it finds
Efforts = Iterator[tuple[int, Search]]


def main() -> None:
    """Build each, sweep its effort, and write the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=300, help="of each direction")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--embeddings", type=Path, default=Path("build/embeddings.npz"))
    parser.add_argument("--limit-s", type=float, default=300.0, help="for one peer's sweep")
    parser.add_argument("--folder", type=Path, help="of bench.index, whose snapshot is not built again")
    parser.add_argument("--ours", nargs="*", default=list(OURS), choices=list(OURS))
    arguments = parser.parse_args()
    arguments.embeddings.parent.mkdir(parents=True, exist_ok=True)
    vectors = corpus(arguments.items, arguments.embeddings)
    queries = {direction: rows[: arguments.queries] for direction, rows in vectors.queries.items()}
    truth = {direction: exact_top_k(vectors.rows, rows, TOP_K)[0] for direction, rows in queries.items()}
    rows = list[Row]()
    for name in (*arguments.ours, *arguments.peers):
        search_of = (OURS | PEERS)[name]
        if name == "momoseek" and arguments.folder:
            search_of = partial(opened, arguments.folder)
        try:
            for row in curve(name, search_of, vectors.rows, queries, truth, arguments.limit_s):
                rows.append(row)
                print(json.dumps(row), flush=True)
        except ImportError as error:
            print(json.dumps({"library": name, "left_out": str(error)}), flush=True)
    command = f"python -m bench.peers --items {arguments.items} --peers {' '.join(arguments.peers)}"
    file = RESULTS / f"peers-{arguments.items}.csv"
    save(rows, file, command, "recall", "queries_per_s", ("queries", "library"), "y")


def curve(
    name: str,
    search_of: Callable[[Vectors], Efforts],
    rows: Vectors,
    queries: dict[str, Vectors],
    truth: dict[str, Vectors],
    limit_s: float,
) -> Iterator[Row]:
    """Build one library's index and sweep its effort."""
    started = time.monotonic()
    build_s = 0.0
    for effort, search in search_of(rows):
        build_s = build_s or time.monotonic() - started
        until = time.monotonic() + limit_s / len(BREADTHS) / len(queries)
        for direction, asked in queries.items():
            about = {
                "library": _named(name),
                "build_s": round(build_s, 1),
                "queries": direction,
                "effort": effort,
            }
            yield about | measured(search, asked, rows, truth[direction], until)


def measured(search: Search, queries: Vectors, rows: Vectors, truth: Vectors, until: float) -> Row:
    """Recall and speed over the queries, or over those that there was time for."""
    found, taken_s = np.full((len(queries), TOP_K), -np.inf, np.float32), list[float]()
    for number, query in enumerate(queries):
        started = time.perf_counter()
        numbers = np.asarray(search(query), np.int64)
        taken_s.append(time.perf_counter() - started)
        found[number, : len(numbers)] = -np.sort(-(rows[numbers] @ query))
        if time.monotonic() > until and number >= 20:
            break
    asked = len(taken_s)
    return {
        "asked": asked,
        "recall": round(recall_at_k(truth[:asked], found[:asked]), 4),
        "queries_per_s": round(1 / statistics.median(taken_s), 1),
    }


def momoseek(rows: Vectors, factory: str) -> Efforts:
    """A view of a snapshot, as the service searches it."""
    engine = FaissEngine.build(rows, factory)
    with tempfile.TemporaryDirectory() as folder:
        engine.save(Path(folder))
        engine = FaissEngine.load(Path(folder), factory, engine.tuning)
    return by_breadth(engine)


def opened(folder: Path, rows: Vectors) -> Efforts:
    """The same of what bench.index has built of these rows."""
    store = House(folder, "auto", rows[:1]).store
    first = store.root / f"{min(store.generations()):06d}"
    manifest = store.manifest(min(store.generations()))
    if manifest.count != len(rows):
        raise SystemExit(f"{folder} has a snapshot of {manifest.count} items")
    for name in manifest.tree_hash:
        (first / name).read_bytes()
    return by_breadth(FaissEngine.load(first, manifest.factory, manifest.tuning))


def by_breadth(engine: FaissEngine) -> Efforts:
    """An engine as the service searches it, at every breadth; its files are in the page cache."""
    view = view_of(engine, Fields.of([]))
    view.search(engine.rows[:1], TOP_K, params=Params(exact=True))
    for ef in BREADTHS:

        def search(query: Vectors, ef: int = ef) -> list[int]:
            return [hit.seq - 1 for hit in view.search(query[None], TOP_K, params=Params(ef=ef))[0]]

        yield ef, search


def hnswlib(rows: Vectors) -> Efforts:
    """The library of HNSW's authors."""
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), ef_construction=EF_CONSTRUCTION, M=LINKS)
    index.add_items(rows)
    index.set_num_threads(1)
    for ef in BREADTHS:
        index.set_ef(ef)
        yield ef, lambda query: index.knn_query(query, TOP_K)[0][0]


def usearch(rows: Vectors, dtype: str) -> Efforts:
    """Unum's USearch; its links are those of the lowest layer."""
    from usearch.index import Index

    index: Any = Index(
        ndim=rows.shape[1], metric="ip", dtype=dtype, connectivity=LINKS, expansion_add=EF_CONSTRUCTION
    )
    index.add(np.arange(len(rows)), rows)
    for ef in BREADTHS:
        index.expansion_search = ef
        yield ef, lambda query: index.search(query, TOP_K, threads=1).keys


def lancedb(rows: Vectors) -> Efforts:
    """LanceDB's graph of bytes in lists, with its own refinement."""
    import lancedb
    import pyarrow

    with tempfile.TemporaryDirectory() as folder:
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), rows.shape[1])
        table = pyarrow.table({"id": np.arange(len(rows)), "vector": vectors})
        opened: Any = lancedb.connect(folder).create_table("rows", table)
        opened.create_index(
            metric="dot", index_type="IVF_HNSW_SQ", num_partitions=1, m=LINKS, ef_construction=EF_CONSTRUCTION
        )
        for ef in BREADTHS:

            def search(query: Vectors, ef: int = ef) -> Any:
                asked = (
                    opened.search(query)
                    .distance_type("dot")
                    .limit(TOP_K)
                    .ef(max(ef, 4 * TOP_K))
                    .refine_factor(4)
                )
                return asked.select(["id"]).to_arrow()["id"].to_numpy()

            yield ef, search


def qdrant(rows: Vectors) -> Efforts:
    """Qdrant's local mode: every row, in NumPy."""
    from qdrant_client import QdrantClient, models

    client: Any = QdrantClient(":memory:")
    params = models.VectorParams(size=rows.shape[1], distance=models.Distance.COSINE)
    client.create_collection("rows", vectors_config=params)
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        numbers = list(range(start, start + len(part)))
        client.upsert("rows", models.Batch(ids=numbers, vectors=part.tolist()))

    def search(query: Vectors) -> list[int]:
        return [point.id for point in client.query_points("rows", query.tolist(), limit=TOP_K).points]

    yield len(rows), search


def milvus_lite(rows: Vectors) -> Efforts:
    """Milvus Lite with its exact index."""
    from pymilvus import MilvusClient

    with tempfile.TemporaryDirectory() as folder:
        client: Any = MilvusClient(f"{folder}/rows.db")
        client.create_collection("rows", dimension=rows.shape[1], metric_type="IP", auto_id=False)
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE].tolist()
            client.insert("rows", [{"id": start + n, "vector": row} for n, row in enumerate(part)])

        def search(query: Vectors) -> list[int]:
            [found] = client.search("rows", [query.tolist()], limit=TOP_K)
            return [hit["id"] for hit in found]

        yield len(rows), search
        client.close()


OURS: dict[str, Callable[[Vectors], Efforts]] = {
    "momoseek": lambda rows: momoseek(rows, "HNSW32,Flat"),
    "momoseek SQ8": lambda rows: momoseek(rows, "HNSW32,SQ8,RFlat"),
}
PEERS: dict[str, Callable[[Vectors], Efforts]] = {
    "hnswlib": hnswlib,
    "usearch": lambda rows: usearch(rows, "f32"),
    "usearch i8": lambda rows: usearch(rows, "i8"),
    "lancedb": lancedb,
    "qdrant-client": qdrant,
    "milvus-lite": milvus_lite,
}


def _named(name: str) -> str:
    try:
        return f"{name} {version(name.split()[0])}"
    except PackageNotFoundError:
        return name


if __name__ == "__main__":
    main()
