"""Replies to writes: whoever begins one ends it, and the others get what was kept; on both databases."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from index import replies as module
from index import rows, schema
from index.catalog import Catalog
from index.replies import (
    ABANDONED_S,
    KEPT_S,
    AlreadyAnswered,
    KeyReused,
    NotAnsweredYet,
    Replies,
    Reply,
    ReplyNotKept,
)

DONE = Reply(200, [("content-type", "text/plain")], b"done")


@pytest.fixture
def catalog(url: str) -> Iterator[Catalog]:
    """An empty catalog."""
    catalog = Catalog(url)
    yield catalog
    catalog.close()


@pytest.fixture
def replies(catalog: Catalog) -> Replies:
    """The replies of an empty catalog."""
    return catalog.replies


def test_whoever_begins_gets_a_ticket_and_the_others_what_became_of_it(replies: Replies) -> None:
    now = time.time()
    ticket = replies.begin("k", "body", now)
    with pytest.raises(NotAnsweredYet):
        replies.begin("k", "body", now)
    with pytest.raises(KeyReused):
        replies.begin("k", "another", now)
    replies.keep(ticket, DONE)
    with pytest.raises(AlreadyAnswered) as answered:
        replies.begin("k", "body", now)
    assert answered.value.reply == DONE
    with pytest.raises(KeyReused):
        replies.begin("k", "another", now)
    empty = replies.begin("empty", "body", now)
    replies.keep(empty, Reply(204, [], b""))
    with pytest.raises(AlreadyAnswered) as answered:
        replies.begin("empty", "body", now)
    assert answered.value.reply == Reply(204, [], b"")
    secret = replies.begin("secret", "body", now)
    replies.keep(secret, Reply(201, [], None))
    with pytest.raises(ReplyNotKept):
        replies.begin("secret", "body", now)
    forgotten = replies.begin("forgotten", "body", now)
    replies.forget(forgotten)
    assert replies.begin("forgotten", "another", now) != forgotten


def test_of_many_that_begin_at_once_one_does(catalog: Catalog, url: str) -> None:
    others = [Catalog(url) for _ in range(6)]
    start = threading.Barrier(len(others))

    def begin(other: Catalog, key: str) -> bool:
        start.wait(20)
        try:
            other.replies.begin(key, "body", time.time())
        except NotAnsweredYet:
            return False
        return True

    with ThreadPoolExecutor(len(others)) as threads:
        for turn in range(5):
            assert list(threads.map(begin, others, [f"k{turn}"] * len(others))).count(True) == 1
    for other in others:
        other.close()


def test_a_reply_is_kept_for_a_day(replies: Replies) -> None:
    replies.keep(replies.begin("k", "body", 0.0), DONE)
    with pytest.raises(AlreadyAnswered):
        replies.begin("k", "body", KEPT_S)
    replies.begin("k", "another", KEPT_S + 1)
    assert len(replies) == 1


def test_what_a_process_that_died_has_begun_may_be_done_by_another(replies: Replies) -> None:
    dead = replies.begin("k", "body", 0.0)
    with pytest.raises(NotAnsweredYet):
        replies.begin("k", "body", ABANDONED_S)
    alive = replies.begin("k", "body", ABANDONED_S + 1)
    replies.keep(dead, Reply(500, [], b"late"))
    replies.keep(alive, DONE)
    with pytest.raises(AlreadyAnswered) as answered:
        replies.begin("k", "body", ABANDONED_S + 1)
    assert answered.value.reply == DONE


def test_no_more_than_so_many_are_kept_and_the_oldest_go(
    replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    running = replies.begin("running", "body", 0.0)
    for number in range(1, 6):
        replies.keep(replies.begin(f"k{number}", "body", float(number)), DONE)
    assert len(replies) == 3
    for key, error in (("running", NotAnsweredYet), ("k4", AlreadyAnswered), ("k5", AlreadyAnswered)):
        with pytest.raises(error):
            replies.begin(key, "body", 6.0)
    replies.keep(running, DONE)


def test_replies_do_not_travel_in_a_backup_and_do_not_outlast_its_restore(catalog: Catalog) -> None:
    assert "replies" not in rows.tables()
    catalog.replies.begin("k", "body", time.time())
    with catalog.replacing() as connection:
        rows.clear(connection)
        assert connection.execute(sa.select(schema.replies)).all() == []
