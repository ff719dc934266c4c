"""MIG instances of one GPU: which there are, their memory, their activity and their processes.

Power and energy exist for the whole GPU only. The activity of an instance comes from performance counters (GPM), which Hopper and
newer cards have; it is that of the GPU instance, so compute instances of one GPU instance share it, as they share its memory.
Handles of instances become invalid when an instance is destroyed, so all are asked for anew at each read.
Sources: Multi Instance GPU Management and GPM in NVIDIA's NVML API reference.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulebench.gpu import nvml_calls
from joulebench.gpu.nvml_calls import GpmSample, Handle, Nvml
from joulebench.gpu.plausibility import MAX_BYTES
from joulebench.gpu.reading import MigInstance, MigReading
from joulebench.units import Bytes, Ratio, ratio_from_percent

MAX_INSTANCES = 64
"""Instances of one GPU that are asked for; the driver allows 7 or 8."""
READ_PERIOD = 2.0
"""Seconds after a window in which an instance of it was seen for the first time at the latest."""
MIN_COVERAGE = 0.5
"""Part of a window of which the activity has to be known."""
_PROFILE = re.compile(r"\bMIG (\S+)$")


class MigInstances:
    """The instances of a GPU. ``read`` is for one thread; ``residents`` may be called from another."""

    def __init__(self, nvml: Nvml, handle: Handle) -> None:
        self._nvml = nvml
        self._handle = handle
        self._is_capable = nvml.answer(nvml_calls.MIG_MODE, handle)[0] == 0
        self._has_counters = self._is_capable and nvml.has_gpm(handle)
        self._handles: Mapping[str, Handle] = {}
        self._known: dict[str, MigInstance] = {}
        self._samples: dict[str, GpmSample] = {}

    def read(self, parent: str) -> tuple[MigReading, ...]:
        """Returns the instances that exist now in the driver's order; none where MIG is off. ``parent``: UUID of the GPU."""
        if not self._is_capable:
            return ()
        code, modes = self._nvml.answer(nvml_calls.MIG_MODE, self._handle)
        handles: dict[str, Handle] = {}
        if not code and modes[0]:
            code, count = self._nvml.answer(nvml_calls.MAX_MIG_COUNT, self._handle)
            for index in range(0 if code else min(count, MAX_INSTANCES)):
                code, handle = self._nvml.answer(nvml_calls.mig_handle(index), self._handle)
                uuid = None if code else self._value(nvml_calls.UUID, handle)
                if uuid is not None:
                    handles[str(uuid)] = handle
        self._forget_all_but(handles)
        self._handles = handles
        readings = (self._read_instance(uuid, parent, handle) for uuid, handle in handles.items())
        return tuple(reading for reading in readings if reading is not None)

    def residents(self) -> Mapping[str, Sequence[int] | None]:
        """Returns the ids of the processes with memory on each instance by its UUID; None where the driver does not list them."""
        listed: dict[str, Sequence[int] | None] = {}
        for uuid, handle in self._handles.items():
            processes = self._value(nvml_calls.COMPUTE_PROCESSES, handle)
            listed[uuid] = None if processes is None else [process.pid for process in processes if process.pid > 0]
        return listed

    def _read_instance(self, uuid: str, parent: str, handle: Handle) -> MigReading | None:
        instance = self._known.get(uuid) or self._identify(uuid, parent, handle)
        if instance is None:
            return None
        self._known[uuid] = instance
        memory = self._value(nvml_calls.MEMORY, handle) or self._value(nvml_calls.MEMORY_OLD, handle)
        if memory is not None and not 0 <= memory.used <= memory.total <= MAX_BYTES:
            memory = None
        return MigReading(
            instance,
            None if memory is None else Bytes(memory.used),
            None if memory is None else Bytes(memory.total),
            self._read_activity(instance),
        )

    def _identify(self, uuid: str, parent: str, handle: Handle) -> MigInstance | None:
        gpu_instance = self._value(nvml_calls.GPU_INSTANCE_ID, handle)
        compute_instance = self._value(nvml_calls.COMPUTE_INSTANCE_ID, handle)
        if gpu_instance is None or compute_instance is None:
            return None
        attributes = self._value(nvml_calls.ATTRIBUTES, handle)
        name = _PROFILE.search(str(self._value(nvml_calls.NAME, handle) or ""))
        return MigInstance(
            uuid=uuid,
            parent=parent,
            gpu_instance=gpu_instance,
            compute_instance=compute_instance,
            profile=name[1] if name else "unknown",
            multiprocessors=attributes.multiprocessorCount if attributes is not None else None,
        )

    def _read_activity(self, instance: MigInstance) -> Ratio | None:
        """Returns the busy share of the GPU instance's SMs since the last read; None at the first, and where no counters are."""
        if not self._has_counters:
            return None
        before = self._samples.pop(instance.uuid, None)
        now = self._nvml.take_gpm_sample(self._handle, instance.gpu_instance)
        percent = None if before is None or now is None else self._nvml.gpm_utilization(before, now)
        if before is not None:
            self._nvml.free_gpm_sample(before)
        if now is not None:
            self._samples[instance.uuid] = now
        return None if percent is None or not 0 <= percent <= 100 else ratio_from_percent(percent)

    def _forget_all_but(self, handles: Mapping[str, Handle]) -> None:
        for uuid in self._known.keys() - handles.keys():
            del self._known[uuid]
        for uuid in self._samples.keys() - handles.keys():
            self._nvml.free_gpm_sample(self._samples.pop(uuid))

    def _value(self, call: nvml_calls.Call, handle: Handle) -> Any:
        code, answer = self._nvml.answer(call, handle)
        return None if code else answer


