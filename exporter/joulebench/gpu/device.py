"""One GPU through NVML: readings in base units, absent where the GPU or its driver gives no value.

A value that could not be read is ``None``, never 0. A counter read is one ``nvmlDeviceGetFieldValues`` call wherever the driver
has those fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from joulebench.errors import GpuError, GpuLost
from joulebench.gpu import nvml_calls
from joulebench.gpu.link_traffic import LINK_COUNTERS, LinkTraffic, link_field_block
from joulebench.gpu.mig import MigInstances
from joulebench.gpu.nvml_calls import LOST_CODES, NOT_AVAILABLE_CODES, Call, FieldBlock, Handle, Nvml
from joulebench.gpu.reading import CounterReading, GpuIdentity, ProcessUse, StateReading
from joulebench.metrics import OTHER_REASON
from joulebench.units import (
    Bytes,
    Celsius,
    Hertz,
    Ratio,
    Seconds,
    Watts,
    hertz_from_megahertz,
    joules_from_millijoules,
    ratio_from_percent,
    seconds_from_nanoseconds,
    watts_from_milliwatts,
)

SAMPLE_TRIES = 5
"""How often process samples are asked for again when there were more of them than the binding made room for."""
PROBES = 3
"""Times that a field is tried before it counts as unsupported: a sporadic refusal must not cost a GPU its counter."""
PEAK_FACTOR = 1.5
"""Head-room above the highest power limit, for peaks that the limiter lets through."""
PEAK_FACTOR_OF_PRESENT_LIMIT = 2.0
"""The same above a limit that may have been set lower than the GPU allows."""
IMPOSSIBLE_LIMIT_MW = 5_000_000
SLOWDOWN_OFFSETS = range(-50, 1)
"""Degrees by which a card may slow down beyond the highest temperature at which it should work."""
# hw_slowdown has no counter and needs none: it sums up others.
_REASONS_WITH_COUNTERS = frozenset({"sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake"})


class NvmlDevice:
    """A ``GpuDevice``. The constructor raises GpuError where NVML cannot name the GPU at ``index``."""

    def __init__(self, nvml: Nvml, index: int, driver_version: str) -> None:
        self._nvml = nvml
        self._handle = self._require_handle("nvmlDeviceGetHandleByIndex", nvml.handle(index))
        self._lost = False
        uuid = self._query(nvml_calls.UUID)
        if uuid is None:
            raise GpuError(f"{nvml_calls.UUID.symbol}: the GPU has no UUID")
        self.identity = GpuIdentity(
            index=index,
            uuid=str(uuid),
            name=str(self._query(nvml_calls.NAME) or "unknown"),
            architecture=nvml_calls.ARCHITECTURES.get(self._query(nvml_calls.ARCHITECTURE) or 0, "unknown"),
            driver_version=driver_version,
        )
        self._choose_fields(driver_version)
        self._mig = MigInstances(nvml, self._handle)
        self.power_ceiling = self._read_power_ceiling()
        self._last_throttle_read: tuple[int | None, ...] = ()
        self._throttle: dict[str, Seconds] = {}
        self._clock_max: dict[str, Hertz] = {}
        self._traffic = LinkTraffic()
        self._links = link_field_block(LINK_COUNTERS)
        self._link_reads = 0
        self._slowdown_offset = FieldBlock([nvml_calls.SLOWDOWN_OFFSET_FIELD])
        self._slowdown_offset_reads = 0

    def _read_power_ceiling(self) -> Watts | None:
        """Reads the highest power limit that can be set (``nvmlDeviceGetPowerManagementLimitConstraints``), else the present
        limit, with head-room for peaks above it."""
        limits = self._query_or_none(nvml_calls.POWER_LIMIT_RANGE)
        if limits is not None and 0 < limits[1] < IMPOSSIBLE_LIMIT_MW:
            return Watts(PEAK_FACTOR * watts_from_milliwatts(limits[1]))
        limit = self._query_or_none(nvml_calls.POWER_LIMIT)
        if limit is not None and 0 < limit < IMPOSSIBLE_LIMIT_MW:
            return Watts(PEAK_FACTOR_OF_PRESENT_LIMIT * watts_from_milliwatts(limit))
        return None

    def _choose_fields(self, driver_version: str) -> None:
        answered, failing = self._probe(nvml_calls.counter_fields(driver_version))
        counters = nvml_calls.throttle_counter_fields(driver_version)
        self._throttle_fields = {reason: field for reason, field in counters.items() if field in answered}
        has_all_counters = self._throttle_fields.keys() >= _REASONS_WITH_COUNTERS
        self._needs_reason_bits = not has_all_counters or nvml_calls.has_other_reasons(driver_version)
        energy_fields = [field for field in nvml_calls.ENERGY_FIELDS if field in answered] or [
            field for field in nvml_calls.ENERGY_FIELDS if field in failing
        ]
        self._energy_field = next(iter(energy_fields), None)
        self._power_field = self._choose_power_field(answered, failing)
        fields = [
            self._energy_field,
            self._power_field,
            *({nvml_calls.THERMAL_FIELD} & answered),
            *self._throttle_fields.values(),
        ]
        self._block = FieldBlock([field for field in fields if field is not None])
        self._reads_fields_only = not self._needs_reason_bits and None not in (self._energy_field, self._power_field)
        # The last reading, for as long as all fields answer the same.
        self._repeated: CounterReading | None = None

    @property
    def power_averaging(self) -> Seconds:
        is_instant = self._power_field is not None
        return Seconds(nvml_calls.power_averaging_seconds(self.identity.name, self.identity.architecture, is_instant=is_instant))

    def _choose_power_field(self, answered: set[int], failing: set[int]) -> int | None:
        """Returns the field of the power; None where ``nvmlDeviceGetPowerUsage`` stands in."""
        field = nvml_calls.POWER_INSTANT_FIELD
        if field in answered:
            return field
        return field if field in failing and self._query_or_none(nvml_calls.POWER_USAGE) is None else None

    def _probe(self, fields: Sequence[int]) -> tuple[set[int], set[int]]:
        """Returns the fields that this GPU answers, and those that only fail now, for another reason than not being there."""
        block = FieldBlock(fields)
        answered: set[int] = set()
        failing: set[int] = set()
        for _ in range(PROBES):
            code = self._nvml.fill(self._handle, block)
            if code in LOST_CODES:
                self._raise_for_code(code, nvml_calls.FIELD_VALUES)
            if code == 0:
                answers = block.answers()
                answered |= {field for field, answer in answers.items() if answer.code == 0}
                failing |= {field for field, answer in answers.items() if _is_failure(answer.code)}
        return answered, failing - answered

    def read_counters(self) -> CounterReading:
        try:
            if self._lost:
                self._reacquire()
            code = self._nvml.fill(self._handle, self._block)
            if code:
                self._repeated = None
                self._raise_for_code(code, nvml_calls.FIELD_VALUES)
                return self._counter_reading({}, {})
            # Counter and sensor of most cards move every 20 to 100 ms: several polls read the same.
            has_changed = self._block.has_changed()
            last = self._repeated if self._reads_fields_only else None
            if last is not None and not has_changed:
                return last
            if last is not None and self._block.are_others_unchanged(2):
                # Energy and power come first; what follows takes twice the time (make bench, part cost).
                energy, power = self._block.value(0), self._block.value(1)
                self._repeated = last._replace(energy=joules_from_millijoules(energy), power=_watts(power))
                return self._repeated
            values, codes = self._block.values()
            # The call succeeds when any field was filled, so each field's own code counts.
            for lost in LOST_CODES.intersection(codes.values()):
                self._raise_for_code(lost, nvml_calls.FIELD_VALUES)
            reading = self._counter_reading(values, codes)
            self._repeated = reading if self._reads_fields_only and not codes else None
            return reading
        except GpuLost:
            self._lost = True
            raise

    def _counter_reading(self, values: Mapping[int | None, int], codes: Mapping[int | None, int]) -> CounterReading:
        """``codes``: of the fields that did not answer. A reading that fails takes no other with it."""
        errors: dict[str, GpuError] = {}

        def query(group: str, *calls: Call) -> Any:
            """The first answer of these calls."""
            for call in calls:
                try:
                    answer = self._query(call)
                except GpuLost:
                    raise
                except GpuError as error:
                    errors[group] = error
                    continue
                if answer is not None:
                    return answer
            return None

        energy_field, power_field = self._energy_field, self._power_field
        energy = query("energy", nvml_calls.TOTAL_ENERGY) if energy_field is None else values.get(energy_field)
        power = query("power", nvml_calls.POWER_USAGE) if power_field is None else values.get(power_field)
        reasons = query("throttle", nvml_calls.REASONS, nvml_calls.REASONS_OLD) if self._needs_reason_bits else None
        if errors and not self._block.fields and energy is None and power is None and reasons is None:
            # Nothing answers at all.
            raise next(iter(errors.values()))
        thermal = values.get(nvml_calls.THERMAL_FIELD)
        failed = set(errors)
        if codes:
            fields = {"energy": energy_field, "power": power_field}
            failed |= {group for group, field in fields.items() if _is_failure(codes.get(field, 0))}
        return CounterReading(
            energy=None if energy is None else joules_from_millijoules(energy),
            power=_watts(power),
            throttle=self._throttle_seconds(values),
            thermal=None if thermal is None else seconds_from_nanoseconds(thermal),
            throttle_active=_active_reasons(reasons),
            failed=tuple(failed),
        )

    def _throttle_seconds(self, values: Mapping[int | None, int]) -> Mapping[str, Seconds]:
        # These counters mostly stand still; then the last mapping serves again.
        nanoseconds = [values.get(field) for field in self._throttle_fields.values()]
        read = (self._needs_reason_bits, *nanoseconds)
        if read != self._last_throttle_read:
            pairs = zip(self._throttle_fields, nanoseconds, strict=True)
            self._throttle = {reason: seconds_from_nanoseconds(value) for reason, value in pairs if value is not None}
            if self._throttle and not self._needs_reason_bits:
                # This driver has no other reasons than those that it counts.
                self._throttle[OTHER_REASON] = Seconds(0.0)
            self._last_throttle_read = read
        return self._throttle

    def read_state(self) -> StateReading:
        """Reads utilization, memory, temperature, clocks and throttle reasons; older calls stand in for newer ones.

        A call that fails takes only its own value with it and is counted in ``failures``.
        """
        try:
            if self._lost:
                self._reacquire()
            return self._read_state()
        except GpuLost:
            self._lost = True
            raise

    def _read_state(self) -> StateReading:
        failures = 0

        def query(*calls: Call) -> Any:
            """The first answer of these calls."""
            nonlocal failures
            for call in calls:
                try:
                    answer = self._query(call)
                except GpuLost:
                    raise
                except GpuError:
                    failures += 1
                    continue
                if answer is not None:
                    return answer
            return None

        utilization = query(nvml_calls.UTILIZATION)
        memory = query(nvml_calls.MEMORY, nvml_calls.MEMORY_OLD)
        temperature = query(nvml_calls.TEMPERATURE, nvml_calls.TEMPERATURE_OLD)
        margin = query(nvml_calls.MARGIN)
        offset = None if margin is None else self._read_slowdown_offset()
        if margin is not None and offset is not None:
            margin -= offset
        else:
            # NVML's margin alone ends at another temperature, the highest at which the card should work.
            slowdown = None if temperature is None else query(nvml_calls.SLOWDOWN_THRESHOLD)
            margin = None if slowdown is None else slowdown - temperature
        limit = query(nvml_calls.POWER_LIMIT)
        clocks = {name: query(call) for name, call in nvml_calls.CLOCKS.items()}
        for name, call in nvml_calls.CLOCKS_MAX.items():
            # The maximum never changes, so it is asked for until it was answered once.
            maximum = None if name in self._clock_max else query(call)
            if maximum is not None:
                self._clock_max[name] = hertz_from_megahertz(maximum)
        active = _active_reasons(query(nvml_calls.REASONS, nvml_calls.REASONS_OLD))
        if active.get(OTHER_REASON) and not self._needs_reason_bits:
            self._needs_reason_bits, self._reads_fields_only = True, False
        return StateReading(
            utilization=None if utilization is None else ratio_from_percent(utilization.gpu),
            memory_used=None if memory is None else Bytes(memory.used),
            memory_total=None if memory is None else Bytes(memory.total),
            memory_reserved=Bytes(memory.reserved) if hasattr(memory, "reserved") else None,
            temperature=None if temperature is None else Celsius(temperature),
            temperature_margin=None if margin is None else Celsius(margin),
            power_limit=None if limit is None else watts_from_milliwatts(limit),
            clock={name: hertz_from_megahertz(value) for name, value in clocks.items() if value is not None},
            clock_max=dict(self._clock_max),
            throttle_active=active,
            link_bytes=self._read_link_bytes(),
            instances=self._mig.read(self.identity.uuid),
            failures=failures,
        )

    def _read_slowdown_offset(self) -> int | None:
        """Reads at which of NVML's temperature margins the card slows down: a constant, asked for until it was answered."""
        answer = self._slowdown_offset.answers()[nvml_calls.SLOWDOWN_OFFSET_FIELD]
        if self._slowdown_offset_reads < PROBES and (self._slowdown_offset_reads == 0 or answer.code):
            self._slowdown_offset_reads += 1
            code = self._nvml.fill(self._handle, self._slowdown_offset)
            if code in LOST_CODES:
                self._raise_for_code(code, nvml_calls.FIELD_VALUES)
            answer = self._slowdown_offset.answers()[nvml_calls.SLOWDOWN_OFFSET_FIELD]
        offset = _signed(answer.value)
        return offset if self._slowdown_offset_reads and answer.code == 0 and offset in SLOWDOWN_OFFSETS else None

    def _read_link_bytes(self) -> Mapping[tuple[str, str], Bytes]:
        if not self._traffic.has_counters and self._link_reads >= PROBES:
            return {}
        self._link_reads += 1
        code = self._nvml.fill(self._handle, self._links)
        if code in LOST_CODES:
            self._raise_for_code(code, nvml_calls.FIELD_VALUES)
        return {} if code else self._traffic.add(self._links.answers())

    def read_processes(self, since: Seconds) -> Sequence[ProcessUse] | None:
        """Reads SM use by process (``nvmlDeviceGetProcessUtilization``), else the list of compute processes.

        None where the driver gives neither or the GPU is lost: reacquiring it is left to the counter read.
        """
        if self._lost:
            return None
        handle = self._handle
        call = nvml_calls.process_utilization(int(since * 1e6))
        code, samples = self._nvml.answer(call, handle)
        for _ in range(SAMPLE_TRIES - 1):
            if code != nvml_calls.INSUFFICIENT_SIZE:
                break
            # The binding asks for the number of samples, then for so many: one that came between makes the call fail.
            code, samples = self._nvml.answer(call, handle)
        if code in (0, nvml_calls.NOT_FOUND):
            return [process_use(sample.pid, sample.timeStamp, sample.smUtil) for sample in samples or ()]
        if code not in NOT_AVAILABLE_CODES:
            return None
        code, processes = self._nvml.answer(nvml_calls.COMPUTE_PROCESSES, handle)
        return None if code else [ProcessUse(process.pid, None, None) for process in processes]

    def read_residents(self) -> Mapping[str, Sequence[int] | None]:
        """Lists the compute processes with memory on the GPU and on its MIG instances (``nvmlDeviceGetComputeRunningProcesses``).

        With MIG the driver lists those of the GPU to privileged users only, those of an instance to all.
        """
        if self._lost:
            return {self.identity.uuid: None}
        on_instances = self._mig.residents()
        code, processes = self._nvml.answer(nvml_calls.COMPUTE_PROCESSES, self._handle)
        listed = None if code else [process.pid for process in processes if process.pid > 0]
        if listed is None and on_instances and None not in on_instances.values():
            listed = [pid for pids in on_instances.values() for pid in pids or ()]
        return {self.identity.uuid: listed, **on_instances}

    def forget_handle(self) -> None:
        """To be called when NVML was started anew: handles from before may mean another GPU."""
        self._lost = True

    def _reacquire(self) -> None:
        """Gets a fresh handle: an old one stays dead when the GPU is back."""
        self._handle = self._require_handle("nvmlDeviceGetHandleByUUID", self._nvml.handle_of(self.identity.uuid))
        # It may have come back in another mode or with another driver.
        self._choose_fields(self.identity.driver_version)
        self._mig = MigInstances(self._nvml, self._handle)
        self._lost = False

    def _require_handle(self, function: str, outcome: tuple[int, Handle | None]) -> Handle:
        code, handle = outcome
        if handle is None:
            raise GpuLost(f"{function}: {self._nvml.text(code)}")
        return handle

    def _query(self, call: Call) -> Any:
        """Returns the answer, or None where the GPU or its driver has none. Raises GpuLost or GpuError."""
        code, answer = self._nvml.answer(call, self._handle)
        if code:
            self._raise_for_code(code, call.symbol)
        return answer

    def _query_or_none(self, call: Call) -> Any:
        """Returns the answer, or None where it failed for whatever reason. Raises GpuLost."""
        try:
            return self._query(call)
        except GpuLost:
            raise
        except GpuError:
            return None

    def _raise_for_code(self, code: int, function: str) -> None:
        if code not in NOT_AVAILABLE_CODES:
            message = f"{function}: {self._nvml.text(code)}"
            raise GpuLost(message) if code in LOST_CODES else GpuError(message)


