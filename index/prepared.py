"""Statements that every search runs: SQLAlchemy takes several times longer to run them than the database."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

_Processors = Sequence[tuple[int, Callable[[Any], Any]]]  # by the place of their column


class _Compiled(NamedTuple):
    """SQL for one kind of database, and the names of its places in order; None: they are named."""

    sql: str
    places: list[str] | None


class Prepared:
    """A query that is compiled once and run by the driver, inside SQLAlchemy's transaction.

    Its rows are those that SQLAlchemy would give, as plain tuples; parameters are strings and integers.
    """

    def __init__(self, query: sa.Select[Any]) -> None:
        self._query = query
        # By the name of the dialect. The processors turn the values of some columns into Python's.
        self._compiled: dict[str, _Compiled] = {}
        self._processors: dict[str, _Processors] = {}

    def rows(self, connection: sa.Connection, parameters: Mapping[str, str | int]) -> list[tuple[Any, ...]]:
        """Raises what SQLAlchemy would raise."""
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name) or self._compile(dialect)
        given = parameters if compiled.places is None else [parameters[name] for name in compiled.places]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(compiled.sql, given)
            processors = self._processors.get(dialect.name)
            if processors is None:
                processors = self._process(dialect, cursor.description)
            rows = cursor.fetchall()
        except dialect.loaded_dbapi.Error as error:
            if dialect.is_disconnect(error, None, cursor):
                connection.invalidate(error)
            raise sa.exc.DBAPIError.instance(
                compiled.sql, given, error, dialect.loaded_dbapi.Error, dialect=dialect
            ) from error
        finally:
            cursor.close()
        return [_processed(row, processors) for row in rows]

    def _compile(self, dialect: sa.Dialect) -> _Compiled:
        compiled = self._query.compile(dialect=dialect)
        places = list(compiled.positiontup or ()) if compiled.positional else None
        self._compiled[dialect.name] = _Compiled(str(compiled), places)
        return self._compiled[dialect.name]

    def _process(self, dialect: sa.Dialect, described: Any) -> _Processors:
        processors = [
            column.type.dialect_impl(dialect).result_processor(dialect, about[1])
            for column, about in zip(self._query.selected_columns, described, strict=True)
        ]
        found = [(place, process) for place, process in enumerate(processors) if process is not None]
        self._processors[dialect.name] = found
        return found


def _processed(row: Sequence[Any], processors: _Processors) -> tuple[Any, ...]:
    values = list(row)
    for place, process in processors:
        values[place] = process(values[place])
    return tuple(values)
