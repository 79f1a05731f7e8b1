"""How replies leave: in as few packets as they can."""

import asyncio
from typing import Any, cast

from service.wire import Joining


class Recorded:
    """Stands for a connection: what was written, and what was done with it, in order."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        assert not self.is_closing()
        self.done.append(data)

    def is_closing(self) -> bool:
        return "closed" in self.done or "gone" in self.done

    def close(self) -> None:
        self.done.append("closed")

    def abort(self) -> None:
        self.done.append("aborted")


def written(*turns: list[bytes | str]) -> list[bytes | str]:
    """What comes of writes, and of "close" or "abort", in some turns of the event loop."""

    async def run() -> list[bytes | str]:
        recorded = Recorded()
        joining = Joining(cast(Any, recorded))
        for turn in turns:
            for each in turn:
                if isinstance(each, bytes):
                    joining.write(each)
                else:
                    getattr(joining, each)()
            await asyncio.sleep(0)
        return recorded.done

    return asyncio.run(run())


def test_a_head_and_its_body_leave_together() -> None:
    assert written([b"head", b"body"], [b"head", b"", b"body"]) == [b"headbody", b"head", b"body"]


def test_a_head_without_a_body_leaves_in_the_same_turn() -> None:
    assert written([b"head"], []) == [b"head"]
    assert written([b"head", b""], []) == [b"head"]


def test_parts_of_a_stream_leave_as_they_come() -> None:
    assert written([b"head"], [b"one"], [b"two"], []) == [b"head", b"one", b"two"]


def test_nothing_is_lost_when_a_connection_closes() -> None:
    assert written([b"head", "close"]) == [b"head", "closed"]
    assert written([b"head", b"body", b"more", "close"]) == [b"headbody", b"more", "closed"]


def test_what_waits_for_a_client_who_has_gone_is_dropped() -> None:
    async def run() -> list[bytes | str]:
        recorded = Recorded()
        Joining(cast(Any, recorded)).write(b"head")
        recorded.done.append("gone")
        await asyncio.sleep(0)
        return recorded.done

    assert asyncio.run(run()) == ["gone"]


def test_nothing_is_sent_on_a_connection_that_is_given_up() -> None:
    assert written([b"head", "abort"], []) == ["aborted"]
