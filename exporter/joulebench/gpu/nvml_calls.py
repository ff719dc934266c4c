"""NVML's calls, field ids, return codes and driver versions as data; imports no binding.

The exporter asks by this list and a capture records all of it. Calls that are known to stall the driver (fan speed,
``nvmlDeviceGetPcieThroughput``, which samples for 20 ms) are not in it.
Sources: nvml.h of the drivers 470 to 595 (field ids, return codes), docs.nvidia.com/deploy/nvml-api.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from ctypes import Array, Structure, Union, byref, c_double, c_int32, c_int64, c_uint32, c_uint64
from dataclasses import dataclass
from typing import Any, NewType, Protocol

Handle = NewType("Handle", object)
"""``nvmlDevice_t``: valid until the GPU is lost or the driver reloaded."""
GpmSample = NewType("GpmSample", object)
"""``nvmlGpmSample_t``: performance counters of a GPU instance at one moment, memory of the driver's library."""

LOST_CODES = frozenset({1, 9, 15, 16, 28})
"""Uninitialized, driver not loaded, GPU lost, reset required, GPU not found: only a new handle can help."""
NOT_AVAILABLE_CODES = frozenset({2, 3, 4, 6, 13, 21, 25, 26})
"""Invalid argument, not supported, no permission, not found, function not found, no data, version mismatch, deprecated:
this GPU or driver does not have the value."""
NOT_FOUND = 6
"""Of process samples: no process used the GPU."""
INSUFFICIENT_SIZE = 7
"""Of process samples: more samples than room for them."""

ERROR_ADVICE: Mapping[int, str] = {
    4: "this user may not ask that; in a container, give it the GPU devices (--gpus all), else see the modes of /dev/nvidia*",
    9: "the NVIDIA driver is installed but not loaded; see whether nvidia-smi works",
    12: "there is no libnvidia-ml.so.1: no NVIDIA driver is installed here, or this container was started without its GPUs",
    13: "libnvidia-ml.so.1 is too old: it lacks the function",
    15: "the GPU has fallen off the bus; look for Xid in dmesg, then reset it (nvidia-smi --gpu-reset) or reboot",
    16: "the GPU needs a reset: nvidia-smi --gpu-reset, or reboot",
    18: "the NVIDIA driver was updated under a running kernel module; reboot, or reload the module",
    999: "the driver is in a bad state, or a container lost its GPU devices (after systemctl daemon-reload, say); look for Xid in"
    " dmesg, restart the container, else reload the driver or reboot",
}
"""What to do about a return code."""


@dataclass(frozen=True, slots=True)
class Call:
    """One NVML getter: ``function`` of the binding and its ``arguments`` after the handle. ``symbol``: the driver's export."""

    function: str
    arguments: tuple[int, ...] = ()
    exported_as: str = ""

    @property
    def symbol(self) -> str:
        return self.exported_as or self.function


FIELD_VALUES = "nvmlDeviceGetFieldValues"
MEMORY_V2 = 0x02000028
"""``nvmlMemory_v2``: the size of the structure, and version 2."""

UUID = Call("nvmlDeviceGetUUID")
NAME = Call("nvmlDeviceGetName")
ARCHITECTURE = Call("nvmlDeviceGetArchitecture")
TOTAL_ENERGY = Call("nvmlDeviceGetTotalEnergyConsumption")
POWER_USAGE = Call("nvmlDeviceGetPowerUsage")
UTILIZATION = Call("nvmlDeviceGetUtilizationRates")
MEMORY = Call("nvmlDeviceGetMemoryInfo", (MEMORY_V2,), "nvmlDeviceGetMemoryInfo_v2")
MEMORY_OLD = Call("nvmlDeviceGetMemoryInfo")
TEMPERATURE = Call("nvmlDeviceGetTemperatureV", (0,))
TEMPERATURE_OLD = Call("nvmlDeviceGetTemperature", (0,))
MARGIN = Call("nvmlDeviceGetMarginTemperature")
SLOWDOWN_THRESHOLD = Call("nvmlDeviceGetTemperatureThreshold", (1,))
POWER_LIMIT = Call("nvmlDeviceGetEnforcedPowerLimit")
POWER_LIMIT_RANGE = Call("nvmlDeviceGetPowerManagementLimitConstraints")
REASONS = Call("nvmlDeviceGetCurrentClocksEventReasons")
REASONS_OLD = Call("nvmlDeviceGetCurrentClocksThrottleReasons")

