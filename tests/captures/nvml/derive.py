"""Captures of format 1 worked out from ``real_cards.json``: one for each machine at one moment, with all of its GPUs.

The figures are those that nvidia-smi printed on other people's machines; which NVML call stands behind each is our reading. A
``null`` becomes a call that is refused, never a value. What no public capture shows is not there: process samples, byte counters
of the links, and the value of the energy counter. Whether a card has that counter is taken from the source where it says so, else
from NVIDIA's documentation of ``nvmlDeviceGetTotalEnergyConsumption`` (Volta and newer): then the answer's ``value`` is null and
its ``code`` 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from joulebench.gpu import nvml_calls
from joulebench.gpu.capture import FORMAT, VERSION, mask_uuid

STATES_FILE = Path(__file__).parents[1] / "real_cards.json"

NOT_SUPPORTED, UNKNOWN_ERROR = 3, 999
CODES = {"ERR!": UNKNOWN_ERROR, "[Unknown Error]": UNKNOWN_ERROR}
"""Return code behind what the tool printed instead of a figure; any other word is "not supported"."""
ARCHITECTURES = {"Pascal": 4, "Volta": 5, "Turing": 6, "Ampere": 7, "Ada Lovelace": 8, "Hopper": 9, "Blackwell": 10, "Rubin": 13}
"""As nvidia-smi names them, with NVML's number."""
WITH_COUNTER = re.compile(r"V100|RTX (?:20|40)\d\d|RTX 8000|Blackwell|GB10")
"""Cards of excerpts that print no architecture, which is Volta or newer."""
COUNTED_SINCE = ARCHITECTURES["Volta"]
RESERVED_IN_USED = 2
"""Index of the used bytes among the first version's figures, which have the reserved ones in them."""

State = Mapping[str, Any]


@cache
def states() -> Sequence[State]:
    """Every GPU at every moment, as ``real_cards.json`` has it."""
    found: Sequence[State] = json.loads(STATES_FILE.read_text(encoding="utf-8"))["states"]
    return found


def machines() -> Mapping[str, Sequence[State]]:
    """Name -> the GPUs of one machine at one moment."""
    groups: list[list[State]] = []
    for state in states():
        last = groups[-1] if groups else None
        if last is not None and _same_moment(last, state):
            last.append(state)
        else:
            groups.append([state])
    names: dict[str, Sequence[State]] = {}
    for group in groups:
        name = _name(group)
        number = 1
        while (full := name if number == 1 else f"{name}__{number}") in names:
            number += 1
        names[full] = group
    return names


def _same_moment(group: Sequence[State], state: State) -> bool:
    first = group[0]
    same = all(first[key] == state[key] for key in ("machine", "driver", "source"))
    return same and state["gpu_index"] > group[-1]["gpu_index"]


def _name(group: Sequence[State]) -> str:
    first = group[0]
    many = f"{len(group)}x-" if len(group) > 1 else ""
    moments = {state["state"] for state in group}
    parts = (first["card"], first["driver"].partition(" (")[0] or "unknown", moments.pop() if len(moments) == 1 else "mixed")
    return many + "__".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-.") for part in parts)


def derived_captures() -> Mapping[str, Mapping[str, Any]]:
    """Name -> capture, as ``replay.read`` returns one from a file."""
    return {name: _capture(name, group) for name, group in machines().items()}


def _capture(name: str, group: Sequence[State]) -> Mapping[str, Any]:
    first = group[0]
    return {
        "format": FORMAT,
        "version": VERSION,
        "origin": "derived",
        "source": first["source"],
        "label": first["state"] if first["state"] in ("idle", "load") else None,
        "recorded_at": None,
        "joulebench": None,
        "binding": None,
        "driver": first["driver"],
        "gpus": [_gpu(name, number, state) for number, state in enumerate(group)],
    }


def _gpu(name: str, index: int, state: State) -> Mapping[str, Any]:
    return {
        "index": index,
        "name": card_name(state),
        "uuid": mask_uuid(f"{name}-{index}"),
        "error": None,
        "calls": [
            {"function": call.symbol, "arguments": call.arguments if not call.exported_as else (), **_call(state, call)}
            for call in (nvml_calls.NAME, nvml_calls.ARCHITECTURE, *nvml_calls.READS)
        ],
        "fields": [
            {"field": field, "scope": scope, "code": code, "value": value}
            for (field, scope), (code, value) in fields(state).items()
        ],
        "processes": state["processes"],
        "instances": [_instance(name, index, instance) for instance in state["mig_devices"]] if has_mig(state) else None,
        "energy": None,
    }


def has_mig(state: State) -> bool:
    """Whether the card is in MIG mode."""
    return bool(state["mig_mode"] == "Enabled")