@dataclass(frozen=True, slots=True)
class _Activity:
    start: float
    end: float
    by_uuid: Mapping[str, Ratio]


class MigHistory:
    """Which instances a GPU had and how active they were, in monotonic seconds. ``keep_seconds``: how long that is remembered."""

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds = keep_seconds
        self._last: float | None = None
        self._samples: deque[_Activity] = deque()
        # (instance, first seen, last seen)
        self._instances: dict[str, tuple[MigInstance, float, float]] = {}

    def record(self, readings: Sequence[MigReading], now: float) -> None:
        """Takes in one read; activities are those since the read before."""
        if self._last is not None:
            known = {reading.instance.uuid: reading.utilization for reading in readings if reading.utilization is not None}
            if known:
                self._samples.append(_Activity(self._last, now, known))
        for reading in readings:
            uuid = reading.instance.uuid
            self._instances[uuid] = (reading.instance, self._instances[uuid][1] if uuid in self._instances else now, now)
        self._last = now
        oldest = now - self._keep_seconds
        while self._samples and self._samples[0].end < oldest:
            self._samples.popleft()
        for uuid in [uuid for uuid, (_, _, seen) in self._instances.items() if seen < oldest]:
            del self._instances[uuid]

    def instances(self, start: float, end: float) -> Sequence[MigInstance]:
        """Returns the instances that existed in a window, as far as the reads around it show."""
        return [
            instance
            for instance, first, last in self._instances.values()
            if first <= end + READ_PERIOD and (last >= start or last == self._last)
        ]

    def activity(self, uuid: str, start: float, end: float) -> Ratio | None:
        """Returns the mean activity of an instance in a window; None where it is known of less than ``MIN_COVERAGE`` of it."""
        covered = active = 0.0
        for sample in self._samples:
            overlap = min(sample.end, end) - max(sample.start, start)
            if overlap > 0 and uuid in sample.by_uuid:
                covered += overlap
                active += overlap * sample.by_uuid[uuid]
        return Ratio(active / covered) if covered > 0 and covered >= MIN_COVERAGE * (end - start) else None
