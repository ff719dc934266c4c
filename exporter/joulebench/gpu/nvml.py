"""NVML on this machine: the only file that imports its binding, and the source of all its GPUs.

No unit and no error of NVML's passes it; what is asked of a GPU stands in nvml_calls.py and device.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import pynvml

from joulebench.errors import GpuError, GpuUnavailable
from joulebench.gpu.device import NvmlDevice
from joulebench.gpu.nvml_calls import (
    ERROR_ADVICE,
    FIELD_VALUES,
    GPM_SM_UTILIZATION,
    NOT_AVAILABLE_CODES,
    UUID,
    Call,
    FieldBlock,
    GpmSample,
    Handle,
)

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
            raise GpuUnavailable(f"NVML does not start: {self.text(code)}")
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

    def uuid_at(self, index: int) -> str | None:
        """The UUID of the GPU at this index; None where it has none or is lost."""
        code, handle = self.handle(index)
        if handle is None:
            return None
        code, uuid = self.answer(UUID, handle)
        return None if code else str(uuid)

    def handle_of(self, uuid: str) -> tuple[int, Handle | None]:
        return _call(pynvml.nvmlDeviceGetHandleByUUID, uuid)

    def answer(self, call: Call, handle: Handle) -> tuple[int, Any]:
        return _call(getattr(pynvml, call.function), handle, *call.arguments)

    def fill(self, handle: Handle, block: FieldBlock) -> int:
        if self._fill is None or not block.fields:
            return FUNCTION_NOT_FOUND if block.fields else 0
        code: int = self._fill(handle, block.count, block.reference)
        return code

    def has_gpm(self, handle: Handle) -> bool:
        code, support = _call(pynvml.nvmlGpmQueryDeviceSupport, handle)
        return code == 0 and bool(support.isSupportedDevice)

    def take_gpm_sample(self, handle: Handle, gpu_instance: int) -> GpmSample | None:
        code, sample = _call(pynvml.nvmlGpmSampleAlloc)
        if code:
            return None
        code, _ = _call(pynvml.nvmlGpmMigSampleGet, handle, gpu_instance, sample)
        if code:
            self.free_gpm_sample(sample)
            return None
        return GpmSample(sample)

    def gpm_utilization(self, first: GpmSample, second: GpmSample) -> float | None:
        question = pynvml.c_nvmlGpmMetricsGet_t()
        question.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        question.numMetrics, question.sample1, question.sample2 = 1, first, second
        question.metrics[0].metricId = GPM_SM_UTILIZATION
        code, _ = _call(pynvml.nvmlGpmMetricsGet, question)
        answer = question.metrics[0]
        return None if code or answer.nvmlReturn else float(answer.value)

    def free_gpm_sample(self, sample: GpmSample) -> None:
        _call(pynvml.nvmlGpmSampleFree, sample)

    def process_name(self, pid: int) -> str | None:
        code, answer = _call(pynvml.nvmlSystemGetProcessName, pid)
        return None if code else str(answer)

    def text(self, code: int) -> str:
        """NVML's words for a return code, and what to do about it."""
        advice = ERROR_ADVICE.get(code)
        words = f"{pynvml.NVMLError(code)} ({code})"
        return words if advice is None else f"{words}: {advice}"


def _call(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """Returns (NVML return code, answer)."""
    try:
        return 0, function(*arguments)
    except pynvml.NVMLError as error:
        return error.value, None
    except UnicodeDecodeError as error:
        # The binding decodes names strictly, but those of processes and of odd cards are any bytes.
        return 0, error.object.decode(errors="replace")


class NvmlSource:
    """A ``GpuSource`` of all GPUs that NVML can name, now or later.

    ``required``: raises GpuUnavailable, with a reason that says what to do, where there is nothing to measure now. Otherwise
    ``scan`` finds a driver that is loaded later, and ``problem`` says what is wrong meanwhile.
    """

    name = "nvml"

    def __init__(self, *, required: bool = True) -> None:
        self.problem: str | None = None
        self._library: NvmlLibrary | None = None
        # By UUID: every GPU that was ever named. _present are those of the last scan.
        self._devices: dict[str, NvmlDevice] = {}
        self._present: list[NvmlDevice] = []
        unreadable = self.scan()
        if self._present:
            if unreadable:
                log.warning("left out for now, because it cannot be named: %s", "; ".join(unreadable))
            return
        self.problem = "; ".join(unreadable) or "the NVIDIA driver runs but knows no GPU"
        if required:
            self.close()
            raise GpuUnavailable(self.problem)

    def devices(self) -> Sequence[NvmlDevice]:
        return self._present

    def scan(self) -> Sequence[str]:
        """Starts NVML where it is not running, and names the GPUs that are there.

        A GPU whose index changed gets the new index; a GPU without a UUID is left out: its readings could not be labelled.
        """
        try:
            if self._library is None:
                self._library = NvmlLibrary()
                for device in self._devices.values():
                    device.forget_handle()
            library = self._library
            version, count = library.driver_version(), library.count()
        except GpuUnavailable as error:
            # After a driver was unloaded, only a new start of the library can find it again.
            self.close()
            return [str(error)]
        present: list[NvmlDevice] = []
        unreadable: list[str] = []
        for index in range(count):
            try:
                present.append(self._device_at(library, index, version))
            except GpuError as error:  # noqa: PERF203
                unreadable.append(f"GPU {index}: {error}")
        if present:
            self.problem = None
        self._present = present
        return unreadable

    def _device_at(self, library: NvmlLibrary, index: int, version: str) -> NvmlDevice:
        """Returns the GPU at this index, the same object as before where it was there before. Raises GpuError."""
        device = self._devices.get(library.uuid_at(index) or "")
        if device is None:
            device = NvmlDevice(library, index, version)
            self._devices[device.identity.uuid] = device
        elif (device.identity.index, device.identity.driver_version) != (index, version):
            device.identity = replace(device.identity, index=index, driver_version=version)
        return device

    def process_name(self, pid: int) -> str | None:
        return None if self._library is None else self._library.process_name(pid)

    def close(self) -> None:
        if self._library is not None:
            self._library.close()
            self._library = None