COMPUTE_PROCESSES = Call("nvmlDeviceGetComputeRunningProcesses_v3")

MIG_MODE = Call("nvmlDeviceGetMigMode")
MAX_MIG_COUNT = Call("nvmlDeviceGetMaxMigDeviceCount")
GPU_INSTANCE_ID = Call("nvmlDeviceGetGpuInstanceId")
COMPUTE_INSTANCE_ID = Call("nvmlDeviceGetComputeInstanceId")
ATTRIBUTES = Call("nvmlDeviceGetAttributes_v2")
"""Of a MIG instance: SMs, slices and memory."""
GPM_SM_UTILIZATION = 2
"""NVML_GPM_METRIC_SM_UTIL, in percent."""


def mig_handle(index: int) -> Call:
    """The handle of a GPU's MIG instance."""
    return Call("nvmlDeviceGetMigDeviceHandleByIndex", (index,))


def process_utilization(since_us: int) -> Call:
    """Samples of SM use by process that are newer than this unix time in microseconds."""
    return Call("nvmlDeviceGetProcessUtilization", (since_us,))


_CLOCK_NUMBERS = {"graphics": 0, "sm": 1, "memory": 2}
CLOCKS: Mapping[str, Call] = {name: Call("nvmlDeviceGetClockInfo", (number,)) for name, number in _CLOCK_NUMBERS.items()}
CLOCKS_MAX: Mapping[str, Call] = {name: Call("nvmlDeviceGetMaxClockInfo", (number,)) for name, number in _CLOCK_NUMBERS.items()}

READS: tuple[Call, ...] = (
    TOTAL_ENERGY,
    POWER_USAGE,
    UTILIZATION,
    MEMORY,
    MEMORY_OLD,
    TEMPERATURE,
    TEMPERATURE_OLD,
    MARGIN,
    SLOWDOWN_THRESHOLD,
    POWER_LIMIT,
    POWER_LIMIT_RANGE,
    *CLOCKS.values(),
    *CLOCKS_MAX.values(),
    REASONS,
    REASONS_OLD,
)
"""Every getter that measures, fallbacks included: which of them work differs from GPU to GPU."""

ENERGY_FIELDS = (191, 83)
"""NVML_FI_DEV_ENERGY and NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, in millijoules."""
POWER_INSTANT_FIELD = 186
"""NVML_FI_DEV_POWER_INSTANT, in milliwatts."""
POLICY_FIELDS: Mapping[str, int] = {"sw_power_cap": 74, "sync_boost": 76}
"""Nanoseconds by throttle reason, under the same ids in every driver."""
THERMAL_FIELD = 75
"""Nanoseconds of both thermal reasons together."""
SLOWDOWN_OFFSET_FIELD = 194
"""NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT: value of ``nvmlDeviceGetMarginTemperature`` at which the card slows down, as -2."""

REASON_BITS: Mapping[str, int] = {
    "sw_power_cap": 0x04,
    "hw_slowdown": 0x08,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
}
NO_REASON_BITS = 0x01 | 0x02 | 0x100
"""Bits of the same mask that throttle nothing: idle, application clocks and display clocks as they were set."""
OTHER_REASONS_SINCE = (615,)
"""Driver from which on there are reasons without a known bit or counter: board_limit and reliability."""
ARCHITECTURES: Mapping[int, str] = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}

_FINE_REASONS = ("sw_thermal", "hw_thermal", "hw_power_brake")
_PART_TIME = re.compile(r"\b(?:A100X?|A800|A30X?|H100|H200|H800|H20|GH200)\b")


def parse_driver_version(driver: str) -> tuple[int, ...]:
    """Returns ``580.65.06`` as (580, 65, 6); whatever is not a number ends it."""
    match = re.match(r"[\d.]*", driver)
    return tuple(int(part) for part in (match.group() if match else "").split(".") if part)


