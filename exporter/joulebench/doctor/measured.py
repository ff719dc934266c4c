"""Checks of the measurement itself: is it there, is it whole, and do its own numbers agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from joulebench.doctor.facts import Facts, Found
from joulebench.doctor.finding import FAILURE, OK, WARNING, Case, Finding, judged, told
from joulebench.parsing import as_float

COVERAGE_NEEDED = 0.95
LONGEST_GAP_SECONDS = 2.0
GAP_SHARE = 0.1
IDENTITY_TOLERANCE = 0.01
CLOCK_TOLERANCE_SECONDS = 0.25
THROTTLED_SHARE = 0.05
BACKFILL = "run 'joulebench backfill DIR' while Prometheus or the monitor's CSV still has the time of these tasks"


def checks(found: Found) -> list[Finding]:
    tasks = found.tasks
    return [
        _readable(found),
        _twice(tasks),
        judged(
            "status",
            tasks,
            lambda task: None if task.status else "no status",
            severity=WARNING,
            why="no verdict was recorded; they are neither successes nor failures",
            fix="look at the client's log of these tasks; leave them out of success rates or run them again",
        ),
        judged(
            "energy known",
            tasks,
            lambda task: None if task.joules is not None else f"unknown ({', '.join(task.reasons) or 'never measured'})",
            why="no energy",
            fix=BACKFILL,
        ),
        judged(
            "no invented zero", tasks, _zero, why="0 where there cannot be 0: a failed reading was written as one", fix=BACKFILL
        ),
        judged(
            "measured cards",
            tasks,
            lambda task: "simulated" if told_flag(task, "simulated") else None,
            severity=WARNING,
            why="the GPU was invented; no joule of it is a measurement",
            fix="measure on a machine with an NVIDIA GPU, or say 'simulated' beside every number",
            not_told="no file tells where its GPU readings came from",
        ),
        judged(
            "coverage",
            tasks,
            _uncovered,
            why=f"readings cover less than {COVERAGE_NEEDED:.0%} of the window",
            fix="start the exporter or the monitor before the benchmark and let it run a few seconds longer",
        ),
        judged(
            "longest gap",
            tasks,
            _gap,
            severity=WARNING,
            why="a long time without a reading; power inside it is a guess",
            fix="see why the exporter stood still (load, a hanging driver call, a suspended machine)",
        ),
        judged(
            "counter resets",
            tasks,
            lambda task: f"{resets:.0f} resets" if (resets := told(as_float(task.measurement.get("counter_resets")))) else None,
            severity=WARNING,
            why="the energy counter began anew inside the window",
            fix="a driver was reloaded or a GPU was reset; run these tasks again",
        ),
        judged("bounds", tasks, _outside_bounds, why="the joules lie outside their own bounds", fix="report this with the file"),
        judged(
            "E = P x t",
            tasks,
            _identity,
            why="mean power times duration is not the energy, so the numbers are of different windows",
            fix=BACKFILL,
        ),
        judged("parts add up", tasks, _parts, why="halves or fifths do not add up to the whole", fix=BACKFILL),
        judged(
            "clock offset",
            tasks,
            _offset,
            why=f"clocks differ by more than {CLOCK_TOLERANCE_SECONDS:g} s, so the window is cut at the wrong place",
            fix="run an NTP client on all machines of the benchmark (chronyc tracking tells the offset)",
            not_told="no file tells of a second clock",
        ),
        judged(
            "overlap",
            tasks,
            lambda task: f"{told(task.overlap):.0%} of its time" if told(task.overlap) > 0 else None,
            severity=WARNING,
            why="other tasks ran on the same GPUs at that time; shared joules do not compare with exclusive ones",
            fix="use attributed_energy_joules, or run one task at a time",
        ),
        judged(
            "other programs",
            tasks,
            _strangers,
            severity=WARNING,
            why="a program that is no known model server used the GPU too; the joules are the card's, not the task's alone",
            fix="stop other programs on the GPU (the exporter's log names them), or name your server by --processes.known",
        ),
        judged(
            "throttling",
            tasks,
            _throttled,
            severity=WARNING,
            why="the GPU held its clocks down; times and joules do not compare with cool runs",
            fix="cool the machine, raise the power limit, or compare only tasks without throttling",
            not_told="no file tells of throttling; the exporter and Prometheus do",
        ),
    ]


def _strangers(task: Facts) -> str | None:
    if not isinstance(task.measurement.get("reasons"), list):
        raise LookupError
    return "seen" if "foreign_process" in task.reasons else None


def told_flag(task: Facts, name: str) -> bool:
    value = task.measurement.get(name)
    if not isinstance(value, bool):
        raise LookupError
    return value


def _readable(found: Found) -> Finding:
    count = len(found.tasks) + len(found.unreadable)
    if not found.unreadable:
        return Finding("readable", OK, f"{count} of {count} files", checked=count)
    return Finding(
        "readable",
        FAILURE,
        f"{len(found.unreadable)} of {count} files cannot be read; their tasks are missing from every table",
        "run these tasks again; a torn file comes from a benchmark that was killed while it saved",
        tuple(Case(path, why) for path, why in found.unreadable),
        count,
    )


def _twice(tasks: Sequence[Facts]) -> Finding:
    by_key: defaultdict[str, list[Path]] = defaultdict(list)
    for task in tasks:
        by_key[task.key].append(task.path)
    cases = [Case(paths[1], f"same as {paths[0]}") for paths in by_key.values() if len(paths) > 1]
    if not cases:
        return Finding("each task once", OK, f"{len(by_key)} different tasks", checked=len(tasks))
    why = f"{len(cases)} of {len(by_key)} tasks lie there more than once; means and counts weigh them twice"
    return Finding("each task once", WARNING, why, "remove the copies, or point the analysis past them", tuple(cases), len(tasks))


def _zero(task: Facts) -> str | None:
    if not task.hardware:
        raise LookupError
    names = ("total_energy_joules", "avg_power_w", "max_power_w", "avg_vram_mb", "avg_temp_c")
    zeros = [name for name in names if as_float(task.hardware.get(name)) == 0]
    return f"{', '.join(zeros)} = 0" if zeros else None


def _uncovered(task: Facts) -> str | None:
    coverage = told(as_float(task.measurement.get("coverage")))
    return f"{coverage:.1%}" if coverage < COVERAGE_NEEDED else None


def _gap(task: Facts) -> str | None:
    gap, seconds = told(as_float(task.measurement.get("longest_gap_seconds"))), told(task.seconds)
    return f"{gap:.1f} s" if gap > max(LONGEST_GAP_SECONDS, GAP_SHARE * seconds) else None


def _outside_bounds(task: Facts) -> str | None:
    joules, low, high = told(task.joules), told(task.low), told(task.high)
    return None if low - 0.01 <= joules <= high + 0.01 else f"{joules:.1f} J not in {low:.1f} to {high:.1f}"


def _identity(task: Facts) -> str | None:
    joules, watts, seconds = told(task.joules), told(as_float(task.hardware.get("avg_power_w"))), told(task.seconds)
    if abs(watts * seconds - joules) <= IDENTITY_TOLERANCE * max(joules, 1e-9):
        return None
    return f"{watts:.1f} W x {seconds:.1f} s = {watts * seconds:.0f} J, not {joules:.0f} J"


def _parts(task: Facts) -> str | None:
    whole = told(as_float(task.hardware.get("total_energy_joules")))
    checked = False
    for names in (("h1", "h2"), ("q1", "q2", "q3", "q4", "q5")):
        parts = [value for name in names if (value := as_float(task.hardware.get(f"energy_{name}_joules"))) is not None]
        if len(parts) == len(names):
            checked = True
            if abs(sum(parts) - whole) > IDENTITY_TOLERANCE * max(whole, 1e-9):
                return f"{'+'.join(names)} = {sum(parts):.0f} J, not {whole:.0f} J"
    if not checked:
        raise LookupError
    return None


def _offset(task: Facts) -> str | None:
    if not task.clock_offsets:
        raise LookupError
    name, offset = max(task.clock_offsets.items(), key=lambda item: abs(item[1]))
    return f"{name} {offset:+.3f} s" if abs(offset) > CLOCK_TOLERANCE_SECONDS else None


def _throttled(task: Facts) -> str | None:
    throttled, seconds = told(task.throttled), told(task.seconds)
    return f"{throttled:.1f} of {seconds:.1f} s" if throttled > THROTTLED_SHARE * seconds else None
