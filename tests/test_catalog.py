"""The catalog: what is committed is kept whole, in order, once; the same on SQLite and on PostgreSQL."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from index.catalog import (
    Catalog,
    CollectionNotFound,
    Delete,
    EncoderMismatch,
    InvalidItem,
    ItemNotFound,
    Upsert,
)
from index.transaction import Transaction
from index.vectors import VectorError
from tests.indexing import DIM, ENCODER, filled, row_of, unit_rows, upsert


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog with an empty collection "c"."""
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    yield catalog
    catalog.close()


def log_of(catalog: Catalog, name: str = "c") -> list[tuple[int, int | None, bool]]:
    """The log of a collection: (seq, replaces, has a vector)."""
    with catalog.reading(name) as reading:
        return [(change.seq, change.replaces, change.vector is not None) for change in reading.changes(0)]


# -- one writer


def test_items_come_back_as_they_were_put_in(catalog: Catalog) -> None:
    metadata = {"b": [1, 1.0, True, None, "ü\n\"'"], "a": {"deep": {"er": -0.5}}, "": 1, 'k"e.y\\': 2**63 - 1}
    put = upsert("née 猫 🙂", modality="mixed", image="a" * 64, image_type="image/png", metadata=metadata)
    before = time.time()
    [outcome] = catalog.commit("c", [put], ENCODER)
    assert (outcome.id, outcome.status, outcome.seq) == (put.id, "created", 1)
    item = catalog.item("c", put.id)
    assert (item.seq, item.content, item.modality, item.text) == (1, put.content, "mixed", put.text)
    assert (item.image, item.image_type) == ("a" * 64, "image/png")
    assert repr(item.metadata) == repr(metadata)
    assert before <= item.created_at == item.updated_at <= time.time()
    np.testing.assert_array_equal(catalog.vector("c", put.id), put.vector)


def test_each_change_gets_the_next_seq(catalog: Catalog) -> None:
    catalog.create_collection("other", ENCODER, DIM)
    seqs = [catalog.commit("c", [upsert(f"i{n}")], ENCODER)[0].seq for n in range(3)]
    assert catalog.commit("other", [upsert("i0")], ENCODER)[0].seq == 1
    outcomes = catalog.commit("c", [upsert("i1", "new"), Delete("i2"), upsert("i3")], ENCODER)
    assert seqs == [1, 2, 3]
    assert [(o.status, o.seq) for o in outcomes] == [("updated", 4), ("deleted", 5), ("created", 6)]
    assert catalog.collection("c").last_seq == 6
    assert log_of(catalog) == [
        (1, None, True),
        (2, None, False),
        (3, None, False),
        (4, 2, True),
        (5, 3, False),
        (6, None, True),
    ]


def test_an_update_keeps_the_time_of_creation(catalog: Catalog) -> None:
    catalog.commit("c", [upsert("a")], ENCODER)
    created = catalog.item("c", "a")
    catalog.commit("c", [upsert("a", "other words")], ENCODER)
    updated = catalog.item("c", "a")
    assert updated.created_at == created.created_at
    assert updated.updated_at > created.updated_at
    np.testing.assert_array_equal(catalog.vector("c", "a"), row_of("other words"))


def test_an_unchanged_upsert_leaves_no_trace(catalog: Catalog) -> None:
    put = upsert("a", metadata={"x": 1, "y": [1, {"z": 0.1}], "big": 1e22})
    catalog.commit("c", [put], ENCODER)
    before = (catalog.item("c", "a"), log_of(catalog), catalog.collection("c"))
    again = upsert("a", metadata={"big": 1e22, "y": (1, {"z": 0.1}), "x": 1})
    [outcome] = catalog.commit("c", [again], ENCODER)
    assert (outcome.status, outcome.seq) == ("unchanged", 1)
    assert (catalog.item("c", "a"), log_of(catalog), catalog.collection("c")) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"x": 1.0}},
        {"metadata": {"x": True}},
        {"metadata": {"x": "1"}},
        {"metadata": {}},
        {"text": "same row, other words"},
        {"modality": "mixed", "image": "b" * 64},
    ],
)
def test_whatever_the_writer_says_anew_is_an_update(catalog: Catalog, fields: dict[str, Any]) -> None:
    catalog.commit("c", [upsert("a", metadata={"x": 1})], ENCODER)
    [outcome] = catalog.commit("c", [upsert("a", **({"metadata": {"x": 1}} | fields))], ENCODER)
    assert outcome.status == "updated"