def fine_throttle_fields(driver: str) -> Mapping[str, int]:
    """Returns the field ids of the single throttle reasons' nanosecond counters in this driver.

    The ids moved: the same number is a power smoothing setting in the other numbering, and then a wrong value on cards that
    have it. So the driver's version decides, never the binding's constants, and between the last driver known to use the
    old ids (580.65) and the first known to use the new ids (580.82) there are none.
    """
    version = parse_driver_version(driver)
    if (575,) <= version < (580, 66):
        first = 251
    elif version >= (580, 82):
        first = 269
    else:
        return {}
    return {reason: first + offset for offset, reason in enumerate(_FINE_REASONS)}


def throttle_counter_fields(driver: str) -> Mapping[str, int]:
    """Returns the field ids of the throttle reasons that this driver counts, if its GPU does."""
    return {**POLICY_FIELDS, **fine_throttle_fields(driver)}


def counter_fields(driver: str) -> Sequence[int]:
    """Returns every field that a GPU is asked for under this driver."""
    return (*ENERGY_FIELDS, POWER_INSTANT_FIELD, THERMAL_FIELD, *throttle_counter_fields(driver).values())


def has_other_reasons(driver: str) -> bool:
    """Whether this driver has throttle reasons without a bit or counter that is known here."""
    return parse_driver_version(driver) >= OTHER_REASONS_SINCE


def has_part_time_sensor(name: str, architecture: str) -> bool:
    """Whether this GPU's power sensor covers only a quarter of the time: GA100 and GH100 average 25 ms of every 100 ms.

    A driver may not know the card's name ("NVIDIA Graphics Device"); then its architecture names GH100, the only Hopper chip.
    Source: "Part-time Power Measurements", arXiv 2312.02741.
    """
    return architecture == "Hopper" or _PART_TIME.search(name) is not None


POWER_AVERAGING, POWER_INSTANT_AVERAGING = 1.0, 0.1
"""Seconds that readings of ``nvmlDeviceGetPowerUsage`` and of the field of instant power are means of."""
_ONE_SECOND_ARCHITECTURES = ("Ampere", "Ada", "Hopper", "Blackwell", "Rubin", "unknown")
_GA100 = re.compile(r"\b(?:A100X?|A800|A30X?)\b")


def power_averaging_seconds(name: str, architecture: str, *, is_instant: bool) -> float:
    """Returns the seconds that a power reading is the mean of.

    ``nvmlDeviceGetPowerUsage`` is a mean over one second from Ampere on, but for GA100 (nvidia-smi's help, arXiv 2312.02741).
    """
    if is_instant or architecture not in _ONE_SECOND_ARCHITECTURES or _GA100.search(name):
        return POWER_INSTANT_AVERAGING
    return POWER_AVERAGING


# --- nvmlDeviceGetFieldValues ------------------------------------------------------------------------------------------

_UNSIGNED_INT = 1
# Type, return code and value of each field; ids, scope, time and latency are skipped.
_ITEM = "24xiiQ"
_WIDTH = 3
_WORD, _WORDS = 8, 5
"""Bytes of a word, and words of one field."""


class _Value(Union):
    _fields_ = (("d", c_double), ("ui", c_uint32), ("ull", c_uint64))


class _FieldValue(Structure):
    """C layout of ``nvmlFieldValue_t``."""

    _fields_ = (
        ("field_id", c_uint32),
        ("scope_id", c_uint32),
        ("timestamp", c_int64),
        ("latency_us", c_int64),
        ("value_type", c_int32),
        ("nvml_return", c_int32),
        ("value", _Value),
    )


@dataclass(frozen=True, slots=True)
class FieldAnswer:
    """NVML's answer to one field. ``code``: its return code; ``value`` is raw and means nothing where the code is not 0;
    ``value_type``: NVML's type number."""

    code: int
    value_type: int
    value: int


