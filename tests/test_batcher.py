"""The batcher: shared batches, one answer each, no lane that dies."""

import asyncio
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from service.admission import Admission, Lane, Overloaded
from service.batcher import Batch, Batcher, EncoderBroken, EncodingFailed
from service.caller import identified
from service.lane import Rows
from service.sequel import Sequel, Tell
from service.timing import measuring


def lengths(texts: Sequence[str]) -> Rows:
    """Stands for an encoder: the row of a text is its length."""
    if any(text == "bad" for text in texts):
        raise RuntimeError("choked")
    return np.array([[len(text)] for text in texts], np.float32)


class Blocked:
    """An encoder that waits until it is told to go on, so that a queue can form."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[str]] = []
        self._called = threading.Event()

    async def busy(self) -> None:
        """Wait until it has something to do."""
        await asyncio.to_thread(self._called.wait, 10)

    def __call__(self, texts: Sequence[str]) -> Rows:
        self._called.set()
        self.go.wait(10)
        self.batches.append(list(texts))
        return lengths(texts)


def serving(
    test: Callable[[Batcher[str]], Awaitable[None]],
    embed: Callable[[Sequence[str]], Rows] = lengths,
    *,
    max_batch: int = 4,
    workers: int = 1,
    admission: Admission | None = None,
    known_good: str | None = None,
    observe: Callable[[Batch], None] = lambda batch: None,
) -> None:
    async def run() -> None:
        batcher = Batcher(
            embed,
            max_batch=lambda group: max_batch,
            pauses=lambda group: group == "upper",
            admission=admission or Admission(100, 10),
            workers=workers,
            known_good=known_good,
            observe=observe,
        )
        batcher.start()
        try:
            await asyncio.wait_for(test(batcher), 20)
        finally:
            await batcher.close()

    asyncio.run(run())


async def submit(batcher: Batcher[str], text: str, lane: Lane = "interactive") -> Rows:
    return await batcher.submit(text, "upper" if text.isupper() else "lower", lane)


async def values(batcher: Batcher[str], texts: Sequence[str]) -> list[float | BaseException]:
    asked = batcher.put([(text, "lower") for text in texts], "interactive")
    rows = await asyncio.gather(*asked, return_exceptions=True)
    return [row if isinstance(row, BaseException) else float(row[0]) for row in rows]


def test_everyone_gets_their_own_row() -> None:
    async def test(batcher: Batcher[str]) -> None:
        assert await values(batcher, ["a", "bb", "ccc", "dddd", "eeeee"]) == [1, 2, 3, 4, 5]

    serving(test)


def test_a_lone_document_does_not_wait_for_a_batch_to_fill() -> None:
    sizes: list[Batch] = []

    async def test(batcher: Batcher[str]) -> None:
        assert await values(batcher, ["a"]) == [1]

    serving(test, observe=sizes.append)
    assert [batch.size for batch in sizes] == [1]
    assert sizes[0].waits_s[0] < 0.5


def test_what_waits_behind_a_running_batch_shares_the_next_one() -> None:
    encoder = Blocked()

    async def test(batcher: Batcher[str]) -> None:
        first = asyncio.create_task(submit(batcher, "a"))
        await encoder.busy()
        others = [
            asyncio.create_task(submit(batcher, text)) for text in ("bb", "ccc", "dddd", "eeeee", "ffffff")
        ]
        await asyncio.sleep(0.05)
        encoder.go.set()
        await asyncio.gather(first, *others)

    serving(test, encoder)
    assert [len(batch) for batch in encoder.batches] == [1, 4, 1]


def test_different_groups_never_share_a_batch() -> None:
    encoder = Blocked()

    async def test(batcher: Batcher[str]) -> None:
        tasks = [asyncio.create_task(submit(batcher, text)) for text in ("a", "B", "c", "D")]
        await asyncio.sleep(0.05)
        encoder.go.set()
        await asyncio.gather(*tasks)

    serving(test, encoder)
    assert all(len({text.isupper() for text in batch}) == 1 for batch in encoder.batches)


def test_interactive_documents_go_before_bulk_ones_that_came_earlier() -> None:
    encoder = Blocked()

    async def test(batcher: Batcher[str]) -> None:
        tasks = [asyncio.create_task(submit(batcher, "first"))]
        await encoder.busy()
        tasks += [asyncio.create_task(submit(batcher, f"bulk{i}", "bulk")) for i in range(6)]
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(submit(batcher, "now")))
        await asyncio.sleep(0.05)
        encoder.go.set()
        await asyncio.gather(*tasks)

    serving(test, encoder)
    assert encoder.batches[1] == ["now"]


def test_a_large_request_goes_before_bulk_and_behind_small_ones() -> None:
    encoder = Blocked()

    async def test(batcher: Batcher[str]) -> None:
        tasks = [asyncio.create_task(submit(batcher, "first"))]
        await encoder.busy()
        lanes: tuple[Lane, ...] = ("bulk", "large", "interactive")
        tasks += [asyncio.create_task(submit(batcher, lane, lane)) for lane in lanes]
        await asyncio.sleep(0.05)
        encoder.go.set()
        await asyncio.gather(*tasks)

    serving(test, encoder)
    assert encoder.batches == [["first"], ["interactive"], ["large"], ["bulk"]]


def test_bulk_has_the_encoder_to_itself_when_nobody_waits() -> None:
    encoder = Blocked()
    encoder.go.set()

    async def test(batcher: Batcher[str]) -> None:
        started = time.monotonic()
        await asyncio.gather(*batcher.put([(f"bulk{i}", "lower") for i in range(8)], "bulk"))
        assert time.monotonic() - started < 0.1

    serving(test, encoder)
    assert [len(batch) for batch in encoder.batches] == [4, 4]


def test_one_request_after_another_meets_bulk_once_a_second_and_then_a_small_batch() -> None:
    def embed(texts: Sequence[str]) -> Rows:
        time.sleep(0.015 * len(texts))
        batches.append((texts[0][:4], len(texts)))
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        await submit(batcher, "ask")
        bulk = [asyncio.create_task(submit(batcher, f"bulk{i}", "bulk")) for i in range(12)]
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            await submit(batcher, "ask")
            await asyncio.sleep(0.005)  # the client thinks
        met = [size for name, size in batches if name == "bulk"]
        assert met[0] == 1  # nothing is known yet of how long bulk takes
        assert sum(met) <= 3
        await asyncio.gather(*bulk)

    batches: list[tuple[str, int]] = []
    serving(test, embed)


def test_bulk_waits_for_whom_a_permit_was_given() -> None:
    encoder = Blocked()
    encoder.go.set()

    async def test(batcher: Batcher[str]) -> None:
        await submit(batcher, "bulk0", "bulk")
        with admission.permit(1, 0.02, "interactive"):  # a picture that is being decoded
            bulk = asyncio.create_task(submit(batcher, "bulk1", "bulk"))
            await asyncio.sleep(0.3)
            await submit(batcher, "picture")
        await bulk

    admission = Admission(100, 10)
    serving(test, encoder, admission=admission)
    assert encoder.batches == [["bulk0"], ["picture"], ["bulk1"]]


def test_a_bad_document_fails_alone_and_its_batch_is_answered() -> None:
    async def test(batcher: Batcher[str]) -> None:
        results = await values(batcher, ["a", "bb", "bad", "dddd"])
        assert isinstance(results[2], EncodingFailed)
        assert [results[0], results[1], results[3]] == [1, 2, 4]
        assert await values(batcher, ["still here"]) == [10]

    serving(test)


def test_even_a_panic_of_a_library_does_not_end_the_lane() -> None:
    class Panic(BaseException):
        """Stands for what a Rust extension raises: no Exception."""

    def panicking(texts: Sequence[str]) -> Rows:
        if "panic" in texts:
            raise Panic
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        results = await values(batcher, ["a", "panic", "ccc"])
        assert isinstance(results[1], EncodingFailed)
        assert (results[0], results[2]) == (1, 3)

    serving(test, panicking)


def test_an_encoder_that_answers_with_too_few_rows_fails_those_documents_and_lives_on() -> None:
    def forgetful(texts: Sequence[str]) -> Rows:
        return lengths(texts)[: -1 if "short" in texts else None]

    async def test(batcher: Batcher[str]) -> None:
        (failure,) = await values(batcher, ["short"])
        assert isinstance(failure, EncodingFailed)
        assert await values(batcher, ["fine"]) == [4]

    serving(test, forgetful)


def test_a_failure_to_make_a_batch_is_told_and_the_lane_lives_on() -> None:
    async def test(batcher: Batcher[str]) -> None:
        bound = batcher._turns._max_batch
        batcher._turns._max_batch = lambda group: 1 // 0
        (failure,) = await values(batcher, ["a"])
        assert isinstance(failure, EncoderBroken)
        batcher._turns._max_batch = bound
        assert await values(batcher, ["a"]) == [1]

    serving(test)


def test_an_encoder_that_fails_on_what_it_knows_is_broken_and_no_document_is_blamed() -> None:
    working = False

    def embed(texts: Sequence[str]) -> Rows:
        calls.append(len(texts))
        if not working:
            raise MemoryError
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        nonlocal working
        results = await values(batcher, ["a", "bb", "ccc"])
        assert all(isinstance(result, EncoderBroken) for result in results)
        working = True
        assert isinstance((await values(batcher, ["bad"]))[0], EncodingFailed)
        assert await values(batcher, ["a"]) == [1]

    calls: list[int] = []
    serving(test, embed, known_good="known")
    assert calls == [3, 1, 1, 1, 1]  # what is known is tried beside each failure


def test_what_waits_is_shared_out_among_workers_that_are_free() -> None:
    together = threading.Barrier(3, timeout=10)

    def embed(texts: Sequence[str]) -> Rows:
        together.wait()
        sizes.append(len(texts))
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        assert await values(batcher, ["a", "bb", "ccc", "dddd", "eeeee", "ffffff"]) == [1, 2, 3, 4, 5, 6]

    sizes: list[int] = []
    serving(test, embed, max_batch=8, workers=3)
    assert sizes == [2, 2, 2]


def test_a_worker_goes_on_while_another_is_stuck() -> None:
    stuck = threading.Event()

    def embed(texts: Sequence[str]) -> Rows:
        if "stuck" in texts:
            stuck.wait(10)
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        waiting = asyncio.create_task(submit(batcher, "stuck"))
        await asyncio.sleep(0.05)
        assert [await values(batcher, ["a"]) for _ in range(3)] == [[1]] * 3
        stuck.set()
        await waiting

    serving(test, embed, workers=2)


def test_one_batch_more_than_there_are_cores_runs_beside_one_that_pauses() -> None:
    together = threading.Barrier(3, timeout=10)

    def embed(texts: Sequence[str]) -> Rows:
        together.wait()
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        rows = await asyncio.gather(*(submit(batcher, text) for text in ("a", "B", "c")))
        assert [float(row[0]) for row in rows] == [1, 1, 1]

    serving(test, embed, max_batch=1, workers=2)


def test_no_more_batches_than_there_are_cores_run_where_none_pauses() -> None:
    running, most, counting = 0, 0, threading.Lock()

    def embed(texts: Sequence[str]) -> Rows:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with counting:
            running -= 1
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        assert await values(batcher, ["a"] * 20) == [1] * 20

    serving(test, embed, max_batch=1, workers=2)
    assert most == 2


class Held:
    """An encoder whose batches begin when they are given to it and end when they may."""

    def __init__(self, *free: str) -> None:
        self._begun: dict[str, threading.Event] = defaultdict(threading.Event)
        self._may_end: dict[str, threading.Event] = defaultdict(threading.Event)
        for text in free:
            self.end(text)

    def __call__(self, texts: Sequence[str]) -> Rows:
        self._begun[texts[0]].set()
        assert self._may_end[texts[0]].wait(10)
        return lengths(texts)

    def end(self, text: str) -> None:
        self._may_end[text].set()

    async def began(self, text: str) -> bool:
        return await asyncio.to_thread(self._begun[text].wait, 0.6)


async def both_cores_busy(batcher: Batcher[str], encoder: Held) -> list[asyncio.Task[Rows]]:
    """With "a" and "b", which the encoder holds."""
    asked = [asyncio.create_task(submit(batcher, text)) for text in ("a", "b")]
    assert await encoder.began("a")
    assert await encoder.began("b")
    return asked


def test_one_that_waits_for_a_core_is_begun_once_a_batch_that_pauses_begins() -> None:
    encoder = Held("c")

    async def test(batcher: Batcher[str]) -> None:
        asked = await both_cores_busy(batcher, encoder)
        asked += [asyncio.create_task(submit(batcher, text)) for text in ("P", "c")]
        await asyncio.sleep(0.05)  # they wait: there is a thread, but no core
        encoder.end("a")
        assert await encoder.began("P")
        assert await encoder.began("c")
        encoder.end("b")
        encoder.end("P")
        await asyncio.gather(*asked)

    serving(test, encoder, max_batch=1, workers=2)


def test_bulk_begins_in_time_while_one_worker_is_busy_and_another_goes_on_with_a_search() -> None:
    encoder = Held("earlier", "query", "bulk")

    async def test(batcher: Batcher[str]) -> None:
        await submit(batcher, "earlier", "bulk")
        busy, followed = asyncio.create_task(submit(batcher, "busy")), Followed(held=True)
        assert await encoder.began("busy")
        asked = put(batcher, "query", followed.sequel)
        bulk = asyncio.create_task(submit(batcher, "bulk", "bulk"))
        assert await encoder.began("bulk")
        followed.may_end.set()
        encoder.end("busy")
        await asyncio.gather(busy, asked, bulk)

    serving(test, encoder, workers=2)


def test_bulk_begins_in_time_beside_a_batch_that_pauses() -> None:
    encoder = Held("earlier", "bulk")

    async def test(batcher: Batcher[str]) -> None:
        await submit(batcher, "earlier", "bulk")
        asked = await both_cores_busy(batcher, encoder)
        asked += [asyncio.create_task(submit(batcher, *given)) for given in (("bulk", "bulk"), ("P",))]
        await asyncio.sleep(0.05)
        encoder.end("a")
        assert await encoder.began("P")
        assert await encoder.began("bulk")
        encoder.end("b")
        encoder.end("P")
        await asyncio.gather(*asked)

    serving(test, encoder, max_batch=1, workers=2)


def test_bulk_begins_in_time_though_who_minds_it_was_woken_for_another() -> None:
    encoder = Held("earlier", "bulk")

    async def test(batcher: Batcher[str]) -> None:
        await submit(batcher, "earlier", "bulk")
        bulk = asyncio.create_task(submit(batcher, "bulk", "bulk"))
        await asyncio.sleep(0.02)
        busy = asyncio.create_task(submit(batcher, "busy"))
        assert await encoder.began("bulk")
        encoder.end("busy")
        await asyncio.gather(busy, bulk)

    serving(test, encoder, workers=2)


def test_what_waits_is_begun_while_a_worker_goes_on_with_a_search() -> None:
    stuck = threading.Event()

    def embed(texts: Sequence[str]) -> Rows:
        if texts == ["stuck"]:
            assert stuck.wait(10)
        elif texts == ["query"]:
            time.sleep(0.1)  # others come meanwhile, and there is no core for them
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        waiting = asyncio.create_task(submit(batcher, "stuck"))
        await asyncio.sleep(0.02)
        followed = Followed(held=True)
        asked = put(batcher, "query", followed.sequel)
        await asyncio.sleep(0.02)
        assert await asyncio.wait_for(values(batcher, ["a", "bb"]), 5) == [1, 2]
        followed.may_end.set()
        stuck.set()
        await asyncio.gather(waiting, asked)

    serving(test, embed, workers=2)


def test_a_batch_that_shares_a_core_is_taken_for_no_dearer() -> None:
    together = threading.Barrier(3, timeout=10)

    def embed(texts: Sequence[str]) -> Rows:
        together.wait()
        time.sleep(0.6)
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        await asyncio.gather(*(submit(batcher, text) for text in ("A", "B", "C")))
        # 0.6 s on two thirds of a core, by two; on all of it that would be 0.3.
        assert 0.19 < batcher.seconds("upper") < 0.29

    serving(test, embed, max_batch=1, workers=2)


def test_a_batch_of_two_groups_tells_both_by_what_they_cost_before() -> None:
    def embed(texts: Sequence[str]) -> Rows:
        time.sleep(0.02 * sum(map(len, texts)))
        return lengths(texts)

    async def run() -> tuple[float, float]:
        batcher: Batcher[str] = Batcher(
            embed,
            max_batch=lambda group: 8,
            beside=lambda group: ["long"] if group == "short" else [],
            admission=Admission(100, 10),
        )
        batcher.start()
        await batcher.submit("a", "short")
        await batcher.submit("bbbb", "long")
        before = batcher.seconds("long") / batcher.seconds("short")
        await asyncio.gather(*batcher.put([("a", "short"), ("bbbb", "long")], "interactive"))
        after = batcher.seconds("long") / batcher.seconds("short")
        await batcher.close()
        return before, after

    before, after = asyncio.run(run())
    assert 3.2 < before < 4.8
    assert abs(after - before) < 1e-6


def test_what_is_met_first_in_a_batch_of_two_groups_is_told_apart_by_how_many_fill_one() -> None:
    async def run() -> float:
        batcher: Batcher[str] = Batcher(
            lengths,
            max_batch=lambda group: {"short": 32, "long": 2}[group],
            beside=lambda group: ["long"],
            admission=Admission(100, 10),
        )
        batcher.start()
        await asyncio.gather(*batcher.put([("a", "short"), ("bbbb", "long")], "interactive"))
        ratio = batcher.seconds("long") / batcher.seconds("short")
        await batcher.close()
        return ratio

    assert abs(asyncio.run(run()) - 16) < 1e-6


def test_every_document_that_has_its_row_or_its_error_is_told_at_once() -> None:
    done: list[int] = []

    async def test(batcher: Batcher[str]) -> None:
        asked = batcher.put(
            [(text, "lower") for text in ("a", "bad", "ccc")], "interactive", lambda: done.append(1)
        )
        await asyncio.gather(*asked, return_exceptions=True)

    serving(test, known_good="good")
    assert len(done) == 3


class Followed:
    """A sequel and what it was told; it ends when it may."""

    def __init__(self, *, held: bool = False, error: BaseException | None = None) -> None:
        self.threads: list[str] = []
        self.may_end = threading.Event()
        self._error = error
        if not held:
            self.may_end.set()
        self.sequel = Sequel(self._work)

    def _work(self, row: Rows, tell: Tell) -> float:
        tell()
        self.threads.append(threading.current_thread().name.rpartition("_")[0])
        self.may_end.wait(10)
        if self._error is not None:
            raise self._error
        return float(row[0])


def put(batcher: Batcher[str], text: str, then: Sequel[float] | None = None) -> asyncio.Future[Rows]:
    (asked,) = batcher.put([(text, "lower")], "interactive", None, then)
    return asked


def test_the_worker_that_made_a_lone_row_goes_on_with_it() -> None:
    async def test(batcher: Batcher[str]) -> None:
        followed = Followed()
        assert float((await put(batcher, "alone", followed.sequel))[0]) == 5
        assert followed.sequel.begun
        assert await followed.sequel.result() == 5
        assert followed.threads == ["encoder"]

    serving(test, workers=2)


def test_a_row_is_handed_over_when_the_work_on_it_says_so() -> None:
    async def test(batcher: Batcher[str]) -> None:
        followed = Followed(held=True)
        assert float((await put(batcher, "alone", followed.sequel))[0]) == 5
        followed.may_end.set()
        assert await followed.sequel.result() == 5

    serving(test, workers=2)


@pytest.mark.parametrize("times", [0, 2])
def test_a_row_is_handed_over_once_whatever_the_work_on_it_says(times: int) -> None:
    def work(row: Rows, tell: Tell) -> int:
        for _ in range(times):
            tell()
        return times

    done: list[int] = []

    async def test(batcher: Batcher[str]) -> None:
        sequel = Sequel(work)
        (asked,) = batcher.put([("abc", "lower")], "interactive", lambda: done.append(1), sequel)
        assert float((await asked)[0]) == 3
        assert await sequel.result() == times

    serving(test, workers=2)
    assert done == [1]


def test_who_goes_on_leaves_as_many_workers_as_there_are_cores() -> None:
    async def test(batcher: Batcher[str]) -> None:
        first, second = Followed(held=True), Followed()
        await put(batcher, "first", first.sequel)
        await put(batcher, "second", second.sequel)
        assert (first.sequel.begun, second.sequel.begun) == (True, False)
        first.may_end.set()
        await first.sequel.result()
        third = Followed()
        while not third.sequel.begun:  # the worker is back in a moment
            await put(batcher, "third", third.sequel)
        assert await third.sequel.result() == 5

    serving(test, workers=2)


def begun_with(*texts: str) -> bool:
    """Whether there is a sequel where one worker is busy, one makes all these rows, and one is free."""
    held = threading.Event()
    batches: list[list[str]] = []
    begun: list[bool] = []

    def embed(texts: Sequence[str]) -> Rows:
        batches.append(list(texts))
        if "held" in texts:
            held.wait(10)
        return lengths(texts)

    async def test(batcher: Batcher[str]) -> None:
        busy = put(batcher, "held")
        while not batches:
            await asyncio.sleep(0.001)
        followed = Followed()
        asked = batcher.put([(text, "lower") for text in texts], "interactive", None, followed.sequel)
        await asyncio.gather(*asked, return_exceptions=True)
        begun.append(followed.sequel.begun)
        held.set()
        await busy

    serving(test, embed, workers=2, known_good="good")
    assert batches[1] == list(texts)
    return begun[0]


def test_no_row_keeps_its_neighbours_waiting() -> None:
    assert begun_with("alone")
    assert not begun_with("one", "another")


def test_what_is_left_of_a_batch_that_failed_keeps_the_rest_waiting_for_nothing_else() -> None:
    assert not begun_with("good", "bad")


def test_the_only_worker_makes_rows_and_nothing_else() -> None:
    async def test(batcher: Batcher[str]) -> None:
        followed = Followed()
        await put(batcher, "alone", followed.sequel)
        assert not followed.sequel.begun

    serving(test, workers=1)


def test_nobody_goes_on_for_who_has_left() -> None:
    encoder = Blocked()

    async def test(batcher: Batcher[str]) -> None:
        followed = Followed()
        asked = put(batcher, "alone", followed.sequel)
        await encoder.busy()
        asked.cancel()
        encoder.go.set()
        await put(batcher, "next")
        assert not followed.sequel.begun

    serving(test, encoder, workers=2)


def test_what_goes_wrong_after_a_row_is_told_to_who_asks_for_it_and_no_lane_dies() -> None:
    class Panic(BaseException):
        """As a library's."""

    async def test(batcher: Batcher[str]) -> None:
        for error in (ValueError("no"), Panic("no")) * 3:
            followed = Followed(error=error)
            while not followed.sequel.begun:
                assert float((await put(batcher, "abc", followed.sequel))[0]) == 3
            with pytest.raises(type(error)):
                await followed.sequel.result()
            assert followed.threads == ["encoder"]  # done once

    serving(test, workers=2)


