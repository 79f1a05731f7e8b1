"""Prepared queries give what SQLAlchemy gives, on both databases, and fail as it does."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from index import schema
from index.catalog import Catalog, StorageUnavailable
from index.prepared import Prepared
from tests.indexing import DIM, ENCODER, upsert

ITEMS = sa.select(*schema.item_columns).where(schema.items.c.seq.in_([sa.bindparam("a"), sa.bindparam("b")]))


@pytest.fixture
def filled(url: str) -> Iterator[Catalog]:
    """Two items, one of which has every member."""
    catalog = Catalog(url)
    catalog.create_collection("c", ENCODER, DIM)
    full: dict[str, Any] = {
        "metadata": {"price": 1.0, "tags": ["é", None], "nested": {"b": 1, "a": 2}},
        "parts": [{"text": "one"}, {"text": "two"}],
        "image": "0" * 64,
        "image_type": "image/png",
    }
    catalog.commit("c", [upsert("bare"), upsert("full", **full)], ENCODER)
    yield catalog
    catalog.close()


def test_rows_are_those_of_sqlalchemy(filled: Catalog) -> None:
    given = {"a": 2, "b": 1}
    with filled.copying() as connection:
        expected = [tuple(row) for row in connection.execute(ITEMS, given)]
        prepared = Prepared(ITEMS)
        for _ in range(2):
            found = prepared.rows(connection, given)
            assert found == expected
            assert [list(map(type, row)) for row in found] == [list(map(type, row)) for row in expected]
    assert len(expected) == 2


def test_what_the_database_refuses_is_told_as_ever(filled: Catalog) -> None:
    missing = sa.select(sa.Table("missing", sa.MetaData(), sa.Column("name", sa.Text)).c.name)

    def refusal(run: Callable[[sa.Connection], object]) -> type[BaseException]:
        with pytest.raises((sa.exc.DBAPIError, StorageUnavailable)) as caught, filled.copying() as connection:
            run(connection)
        return caught.type

    prepared = Prepared(missing)
    assert refusal(lambda it: prepared.rows(it, {})) == refusal(lambda it: it.execute(missing))
    with filled.copying() as connection:  # which is as good as before
        assert len(Prepared(ITEMS).rows(connection, {"a": 1, "b": 1})) == 1


def test_a_storage_that_fails_is_unavailable(filled: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def execute(self, *_: object) -> None:
            raise failure

        def close(self) -> None: ...

    with filled.copying() as connection:
        failure: Exception = connection.dialect.loaded_dbapi.OperationalError("disk I/O error")
        monkeypatch.setattr(type(connection.connection), "cursor", lambda _: Failing())
        with pytest.raises(sa.exc.OperationalError, match="disk I/O error"):
            Prepared(ITEMS).rows(connection, {"a": 1, "b": 1})
        monkeypatch.undo()
    monkeypatch.setattr(Prepared, "rows", _failing)
    with pytest.raises(StorageUnavailable):
        filled.collection("c")


def _failing(*_: object) -> list[tuple[Any, ...]]:
    raise sa.exc.OperationalError("SELECT", (), Exception("disk I/O error"))
