"""Checks of the measurement itself: whether it is there and complete, and whether its own numbers agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from joulebench.devices import format_devices
from joulebench.doctor.findings import FAILURE, OK, SKIPPED, WARNING, Case, CheckResult, NotChecked, check_each, required
from joulebench.doctor.values import LoadedResults, hardware, identity, joules, path_of, sampled_watts, window_seconds
from joulebench.meters import INSIDE
from joulebench.schema import Reason, TaskResult
from joulebench.schema.scopes import energy_by_scope

COVERAGE_NEEDED = 0.95
LONGEST_GAP_SECONDS = 2.0
GAP_SHARE = 0.1
IDENTITY_TOLERANCE = 0.01
CLOCK_TOLERANCE_SECONDS = 0.25
THROTTLED_SHARE = 0.05
OWN_CHECK = (
    Reason.OVERLAP,
    Reason.THROTTLED,
    Reason.FOREIGN_PROCESS,
    Reason.CLOCK_OFFSET,
    Reason.RESET,
    Reason.DEVICES_ASSUMED,
)
SAMPLES_TOLERANCE = 0.1
LEAST_SAMPLED_SECONDS = 5.0
NO_WINDOW = "no file has the length of its measured window"
NO_RESETS = "no file has its counter resets"
NO_PARTS = "no file has the energy of halves or fifths"
NO_POWER = "no power samples: the card has no power sensor, or Prometheus was not queried"
NO_METERS = "no file has meters (export --meters)"
NO_EMISSIONS = "no file has emissions (export --meters with emissions)"
BACKFILL = "run 'joulebench backfill DIR' while Prometheus or the monitor's CSV still has the time of these tasks"


def measurement_checks(results: LoadedResults) -> list[CheckResult]:
    tasks = results.tasks
    return [
        _readable(results),
        _duplicates(tasks),
        check_each(
            "status",
            tasks,
            lambda task: None if task.computed_metrics.task_completion_status.status else "no status",
            severity=WARNING,
            why="no outcome was recorded; they are neither successes nor failures",
            fix="look at the client's log of these tasks; leave them out of success rates or run them again",
        ),
        check_each(
            "energy known",
            tasks,
            _energy_unknown,
            why="no energy",
            fix=BACKFILL,
        ),
        check_each(
            "no invented zero", tasks, _zero, why="0 where there cannot be 0: a failed reading was written as 0", fix=BACKFILL
        ),
        check_each(
            "measured cards",
            tasks,
            _simulated,
            severity=WARNING,
            why="the GPU is simulated; none of its joules are measured",
            fix="measure on a machine with a GPU that Joulebench reads, or say 'simulated' beside every number",
            skipped="no file names the source of its GPU readings",
        ),
        _devices(tasks),
        check_each(
            "coverage",
            tasks,
            _uncovered,
            why=f"samples cover less than {COVERAGE_NEEDED:.0%} of the window",
            fix="start the exporter or the monitor before the benchmark and let it run a few seconds longer",
        ),
        check_each(
            "longest gap",
            tasks,
            _gap,
            severity=WARNING,
            why="a long time without a sample; power inside it is a guess",
            fix="see why the exporter stopped polling (load, a hanging driver call, a suspended machine)",
        ),
        check_each(
            "counter resets",
            tasks,
            lambda task: f"{resets:.0f} resets" if (resets := required(task.measurement.counter_resets, NO_RESETS)) else None,
            severity=WARNING,
            why="the energy counter began anew inside the window",
            fix="a driver was reloaded or a GPU was reset; run these tasks again",
        ),
        check_each(
            "bounds", tasks, _outside_bounds, why="the joules lie outside their own bounds", fix="report this with the file"
        ),
        check_each(
            "E = P x t",
            tasks,
            _identity,
            why="mean power times duration is not the energy, so the numbers are of different windows",
            fix=BACKFILL,
        ),
        check_each(
            "power samples",
            tasks,
            _power_samples,
            severity=WARNING,
            why=f"the energy counter and the power samples, which are independent, differ by more than {SAMPLES_TOLERANCE:.0%}",
            fix="see in the exporter's log whether the counter was reset or stood still, and export the run again",
            skipped=NO_POWER,
        ),
        check_each("parts add up", tasks, _check_parts, why="halves or fifths do not add up to the total", fix=BACKFILL),
        check_each(
            "clock offset",
            tasks,
            _offset,
            why=f"clocks differ by more than {CLOCK_TOLERANCE_SECONDS:g} s, so the window is cut at the wrong place",
            fix="run an NTP client on all machines of the benchmark (chronyc tracking shows the offset)",
            skipped="no file has the offset of a second clock",
        ),
        check_each(
            "overlap",
            tasks,
            _overlap,
            severity=WARNING,
            why="other tasks ran on the same GPUs at that time; shared joules do not compare with exclusive ones",
            fix="use attributed_energy_joules, or run one task at a time",
        ),
        check_each(
            "other programs",
            tasks,
            _other_processes,
            severity=WARNING,
            why="a process that is not expected on the GPU used it too; the joules are the card's, not the task's alone",
            fix="stop other processes on the GPU (the exporter's log names them), or name expected ones by --processes.known",
        ),
        check_each(
            "other reasons",
            tasks,
            _other_reasons,
            severity=WARNING,
            why="the measurement itself says why it is suspect",
            fix="see the reasons of each task, which docs/RESULTS.md explains; leave these tasks out of comparisons",
            skipped="no file has a measurement of ours",
        ),
        check_each(
            "throttling",
            tasks,
            _throttled,
            severity=WARNING,
            why="the GPU was throttled; times and joules do not compare with cool runs",
            fix="cool the machine, raise the power limit, or compare only tasks without throttling",
            skipped="no file has throttled seconds; the exporter and Prometheus have them",
        ),
        *_configured_checks(tasks),
    ]


def _configured_checks(tasks: Sequence[TaskResult]) -> list[CheckResult]:
    """Of meters and emissions, where the export was given any."""
    if not any(task.meters or task.emissions for task in tasks):
        return []
    return [
        check_each(
            "meters known",
            tasks,
            _meters_unknown,
            severity=WARNING,
            why="a configured meter has no joules",
            fix="see the notes of the export and docs/METERS.md; export again while Prometheus has the time of these tasks",
            skipped=NO_METERS,
        ),
        check_each(
            "scopes",
            tasks,
            _exceeds_outer_scope,
            why="a meter counted more than the meter of the scope around it",
            fix="check unit, scope, host and wraps_at of both meters in the file of --meters",
            skipped="no file has joules of two scopes inside each other",
        ),
        check_each(
            "emissions known",
            tasks,
            _emissions_unknown,
            severity=WARNING,
            why="a configured factor gives no amount",
            fix="see the reasons in docs/RESULTS.md; export again while Prometheus has the factor's samples of that time",
            skipped=NO_EMISSIONS,
        ),
    ]


def _meters_unknown(task: TaskResult) -> str | None:
    if not task.meters:
        raise NotChecked
    unknown = [f"{name} ({', '.join(each.reasons)})" for name, each in task.meters.items() if each.attributed_joules is None]
    return ", ".join(unknown) or None


def _exceeds_outer_scope(task: TaskResult) -> str | None:
    """Guaranteed by the bounds of both: what the inner scope used at least is more than the outer used at most."""
    energies = energy_by_scope(task)
    checked = False
    for outer, around in energies.items():
        for inner, within in energies.items():
            if inner not in INSIDE[outer] or within.low is None or around.high is None:
                continue
            checked = True
            if within.low > around.high:
                return (
                    f"{inner} ({within.meter}) at least {within.low:.1f} J, {outer} ({around.meter}) at most {around.high:.1f} J"
                )
    if not checked:
        raise NotChecked
    return None


def _emissions_unknown(task: TaskResult) -> str | None:
    if not task.emissions:
        raise NotChecked
    return ", ".join(f"{k} ({', '.join(e.reasons)})" for k, e in task.emissions.items() if e.amount is None) or None


def _devices(tasks: Sequence[TaskResult]) -> CheckResult:
    """Names the devices and how they are known, and warns where they are not the same for all tasks or a guess."""
    known = [task for task in tasks if task.measurement.device_basis and task.measurement.devices]
    if not known:
        return CheckResult("devices", SKIPPED, "no file names the devices that it is charged for")
    bases = Counter(str(task.measurement.device_basis) for task in known)
    labels = sorted({device.label for task in known for device in task.measurement.devices})
    summary = f"{', '.join(f'{count} {basis}' for basis, count in bases.most_common())}: {format_devices(labels)}"
    guessed = [task for task in known if Reason.DEVICES_ASSUMED in task.measurement.reasons]
    if guessed:
        why = f"{len(guessed)} of {len(known)} tasks are charged for all devices though these were used differently ({summary})"
        fix = "name the devices (--gpus 0,1 or gpus=), or the server (--server HOST:PORT), and run these tasks again"
        return CheckResult(
            "devices", WARNING, why, fix, tuple(Case(path_of(task), _labels(task)) for task in guessed), len(known)
        )
    if len(bases) > 1:
        rare = min(bases, key=lambda basis: bases[basis])
        cases = tuple(Case(path_of(task), f"{rare}: {_labels(task)}") for task in known if task.measurement.device_basis == rare)
        why = f"{len(cases)} of {len(known)} tasks: their devices are known in another way than the others' ({summary})"
        return CheckResult("devices", WARNING, why, "compare tasks of one basis only", cases, len(known))
    return CheckResult("devices", OK, summary, checked=len(known))


def _labels(task: TaskResult) -> str:
    return format_devices([device.label for device in task.measurement.devices])


def _energy_unknown(task: TaskResult) -> str | None:
    return None if joules(task) is not None else f"unknown ({', '.join(task.measurement.reasons) or 'never measured'})"


def _simulated(task: TaskResult) -> str | None:
    if task.measurement.simulated is None:
        raise NotChecked
    return "simulated" if task.measurement.simulated else None


def _overlap(task: TaskResult) -> str | None:
    overlap = required(task.attribution.overlap_fraction)
    return f"{overlap:.0%} of its time" if overlap > 0 else None


def _other_processes(task: TaskResult) -> str | None:
    if not task.is_measured:
        raise NotChecked
    return "seen" if Reason.FOREIGN_PROCESS in task.measurement.reasons else None


def _other_reasons(task: TaskResult) -> str | None:
    """Reasons for which no check of its own exists."""
    if not task.is_measured:
        raise NotChecked
    suspect = [reason for reason in Reason if reason.verdict == "suspect" and reason not in OWN_CHECK]
    given = [f"{reason.value} ({reason.sentence.rstrip('.')})" for reason in suspect if reason in task.measurement.reasons]
    return "; ".join(given) or None


def _readable(results: LoadedResults) -> CheckResult:
    count = len(results.tasks) + len(results.unreadable)
    if not results.unreadable:
        return CheckResult("readable", OK, f"{count} of {count} files", checked=count)
    return CheckResult(
        "readable",
        FAILURE,
        f"{len(results.unreadable)} of {count} files cannot be read; their tasks are missing from every table",
        "run these tasks again; a torn file comes from a benchmark that was killed while it saved",
        tuple(Case(path, why) for path, why in results.unreadable),
        count,
    )


def _duplicates(tasks: Sequence[TaskResult]) -> CheckResult:
    by_key: defaultdict[str, list[Path]] = defaultdict(list)
    for task in tasks:
        by_key[identity(task)].append(path_of(task))
    cases = [Case(paths[1], f"same as {paths[0]}") for paths in by_key.values() if len(paths) > 1]
    if not cases:
        return CheckResult("each task once", OK, f"{len(by_key)} different tasks", checked=len(tasks))
    why = f"{len(cases)} of {len(by_key)} tasks are there more than once; means and counts weigh them twice"
    return CheckResult(
        "each task once", WARNING, why, "remove the copies, or point the analysis past them", tuple(cases), len(tasks)
    )


def _zero(task: TaskResult) -> str | None:
    if task.gpu_hardware_metrics is None:
        raise NotChecked
    names = ("total_energy_joules", "avg_power_w", "max_power_w", "avg_vram_mb", "avg_temp_c")
    zeros = [name for name in names if getattr(hardware(task), name) == 0]
    return f"{', '.join(zeros)} = 0" if zeros else None


def _uncovered(task: TaskResult) -> str | None:
    coverage = required(task.measurement.coverage, "no file has the coverage of its window")
    return f"{coverage:.1%}" if coverage < COVERAGE_NEEDED else None


def _gap(task: TaskResult) -> str | None:
    gap = required(task.measurement.longest_gap_seconds, "no file has its longest gap")
    seconds = required(window_seconds(task), NO_WINDOW)
    return f"{gap:.1f} s" if gap > max(LONGEST_GAP_SECONDS, GAP_SHARE * seconds) else None


def _outside_bounds(task: TaskResult) -> str | None:
    measured = task.measurement
    energy, low, high = required(measured.joules), required(measured.low_joules), required(measured.high_joules)
    return None if low - 0.01 <= energy <= high + 0.01 else f"{energy:.1f} J not in {low:.1f} to {high:.1f}"


def _identity(task: TaskResult) -> str | None:
    energy, watts, seconds = (
        required(joules(task)),
        required(hardware(task).avg_power_w),
        required(window_seconds(task), NO_WINDOW),
    )
    if abs(watts * seconds - energy) <= IDENTITY_TOLERANCE * max(energy, 1e-9):
        return None
    return f"{watts:.1f} W x {seconds:.1f} s = {watts * seconds:.0f} J, not {energy:.0f} J"


def _power_samples(task: TaskResult) -> str | None:
    energy, watts, seconds = required(joules(task)), required(sampled_watts(task), NO_POWER), required(window_seconds(task))
    if seconds < LEAST_SAMPLED_SECONDS:
        raise NotChecked(f"power samples of less than {LEAST_SAMPLED_SECONDS:g} s are too few")
    if abs(watts * seconds - energy) <= SAMPLES_TOLERANCE * max(energy, 1e-9):
        return None
    return f"power samples give {watts * seconds:.0f} J, not {energy:.0f} J"


def _check_parts(task: TaskResult) -> str | None:
    total = required(hardware(task).total_energy_joules, NO_PARTS)
    checked = False
    for names in (("h1", "h2"), ("q1", "q2", "q3", "q4", "q5")):
        parts = [value for name in names if (value := getattr(hardware(task), f"energy_{name}_joules")) is not None]
        if len(parts) == len(names):
            checked = True
            if abs(sum(parts) - total) > IDENTITY_TOLERANCE * max(total, 1e-9):
                return f"{'+'.join(names)} = {sum(parts):.0f} J, not {total:.0f} J"
    if not checked:
        raise NotChecked(NO_PARTS)
    return None


def _offset(task: TaskResult) -> str | None:
    clocks = task.measurement.clock_offset_seconds
    offsets = {name: getattr(clocks, name) for name in ("benchmark_to_gateway", "exporter_to_prometheus")}
    known = {name: offset for name, offset in offsets.items() if offset is not None}
    if not known:
        raise NotChecked
    name, offset = max(known.items(), key=lambda item: abs(item[1]))
    return f"{name} {offset:+.3f} s" if abs(offset) > CLOCK_TOLERANCE_SECONDS else None


def _throttled(task: TaskResult) -> str | None:
    throttled, seconds = required(task.throttle.throttled_seconds), required(window_seconds(task), NO_WINDOW)
    return f"{throttled:.1f} of {seconds:.1f} s" if throttled > THROTTLED_SHARE * seconds else None