class FieldBlock:
    """The array that ``nvmlDeviceGetFieldValues`` fills, made once and used for every poll.

    pynvml's wrapper makes a new array for each call and needs several attribute reads a field: 24 us against 3 us for eight
    fields, which at 50 Hz and 8 GPUs is 0.8 % of a core (``make bench``, part cost, shows the whole). ``scopes``: one for each
    field; 0, the whole GPU, where not given.
    """

    def __init__(self, fields: Sequence[int], scopes: Sequence[int] = ()) -> None:
        self.fields = tuple(fields)
        pairs = zip(fields, scopes or [0] * len(fields), strict=True)
        self.array: Array[Any] = (_FieldValue * len(fields))(*(_FieldValue(field, scope) for field, scope in pairs))
        self.count = c_int32(len(fields))
        self.reference = byref(self.array)
        self._struct = struct.Struct("=" + _ITEM * len(fields))
        words = memoryview(self.array).cast("B").cast("Q")
        # Type and return code, and the value: the fourth and fifth of the five words of each field.
        self._kinds, self._values = words[3::_WORDS], words[4::_WORDS]
        self._last = self._before_last = (b"", b"")

    def __len__(self) -> int:
        return len(self.fields)

    def has_changed(self) -> bool:
        """Returns whether the last call's answers differ from those of the call before, as seen by this method."""
        answers = (self._kinds.tobytes(), self._values.tobytes())
        if answers == self._last:
            return False
        self._before_last, self._last = self._last, answers
        return True

    def are_others_unchanged(self, first: int) -> bool:
        """Returns whether the last change, as seen by ``has_changed``, was of nothing but values of the ``first`` fields."""
        (kinds, values), (kinds_before, values_before) = self._last, self._before_last
        return kinds == kinds_before and values[_WORD * first :] == values_before[_WORD * first :]

    def value(self, position: int) -> int:
        """The raw value of the field at this position, by the last call; it means nothing where the field did not answer."""
        return _narrow(self._kinds[position] & 0xFFFFFFFF, self._values[position])

    def answers(self) -> dict[int, FieldAnswer]:
        """The last call's answers by field id."""
        raw = self._struct.unpack_from(self.array)
        rows = zip(self.fields, raw[::_WIDTH], raw[1::_WIDTH], raw[2::_WIDTH], strict=True)
        return {field: FieldAnswer(code, kind, _narrow(kind, value)) for field, kind, code, value in rows}

    def values(self) -> tuple[dict[int | None, int], dict[int | None, int]]:
        """Returns (raw values of the fields that answered, return codes of those that did not)."""
        raw = self._struct.unpack_from(self.array)
        values: dict[int | None, int] = {}
        codes: dict[int | None, int] = {}
        for field, kind, code, value in zip(self.fields, raw[::_WIDTH], raw[1::_WIDTH], raw[2::_WIDTH], strict=True):
            if code:
                codes[field] = code
            else:
                values[field] = value & 0xFFFFFFFF if kind == _UNSIGNED_INT else value
        return values, codes


def _narrow(value_type: int, value: int) -> int:
    """The other half of the union beside a 32-bit value holds whatever was there before."""
    return value & 0xFFFFFFFF if value_type == _UNSIGNED_INT else value


class Nvml(Protocol):
    """What a device needs of the library. No method raises for an NVML error: it is a code, and the caller decides."""

    def handle(self, index: int) -> tuple[int, Handle | None]: ...

    def handle_of(self, uuid: str) -> tuple[int, Handle | None]: ...

    def answer(self, call: Call, handle: Handle) -> tuple[int, Any]:
        """Returns (NVML return code, answer); the answer is None where the code is not 0."""
        ...

    def fill(self, handle: Handle, block: FieldBlock) -> int:
        """Fills ``block`` and returns NVML's code."""
        ...

    def has_gpm(self, handle: Handle) -> bool:
        """Whether the GPU has performance counters that can be read."""
        ...

    def take_gpm_sample(self, handle: Handle, gpu_instance: int) -> GpmSample | None:
        """Reads the performance counters of a GPU instance; None where that fails. The caller frees the sample."""
        ...

    def gpm_utilization(self, first: GpmSample, second: GpmSample) -> float | None:
        """Returns the percent of the SMs that were busy between two samples; None where the driver does not say."""
        ...

    def free_gpm_sample(self, sample: GpmSample) -> None: ...

    def text(self, code: int) -> str:
        """NVML's text for a return code."""
        ...
