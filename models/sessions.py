"""Sessions of ONNX Runtime: a graph on the device that was asked for, or an error."""

import importlib.util
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import onnxruntime as ort

Device = Literal["auto", "cpu", "cuda", "openvino"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


class ProviderError(RuntimeError):
    """The execution provider that was asked for is not the one that would run."""


def accelerators() -> Iterator[Device]:
    """What "auto" tries before the CPU, in this order."""
    if PROVIDERS["cuda"] in ort.get_available_providers():
        yield "cuda"
    if importlib.util.find_spec("onnxruntime_ep_openvino") is not None:
        yield "openvino"


def session_of(file: Path, device: Device, threads: int) -> ort.InferenceSession:
    """A graph on a device other than "auto"; threads=0: on all cores. Raises ProviderError."""
    options = _options(threads)
    if device == "openvino":
        _add_openvino(options, threads)
        session = ort.InferenceSession(str(file), options)
    elif PROVIDERS[device] in (offered := ort.get_available_providers()):
        wanted = list(dict.fromkeys((PROVIDERS[device], PROVIDERS["cpu"])))
        session = ort.InferenceSession(str(file), options, providers=wanted)
    else:
        raise ProviderError(f"device {device!r} was asked for, but this runtime offers {', '.join(offered)}")
    running = session.get_providers()
    if PROVIDERS[device] not in running:
        raise ProviderError(f"device {device!r} was asked for, but {file.name} runs on {', '.join(running)}")
    return session


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # A service idles between bursts: spinning threads would burn a core, an arena keeps its peak.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return options


def _add_openvino(options: ort.SessionOptions, threads: int) -> None:
    devices = _openvino_devices()
    if not devices:
        raise ProviderError("device 'openvino' was asked for, but its plugin finds no device on this machine")
    cpu = {"INFERENCE_PRECISION_HINT": "bf16"} | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})
    options.add_provider_for_devices(devices, {"load_config": json.dumps({"CPU": cpu})})


@cache  # a plugin may be registered once in a process
def _openvino_devices() -> list[Any]:
    try:
        plugin = importlib.import_module("onnxruntime_ep_openvino")
    except ModuleNotFoundError as error:
        message = "device 'openvino' was asked for, but onnxruntime-ep-openvino is not installed"
        raise ProviderError(message) from error
    ort.register_execution_provider_library("OpenVINO", plugin.get_library_path())
    return [device for device in ort.get_ep_devices() if device.ep_name == PROVIDERS["openvino"]]
