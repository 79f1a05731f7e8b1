"""Aliases in the catalog: found wherever a name is read, moved all at once, gone with their collection."""

import threading
from collections.abc import Callable, Iterator

import pytest

from index.aliases import Alias, AliasConflict, AliasNotFound, DropAlias, PutAlias
from index.catalog import Catalog, CollectionNotFound
from tests.indexing import DIM, ENCODER, filled, upsert


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """A catalog with an item in each of the collections "a" and "b"."""
    catalog = Catalog(url)
    filled(catalog, "a", 1, prefix="in-a")
    filled(catalog, "b", 1, prefix="in-b")
    yield catalog
    catalog.close()


def ids(catalog: Catalog, name: str) -> list[str]:
    return [item.id for item in catalog.scroll(name, "", 10)]


def test_an_alias_is_the_collection_wherever_a_name_is_read(catalog: Catalog) -> None:
    catalog.aliases.apply([PutAlias("x", "a")])
    assert catalog.collection("x") == catalog.collection("a")
    assert catalog.aliases.own_name("x") == catalog.aliases.own_name("a") == "a"
    assert catalog.commit("x", [upsert("more")], ENCODER)[0].seq == 2
    assert ids(catalog, "x") == ids(catalog, "a") == ["in-a-0", "more"]
    assert catalog.item("x", "more").id == "more"
    assert catalog.vector("x", "more").shape == (DIM,)
    with catalog.reading("x") as reading:
        assert reading.collection.name == "a"
        assert reading.seqs_of({"more", "never there", "\0"}) == {2}
    assert catalog.create_collection("x", ENCODER, DIM) == (catalog.collection("a"), False)
    assert [collection.name for collection in catalog.collections()] == ["a", "b"]


def test_aliases_move_and_are_listed_in_order(catalog: Catalog) -> None:
    catalog.aliases.apply([PutAlias("y", "a"), PutAlias("x", "a")])
    catalog.aliases.apply([PutAlias("x", "b"), PutAlias("z", "x")])
    assert ids(catalog, "x") == ids(catalog, "z") == ["in-b-0"]
    assert catalog.aliases.page() == [Alias("x", "b"), Alias("y", "a"), Alias("z", "b")]
    assert catalog.aliases.page(after="x", limit=1) == [Alias("y", "a")]
    catalog.aliases.apply([DropAlias("y"), PutAlias("y", "b"), DropAlias("x")])
    assert catalog.aliases.page() == [Alias("y", "b"), Alias("z", "b")]
    with pytest.raises(CollectionNotFound):
        catalog.collection("x")


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (DropAlias("none"), AliasNotFound),
        (DropAlias("a"), AliasNotFound),
        (PutAlias("new", "none"), CollectionNotFound),
        (PutAlias("b", "a"), AliasConflict),
        (PutAlias("a", "a"), AliasConflict),
    ],
)
def test_when_one_action_fails_none_is_kept(
    catalog: Catalog, last: PutAlias | DropAlias, error: type[Exception]
) -> None:
    catalog.aliases.apply([PutAlias("x", "a")])
    with pytest.raises(error):
        catalog.aliases.apply([PutAlias("x", "b"), PutAlias("other", "b"), last])
    assert catalog.aliases.page() == [Alias("x", "a")]


def test_a_collection_is_deleted_by_its_own_name_and_takes_its_aliases_along(catalog: Catalog) -> None:
    catalog.aliases.apply([PutAlias("x", "a"), PutAlias("y", "b")])
    with pytest.raises(AliasConflict):
        catalog.delete_collection("x")
    catalog.delete_collection("a")
    assert catalog.aliases.page() == [Alias("y", "b")]
    assert catalog.create_collection("x", ENCODER, DIM)[1]


def test_an_alias_names_one_of_two_collections_at_every_moment(catalog: Catalog) -> None:
    catalog.aliases.apply([PutAlias("x", "a")])
    stop, failures, seen = threading.Event(), list[BaseException](), set[str]()

    def watched(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:
                failures.append(error)

        return run

    readers = [threading.Thread(target=watched(lambda: seen.update(ids(catalog, "x")))) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(40):
        catalog.aliases.apply([DropAlias("x"), PutAlias("x", "ab"[turn % 2])])
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert seen <= {"in-a-0", "in-b-0"}


def test_of_a_collection_and_an_alias_that_want_one_name_only_one_gets_it(catalog: Catalog) -> None:
    for turn in range(10):
        name, both = f"name-{turn}", threading.Barrier(2)
        results = list[str]()

        def alias(name: str = name, both: threading.Barrier = both, results: list[str] = results) -> None:
            both.wait()
            try:
                catalog.aliases.apply([PutAlias(name, "a")])
                results.append("alias")
            except AliasConflict:
                pass

        thread = threading.Thread(target=alias)
        thread.start()
        both.wait()
        if catalog.create_collection(name, ENCODER, DIM)[1]:
            results.append("collection")
        thread.join()
        assert len(results) == 1
