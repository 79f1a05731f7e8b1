"""Memory that was let go of goes back to the system."""

import asyncio
import ctypes
from contextlib import suppress

import numpy as np
import psutil
import pytest

from service import heap


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc can")
def test_what_was_let_go_of_goes_back_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_EVERY_S", 0.01)
    process = psutil.Process()
    blocks = [np.ones(20_000, np.uint8) for _ in range(5000)]
    blocks = blocks[::50]  # what is left keeps the C library from letting go by itself
    before = process.memory_info().rss

    async def trimmed() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(heap.kept_trimmed(), 0.5)

    asyncio.run(trimmed())
    assert before - process.memory_info().rss > 50e6
    assert len(blocks) == 100
