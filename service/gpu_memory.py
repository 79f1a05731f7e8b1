"""How much memory GPUs have, as NVIDIA's driver tells: asking CUDA would take some hundred MB of it."""

import ctypes
from typing import Any, Self

_LIBRARY = "libnvidia-ml.so.1"  # comes with the driver


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class GpuMemory:
    """The memory of each of the GPUs that the driver shows, by its number from 0."""

    def __init__(self, nvml: Any) -> None:
        """Raises OSError if the driver does not answer."""
        self._nvml = nvml
        count = ctypes.c_uint()
        _check(nvml.nvmlInit_v2())
        _check(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        self.devices = count.value

    @classmethod
    def find(cls) -> Self | None:
        """None on a machine without such a driver."""
        try:
            return cls(ctypes.CDLL(_LIBRARY))
        except (OSError, AttributeError):  # no library, no GPU, or a driver from before 2012
            return None

    def total_bytes(self, device: int) -> float:
        """How much there is; NaN if the driver does not say."""
        return self._of(device, "total")

    def used_bytes(self, device: int) -> float:
        """How much is taken, by whichever process; NaN if the driver does not say."""
        return self._of(device, "used")

    def _of(self, device: int, kind: str) -> float:
        handle, memory = ctypes.c_void_p(), _Memory()
        try:
            _check(self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(device), ctypes.byref(handle)))
            _check(self._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)))
        except OSError:  # a page without it is better than none
            return float("nan")
        return float(getattr(memory, kind))


def _check(code: int) -> None:
    if code:
        raise OSError(f"NVML answers {code}")
