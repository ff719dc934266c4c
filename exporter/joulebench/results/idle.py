"""The idle power of each GPU with the model loaded, as a run measured it, and what a task took above it.

Anything that disturbs an idle measurement only adds to it, so of several the lowest counts, and one during which a task of the
run was under way is left out. All are told, with their spread. Idle is a floor under a task's joules, told beside them and never
taken off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulebench.energy.phases import idle_split
from joulebench.energy.window import WindowEnergy
from joulebench.results.journal import number, text
from joulebench.results.task import Event, Task

BELOW_IDLE = "below_idle"


@dataclass(frozen=True, slots=True)
class IdlePower:
    """Of one GPU, in watts. ``low``: what the counter guarantees of the lowest measurement. ``spread``: highest less lowest.

    ``measurements``: as they were journaled, each with its label, worker, times and bounds.
    """

    watts: float
    low: float | None
    spread: float
    measurements: tuple[Mapping[str, Any], ...]


def idle_power(run_events: Iterable[Event], tasks: Sequence[Task]) -> Mapping[str, IdlePower]:
    """By uuid; a GPU whose idle power was never measured alone is not in it."""
    windows = [window for task in tasks if (window := task.window) is not None]
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in run_events:
        if event["event_type"] != "IDLE_POWER" or _disturbed(event, windows):
            continue
        rows = event.get("gpus")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and (watts := number(row.get("watts"))) is not None and (uuid := text(row.get("uuid"))):
                found[uuid].append(_measurement(event, row, watts))
    return {uuid: _together(some) for uuid, some in found.items()}


def of_task(power: Mapping[str, IdlePower], uuids: Collection[str], whole: WindowEnergy, seconds: float | None) -> dict[str, Any]:
    """Watts of all GPUs of a task, and its joules as the floor and what lies above; null where one of them is not known.

    ``reason``: ``unknown`` idle power, ``no_whole`` where the task's joules are not known, ``below_idle`` where they do not even
    reach the floor, so that one of the two is wrong.
    """
    known = [power[uuid].watts for uuid in uuids if uuid in power]
    watts = sum(known) if known and len(known) == len(uuids) else None
    idle, active, reason = idle_split(whole.joules, seconds, watts)
    return {"watts": watts, "joules": idle, "active_joules": active, "reason": reason}


def impossible(power: Mapping[str, IdlePower], uuids: Collection[str], whole: WindowEnergy, seconds: float) -> bool:
    """Whether a task surely took less than its GPUs take idle: by the bounds of both, not by the noise of either."""
    most = whole.high if whole.high is not None else whole.joules
    least = [power[uuid].low for uuid in uuids if uuid in power]
    known = [watts for watts in least if watts is not None]
    return most is not None and bool(known) and len(known) == len(uuids) and most < sum(known) * seconds


def as_dict(power: IdlePower) -> dict[str, Any]:
    return {"watts": power.watts, "spread_watts": power.spread, "measurements": list(power.measurements)}


def _disturbed(event: Event, windows: Sequence[tuple[float, float]]) -> bool:
    start, end = number(event.get("start")), number(event.get("end"))
    return start is None or end is None or any(a < end and b > start for a, b in windows)


def _measurement(event: Event, row: Mapping[str, object], watts: float) -> dict[str, Any]:
    told = {name: event.get(name) for name in ("label", "worker", "start", "end", "source")}
    return {
        **told,
        "watts": watts,
        "low_watts": number(row.get("low")),
        "high_watts": number(row.get("high")),
        "quality": row.get("quality"),
    }


def _together(measurements: Sequence[dict[str, Any]]) -> IdlePower:
    lowest = min(measurements, key=lambda one: float(one["watts"]))
    highest = max(float(one["watts"]) for one in measurements)
    return IdlePower(lowest["watts"], lowest["low_watts"], highest - lowest["watts"], tuple(measurements))