def test_a_worker_that_waits_holds_on_to_nothing() -> None:
    class Found:
        """Stands for a view of an index."""

    kept: list[weakref.ref[Found]] = []

    def work(row: Rows, tell: Tell) -> Found:
        found = Found()
        kept.append(weakref.ref(found))
        return found

    async def test(batcher: Batcher[str]) -> None:
        sequel = Sequel(work)
        (asked,) = batcher.put([("abc", "lower")], "interactive", None, sequel)
        await asked
        await sequel.result()
        del sequel, asked
        until = time.monotonic() + 5
        while kept[0]() is not None and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert kept[0]() is None

    serving(test, workers=2)


def test_with_two_workers_a_document_keeps_others_waiting_half_as_long() -> None:
    one, two = (
        Batcher(lengths, max_batch=lambda group: 4, admission=Admission(100, 10), workers=workers)
        for workers in (1, 2)
    )
    assert two.seconds("lower") == one.seconds("lower") / 2


def test_callers_have_equal_shares_however_much_they_sent() -> None:
    encoder = Blocked()

    async def ask(batcher: Batcher[str], key: str, count: int) -> None:
        identified(key)
        await asyncio.gather(*(submit(batcher, f"{key}{number}") for number in range(count)))

    async def test(batcher: Batcher[str]) -> None:
        first = asyncio.create_task(submit(batcher, "first"))
        await encoder.busy()
        many = asyncio.create_task(ask(batcher, "many", 12))
        await asyncio.sleep(0.05)
        few = asyncio.create_task(ask(batcher, "few", 4))
        await asyncio.sleep(0.05)
        encoder.go.set()
        await asyncio.gather(first, many, few)

    serving(test, encoder)
    assert [sum(text.startswith("few") for text in batch) for batch in encoder.batches] == [0, 2, 2, 0, 0]