def test_one_batch_may_name_an_item_many_times(catalog: Catalog) -> None:
    writes: list[Upsert | Delete] = [
        upsert("a", "one"),
        upsert("a", "two"),
        upsert("a", "two"),
        Delete("a"),
        Delete("a"),
        upsert("a", "three"),
    ]
    outcomes = catalog.commit("c", writes, ENCODER)
    statuses = ["created", "updated", "unchanged", "deleted", "not_found", "created"]
    assert [o.status for o in outcomes] == statuses
    assert [o.seq for o in outcomes] == [1, 2, 2, 3, 0, 4]
    assert log_of(catalog) == [(1, None, False), (2, 1, False), (3, 2, False), (4, None, True)]
    assert catalog.item("c", "a").seq == 4


def test_an_item_made_and_deleted_in_one_batch_is_only_in_the_log(catalog: Catalog) -> None:
    catalog.commit("c", [upsert("a"), Delete("a")], ENCODER)
    assert log_of(catalog) == [(1, None, False), (2, 1, False)]
    assert catalog.count(catalog.collection("c")) == 0
    with pytest.raises(ItemNotFound):
        catalog.item("c", "a")


def test_deleting_what_is_not_there_leaves_no_trace(catalog: Catalog) -> None:
    [outcome, impossible] = catalog.commit("c", [Delete("nobody"), Delete("\ud800\0")], ENCODER)
    assert (outcome.status, outcome.seq, impossible.status) == ("not_found", 0, "not_found")
    assert log_of(catalog) == []


def test_equal_contents_share_one_embedding(catalog: Catalog) -> None:
    other = unit_rows(1, seed=99)[0]
    catalog.commit("c", [upsert("a", "same"), upsert("b", "same", vector=other)], ENCODER)
    np.testing.assert_array_equal(catalog.vector("c", "a"), catalog.vector("c", "b"))
    found = catalog.embeddings(ENCODER, DIM, ["same", "same", "unknown"])
    assert list(found) == ["same"]
    assert catalog.embeddings("another-encoder", DIM, ["same"]) == {}


def test_pruning_drops_only_embeddings_that_no_item_uses(catalog: Catalog) -> None:
    catalog.commit("c", [upsert("a"), upsert("b"), upsert("c", "a"), Delete("a"), upsert("b", "b2")], ENCODER)
    assert catalog.prune_embeddings() == 1
    assert set(catalog.embeddings(ENCODER, DIM, ["a", "b", "b2"])) == {"a", "b2"}
    assert catalog.prune_embeddings() == 0


def test_scrolling_sees_every_item_once_in_order_of_id(catalog: Catalog) -> None:
    ids = ["a", "B", "ä", "Z", "z", "é", "e\u0301", "猫", "🙂", "10", "9"]
    catalog.commit("c", [upsert(item_id) for item_id in ids], ENCODER)
    seen: list[str] = []
    while page := catalog.scroll("c", seen[-1] if seen else "", 2):
        seen += [item.id for item in page]
    assert seen == sorted(ids, key=lambda item_id: item_id.encode())


def test_items_are_found_by_the_seqs_that_are_current(catalog: Catalog) -> None:
    catalog.commit("c", [upsert("a"), upsert("b"), upsert("a", "a2"), Delete("b")], ENCODER)
    with catalog.reading("c") as reading:
        assert {seq: item.id for seq, item in reading.items_at([1, 2, 3, 4, 99]).items()} == {3: "a"}
        assert reading.items_at([]) == {}


def test_pictures_are_named_once(catalog: Catalog) -> None:
    pictures = [upsert(f"p{n}", image=f"{n % 2:064d}", modality="image") for n in range(4)]
    catalog.commit("c", [*pictures, upsert("words")], ENCODER)
    assert catalog.images() == {f"{n:064d}" for n in range(2)}


# -- refusals


def test_vectors_of_another_encoder_are_refused(catalog: Catalog) -> None:
    with pytest.raises(EncoderMismatch, match=r"'c' holds embeddings of fake-0123456789ab, not of other"):
        catalog.commit("c", [upsert("a")], "other")
    with pytest.raises(EncoderMismatch):
        catalog.create_collection("c", "other", DIM)
    assert log_of(catalog) == []


