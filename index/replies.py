"""Replies to writes, kept for clients that send one again because they never heard of its end.

A client names a write by a key of its own. Whoever begins it gets a ticket, and with it keeps the reply;
whoever comes with the same key meanwhile is told to wait, and afterwards gets the reply. What is kept is
bounded by age and by number.
"""

import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import sqlalchemy as sa

from index import schema
from index.records import CatalogError
from index.schema import replies

KEPT_S = 86_400.0
MAX_KEPT = 10_000
ABANDONED_S = 120.0  # longer than any request takes: who began it has died, and another may do it

_Connections = Callable[[], AbstractContextManager[sa.Connection]]


@dataclass(frozen=True)
class Reply:
    """An HTTP reply. ``content`` None: it held a secret, which is kept nowhere."""

    status: int
    headers: list[tuple[str, str]]
    content: bytes | None


class AlreadyAnswered(CatalogError):
    """The write was done before; ``reply`` is what was said then."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("this request was answered before")
        self.reply = reply


class ReplyNotKept(CatalogError):
    """The write was done before, and what was said then is not to be said twice."""


class NotAnsweredYet(CatalogError):
    """The write has begun and has not ended."""


class KeyReused(CatalogError):
    """The key already names a write of another content."""


class Replies:
    """The replies of a catalog. Safe to use from many threads and processes."""

    def __init__(self, reading: _Connections, writing: _Connections) -> None:
        self._reading = reading
        self._writing = writing

    def __len__(self) -> int:
        with self._reading() as connection:
            return _count(connection)

    def begin(self, key: str, request: str, now: float) -> str:
        """A ticket to carry out the write that ``key`` names; ``request`` is a hash of what it asks for.

        Raises AlreadyAnswered, ReplyNotKept, NotAnsweredYet and KeyReused; then it must not be carried out.
        """
        here, ticket = replies.c.key == key, uuid.uuid4().hex
        abandoned = sa.and_(replies.c.status.is_(None), replies.c.begun_at < now - ABANDONED_S)
        old = sa.or_(replies.c.begun_at < now - KEPT_S, abandoned)
        with self._writing() as connection:
            schema.wait_for_writers(connection, replies)
            connection.execute(sa.delete(replies).where(old))
            found = connection.execute(sa.select(replies).where(here)).one_or_none()
            if found is None:
                fresh = {"key": key, "request": request, "ticket": ticket, "begun_at": now}
                connection.execute(sa.insert(replies), fresh)
                _forget_oldest(connection)
                return ticket
        if found.request != request:
            raise KeyReused("The Idempotency-Key was sent before, with another request.")
        if found.status is None:
            raise NotAnsweredYet("The request that first came with this Idempotency-Key is still running.")
        if found.content is None:
            raise ReplyNotKept("This was done, and its reply held a secret, which is shown only once.")
        headers = [(name, value) for name, value in found.headers]
        raise AlreadyAnswered(Reply(found.status, headers, found.content))

    def keep(self, ticket: str, reply: Reply) -> None:
        """What became of the write: from now on it is the reply."""
        with self._writing() as connection:
            here = replies.c.ticket == ticket
            connection.execute(sa.update(replies).where(here).values(**vars(reply)))

    def forget(self, ticket: str) -> None:
        """Nothing became of the write: it may be tried again."""
        with self._writing() as connection:
            connection.execute(sa.delete(replies).where(replies.c.ticket == ticket))


def _forget_oldest(connection: sa.Connection) -> None:
    surplus = _count(connection) - MAX_KEPT
    if surplus > 0:
        answered = replies.c.status.is_not(None)
        oldest = sa.select(replies.c.key).where(answered).order_by(replies.c.begun_at).limit(surplus)
        connection.execute(sa.delete(replies).where(replies.c.key.in_(oldest)))


def _count(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(replies)).scalar_one())
