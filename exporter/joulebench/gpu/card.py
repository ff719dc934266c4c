"""One card as NVML tells of it: readings in base units, absent where the card or its driver does not say.

Invariants: a value that could not be read is ``None``, never 0, and the fast read is one ``nvmlDeviceGetFieldValues`` call
wherever the driver has those fields. A fast read that says the very same as the one before returns the same object: nearly all
do, for the counter moves ten times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from joulebench.errors import GpuError, GpuLost
from joulebench.gpu import driver, nvml_calls, traffic
from joulebench.gpu.binding import ABSENT, LOST
from joulebench.gpu.field_block import FieldBlock
from joulebench.gpu.nvml_calls import Call, Handle, Nvml
from joulebench.gpu.processes import ProcessUse, use_of
from joulebench.gpu.reading import FastReading, GpuIdentity, SlowReading
from joulebench.gpu.slow_read import active_reasons, slow_reading
from joulebench.gpu.traffic import Traffic
from joulebench.units import Bytes, Hertz, Seconds, joules_from_millijoules, seconds_from_nanoseconds, watts_from_milliwatts

# "Not found" of process samples: nobody used the card.
_NO_SAMPLES = 6
# "Insufficient size": more samples than room for them, and how often it is asked anew then.
_MORE_THAN_ROOM = 7
_TRIES = 5
# A sporadic "not supported" must not cost a card its counter for good.
_PROBES = 3
# hw_slowdown has no counter and needs none: it sums up others.
_COUNTED_AT_BEST = frozenset({"sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake"})

# Of milli units, without the calls that units and a named tuple's own constructor are: it is made ten times a second and card.
_made = cast(Callable[[tuple[Any, ...]], FastReading], partial(tuple.__new__, FastReading))


class Card:
    """Raises GpuError where NVML cannot name the card at ``index``. Reads raise GpuLost or GpuError."""

    def __init__(self, nvml: Nvml, index: int, driver_version: str) -> None:
        self._nvml = nvml
        self._handle = self._found("nvmlDeviceGetHandleByIndex", nvml.handle(index))
        self._stale = False
        uuid = self._ask(nvml_calls.UUID)
        if uuid is None:
            raise GpuError(f"{nvml_calls.UUID.symbol}: the card has no UUID")
        self.identity = GpuIdentity(
            index=index,
            uuid=str(uuid),
            name=str(self._ask(nvml_calls.NAME) or "unknown"),
            architecture=nvml_calls.ARCHITECTURES.get(self._ask(nvml_calls.ARCHITECTURE) or 0, "unknown"),
            driver_version=driver_version,
        )
        self._plan_fast_read(driver_version)
        self._clocks_max: dict[str, Hertz] = {}
        self._traffic = Traffic()
        self._links = traffic.block(traffic.COUNTERS)
        self._fill_links = self._nvml.filler(self._handle, self._links)
        self._links_asked = 0

    def _plan_fast_read(self, driver_version: str) -> None:
        supported = self._probe(fields_of(driver_version))
        counters = throttle_counters(driver_version)
        self._counters = {reason: field for reason, field in counters.items() if field in supported}
        self._needs_bits = not self._counters.keys() >= _COUNTED_AT_BEST
        self._energy_field = next((field for field in nvml_calls.ENERGY_FIELDS if field in supported), None)
        self._power_field = next((field for field in (nvml_calls.POWER_INSTANT_FIELD,) if field in supported), None)
        plain = [self._energy_field, self._power_field, *({driver.THERMAL_FIELD} & supported)]
        self._block = FieldBlock([field for field in [*plain, *self._counters.values()] if field is not None])
        self._fill = self._nvml.filler(self._handle, self._block)
        self._by_fields_alone = not self._needs_bits and None not in (self._energy_field, self._power_field)
        self._throttle_raw: tuple[int | None, ...] = ()
        self._throttle: Mapping[str, Seconds] = {}
        # The last fast read that fields alone gave, and what they said.
        self._raw: Sequence[int] = ()
        self._reading: FastReading | None = None

    def _probe(self, fields: Sequence[int]) -> set[int]:
        block = FieldBlock(fields)
        fill = self._nvml.filler(self._handle, block)
        supported: set[int] = set()
        for _ in range(_PROBES):
            code = fill()
            if code in LOST:
                self._judge(code, nvml_calls.FIELD_VALUES)
            if code == 0:
                supported |= {field for field, answer in block.answers(block.raw()).items() if answer.code == 0}
        return supported

    def read_fast(self) -> FastReading:
        try:
            if self._stale:
                self._find_again()
            code = self._fill()
            if code == 0:
                raw = self._block.raw()
                if raw == self._raw and self._reading is not None:
                    return self._reading
                return self._fast(raw)
            self._judge(code, nvml_calls.FIELD_VALUES)
            return self._reading_of({})
        except GpuLost:
            self._lose()
            raise

    def _fast(self, raw: Sequence[int]) -> FastReading:
        last = self._reading
        # Mostly only energy and power moved, which come first.
        if last is not None and raw[6:] == self._raw[6:] and raw[3:5] == self._raw[3:5] and raw[:2] == self._raw[:2]:
            energy, power = self._block.first_two(raw)
            reading = _made((energy / 1000.0, power / 1000.0 if power else None, *last[2:]))
        else:
            values, codes = self._block.values(raw)
            for lost in LOST.intersection(codes):
                self._judge(lost, nvml_calls.FIELD_VALUES)
            reading = self._reading_of(values)
            if not self._by_fields_alone or codes:
                self._forget()
                return reading
        self._raw, self._reading = raw, reading
        return reading

    def _reading_of(self, values: Mapping[int | None, int]) -> FastReading:
        energy = self._ask(nvml_calls.TOTAL_ENERGY) if self._energy_field is None else values.get(self._energy_field)
        power = self._ask(nvml_calls.POWER_USAGE) if self._power_field is None else values.get(self._power_field)
        thermal = values.get(driver.THERMAL_FIELD)
        return FastReading(
            energy=None if energy is None else joules_from_millijoules(energy),
            # A powered card never draws nothing: 0 is how a driver says that it could not look.
            power=watts_from_milliwatts(power) if power else None,
            throttle=self._throttle_seconds(values),
            thermal=None if thermal is None else seconds_from_nanoseconds(thermal),
            throttle_active=active_reasons(self._ask) if self._needs_bits else {},
        )

    def _throttle_seconds(self, values: Mapping[int | None, int]) -> Mapping[str, Seconds]:
        # Counters mostly stand still; then the mapping of the poll before is handed out again.
        raw = tuple(map(values.get, self._counters.values()))
        if raw != self._throttle_raw:
            pairs = zip(self._counters, raw, strict=True)
            self._throttle = {reason: seconds_from_nanoseconds(value) for reason, value in pairs if value is not None}
            self._throttle_raw = raw
        return self._throttle

    def read_slow(self) -> SlowReading:
        try:
            if self._stale:
                self._find_again()
            return replace(slow_reading(self._ask, self._clocks_max), traffic=self._read_traffic())
        except GpuLost:
            self._lose()
            raise

    def _read_traffic(self) -> Mapping[tuple[str, str], Bytes]:
        if not self._traffic.counts and self._links_asked >= _PROBES:
            return {}
        self._links_asked += 1
        code = self._fill_links()
        if code in LOST:
            self._judge(code, nvml_calls.FIELD_VALUES)
        return {} if code else self._traffic.add(self._links.answers(self._links.raw()))

    def read_processes(self, since: Seconds) -> Sequence[ProcessUse] | None:
        """What used the card after the unix time ``since``: by SM use where the driver tells it, else its compute processes. None
        where it tells neither, or the card is lost: to find it again is not this reader's business."""
        handle = self._handle
        call = nvml_calls.process_utilization(int(since * 1e6))
        code, samples = self._nvml.answer(call, handle)
        for _ in range(_TRIES - 1):
            if code != _MORE_THAN_ROOM:
                break
            # The binding asks how many samples there are, then for so many: one that came between makes it fail.
            code, samples = self._nvml.answer(call, handle)
        if code in (0, _NO_SAMPLES):
            return [use_of(one.pid, one.timeStamp, one.smUtil) for one in samples or ()]
        if code not in ABSENT:
            return None
        code, processes = self._nvml.answer(nvml_calls.COMPUTE_PROCESSES, handle)
        return None if code else [ProcessUse(one.pid, None, None) for one in processes]

    def _find_again(self) -> None:
        """A fresh handle: an old one stays dead when the card is back."""
        self._handle = self._found("nvmlDeviceGetHandleByUUID", self._nvml.handle_of(self.identity.uuid))
        self._fill = self._nvml.filler(self._handle, self._block)
        self._fill_links = self._nvml.filler(self._handle, self._links)
        self._stale = False

    def _lose(self) -> None:
        self._stale = True
        self._forget()

    def _forget(self) -> None:
        self._raw, self._reading = (), None

    def _found(self, function: str, found: tuple[int, Handle | None]) -> Handle:
        code, handle = found
        if handle is None:
            raise GpuLost(f"{function}: {self._nvml.text(code)}")
        return handle

    def _ask(self, call: Call) -> Any:
        """The answer, or None where the card or driver has none."""
        code, answer = self._nvml.answer(call, self._handle)
        return self._judge(code, call.symbol) if code else answer

    def _judge(self, code: int, function: str) -> None:
        if code not in ABSENT:
            message = f"{function}: {self._nvml.text(code)}"
            raise GpuLost(message) if code in LOST else GpuError(message)


def throttle_counters(driver_version: str) -> Mapping[str, int]:
    """Field ids of the throttle reasons that this driver counts, if its card does."""
    return {**driver.POLICY_FIELDS, **driver.fine_throttle_fields(driver_version)}


def fields_of(driver_version: str) -> Sequence[int]:
    """Every field that a card is asked for under this driver."""
    fixed = (*nvml_calls.ENERGY_FIELDS, nvml_calls.POWER_INSTANT_FIELD, driver.THERMAL_FIELD)
    return (*fixed, *throttle_counters(driver_version).values())
