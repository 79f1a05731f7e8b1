"""Threads that sleep until there is work."""

import threading
import time

from service.waking import Sleepers


def asleep(sleepers: Sleepers, count: int) -> None:
    """Wait until so many sleep."""
    while True:
        with sleepers:
            if len(sleepers._asleep) == count:
                return
        time.sleep(0.001)


def test_who_fell_asleep_last_is_woken_first() -> None:
    sleepers, woken = Sleepers(), list[int]()

    def sleep(number: int) -> None:
        with sleepers:
            sleepers.wait()
            woken.append(number)

    threads = [threading.Thread(target=sleep, args=(number,)) for number in range(4)]
    for number, thread in enumerate(threads):
        thread.start()
        asleep(sleepers, number + 1)
    for left in (3, 2):
        with sleepers:
            sleepers.wake(1)
        threads[left].join(5)
    assert woken == [3, 2]
    with sleepers:
        sleepers.wake(9)
    for thread in threads:
        thread.join(5)
    assert sorted(woken) == [0, 1, 2, 3]


def test_who_waited_long_enough_is_not_woken_any_more() -> None:
    sleepers = Sleepers()
    with sleepers:
        sleepers.wait(0.01)
    thread = threading.Thread(target=lambda: wait(sleepers))
    thread.start()
    asleep(sleepers, 1)
    with sleepers:
        sleepers.wake(1)  # this one, and not who gave up
    thread.join(5)
    assert not thread.is_alive()


def wait(sleepers: Sleepers) -> None:
    """Sleep until woken."""
    with sleepers:
        sleepers.wait()


def test_the_lock_is_free_while_somebody_sleeps_and_held_when_he_goes_on() -> None:
    sleepers, found = Sleepers(), list[bool]()

    def sleep() -> None:
        with sleepers:
            sleepers.wait()
            found.append(sleepers._lock.locked())

    thread = threading.Thread(target=sleep)
    thread.start()
    asleep(sleepers, 1)
    with sleepers:
        sleepers.wake_all()
    thread.join(5)
    assert found == [True]
