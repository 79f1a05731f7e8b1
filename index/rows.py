"""The catalog's tables as text: rows, not a database's files.

A file can be restored only into the kind of database that wrote it, and copying it safely is another story
in each. Rows go from SQLite into PostgreSQL and back, and into a later release whose tables have grown. Each
row is one line, a JSON list of its columns in the order of the table; bytes are base64.

What is asked of rows may be asked of those of one collection. Its aliases are none of them: they say where a
name leads, not what is there.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from index import schema
from index.records import Collection

_ROWS_AT_ONCE = 1000
_PART_BYTES = 4 * 2**20
# Who may come in is decided where a backup is restored: it must not bring a revoked key back. And a reply to
# a write is worth keeping only where the write was. Nor does a job go on without the lines that it was sent.
_TRANSIENT = (
    schema.replies,
    schema.job_failures,
    schema.job_results,
    schema.job_tasks,
    schema.jobs,
    schema.staged,
)
_NOT_COPIED = {"api_keys", *(table.name for table in _TRANSIENT)}
_REFUSALS = (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.ProgrammingError)


class RowsError(ValueError):
    """Text that is not rows of this table, or rows that the database refuses."""


Row = dict[str, Any]


def tables(collection: Collection | None = None) -> dict[str, sa.Table]:
    """Every table that is copied, by name; those that have rows of this collection, if one is given.

    Embeddings come last: whoever tidies up finds none that has no item.
    """
    names = {schema.collections, schema.changes, schema.items, schema.embeddings}
    found = [table for table in schema.tables.sorted_tables if collection is None or table in names]
    found.sort(key=lambda table: table is schema.embeddings)
    return {table.name: table for table in found if table.name not in _NOT_COPIED}


def columns(table: sa.Table) -> list[str]:
    """The columns in the order in which a dumped row lists them."""
    return [column.name for column in table.columns]


def count(connection: sa.Connection, table: sa.Table, collection: Collection | None = None) -> int:
    """How many rows a table has."""
    query = sa.select(sa.func.count()).select_from(table).where(belonging(table, collection))
    return int(connection.execute(query).scalar_one())


def dump(connection: sa.Connection, table: sa.Table, collection: Collection | None = None) -> Iterator[bytes]:
    """All rows, in parts of about 4 MB; no more than one part is held in memory."""
    binary = _binary(table, columns(table))
    query = sa.select(table).where(belonging(table, collection))
    result = connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE})
    part = bytearray()
    for row in result:
        values: list[Any] = list(row)
        for place in binary:
            if values[place] is not None:
                values[place] = base64.b64encode(values[place]).decode("ascii")
        part += json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        part += b"\n"
        if len(part) >= _PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


def clear(connection: sa.Connection) -> None:
    """Delete every row of the tables that are copied, and the replies and jobs that tell of them."""
    for table in (*_TRANSIENT, *reversed(tables().values())):
        connection.execute(sa.delete(table))


def insert(connection: sa.Connection, table: sa.Table, names: Sequence[str], part: bytes) -> int:
    """Add one part of a dump whose rows list the columns ``names``; the number of rows.

    Raises RowsError, after which the transaction must end.
    """
    rows = read(table, names, part)
    put(connection, table, rows)
    return len(rows)


def read(table: sa.Table, names: Sequence[str], part: bytes) -> list[Row]:
    """The rows of one part of a dump, which list the columns ``names``. Raises RowsError."""
    binary = _binary(table, names)
    try:
        return [_row(line, names, binary) for line in part.splitlines()]
    except (ValueError, TypeError, LookupError) as error:
        raise RowsError(f"not rows of table {table.name}: {error}") from error


def put(connection: sa.Connection, table: sa.Table, rows: Sequence[Row], *, missing: bool = False) -> None:
    """Add rows; ``missing``: those alone whose keys are not there. Raises RowsError, after which the
    transaction must end."""
    statement = schema.insert_missing(connection, table) if missing else sa.insert(table)
    try:
        if rows:
            connection.execute(statement, rows)
    except (ValueError, TypeError, *_REFUSALS) as error:
        raise RowsError(f"not rows of table {table.name}: {error}") from error


def _row(line: bytes, names: Sequence[str], binary: Sequence[int]) -> Row:
    values = json.loads(line)
    for place in binary:
        if values[place] is not None:
            values[place] = base64.b64decode(values[place], validate=True)
    return dict(zip(names, values, strict=True))


def _binary(table: sa.Table, names: Sequence[str]) -> list[int]:
    return [place for place, name in enumerate(names) if isinstance(table.c[name].type, sa.LargeBinary)]


def belonging(table: sa.Table, collection: Collection | None = None) -> sa.ColumnElement[bool]:
    """Which rows are of a collection; of all, those that are of any."""
    if collection is None:
        if "collection" in table.c and table is not schema.aliases:
            return table.c.collection.not_in(sa.select(schema.staged.c.uid))
        return sa.true()
    if table is schema.embeddings:
        own = sa.select(schema.items.c.content).where(schema.items.c.collection == collection.uid)
        return sa.and_(table.c.encoder_id == collection.encoder_id, table.c.content.in_(own))
    uid = table.c.uid if table is schema.collections else table.c.collection
    return uid == collection.uid
