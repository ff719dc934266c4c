"""What is read of a card about once a second: utilisation, memory, temperature, clocks and what holds them down.

A call that fails takes only its own value with it, and older calls stand in for newer ones that a driver or card does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from joulebench.errors import GpuError, GpuLost
from joulebench.gpu import nvml_calls
from joulebench.gpu.nvml_calls import Call
from joulebench.gpu.reading import SlowReading
from joulebench.units import Bytes, Celsius, Hertz, hertz_from_megahertz, ratio_from_percent, watts_from_milliwatts

Ask: TypeAlias = Callable[[Call], Any]
"""The answer to a call, or None where card or driver has none; raises GpuLost or GpuError."""


def slow_reading(ask_card: Ask, clocks_max: dict[str, Hertz]) -> SlowReading:
    """``clocks_max`` is filled in: what never changes is asked until it was answered once. Raises GpuLost alone."""
    failures = 0

    def ask(call: Call) -> Any:
        nonlocal failures
        try:
            return ask_card(call)
        except GpuLost:
            raise
        except GpuError:
            failures += 1
            return None

    utilization = ask(nvml_calls.UTILIZATION)
    memory = ask(nvml_calls.MEMORY) or ask(nvml_calls.MEMORY_OLD)
    temperature = _first(ask, nvml_calls.TEMPERATURE, nvml_calls.TEMPERATURE_OLD)
    margin = ask(nvml_calls.MARGIN)
    if margin is None and temperature is not None:
        slowdown = ask(nvml_calls.SLOWDOWN_THRESHOLD)
        margin = None if slowdown is None else slowdown - temperature
    limit = ask(nvml_calls.POWER_LIMIT)
    clocks = {name: ask(call) for name, call in nvml_calls.CLOCKS.items()}
    for name, call in nvml_calls.CLOCKS_MAX.items():
        highest = None if name in clocks_max else ask(call)
        if highest is not None:
            clocks_max[name] = hertz_from_megahertz(highest)
    active = active_reasons(ask)
    return SlowReading(
        utilization=None if utilization is None else ratio_from_percent(utilization.gpu),
        memory_used=None if memory is None else Bytes(memory.used),
        memory_total=None if memory is None else Bytes(memory.total),
        temperature=None if temperature is None else Celsius(temperature),
        temperature_margin=None if margin is None else Celsius(margin),
        power_limit=None if limit is None else watts_from_milliwatts(limit),
        clocks={name: hertz_from_megahertz(value) for name, value in clocks.items() if value is not None},
        clocks_max=dict(clocks_max),
        throttle_active=active,
        failures=failures,
    )


def active_reasons(ask: Ask) -> Mapping[str, bool]:
    """By catalogue reason; empty where unknown."""
    reasons = _first(ask, nvml_calls.REASONS, nvml_calls.REASONS_OLD)
    return {} if reasons is None else {reason: bool(reasons & bit) for reason, bit in nvml_calls.REASON_BITS.items()}


def _first(ask: Ask, call: Call, older: Call) -> Any:
    answer = ask(call)
    return ask(older) if answer is None else answer