def process_use(pid: int, at_us: int, sm_percent: int) -> ProcessUse:
    """Converts one of NVML's utilization samples; a share above 100 % was never measured and counts as no use."""
    return ProcessUse(pid, Seconds(at_us / 1e6), Ratio(sm_percent / 100 if sm_percent <= 100 else 0.0))


def _watts(milliwatts: int | None) -> Watts | None:
    """A powered GPU never draws nothing: drivers answer 0 where they could not read the sensor."""
    return watts_from_milliwatts(milliwatts) if milliwatts else None


def _is_failure(code: int) -> bool:
    """Whether a reading failed for another reason than not being there."""
    return code != 0 and code not in NOT_AVAILABLE_CODES


def _signed(value: int) -> int:
    """Reads the lower 32 bits as a signed number, by whatever type NVML returned them."""
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >= 1 << 31 else low


def _active_reasons(bits: int | None) -> Mapping[str, bool]:
    """Returns whether each throttle reason is set; empty where unknown."""
    if bits is None:
        return {}
    active = {reason: bool(bits & bit) for reason, bit in nvml_calls.REASON_BITS.items()}
    known = nvml_calls.NO_REASON_BITS | sum(nvml_calls.REASON_BITS.values())
    return {**active, OTHER_REASON: bool(bits & ~known)}
