"""The catalog's tables, the same on SQLite and PostgreSQL, and how their connections are opened."""

import json
import sqlite3
import time
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

_TOGETHER_S = 5.0  # that processes which make one database wait for each other

tables = sa.MetaData()
# Ids are compared byte by byte everywhere, so that scrolling has one order and "É" is never "é".
_Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

collections = sa.Table(
    "collections",
    tables,
    sa.Column("name", _Id, primary_key=True),
    sa.Column("uid", sa.String(32), nullable=False, unique=True),
    sa.Column("encoder_id", sa.Text, nullable=False),
    sa.Column("dim", sa.Integer, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("index", sa.JSON(none_as_null=True)),  # what of its index differs from the server's settings
    sa.Column("fields", sa.JSON(none_as_null=True)),  # types of its items' metadata, by name
    sa.Column("limits", sa.JSON(none_as_null=True)),
)

aliases = sa.Table(
    "aliases",
    tables,
    sa.Column("alias", _Id, primary_key=True),
    sa.Column("collection", sa.String(32), nullable=False, index=True),  # its uid
)

items = sa.Table(
    "items",
    tables,
    sa.Column("collection", sa.String(32), primary_key=True),  # the collection's uid
    sa.Column("id", _Id, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("content", sa.String(64), nullable=False, index=True),
    sa.Column("modality", sa.String(8), nullable=False),
    sa.Column("text", sa.Text),
    sa.Column("image", sa.String(64), index=True),
    sa.Column("image_type", sa.String(64)),
    # JSON as text, never jsonb: what was put in comes back equal, 1.0 as 1.0 and members in their order.
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("parts", sa.JSON(none_as_null=True)),  # of content that is more than a picture and a text
    sa.Index("items_by_seq", "collection", "seq", unique=True),
)
item_columns = [column for column in items.c if column.name != "collection"]

embeddings = sa.Table(
    "embeddings",
    tables,
    sa.Column("content", sa.String(64), primary_key=True),
    sa.Column("encoder_id", sa.Text, primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # little-endian float32
)

changes = sa.Table(
    "changes",
    tables,
    sa.Column("collection", sa.String(32), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("replaces", sa.BigInteger),
    sa.Column("at", sa.Double, nullable=False),  # seconds since the epoch
)

api_keys = sa.Table(
    "api_keys",
    tables,
    sa.Column("prefix", sa.String(32), primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),  # sha256 of the key
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scope", sa.String(8), nullable=False),
    sa.Column("collections", sa.JSON(none_as_null=True)),  # names; NULL: all, those to come included
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("last_used_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

replies = sa.Table(
    "replies",
    tables,
    sa.Column("key", sa.String(64), primary_key=True),  # sha256 of who asked for what, and their own key
    sa.Column("request", sa.String(64), nullable=False),  # sha256
    sa.Column("ticket", sa.String(32), nullable=False, unique=True),  # of who answers it
    sa.Column("begun_at", sa.Double, nullable=False, index=True),  # seconds since the epoch
    sa.Column("status", sa.Integer),  # NULL: not answered yet
    sa.Column("headers", sa.JSON(none_as_null=True)),
    sa.Column("content", sa.LargeBinary),  # NULL once answered: it held a secret
)

jobs = sa.Table(
    "jobs",
    tables,
    sa.Column("id", _Id, primary_key=True),  # ids are in order of time
    sa.Column("type", sa.String(16), nullable=False),
    sa.Column("uid", sa.String(32), nullable=False),  # the collection's
    sa.Column("name", _Id, nullable=False),  # the collection's, kept when it is gone
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("total", sa.BigInteger, nullable=False),  # lines that say something
    sa.Column("at_line", sa.BigInteger, nullable=False),  # the checkpoint: all before it is accounted for
    sa.Column("at_byte", sa.BigInteger, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("skipped", sa.BigInteger, nullable=False),
    sa.Column("rate", sa.Double),  # lines per second
    sa.Column("problem", sa.JSON(none_as_null=True)),
    sa.Column("created_at", sa.Double, nullable=False),  # seconds since the epoch
    sa.Column("started_at", sa.Double),
    sa.Column("ended_at", sa.Double),
    sa.Column("digest", sa.String(64), nullable=False),  # sha256 of the lines
    sa.Column("key", sa.String(64), unique=True),  # sha256 of who asked, and their own key for it
)

job_failures = sa.Table(
    "job_failures",
    tables,
    sa.Column("job", _Id, primary_key=True),
    sa.Column("line", sa.BigInteger, primary_key=True, autoincrement=False),  # counted from 1
    sa.Column("custom_id", sa.Text),
    sa.Column("problem", sa.JSON, nullable=False),
)

job_tasks = sa.Table(
    "job_tasks",
    tables,
    sa.Column("job", _Id, primary_key=True),
    sa.Column("request", sa.JSON, nullable=False),
)

job_results = sa.Table(
    "job_results",
    tables,
    sa.Column("job", _Id, primary_key=True),
    sa.Column("line", sa.BigInteger, primary_key=True, autoincrement=False),  # counted from 1
    sa.Column("value", sa.JSON, nullable=False),
)

# Rows of no collection: of one that is being restored, or of one that a restore has replaced.
staged = sa.Table(
    "staged",
    tables,
    sa.Column("uid", sa.String(32), primary_key=True),
    sa.Column("at", sa.Double, nullable=False),  # when rows were last added; 0.0: they are to be deleted
)

# What was learned for the queries of a collection. It goes with the collection.
adapters = sa.Table(
    "adapters",
    tables,
    sa.Column("id", _Id, primary_key=True),  # ids are in order of time
    sa.Column("collection", sa.String(32), nullable=False, index=True),  # its uid
    sa.Column("name", _Id, nullable=False),  # the collection's own
    sa.Column("label", sa.Text),
    sa.Column("encoder_id", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("share", sa.Double, nullable=False),  # of searches, while it is on trial
    sa.Column("follows", _Id),  # the one that was promoted before it
    sa.Column("weights", sa.LargeBinary, nullable=False),
    sa.Column("curves", sa.JSON, nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("promoted_at", sa.Double),
)

_ADDED = {"collections": ("index", "fields", "limits"), "items": ("parts",)}
_SETUP_LOCK = 0x6D6F6D6F  # any number that no other user of the database takes an advisory lock on


def open_engine(url: str) -> sa.Engine:
    """An engine whose transactions are durable when they commit and read from one snapshot.

    Raises ArgumentError, ImportError or ValueError for an address of no database, or none with a driver.
    """
    if "@" in (sa.make_url(url).host or ""):  # else the driver would tell what it takes for a host
        raise sa.exc.ArgumentError("an @ in a password is written as %40")
    serializer = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if not url.startswith("sqlite"):
        engine = sa.create_engine(url, pool_pre_ping=True, pool_size=16, json_serializer=serializer)
        sa.event.listen(engine, "begin", _begin_postgresql)
        return engine
    options = {"timeout": 30, "check_same_thread": False}
    engine = sa.create_engine(
        url, pool_size=16, pool_use_lifo=True, connect_args=options, json_serializer=serializer
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def create_tables(connection: sa.Connection) -> None:
    """Make the tables that are missing, in a write transaction: processes that start together take turns."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETUP_LOCK)))
    tables.create_all(connection)
    inspector = sa.inspect(connection)
    for table, names in _ADDED.items():  # to a catalog of an earlier build
        there = {column["name"] for column in inspector.get_columns(table)}
        for name in names:
            if name not in there:
                connection.execute(sa.text(f'ALTER TABLE {table} ADD COLUMN "{name}" JSON'))


def insert_missing(connection: sa.Connection, table: sa.Table) -> sa.Insert:
    """An INSERT that leaves rows alone whose key is already there."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def wait_for_writers(connection: sa.Connection, table: sa.Table) -> None:
    """Keep others from writing a table until this transaction ends, and wait for those that have."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
        connection.execute(sa.text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own: _begin_sqlite does
    _keep_log_ahead(connection)
    # Kilobytes of each connection's own: the inner pages of millions of rows. The system keeps the others.
    for pragma in ("synchronous=FULL", "cache_size=-4000"):
        connection.execute(f"PRAGMA {pragma}")


def _keep_log_ahead(connection: Any) -> None:
    """Write ahead of the database. Where several processes make one together, SQLite waits for none of them
    here, whatever its timeout is."""
    until = time.monotonic() + _TOGETHER_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("momoseek_write"):
        # It takes the write lock at once: a writer that began as a reader could be refused half-way.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:  # touches no file, so that there is no error to translate: the driver alone is sooner done
        connection.connection.cursor().execute("BEGIN")


def _begin_postgresql(connection: sa.Connection) -> None:
    # Repeatable read makes a reading one snapshot. Writers stay at read committed: each waits for the locked
    # row of its collection and must then see what the one before it wrote.
    if not connection.get_execution_options().get("momoseek_write"):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