def _instance(name: str, index: int, instance: Mapping[str, int]) -> Mapping[str, Any]:
    """A MIG instance; no public capture names its profile, and none shows its activity."""
    gpu_instance, compute_instance = instance["gi"], instance["ci"]
    uuid = mask_uuid(f"{name}-{index}-{gpu_instance}-{compute_instance}").replace("GPU-", "MIG-", 1)
    return {
        "uuid": uuid,
        "gpu_instance": gpu_instance,
        "compute_instance": compute_instance,
        "profile": None,
        "multiprocessors": instance["sm"],
        "memory_total_bytes": instance["memory_total_bytes"],
        "memory_used_bytes": instance["memory_used_bytes"],
    }


def card_name(state: State) -> str:
    """What NVML calls the card: without what the facts say beside it."""
    name: str = state["card"]
    return name.partition(" (")[0]


def has_counter(state: State) -> bool:
    """Whether the source or NVIDIA's documentation says that the card has an energy counter."""
    known: str = state["energy_counter"]
    if known != "unknown":
        return known.startswith("yes")
    number = ARCHITECTURES.get(state["architecture"] or "")
    return number >= COUNTED_SINCE if number is not None else WITH_COUNTER.search(state["card"]) is not None


def refusal(state: State, *names: str) -> int:
    """Return code behind the missing figures of these names."""
    for word, missing in state["errors"].items():
        if word in CODES and set(names) & set(missing):
            return CODES[word]
    return NOT_SUPPORTED


def _call(state: State, call: nvml_calls.Call) -> Mapping[str, Any]:
    if call is nvml_calls.NAME:
        return {"code": 0, "answer": card_name(state)}
    if call is nvml_calls.ARCHITECTURE:
        number = ARCHITECTURES.get(state["architecture"] or "")
        return {"code": 0 if number else NOT_SUPPORTED, "answer": number}
    if call is nvml_calls.TOTAL_ENERGY:
        return {"code": 0 if has_counter(state) else NOT_SUPPORTED, "answer": None}
    names = FIGURES[call]
    values = [state["nvml"][name] for name in names]
    if call is nvml_calls.UTILIZATION and values[0] is not None:
        values[1] = values[1] or 0
    if None in values:
        return {"code": refusal(state, *names), "answer": None}
    if call is nvml_calls.MEMORY_OLD:
        values[RESERVED_IN_USED] += state["nvml"]["memory_reserved_bytes"] or 0
    return {"code": 0, "answer": dict(zip(names, values, strict=True)) if len(values) > 1 else values[0]}


FIGURES: Mapping[nvml_calls.Call, Sequence[str]] = {
    nvml_calls.POWER_USAGE: ("power_usage_mw",),
    nvml_calls.UTILIZATION: ("utilization_gpu_percent", "utilization_memory_percent"),
    nvml_calls.MEMORY: ("memory_total_bytes", "memory_reserved_bytes", "memory_free_bytes", "memory_used_bytes"),
    nvml_calls.MEMORY_OLD: ("memory_total_bytes", "memory_free_bytes", "memory_used_bytes"),
    nvml_calls.TEMPERATURE: ("temperature_c",),
    nvml_calls.TEMPERATURE_OLD: ("temperature_c",),
    nvml_calls.MARGIN: ("tlimit_margin_c",),
    nvml_calls.SLOWDOWN_THRESHOLD: ("slowdown_c",),
    nvml_calls.POWER_LIMIT: ("power_limit_enforced_mw",),
    nvml_calls.POWER_LIMIT_RANGE: ("power_limit_min_mw", "power_limit_max_mw"),
    **{call: (f"clock_{domain}_mhz",) for domain, call in nvml_calls.CLOCKS.items()},
    **{call: (f"clock_max_{domain}_mhz",) for domain, call in nvml_calls.CLOCKS_MAX.items()},
    nvml_calls.REASONS: ("reasons_mask",),
    nvml_calls.REASONS_OLD: ("reasons_mask",),
}
"""Figures behind each getter, in the order of NVML's structure."""


def fields(state: State) -> Mapping[tuple[int, int], tuple[int, int | None]]:
    """(field id, scope) -> (return code, value) of ``nvmlDeviceGetFieldValues``. Scope 1 is the module."""
    nvml = state["nvml"]
    counters = nvml_calls.throttle_counter_fields(state["driver"])
    energy: tuple[int, int | None] = (0 if has_counter(state) else NOT_SUPPORTED, None)
    figures: dict[tuple[int, int], str | None] = {
        (nvml_calls.POWER_INSTANT_FIELD, 0): "power_instant_mw",
        (nvml_calls.POWER_INSTANT_FIELD, 1): "module_power_mw",
        (nvml_calls.SLOWDOWN_OFFSET_FIELD, 0): "slowdown_tlimit_c",
        (nvml_calls.THERMAL_FIELD, 0): None,
        **{(field, 0): f"counter_{reason}_ns" for reason, field in counters.items()},
    }
    answers: dict[tuple[int, int], tuple[int, int | None]] = {(field, 0): energy for field in nvml_calls.ENERGY_FIELDS}
    for key, name in figures.items():
        value = None if name is None else nvml[name]
        # The tool says once that power is an error, whichever of its readings it prints.
        code = refusal(state, "power_usage_mw") if name == "power_instant_mw" else NOT_SUPPORTED
        answers[key] = (code, None) if value is None else (0, value)
    return answers
