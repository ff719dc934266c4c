"""NVML on this machine: the only file that imports its binding, and the source of all its GPUs.

No unit and no error of NVML's passes it; what is asked of a GPU stands in nvml_calls.py and device.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pynvml

from joulebench.errors import GpuError, GpuUnavailable
from joulebench.gpu.device import NvmlDevice
from joulebench.gpu.nvml_calls import FIELD_VALUES, INIT_ADVICE, NOT_AVAILABLE_CODES, Call, FieldBlock, Handle

log = logging.getLogger(__name__)

NEEDED_NAMES = (
    "nvmlDeviceGetMarginTemperature",
    "nvmlDeviceGetFieldValues",
    "nvmlMemory_v2",
    "nvmlDeviceGetTemperatureV",
    "nvmlLib",
)
"""Names that NVIDIA's binding has and the retired package ``pynvml`` lacks."""
FUNCTION_NOT_FOUND = 13


def check_binding(module: ModuleType) -> str | None:
    """Returns what is wrong with ``module``, or None where it is NVIDIA's: the retired package ``pynvml`` has the same name."""
    lacking = next((name for name in NEEDED_NAMES if not hasattr(module, name)), None)
    if lacking is None:
        return None
    place = getattr(module, "__file__", "an unknown place")
    return (
        f"the module pynvml at {place} is not NVIDIA's (it lacks {lacking}): an old package named pynvml shadows nvidia-ml-py;"
        " run: pip uninstall -y pynvml && pip install --force-reinstall nvidia-ml-py"
    )


class NvmlLibrary:
    """pynvml, initialized, as ``nvml_calls.Nvml``. Raises GpuUnavailable with a reason that says what to do."""

    def __init__(self) -> None:
        problem = check_binding(pynvml)
        if problem:
            raise GpuUnavailable(problem)
        code, _ = _call(pynvml.nvmlInit)
        if code:
            raise GpuUnavailable(INIT_ADVICE.get(code, f"NVML does not start: {self.text(code)}"))
        # pynvml's wrapper of this function makes a new array for each call; see FieldBlock.
        self._fill = getattr(pynvml.nvmlLib, FIELD_VALUES, None)

    def close(self) -> None:
        _call(pynvml.nvmlShutdown)

    def binding_version(self) -> str:
        """The package behind the module, such as ``nvidia-ml-py 13.580.82``."""
        from importlib import metadata  # the exporter does without

        try:
            return f"nvidia-ml-py {metadata.version('nvidia-ml-py')}"
        except metadata.PackageNotFoundError:
            return f"unknown: {pynvml.__file__}"

    def driver_version(self) -> str:
        code, answer = _call(pynvml.nvmlSystemGetDriverVersion)
        if code and code not in NOT_AVAILABLE_CODES:
            raise self._cannot_list(code)
        return answer or "unknown"

    def count(self) -> int:
        """Number of GPUs."""
        code, answer = _call(pynvml.nvmlDeviceGetCount)
        if code:
            raise self._cannot_list(code)
        return int(answer)

    def _cannot_list(self, code: int) -> GpuUnavailable:
        return GpuUnavailable(f"NVML runs but cannot list its GPUs: {self.text(code)}")

    def handle(self, index: int) -> tuple[int, Handle | None]:
        return _call(pynvml.nvmlDeviceGetHandleByIndex, index)

    def handle_of(self, uuid: str) -> tuple[int, Handle | None]:
        return _call(pynvml.nvmlDeviceGetHandleByUUID, uuid)

    def answer(self, call: Call, handle: Handle) -> tuple[int, Any]:
        return _call(getattr(pynvml, call.function), handle, *call.arguments)

    def fill(self, handle: Handle, block: FieldBlock) -> int:
        if not block.fields:
            return 0
        if self._fill is None:
            return FUNCTION_NOT_FOUND
        return int(self._fill(handle, block.count, block.reference))

    def process_name(self, pid: int) -> str | None:
        _, answer = _call(pynvml.nvmlSystemGetProcessName, pid)
        return answer.decode(errors="replace") if isinstance(answer, bytes) else answer

    def text(self, code: int) -> str:
        return str(pynvml.NVMLError(code))


def _call(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """Returns (NVML return code, answer)."""
    try:
        return 0, function(*arguments)
    except pynvml.NVMLError as error:
        return error.value, None


class NvmlSource:
    """A ``GpuSource`` of all GPUs that NVML can name. Raises GpuUnavailable where there is nothing to measure."""

    name = "nvml"

    def __init__(self) -> None:
        self._library = NvmlLibrary()
        try:
            self._devices = _open_devices(self._library)
        except BaseException:
            self._library.close()
            raise

    def devices(self) -> Sequence[NvmlDevice]:
        return self._devices

    def process_name(self, pid: int) -> str | None:
        return self._library.process_name(pid)

    def close(self) -> None:
        self._library.close()


def _open_devices(library: NvmlLibrary) -> list[NvmlDevice]:
    """Leaves out a GPU that cannot be named now: without a UUID its readings could not be labelled."""
    version = library.driver_version()
    devices: list[NvmlDevice] = []
    unreadable: list[str] = []
    for index in range(library.count()):
        try:
            devices.append(NvmlDevice(library, index, version))
        except GpuError as error:  # noqa: PERF203
            unreadable.append(f"GPU {index}: {error}")
    if devices and unreadable:
        log.warning("left out, because it cannot be named: %s", "; ".join(unreadable))
    if not devices:
        raise GpuUnavailable("; ".join(unreadable) or "the NVIDIA driver runs but knows no GPU")
    return devices
