"""A lane: whose turn it is, and what fills a batch."""

import asyncio
from collections.abc import Sequence

from service.lane import Queue, Waiting

SIZES = {"short": 8, "long": 4, "picture": 2}


def cut(*waiting: str, most: int = 100, beside: Sequence[str] = ()) -> list[list[str]]:
    """The groups of each batch, until nothing waits."""

    async def run() -> list[list[str]]:
        queue: Queue[str] = Queue()
        for group in waiting:
            queue.put(Waiting(group, group, None, asyncio.get_running_loop().create_future()))
        batches = []
        while batch := queue.cut(most, SIZES.__getitem__, lambda group: 1 / SIZES[group], lambda _: beside):
            batches.append([each.group for each in batch])
        assert len(queue) == 0
        return batches

    return asyncio.run(run())


def test_a_batch_is_of_one_group_unless_others_may_stand_beside_it() -> None:
    assert cut("short", "long", "short") == [["short", "short"], ["long"]]


def test_what_may_stand_beside_fills_the_room_that_is_left_and_no_more() -> None:
    fitting = ["short"] * 4 + ["long"] * 2
    assert cut(*["short"] * 4, *["long"] * 3, beside=["long"]) == [fitting, ["long"]]


def test_nothing_stands_beside_a_group_that_fills_its_batch() -> None:
    assert cut(*["short"] * 9, "long", beside=["long"]) == [["short"] * 8, ["short", "long"]]


def test_no_batch_is_larger_than_a_cores_share() -> None:
    assert cut(*["short"] * 2, "long", "long", most=3, beside=["long"]) == [
        ["short", "short", "long"],
        ["long"],
    ]


def test_callers_take_turns_in_what_stands_beside_as_well() -> None:
    async def run() -> list[str | None]:
        queue: Queue[str] = Queue()
        for caller, group in zip("aaaabb", ["short", *["long"] * 5], strict=True):
            queue.put(Waiting(group, group, caller, asyncio.get_running_loop().create_future()))
        batch = queue.cut(4, SIZES.__getitem__, lambda _: 1.0, lambda _: ["long"])
        return [each.caller for each in batch]

    assert asyncio.run(run()) == ["a", "b", "a", "b"]


def test_whose_caller_left_takes_no_room() -> None:
    async def run() -> int:
        queue: Queue[str] = Queue()
        loop = asyncio.get_running_loop()
        asked = [Waiting("short", "short", None, loop.create_future()) for _ in range(9)]
        for each in asked:
            queue.put(each)
        asked[0].future.cancel()
        return len(queue.cut(100, SIZES.__getitem__, lambda _: 0.1))

    assert asyncio.run(run()) == 8
