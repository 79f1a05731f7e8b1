"""Work in the background: it gives way to others, as far as the machine can bear."""

import os
import sys
import threading

import pytest

from index.priority import MODEST, behind_others, give_way

of_linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own in Linux")


def priority() -> tuple[int, int]:
    """The policy and the niceness of the calling thread."""
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def priority_of_one_started_there() -> tuple[int, int]:
    found = list[tuple[int, int]]()
    thread = threading.Thread(target=lambda: found.append(priority()))
    thread.start()
    thread.join()
    return found[0]


@of_linux
@pytest.mark.parametrize("busy_cores", [0.4, 1.9])
def test_it_runs_when_nothing_else_wants_to(monkeypatch: pytest.MonkeyPatch, busy_cores: float) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (busy_cores, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    ours = priority()
    assert behind_others(priority)[0] == behind_others(priority_of_one_started_there)[0] == os.SCHED_IDLE
    assert priority() == ours


@of_linux
@pytest.mark.parametrize("busy_cores", [2.0, 7.5])
def test_beside_a_machine_that_is_busy_it_is_merely_modest(
    monkeypatch: pytest.MonkeyPatch, busy_cores: float
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (busy_cores, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    ours = priority()
    modest = os.SCHED_OTHER, max(ours[1], MODEST)
    assert behind_others(priority) == behind_others(priority_of_one_started_there) == modest
    assert priority() == ours


@of_linux
def test_it_goes_on_where_no_other_priority_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refused)
    monkeypatch.setattr(os, "sched_setscheduler", refused)
    assert behind_others(priority) == priority()


@of_linux
@pytest.mark.parametrize(("before", "after"), [(0, MODEST), (MODEST, MODEST), (15, 15)])
def test_a_thread_that_gives_way_never_gets_less_nice(before: int, after: int) -> None:
    found, ours = list[int](), priority()[1]

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), max(ours, before))
        give_way()
        found.append(priority()[1])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [max(ours, after)]


def test_what_it_returns_or_raises_is_the_callers() -> None:
    assert behind_others(lambda: divmod(17, 5)) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        behind_others(lambda: divmod(17, 0))
