"""Every NVML call that is made of a card, as data: the sensor asks by this list, and a capture records the whole of it.

Pure: imports no binding. Calls that are known to stall the driver (fan speed, PCIe throughput) are not in it; process lists are
asked for seldom and by a thread of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NewType, Protocol

from joulebench.gpu.field_block import FieldBlock

Handle = NewType("Handle", object)
"""What NVML names a card by, until the card is lost."""


@dataclass(frozen=True, slots=True)
class Call:
    """One question: the binding's function, and what it takes beside the handle. ``symbol``: what the driver exports for it."""

    function: str
    arguments: tuple[int, ...] = ()
    exported_as: str = ""

    @property
    def symbol(self) -> str:
        return self.exported_as or self.function


class Nvml(Protocol):
    """What the sensor needs of a binding; never raises for an NVML error, which is a code here and judged by the caller."""

    def handle(self, index: int) -> tuple[int, Handle | None]: ...

    def handle_of(self, uuid: str) -> tuple[int, Handle | None]: ...

    def answer(self, call: Call, handle: Handle) -> tuple[int, Any]:
        """(NVML return code, answer); the answer is None where the code is not 0."""
        ...

    def filler(self, handle: Handle, block: FieldBlock) -> Callable[[], int]:
        """Fills ``block`` anew at each call and returns NVML's code; made once, because it runs 50 times a second."""
        ...

    def text(self, code: int) -> str:
        """What NVML says that a code means."""
        ...


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
REASONS = Call("nvmlDeviceGetCurrentClocksEventReasons")
REASONS_OLD = Call("nvmlDeviceGetCurrentClocksThrottleReasons")

COMPUTE_PROCESSES = Call("nvmlDeviceGetComputeRunningProcesses_v3")


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
    *CLOCKS.values(),
    *CLOCKS_MAX.values(),
    REASONS,
    REASONS_OLD,
)
"""Those that measure, fallbacks included: which of them work differs from card to card."""

ENERGY_FIELDS = (191, 83)
POWER_INSTANT_FIELD = 186

REASON_BITS: Mapping[str, int] = {
    "sw_power_cap": 0x04,
    "hw_slowdown": 0x08,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
}
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
