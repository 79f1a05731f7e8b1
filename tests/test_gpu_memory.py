"""The memory of GPUs, as a driver that computes tells it."""

import ctypes
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.gpu_memory import GpuMemory
from service.metrics import Metrics


@dataclass
class FakeNvml:
    """NVML's calls on cards of so many bytes, of which so many are taken. ``broken`` is what they answer."""

    cards: list[tuple[int, int]] = field(default_factory=lambda: [(80, 30), (40, 0)])
    broken: int = 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return self.broken

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.cards)
        return self.broken

    def nvmlDeviceGetHandleByIndex_v2(self, number: ctypes.c_uint, handle: Any) -> int:  # noqa: N802
        handle._obj.value = 0x1000 + number.value
        return self.broken

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        total, used = self.cards[(handle.value or 0) - 0x1000]
        memory._obj.total, memory._obj.free, memory._obj.used = total, total - used, used
        return self.broken


def shown(metrics: Metrics) -> set[str]:
    lines = metrics.exposition().decode().splitlines()
    return {line for line in lines if line.startswith("momoseek_gpu_memory_bytes{")}


def test_each_card_has_what_there_is_and_what_is_taken() -> None:
    nvml, metrics = FakeNvml(), Metrics()
    metrics.show_gpu_memory(GpuMemory(nvml))
    assert shown(metrics) == {
        'momoseek_gpu_memory_bytes{device="0",kind="total"} 80.0',
        'momoseek_gpu_memory_bytes{device="0",kind="used"} 30.0',
        'momoseek_gpu_memory_bytes{device="1",kind="total"} 40.0',
        'momoseek_gpu_memory_bytes{device="1",kind="used"} 0.0',
    }
    nvml.cards[1] = (40, 12)
    assert 'momoseek_gpu_memory_bytes{device="1",kind="used"} 12.0' in shown(metrics)


def test_a_driver_that_fails_later_costs_the_value_and_not_the_page() -> None:
    nvml, metrics = FakeNvml(), Metrics()
    metrics.show_gpu_memory(GpuMemory(nvml))
    nvml.broken = 999
    assert 'momoseek_gpu_memory_bytes{device="0",kind="used"} NaN' in shown(metrics)


@pytest.mark.parametrize("library", ["a driver without a card", "none", "another library"])
def test_a_machine_without_cards_has_none(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        assert name == "libnvidia-ml.so.1"
        if library == "none":
            raise OSError("no such file")
        return FakeNvml(broken=9) if library == "a driver without a card" else object()

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert GpuMemory.find() is None
