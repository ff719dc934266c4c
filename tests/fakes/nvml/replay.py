"""A capture as a scenario: the fake library answers every call and field as that machine did.

Calls and fields give what was recorded, their errors too. Energy and power
alone move, along the recorded series and over and over, and they disagree as much as they did. A derived capture has no series:
there the power stands still, and a counter adds it up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fakes.nvml.curve import Points
from tests.fakes.nvml.script import NO_PROFILE, Answer, FakeGpu, Fault, Mig, Process, fails, field_answers, field_fails

FORMAT, VERSION = "joulebench-capture", 1
ENERGY_FIELDS, POWER_FIELD = (191, 83), 186
ENERGY_GETTER, POWER_GETTER = "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage"
MOVING = (ENERGY_GETTER, POWER_GETTER, *ENERGY_FIELDS, POWER_FIELD)
"""What has no fixed answer, where it has one at all."""
IDENTITY = ("nvmlDeviceGetName", "nvmlDeviceGetArchitecture")
UNSHOWN_WATTS = 10.0
"""Drawn by a card that shows no power, so that a counter has something to count."""
FIRST_PID = 4_000_001
"""Above every pid of this machine, so that no process here is taken for one of the captured machine."""
COMPUTE_TYPES = ("C", "C+G", "M+C")
DEFAULT_STEP = 0.1


def read(path: Path) -> Mapping[str, Any]:
    """ValueError for a file that is no capture, or one of a format that is not known here."""
    capture: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (capture.get("format"), capture.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{path.name} is no {FORMAT} of version {VERSION}")
    return capture


def gpus_of(capture: Mapping[str, Any]) -> Sequence[FakeGpu]:
    """The cards that the sensor took."""
    return [_gpu(gpu) for gpu in capture["gpus"] if gpu["error"] is None]


def _gpu(gpu: Mapping[str, Any]) -> FakeGpu:
    energy = gpu["energy"]
    step = energy["step_seconds"] if energy else None
    gain = (energy["ratio"] if energy else None) or 1.0
    power, base_mj, loop = _curves(gpu, gain) if energy else (_steady_power(gpu), 0, None)
    return FakeGpu(
        uuid=gpu["uuid"],
        name=gpu["name"],
        arch=_answers(gpu)["nvmlDeviceGetArchitecture"] or 0,
        power=power,
        base_mj=base_mj,
        counter_gain=gain,
        loop=loop,
        step=DEFAULT_STEP if step is None else step["median"],
        faults=_faults(gpu),
        answers=[_answer(call) for call in gpu["calls"] if call["function"] not in (*IDENTITY, *MOVING)],
        processes=_processes(gpu.get("processes") or {}),
        mig_mode=gpu.get("instances") is not None,
        migs=[_mig(instance) for instance in gpu.get("instances") or ()],
    )


def _mig(instance: Mapping[str, Any]) -> Mig:
    return Mig(
        instance["profile"] or NO_PROFILE,
        instance["multiprocessors"],
        gpu_instance=instance["gpu_instance"],
        compute_instance=instance["compute_instance"],
        gpu_slices=0,
        compute_slices=0,
        uuid=instance["uuid"],
        memory_total=instance["memory_total_bytes"],
        memory_used=((0.0, float(instance["memory_used_bytes"])),),
    )


def _answers(gpu: Mapping[str, Any]) -> Mapping[str, Any]:
    return {call["function"]: call["answer"] for call in gpu["calls"]}


def _processes(counts: Mapping[str, int]) -> Sequence[Process]:
    """Compute processes alone, without samples: no capture shows what share of the SMs a process has."""
    count = sum(number for kind, number in counts.items() if kind in COMPUTE_TYPES)
    return [Process(FIRST_PID + number, sm=0.0) for number in range(count)]


def _faults(gpu: Mapping[str, Any]) -> Sequence[Fault]:
    by_curve = (*IDENTITY, ENERGY_GETTER, POWER_GETTER)
    faults = [
        fails(call["function"], code=call["code"]) for call in gpu["calls"] if call["function"] in by_curve and call["code"]
    ]
    for field in gpu["fields"]:
        scope = field.get("scope", 0)
        if field["code"]:
            faults += [] if scope else [field_fails(field["field"], code=field["code"])]
        elif scope or field["field"] not in MOVING:
            faults.append(field_answers(field["field"], field["value"], scope=scope))
    return faults


def _answer(call: Mapping[str, Any]) -> Answer:
    answer = call["answer"]
    values = [value for name, value in answer.items() if name != "version"] if isinstance(answer, Mapping) else answer
    argument = call["arguments"][0] if call["arguments"] else None
    listed = values if isinstance(values, Sequence) else [values]
    return Answer(call["function"], () if call["code"] else listed, argument, call["code"])


def _steady_power(gpu: Mapping[str, Any]) -> Points:
    fields = {field["field"]: field["value"] for field in gpu["fields"] if not field.get("scope")}
    milliwatts = fields.get(POWER_FIELD) or _answers(gpu)[POWER_GETTER]
    return [(0.0, milliwatts / 1000 if milliwatts else UNSHOWN_WATTS)]


def _curves(gpu: Mapping[str, Any], gain: float) -> tuple[Points, int, float | None]:
    """(power, millijoules of the counter at the begin, after how long it begins again)."""
    series = gpu["energy"]["series"]
    counted = [(at, joules) for at, joules, _ in series if joules is not None]
    begin = counted[0][0] if counted else 0.0
    points = [(a[0] - begin, (b[1] - a[1]) / (b[0] - a[0]) / gain) for a, b in pairwise(counted) if b[1] >= a[1]]
    if points:
        return points, round(counted[0][1] * 1000), counted[-1][0] - begin
    fields = {field["field"]: field["value"] for field in gpu["fields"]}
    first = (fields.get(POWER_FIELD) or _answers(gpu)[POWER_GETTER] or 0) / 1000
    shown = [(0.0, first), *((at, watts) for at, _, watts in series if watts is not None)]
    return shown, 0, gpu["energy"]["seconds"]
