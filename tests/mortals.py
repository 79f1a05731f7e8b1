"""Processes made to be killed. A warm process forks them, so that each starts in milliseconds."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from types import FrameType
from typing import Any

FORK = multiprocessing.get_context("forkserver")
_PRELOADED = [
    *("tests.killing_processes", "tests.killing_restores"),
    *("tests.test_crash_points", "tests.test_jobs_crash", "tests.test_reembedding"),
]
_Trace = Callable[[FrameType, str, Any], Any]


def start(role: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """A process in this role."""
    FORK.set_forkserver_preload(_PRELOADED)
    process = FORK.Process(target=role, args=arguments, daemon=True)
    process.start()
    return process


def kill(process: ForkServerProcess) -> None:
    """kill -9."""
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it had ended by itself"


def dies_at_line(number: int, file: str, action: Callable[..., None], *arguments: object) -> bool:
    """Run an action in a process that is killed at the ``number``-th line of a file; whether it got there."""
    process = start(_run_to_line, number, file, action, *arguments)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _run_to_line(number: int, file: str, action: Callable[..., None], *arguments: object) -> None:
    left = number

    def trace(frame: FrameType, event: str, _: object) -> _Trace | None:
        nonlocal left
        if frame.f_code.co_filename != file:
            return None
        left -= event == "line"
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    threading.settrace(trace)  # what works behind others has a thread of its own
    action(*arguments)
