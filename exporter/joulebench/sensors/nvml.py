"""The one door to NVML: readings in base units, absent where a card or driver does not say.

Invariants: no unit of NVML's and no NVML error leaves this file; a value that could not be read is ``None``, never 0, and the
fast read is one ``nvmlDeviceGetFieldValues`` call wherever the driver has those fields. Calls that are known to stall the driver
(fan speed, PCIe throughput, process lists) are not made at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from ctypes import byref, c_int32
from typing import Any, TypeVar

import pynvml

from joulebench.errors import GpuError, GpuLost, GpuUnavailable
from joulebench.sensors import binding, driver
from joulebench.sensors.field_block import FieldBlock
from joulebench.sensors.reading import FastReading, GpuIdentity, SlowReading
from joulebench.units import (
    Bytes,
    Celsius,
    Hertz,
    Seconds,
    hertz_from_megahertz,
    joules_from_millijoules,
    ratio_from_percent,
    seconds_from_nanoseconds,
    watts_from_milliwatts,
)

log = logging.getLogger(__name__)

_POWER_INSTANT = 186
_ENERGY_FIELDS = (191, 83)
# A sporadic "not supported" must not cost a card its counter for good.
_PROBES = 3
# hw_slowdown has no counter and needs none: it sums up others.
_COUNTED_AT_BEST = frozenset({"sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake"})
_REASON_BITS = {
    "sw_power_cap": 0x04,
    "hw_slowdown": 0x08,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
}
_CLOCKS = {"graphics": 0, "sm": 1, "memory": 2}
_ARCHITECTURES = {
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

T = TypeVar("T")


def _ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where the card or driver has none. Raises GpuLost or GpuError."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        return _judge(error.value, function.__name__)


def _judge(code: int, name: str) -> None:
    if code not in binding.ABSENT:
        message = f"{name}: {pynvml.NVMLError(code)}"
        raise GpuLost(message) if code in binding.LOST else GpuError(message)


class NvmlSource:
    """All GPUs that NVML names. Raises GpuUnavailable, with a reason to act on, where there is nothing to measure."""

    name = "nvml"

    def __init__(self) -> None:
        problem = binding.wrong_module(pynvml)
        if problem:
            raise GpuUnavailable(problem)
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise GpuUnavailable(binding.why_no_start(error.value, str(error))) from error
        try:
            self._cards = _find_cards()
        except BaseException:
            pynvml.nvmlShutdown()
            raise

    def gpus(self) -> Sequence[GpuIdentity]:
        return [card.identity for card in self._cards]

    def read_fast(self, index: int) -> FastReading:
        card = self._cards[index]
        return card.guarded(card.read_fast)

    def read_slow(self, index: int) -> SlowReading:
        card = self._cards[index]
        return card.guarded(card.read_slow)

    def close(self) -> None:
        pynvml.nvmlShutdown()


def _find_cards() -> list[_Card]:
    """A card that cannot be named now is left out: without a UUID nothing could be said about it later."""
    cards: list[_Card] = []
    unreadable: list[str] = []
    try:
        version = _ask(pynvml.nvmlSystemGetDriverVersion) or "unknown"
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                cards.append(_Card(index, version))
            except (pynvml.NVMLError, GpuError) as error:  # noqa: PERF203
                unreadable.append(f"GPU {index}: {error}")
    except (pynvml.NVMLError, GpuError) as error:
        raise GpuUnavailable(f"NVML runs but cannot be asked for its GPUs: {error}") from error
    if cards and unreadable:
        log.warning("left out, because it cannot be named: %s", "; ".join(unreadable))
    if not cards:
        raise GpuUnavailable("; ".join(unreadable) or "the NVIDIA driver runs but knows no GPU")
    return cards


class _Card:
    def __init__(self, index: int, version: str) -> None:
        self._handle = handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self._stale = False
        self.identity = GpuIdentity(
            index=index,
            uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
            name=str(_ask(pynvml.nvmlDeviceGetName, handle) or "unknown"),
            architecture=_ARCHITECTURES.get(_ask(pynvml.nvmlDeviceGetArchitecture, handle) or 0, "unknown"),
            driver_version=version,
        )
        counters = {**driver.POLICY_FIELDS, **driver.fine_throttle_fields(version)}
        supported = self._probe([*_ENERGY_FIELDS, _POWER_INSTANT, driver.THERMAL_FIELD, *counters.values()])
        self._counters = {reason: field for reason, field in counters.items() if field in supported}
        self._needs_bits = not self._counters.keys() >= _COUNTED_AT_BEST
        self._energy_field = next((field for field in _ENERGY_FIELDS if field in supported), None)
        self._power_field = _POWER_INSTANT if _POWER_INSTANT in supported else None
        plain = [self._energy_field, self._power_field, *({driver.THERMAL_FIELD} & supported)]
        self._block = FieldBlock([field for field in [*plain, *self._counters.values()] if field is not None])
        self._throttle_raw: tuple[int | None, ...] = ()
        self._throttle: Mapping[str, Seconds] = {}
        self._clocks_max: dict[str, Hertz] = {}

    def guarded(self, read: Callable[[], T]) -> T:
        """``read``, with a fresh handle after the card was lost: an old handle stays dead when the card is back."""
        try:
            if self._stale:
                handle = _ask(pynvml.nvmlDeviceGetHandleByUUID, self.identity.uuid)
                if handle is None:
                    raise GpuLost(f"no GPU has the UUID {self.identity.uuid}")
                self._handle, self._stale = handle, False
            return read()
        except GpuLost:
            self._stale = True
            raise

    def _probe(self, fields: Sequence[int]) -> set[int]:
        supported: set[int] = set()
        for _ in range(_PROBES):
            try:
                values = _ask(pynvml.nvmlDeviceGetFieldValues, self._handle, list(fields)) or ()
            except GpuLost:
                raise
            except GpuError:
                continue
            supported |= {int(value.fieldId) for value in values if value.nvmlReturn == 0}
        return supported

    def read_fast(self) -> FastReading:
        values = self._field_values()
        energy = values.get(self._energy_field)
        if self._energy_field is None:
            energy = _ask(pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        power = values.get(self._power_field)
        if self._power_field is None:
            power = _ask(pynvml.nvmlDeviceGetPowerUsage, self._handle)
        thermal = values.get(driver.THERMAL_FIELD)
        return FastReading(
            energy=None if energy is None else joules_from_millijoules(energy),
            # A powered card never draws nothing: 0 is how a driver says that it could not look.
            power=watts_from_milliwatts(power) if power else None,
            throttle=self._throttle_seconds(values),
            thermal=None if thermal is None else seconds_from_nanoseconds(thermal),
            throttle_active=self._active_reasons() if self._needs_bits else {},
        )

    def _field_values(self) -> dict[int | None, int]:
        """Raw values of the fields that answered: the call succeeds when any one of them did."""
        if not len(self._block):
            return {}
        name = "nvmlDeviceGetFieldValues"
        code = pynvml._nvmlGetFunctionPointer(name)(self._handle, c_int32(len(self._block)), byref(self._block.array))
        if code:
            _judge(code, name)
            return {}
        codes, raw = self._block.read()
        if not any(codes):
            return dict(zip(self._block.fields, raw, strict=True))
        for failed in binding.LOST.intersection(codes):
            _judge(failed, name)
        return {field: value for field, code, value in zip(self._block.fields, codes, raw, strict=True) if code == 0}

    def _throttle_seconds(self, values: Mapping[int | None, int]) -> Mapping[str, Seconds]:
        # Counters mostly stand still; then the mapping of the poll before is handed out again.
        raw = tuple(map(values.get, self._counters.values()))
        if raw != self._throttle_raw:
            pairs = zip(self._counters, raw, strict=True)
            self._throttle = {reason: seconds_from_nanoseconds(value) for reason, value in pairs if value is not None}
            self._throttle_raw = raw
        return self._throttle

    def _active_reasons(self) -> Mapping[str, bool]:
        reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksEventReasons, self._handle)
        if reasons is None:
            reasons = _ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, self._handle)
        return {} if reasons is None else {reason: bool(reasons & bit) for reason, bit in _REASON_BITS.items()}

    def read_slow(self) -> SlowReading:
        failures = 0

        def ask(function: Callable[..., Any], *arguments: Any) -> Any:
            """One call that fails takes only its own value with it, unless the whole card is lost."""
            nonlocal failures
            try:
                return _ask(function, *arguments)
            except GpuLost:
                raise
            except GpuError:
                failures += 1
                return None

        card = self._handle
        utilization = ask(pynvml.nvmlDeviceGetUtilizationRates, card)
        memory = ask(pynvml.nvmlDeviceGetMemoryInfo, card, pynvml.nvmlMemory_v2) or ask(pynvml.nvmlDeviceGetMemoryInfo, card)
        temperature = ask(pynvml.nvmlDeviceGetTemperatureV, card, pynvml.NVML_TEMPERATURE_GPU)
        if temperature is None:
            temperature = ask(pynvml.nvmlDeviceGetTemperature, card, pynvml.NVML_TEMPERATURE_GPU)
        margin = ask(pynvml.nvmlDeviceGetMarginTemperature, card)
        if margin is None and temperature is not None:
            slowdown = ask(pynvml.nvmlDeviceGetTemperatureThreshold, card, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
            margin = None if slowdown is None else slowdown - temperature
        limit = ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, card)
        clocks = {name: ask(pynvml.nvmlDeviceGetClockInfo, card, clock) for name, clock in _CLOCKS.items()}
        for name in _CLOCKS.keys() - self._clocks_max.keys():
            highest = ask(pynvml.nvmlDeviceGetMaxClockInfo, card, _CLOCKS[name])
            if highest is not None:
                self._clocks_max[name] = hertz_from_megahertz(highest)
        active = ask(self._active_reasons)
        return SlowReading(
            utilization=None if utilization is None else ratio_from_percent(utilization.gpu),
            memory_used=None if memory is None else Bytes(memory.used),
            memory_total=None if memory is None else Bytes(memory.total),
            temperature=None if temperature is None else Celsius(temperature),
            temperature_margin=None if margin is None else Celsius(margin),
            power_limit=None if limit is None else watts_from_milliwatts(limit),
            clocks={name: hertz_from_megahertz(value) for name, value in clocks.items() if value is not None},
            clocks_max=dict(self._clocks_max),
            throttle_active=active or {},
            failures=failures,
        )
