"""What NVML's return codes mean to Joulebench, and whether the installed ``pynvml`` is NVIDIA's. Pure: imports no binding."""

from __future__ import annotations

from types import ModuleType

# Uninitialized, driver not loaded, lost, reset required, GPU not found: nothing but a new handle can help.
LOST = frozenset({1, 9, 15, 16, 28})
# Invalid argument, not supported, no permission, not found, function not found, no data, version mismatch, deprecated.
ABSENT = frozenset({2, 3, 4, 6, 13, 21, 25, 26})

_INIT_REASONS = {
    9: "the NVIDIA driver is installed but not loaded; see whether nvidia-smi works",
    12: "there is no libnvidia-ml.so.1: no NVIDIA driver is installed here, or this container was started without its GPUs",
    13: "libnvidia-ml.so.1 is too old to be asked anything",
    18: "the NVIDIA driver was updated under a running kernel module; reboot, or reload the module",
}

_NEEDED = ("nvmlDeviceGetMarginTemperature", "nvmlDeviceGetFieldValues", "nvmlMemory_v2", "nvmlDeviceGetTemperatureV")


def why_no_start(code: int, text: str) -> str:
    """Why ``nvmlInit`` failed, as something to act on."""
    return _INIT_REASONS.get(code, f"NVML does not start: {text}")


def wrong_module(module: ModuleType) -> str | None:
    """Why ``module`` is not NVIDIA's binding, or None where it is: the retired package ``pynvml`` installs over the same name."""
    lacking = next((name for name in _NEEDED if not hasattr(module, name)), None)
    if lacking is None:
        return None
    place = getattr(module, "__file__", "an unknown place")
    return (
        f"the module pynvml at {place} is not NVIDIA's (it lacks {lacking}): an old package named pynvml shadows nvidia-ml-py;"
        " run: pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py"
    )
