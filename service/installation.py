"""Refuse to start on an installation whose packages overwrite one another, and say what to type instead."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

# Distributions of one row unpack into the same module folder: the last one installed wins silently, and
# removing either breaks the other.
RIVALS: dict[str, tuple[str, ...]] = {
    "ONNX Runtime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "FAISS": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss-cuda"),
}


class InstallationError(RuntimeError):
    """The installed packages cannot run this service."""


class ConflictingInstall(InstallationError):
    """Two builds of one library are installed on top of each other."""


class IncompleteInstall(InstallationError):
    """A library that an extra brings is not installed at all."""


def is_installed(distribution: str) -> bool:
    """Whether a distribution of this name is installed in the running environment."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def check_installation(installed: Callable[[str], bool] = is_installed) -> None:
    """Raise InstallationError, naming the remedy, unless each runtime library is installed exactly once."""
    for library, builds in RIVALS.items():
        found = [build for build in builds if installed(build)]
        if not found:
            raise IncompleteInstall(
                f"{library} is not installed. Install one extra: "
                f"pip install 'momoseek[cpu]' (or 'momoseek[gpu]')."
            )
        if len(found) > 1:
            names = " ".join(found)
            raise ConflictingInstall(
                f"{len(found)} builds of {library} are installed over one another: {', '.join(found)}. "
                f"Remove them all, then install one extra: pip uninstall -y {names} "
                f"&& pip install 'momoseek[cpu]' (or 'momoseek[gpu]')."
            )