def test_documents_whose_caller_left_are_not_encoded() -> None:
    encoder = Blocked()

    async def test(batcher: Batcher[str]) -> None:
        first = asyncio.create_task(submit(batcher, "a"))
        await encoder.busy()
        left = asyncio.create_task(submit(batcher, "gone"))
        stayed = asyncio.create_task(submit(batcher, "here"))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.sleep(0)
        encoder.go.set()
        await asyncio.gather(first, stayed)

    serving(test, encoder)
    assert encoder.batches == [["a"], ["here"]]


def test_whoever_still_waits_at_shutdown_gets_an_answer() -> None:
    encoder = Blocked()

    async def run() -> None:
        batcher = Batcher(encoder, max_batch=lambda group: 1, admission=Admission(10, 10))
        batcher.start()
        waiting = [asyncio.create_task(submit(batcher, text)) for text in ("a", "b", "c")]
        await asyncio.sleep(0.05)
        threading.Timer(0.1, encoder.go.set).start()
        await batcher.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, Overloaded) for result in results)

    asyncio.run(run())


def test_each_request_is_told_how_long_it_waited_for_its_batches() -> None:
    encoder = Blocked()

    async def test(batcher: Batcher[str]) -> None:
        with measuring() as first:
            running = batcher.put([("a", "g")], "interactive")
        await encoder.busy()
        with measuring() as waiting:
            waited = batcher.put([(text, "g") for text in ("b", "c", "d", "bad", "e")], "interactive")
        nobody = batcher.put([("f", "g")], "interactive")
        await asyncio.sleep(0.1)
        encoder.go.set()
        await asyncio.gather(*running, *waited, *nobody, return_exceptions=True)
        (span,) = first["queue"]
        assert 0 <= span[1] - span[0] < 0.1
        assert 0.1 <= max(end - begin for begin, end in waiting["queue"]) < 5
        assert 1 <= len(waiting["queue"]) <= 4  # not one for each document

    serving(test, encoder)
