"""Memory that was let go of and that the C library keeps: a picture of 40 megapixels leaves 30 MB behind in
each thread that ever read one."""

import asyncio
import ctypes

_EVERY_S = 10.0  # it takes a millisecond, or ten where there is much, and the next calls take as much longer


async def kept_trimmed() -> None:
    """Give it back to the system from time to time, until cancelled; only glibc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(_EVERY_S)
        await asyncio.to_thread(trim, 0)
