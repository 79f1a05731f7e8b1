"""The supervisor: one worker process, started again whenever it ends."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0  # a worker that ran this long starts again without a longer pause
_GRACE_S = 10.0


def own_command() -> list[str]:
    """How to start this installation's command line, whatever packages the working directory holds (-P)."""
    return [sys.executable, "-P", "-m", "service.cli"]


def worker_command() -> list[str]:
    """How to start the worker of this installation."""
    return [*own_command(), "worker", "--supervised"]


async def supervise(
    environ: Mapping[str, str],
    on_restart: Callable[[], None],
    command: Sequence[str] | None = None,
) -> None:
    """Keep the worker running until cancelled. Its stdin is a pipe of ours: it ends when we are gone."""
    pause_s = _FIRST_PAUSE_S
    while True:
        started = time.monotonic()
        try:
            end = f"ended with status {await _run(command or worker_command(), environ)}"
        except OSError as error:
            end = f"could not be started: {error}"
        pause_s = (
            _FIRST_PAUSE_S if time.monotonic() - started > _STEADY_S else min(2 * pause_s, _LONGEST_PAUSE_S)
        )
        log.error("the worker %s; it starts again in %.1f s", end, pause_s)
        on_restart()
        await asyncio.sleep(pause_s)


async def _run(command: Sequence[str], environ: Mapping[str, str]) -> int:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, env={**os.environ, **environ}
    )
    try:
        return await process.wait()
    except asyncio.CancelledError:
        await _stop(process)
        raise


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
