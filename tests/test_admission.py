"""Admission: bounded by documents and by cost, in lanes, fair between callers, and in time."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial

import pytest

from service.admission import Admission, Lane, Overloaded
from service.caller import DeadlinePassed, caller, identified, within


def admitted(admission: Admission, *wanted: tuple[str, int, float], lane: Lane = "interactive") -> list[bool]:
    """For each of (caller, documents, seconds) in turn, whether it is let in beside those before."""
    with ExitStack() as stack:

        def attempt(key: str, documents: int, cost_s: float) -> bool:
            identified(key)
            try:
                stack.enter_context(admission.permit(documents, cost_s, lane))
            except Overloaded:
                return False
            return True

        return [copy_context().run(attempt, *ask) for ask in wanted]


def test_so_many_documents_and_no_more_are_let_in() -> None:
    admission = Admission(max_documents=10, max_wait_s=100)
    assert admitted(admission, ("a", 8, 0.1), ("a", 3, 0.1), ("a", 2, 0.1)) == [True, False, True]
    assert admission.idle


def test_few_documents_that_take_long_fill_the_queue_as_well() -> None:
    admission = Admission(max_documents=100, max_wait_s=2)
    assert admitted(admission, *[("a", 1, 1.5)] * 3) == [True, True, False]


def test_an_idle_encoder_takes_what_would_never_fit() -> None:
    admission = Admission(max_documents=4, max_wait_s=1)
    assert admitted(admission, ("a", 256, 60), ("a", 1, 0.1)) == [True, False]


def test_a_large_request_keeps_no_small_one_out() -> None:
    admission = Admission(max_documents=1000, max_wait_s=2)
    with admission.permit(256, 60, "large"):
        with pytest.raises(Overloaded), admission.permit(256, 60, "large"):
            pass
        assert admitted(admission, ("a", 1, 0.1)) == [True]


def test_without_a_limit_a_large_request_waits_for_twice_its_own_work_and_not_longer() -> None:
    admission = Admission(max_documents=1000, max_wait_s=0)
    asked = [("a", 32, 0.5)] * 4 + [("a", 256, 4.0), ("a", 32, 0.5)]
    assert admitted(admission, *asked, lane="large") == [True, True, True, False, True, False]


@pytest.mark.parametrize("documents", [9, 20, 32])
def test_a_request_that_is_just_large_waits_as_long_as_one_of_many_documents(documents: int) -> None:
    admission, cost_s = Admission(max_documents=1000, max_wait_s=0), documents / 64
    large = partial(admission.permit, documents, cost_s, "large")
    with admission.permit(2, 0.95, "interactive"), large():
        pass
    with admission.permit(2, 1.15, "interactive"), pytest.raises(Overloaded), large():
        pass


def test_nothing_at_all_is_let_in() -> None:
    admission = Admission(max_documents=1000, max_wait_s=0)
    with admission.permit(0, 0.0, "large"):
        pass
    assert admission.idle


def test_without_a_limit_nobody_waits_for_longer_than_some_seconds() -> None:
    admission = Admission(max_documents=1000, max_wait_s=0)
    assert admitted(admission, *[("a", 256, 4.0)] * 3, lane="large") == [True, True, False]


def test_a_small_request_waits_for_half_a_second_whatever_it_takes() -> None:
    admission = Admission(max_documents=1000, max_wait_s=0)
    asked = admitted(admission, *[("a", 1, 0.0499)] * 20)
    assert sum(asked) == 11
    assert asked == sorted(asked, reverse=True)


def test_a_flood_of_one_caller_keeps_no_other_out() -> None:
    admission = Admission(max_documents=10, max_wait_s=100)
    asked = [("flood", 5, 1.0)] * 3 + [("quiet", 4, 1.0), ("quiet", 4, 1.0), ("flood", 1, 1.0)]
    assert admitted(admission, *asked) == [True, True, False, True, False, False]


def test_what_would_come_too_late_is_refused_at_once() -> None:
    admission = Admission(max_documents=100, max_wait_s=100)

    async def ask(timeout_ms: int) -> None:
        async with within(timeout_ms):
            with admission.permit(1, 1.0, "interactive"):
                pass

    asyncio.run(ask(500))  # nobody knows better while nothing waits
    with admission.permit(1, 1.0, "interactive"):
        asyncio.run(ask(5000))
        with pytest.raises(Overloaded, match="in the time"):
            asyncio.run(ask(1500))


def test_work_that_is_slower_than_foretold_is_foretold_better() -> None:
    async def ask(admission: Admission) -> bool:
        async with within(300):
            try:
                with admission.permit(1, 0.1, "interactive"), admission.permit(1, 0.1, "interactive"):
                    return True
            except Overloaded:
                return False

    assert asyncio.run(ask(Admission(max_documents=100, max_wait_s=100)))
    admission = Admission(max_documents=100, max_wait_s=100)
    for _ in range(30):
        with admission.permit(1, 0.001, "interactive"):
            time.sleep(0.003)
    assert not asyncio.run(ask(admission))


def test_work_ends_when_its_time_is_over() -> None:
    async def slowly(work: Callable[[], Awaitable[None]]) -> None:
        async with within(20):
            assert caller().left_s <= 0.02
            await work()

    with pytest.raises(DeadlinePassed, match="20 ms"):
        asyncio.run(slowly(lambda: asyncio.sleep(5)))
    asyncio.run(slowly(lambda: asyncio.sleep(0)))


def test_of_two_deadlines_the_nearer_one_holds() -> None:
    async def test() -> None:
        async with within(None):
            assert math.isinf(caller().left_s)
        async with within(50), within(60_000):
            assert caller().left_s <= 0.05
        assert math.isinf(caller().left_s)

    asyncio.run(test())


def test_what_is_done_of_a_request_makes_room_before_its_last_document_is() -> None:
    admission = Admission(max_documents=100, max_wait_s=2)

    def of_one_caller() -> None:
        identified("a")
        with admission.permit(4, 4.0, "interactive") as permit:
            assert admitted(admission, ("a", 1, 0.1)) == [False]
            permit.advance()
            assert admitted(admission, ("a", 1, 0.1)) == [False]
            permit.advance()
            assert admitted(admission, ("a", 1, 0.1)) == [True]
            for _ in range(5):  # told more often than it has documents
                permit.advance()
        permit.advance()  # of a batch that ended after its request

    copy_context().run(of_one_caller)
    assert admission.idle
    assert admitted(admission, *[("a", 1, 1.9)] * 3) == [True, True, False]


def test_a_refusal_stands_until_there_is_room() -> None:
    admission = Admission(max_documents=100, max_wait_s=2)
    with admission.permit(4, 4.0, "interactive") as permit:
        with pytest.raises(Overloaded) as refused, admission.permit(1, 0.1, "interactive"):
            pass
        assert refused.value.stands()
        permit.advance()
        assert refused.value.stands()
        permit.advance()
        assert not refused.value.stands()
    assert not refused.value.stands()
