"""Checks over all tasks together: energy follows duration, and doubtful tool calls fail more often than sure ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from joulebench.doctor.facts import Facts
from joulebench.doctor.finding import OK, SKIPPED, WARNING, Finding

FEWEST_TASKS = 5
FEWEST_FAILURES = 50
LOWEST_CORRELATION = 0.5
BINS = ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.0))


def checks(tasks: Sequence[Facts]) -> list[Finding]:
    return [_energy_and_duration(tasks), _failures_by_confidence(tasks)]


def pearson(pairs: Sequence[tuple[float, float]]) -> float | None:
    """None where one of the two does not vary."""
    count = len(pairs)
    if count < 2:
        return None
    mean_x, mean_y = sum(x for x, _ in pairs) / count, sum(y for _, y in pairs) / count
    spread_x = math.sqrt(sum((x - mean_x) ** 2 for x, _ in pairs))
    spread_y = math.sqrt(sum((y - mean_y) ** 2 for _, y in pairs))
    if spread_x <= 1e-9 * abs(mean_x) or spread_y <= 1e-9 * abs(mean_y):
        return None
    return sum((x - mean_x) * (y - mean_y) for x, y in pairs) / (spread_x * spread_y)


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive has the higher value; ties count half."""
    ranked = sorted([(value, 1) for value in positive] + [(value, 0) for value in negative])
    total, at = 0.0, 0
    while at < len(ranked):
        until = at
        while until < len(ranked) and ranked[until][0] == ranked[at][0]:
            until += 1
        total += sum(kind for _, kind in ranked[at:until]) * (at + until + 1) / 2
        at = until
    count = len(positive)
    return (total - count * (count + 1) / 2) / (count * len(negative))


def _energy_and_duration(tasks: Sequence[Facts]) -> Finding:
    """Within a model: between models power differs, and with it the joules of a second."""
    by_model: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for task in tasks:
        if task.joules is not None and task.seconds is not None:
            by_model[task.model].append((task.seconds, task.joules))
    found = {model: pearson(pairs) for model, pairs in by_model.items() if len(pairs) >= FEWEST_TASKS}
    known = {model: value for model, value in found.items() if value is not None}
    if not known:
        return Finding("energy and duration", SKIPPED, f"no model has {FEWEST_TASKS} tasks with energy and different durations")
    shown = ", ".join(f"{model} {value:.2f}" for model, value in sorted(known.items()))
    checked = sum(len(by_model[model]) for model in known)
    if min(known.values()) >= LOWEST_CORRELATION:
        return Finding("energy and duration", OK, f"correlation {shown}", checked=checked)
    return Finding(
        "energy and duration",
        WARNING,
        f"correlation {shown}: longer tasks should take more energy",
        "look for tasks whose window holds something else: a model load, another process, a wait",
        checked=checked,
    )


def _failures_by_confidence(tasks: Sequence[Facts]) -> Finding:
    calls = [call for task in tasks for call in task.tool_calls if call.success is not None and 0 <= call.confidence <= 1]
    failed = [call.confidence for call in calls if call.success is False]
    passed = [call.confidence for call in calls if call.success is True]
    if len(failed) < FEWEST_FAILURES or not passed:
        why = f"{len(failed)} of {len(calls)} tool calls with a confidence failed; below {FEWEST_FAILURES} that tells nothing"
        return Finding("failures by confidence", SKIPPED, why)
    rates = []
    for low, high in BINS:
        inside = [call for call in calls if low <= call.confidence < high or (high == 1.0 and call.confidence == 1.0)]
        if inside:
            share = sum(call.success is False for call in inside) / len(inside)
            rates.append(f"{low:g}-{high:g}: {share:.0%} of {len(inside)}")
    value = auroc(passed, failed)
    shown = f"failed by confidence {'; '.join(rates)}; AUROC {value:.2f}"
    if value > 0.5:
        return Finding("failures by confidence", OK, shown, checked=len(calls))
    return Finding(
        "failures by confidence",
        WARNING,
        f"{shown}: sure calls fail as often as doubtful ones",
        "this confidence does not tell good calls from bad; take the one of the call's own tokens ('joulebench proxy')",
        checked=len(calls),
    )