@pytest.mark.parametrize(
    "vector",
    [unit_rows(1)[0] * 2, np.full(DIM, np.nan), np.zeros(DIM), unit_rows(1, DIM + 1)[0], unit_rows(2)],
)
def test_a_vector_that_is_no_unit_row_is_refused_with_its_batch(catalog: Catalog, vector: Any) -> None:
    with pytest.raises(VectorError, match="item 'bad'"):
        catalog.commit("c", [upsert("good"), upsert("bad", vector=vector)], ENCODER)
    assert log_of(catalog) == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"x": float("nan")},
        {"x": [float("inf")]},
        {"x": "\ud800"},
        {"x\0": 1},
        {1: "x"},
        {"x": 2**63},
        {"x": b"bytes"},
        {"x": {"y": {1, 2}}},
    ],
)
def test_metadata_that_is_no_json_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidItem, match=r"^metadata"):
        upsert("a", metadata=metadata)


def test_metadata_nested_without_end_is_refused() -> None:
    deep: Any = 0
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InvalidItem, match="nested more than 64 deep"):
        upsert("a", metadata={"deep": deep})


@pytest.mark.parametrize("fields", [{"item_id": ""}, {"item_id": "\0"}, {"item_id": "a", "text": "\udfff"}])
def test_text_that_no_database_keeps_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidItem):
        upsert(content="c", **fields)


def test_names_that_cannot_exist_are_not_found(catalog: Catalog) -> None:
    for name in ("nothing", "", "\0", "\ud800"):
        with pytest.raises(CollectionNotFound):
            catalog.collection(name)
        with pytest.raises(ItemNotFound):
            catalog.item("c", name)
        with pytest.raises(ItemNotFound):
            catalog.vector("c", name)


def test_a_commit_that_fails_half_way_leaves_nothing(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(catalog, "c", 3)
    before = (catalog.scroll("c", "", 10), log_of(catalog), catalog.collection("c"))
    store_items = Transaction._store_items

    def store_and_fail(self: Transaction, *rows: Any) -> None:
        store_items(self, *rows)
        raise RuntimeError("planted")

    monkeypatch.setattr(Transaction, "_store_items", store_and_fail)
    with pytest.raises(RuntimeError, match="planted"):
        catalog.commit("c", [upsert("new"), Delete("item-1"), upsert("item-2", "other")], ENCODER)
    assert (catalog.scroll("c", "", 10), log_of(catalog), catalog.collection("c")) == before
    monkeypatch.undo()
    assert catalog.commit("c", [upsert("new")], ENCODER)[0].seq == 4
    assert catalog.embeddings(ENCODER, DIM, ["other"]) == {}


# -- collections


def test_a_collection_is_made_once(catalog: Catalog) -> None:
    same, created = catalog.create_collection("c", ENCODER, DIM)
    assert (same, created) == (catalog.collection("c"), False)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: catalog.create_collection("new", ENCODER, DIM), range(8)))
    assert sum(created for _, created in made) == 1
    assert len({collection.uid for collection, _ in made}) == 1


def test_collections_come_in_pages_by_name(catalog: Catalog) -> None:
    for name in ("b", "a", "d", "é"):
        catalog.create_collection(name, ENCODER, DIM)
    assert [c.name for c in catalog.collections(limit=3)] == ["a", "b", "c"]
    assert [c.name for c in catalog.collections(after="c")] == ["d", "é"]


def test_a_collection_made_anew_has_nothing_of_the_one_before(catalog: Catalog) -> None:
    filled(catalog, "c", 3)
    before = catalog.collection("c")
    catalog.delete_collection("c")
    with pytest.raises(CollectionNotFound):
        catalog.commit("c", [upsert("a")], ENCODER)
    after, created = catalog.create_collection("c", "another-encoder", DIM * 2)
    assert created
    assert after.uid != before.uid
    assert log_of(catalog) == []
    with catalog.reading("c") as reading:
        assert reading.items_at([1, 2, 3]) == {}
    with pytest.raises(CollectionNotFound):
        catalog.delete_collection("nothing")


def test_a_catalog_of_an_earlier_build_gets_the_columns_that_it_lacks(url: str) -> None:
    catalog = Catalog(url)
    filled(catalog, "c", 3)
    with catalog.replacing() as connection:
        for table, column in (("collections", "index"), ("collections", "limits"), ("items", "parts")):
            connection.execute(sa.text(f'ALTER TABLE {table} DROP COLUMN "{column}"'))
    catalog.close()
    for index in (None, {"type": "Flat"}):
        catalog = Catalog(url)
        assert catalog.collection("c").index == index
        catalog.create_collection("c", ENCODER, DIM, index={"type": "Flat"})
        assert catalog.collection("c").index == {"type": "Flat"}
        assert catalog.count(catalog.collection("c")) == 3
        assert [item.parts for item in catalog.scroll("c", "", 9)] == [None] * 3
        catalog.close()
