"""Checks of plausibility: power of the card, joules and rates of tokens, TTFT, confidences; energy against duration, failures
against confidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from joulebench.doctor import reference_ranges
from joulebench.doctor.findings import OK, SKIPPED, WARNING, CheckResult, NotChecked, check_each, required
from joulebench.doctor.values import (
    confidences,
    decode_rate,
    joules,
    mean_watts,
    model_of,
    tool_calls,
    window_seconds,
)
from joulebench.errors import UserError
from joulebench.parsing import as_float
from joulebench.schema import TaskResult

LIMIT_TOLERANCE = 1.05
ENFORCED_LIMIT_TOLERANCE = 1.15
"""Above the limit that is enforced, which is often set below the card's highest: real cards were seen at 1.12 times theirs."""
IDLE_FLOOR_SHARE = 0.01
"""Of the power limit. Idle cards draw 3 to 5 W as laptop or small cards, and 1.3 % of the limit of the largest, never less."""
SAME_AS_LATENCY = 0.02
FEWEST_TASKS = 5
FEWEST_FAILURES = 50
LOWEST_CORRELATION = 0.5
BINS = ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.0))


@dataclass(frozen=True, slots=True)
class KnownPower:
    """What the user knows about the machine: watts of all GPUs together; None: by the limits in the files, else by the names of
    the cards."""

    idle_watts: float | None = None
    limit_watts: float | None = None


def plausibility_checks(tasks: Sequence[TaskResult], power: KnownPower) -> list[CheckResult]:
    return [
        check_each(
            "power above idle",
            tasks,
            lambda task: _below_idle(task, power),
            why="mean power is below idle",
            fix="see that the monitor watches the machine that runs the model, and all of its GPUs",
            skipped="no file has power",
        ),
        check_each(
            "power within limit",
            tasks,
            lambda task: _above_limit(task, power),
            why="mean power is above the power limit of the card",
            fix="see that the monitor watches the machine that runs the model, and all of its GPUs",
            skipped="no file has power",
        ),
        check_each(
            "joules per token",
            tasks,
            _joules_per_token,
            severity=WARNING,
            why="outside the published range of models of this size",
            fix="look for a wrong GPU, a wait inside the window or a model that ran on the CPU",
            skipped="no file has joules, tokens and a model with its size in the name",
        ),
        check_each(
            "tokens per second",
            tasks,
            _rate,
            severity=WARNING,
            why="no model of this size makes tokens at this rate for one caller",
            fix="see whether tokens are counted twice, or the time of a call does not hold its whole reply",
        ),
        check_each(
            "time to first token",
            tasks,
            _ttft,
            severity=WARNING,
            why="it is the latency of the whole reply: the client takes it when the reply is complete",
            fix="do not report it as TTFT; stream, or measure with 'joulebench proxy'",
        ),
        check_each(
            "confidence",
            tasks,
            _confidence,
            why="a confidence outside 0 to 1 is not a probability",
            fix="see what the client uses as a probability (a log probability is at most 0)",
            skipped="no tool call has a confidence",
        ),
        _energy_and_duration(tasks),
        _failures_by_confidence(tasks),
    ]


def _below_idle(task: TaskResult, power: KnownPower) -> str | None:
    watts = required(mean_watts(task))
    idle = power.idle_watts if power.idle_watts is not None else task.idle.watts
    if idle is not None:
        return f"{watts:.1f} W, below idle ({idle:.0f} W)" if watts < 0.95 * idle else None
    limit, _ = _power_limit(task, power, "--idle-watts or --limit-watts")
    if watts >= IDLE_FLOOR_SHARE * limit:
        return None
    return f"{watts:.1f} W, less than {IDLE_FLOOR_SHARE:.0%} of the limit of {limit:.0f} W"


def _above_limit(task: TaskResult, power: KnownPower) -> str | None:
    watts = required(mean_watts(task))
    limit, highest = _power_limit(task, power, "--limit-watts")
    return f"{watts:.1f} W, above the limit of {limit:.0f} W" if watts > highest else None


def _power_limit(task: TaskResult, power: KnownPower, options: str) -> tuple[float, float]:
    """Returns the power limit of all GPUs together, and the mean power that they may have, in watts.

    By the user, else the limit that each card enforced, else the highest of cards of its name. Raises NotChecked where one of
    them is not known.
    """
    if power.limit_watts is not None:
        return power.limit_watts, LIMIT_TOLERANCE * power.limit_watts
    if not task.per_gpu:
        raise NotChecked(f"no file names its GPUs; give {options}")
    limit = highest = 0.0
    unknown = set()
    for gpu in task.per_gpu:
        known, tolerance = gpu.power_limit_w, ENFORCED_LIMIT_TOLERANCE
        if known is None:
            known, tolerance = reference_ranges.board_power(gpu.name or ""), LIMIT_TOLERANCE
        if known is None:
            unknown.add(gpu.name or "unknown GPU")
        else:
            limit, highest = limit + known, highest + tolerance * known
    if unknown:
        raise NotChecked(f"the power limit of {', '.join(sorted(unknown))} is not known; give {options}")
    return limit, highest


def _joules_per_token(task: TaskResult) -> str | None:
    size = reference_ranges.size_of(model_of(task))
    energy, tokens = required(joules(task)), required(task.computed_metrics.llm_token_usage.total_completion_tokens)
    if size is None or tokens <= 0:
        raise NotChecked
    low, high = reference_ranges.joules_per_token(size)
    return None if low <= energy / tokens <= high else f"{energy / tokens:.3g} J/token, not {low:.2g} to {high:.3g}"


def _rate(task: TaskResult) -> str | None:
    rate = required(decode_rate(task))
    low, high = reference_ranges.tokens_per_second(reference_ranges.size_of(model_of(task)))
    return None if low <= rate <= high else f"{rate:.3g} tokens/s, not {low:g} to {high:.0f}"


def _ttft(task: TaskResult) -> str | None:
    ttft = required(task.computed_metrics.ttft_metrics.average_ttft_ms)
    latency = required(task.computed_metrics.generation_time_metrics.average_generation_time_ms)
    if task.generation is not UNSET and task.generation.ttft_measured_calls:
        return None
    return f"{ttft:.0f} of {latency:.0f} ms" if abs(latency - ttft) <= SAME_AS_LATENCY * latency else None


def _confidence(task: TaskResult) -> str | None:
    values = [value for value in confidences(task) if value is not None]
    if not values:
        raise NotChecked
    wrong = [value for value in values if (known := as_float(value)) is None or not 0 <= known <= 1]
    return ", ".join(str(value)[:40] for value in wrong[:3]) if wrong else None


def pearson(pairs: Sequence[tuple[float, float]]) -> float | None:
    """None where one of the two does not vary."""
    values = np.array(pairs).T
    if len(pairs) < 2 or any(np.ptp(each) <= 1e-9 * abs(each.mean()) for each in values):
        return None
    return float(np.corrcoef(values)[0, 1])


def _energy_and_duration(tasks: Sequence[TaskResult]) -> CheckResult:
    """Within a model: between models power differs, and with it the joules of a second."""
    by_model: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for task in tasks:
        energy, seconds = joules(task), window_seconds(task)
        if energy is not None and seconds is not None:
            by_model[model_of(task)].append((seconds, energy))
    correlations = {model: pearson(pairs) for model, pairs in by_model.items() if len(pairs) >= FEWEST_TASKS}
    known = {model: value for model, value in correlations.items() if value is not None}
    if not known:
        return CheckResult(
            "energy and duration", SKIPPED, f"no model has {FEWEST_TASKS} tasks with energy and different durations"
        )
    shown = ", ".join(f"{model} {value:.2f}" for model, value in sorted(known.items()))
    checked = sum(len(by_model[model]) for model in known)
    if min(known.values()) >= LOWEST_CORRELATION:
        return CheckResult("energy and duration", OK, f"correlation {shown}", checked=checked)
    return CheckResult(
        "energy and duration",
        WARNING,
        f"correlation {shown}: longer tasks should take more energy",
        "look for tasks whose window holds something else: a model load, another process, a wait",
        checked=checked,
    )


def _failures_by_confidence(tasks: Sequence[TaskResult]) -> CheckResult:
    calls = [call for task in tasks for call in tool_calls(task) if call.success is not None and 0 <= call.confidence <= 1]
    failed = [call.confidence for call in calls if call.success is False]
    passed = [call.confidence for call in calls if call.success is True]
    if len(failed) < FEWEST_FAILURES or not passed:
        why = f"{len(failed)} of {len(calls)} tool calls with a confidence failed; a claim needs {FEWEST_FAILURES}"
        return CheckResult("failures by confidence", SKIPPED, why)
    rates = []
    for low, high in BINS:
        inside = [call for call in calls if low <= call.confidence < high or (high == 1.0 and call.confidence == 1.0)]
        if inside:
            share = sum(call.success is False for call in inside) / len(inside)
            rates.append(f"{low:g}-{high:g}: {share:.0%} of {len(inside)}")
    try:
        from joulebench.analysis.prediction.calibration import auroc
    except UserError as error:
        return CheckResult("failures by confidence", SKIPPED, str(error))
    value = auroc(np.array([*passed, *failed]), np.array([True] * len(passed) + [False] * len(failed))) or 0.0
    shown = f"failed by confidence {'; '.join(rates)}; AUROC {value:.2f}"
    if value > 0.5:
        return CheckResult("failures by confidence", OK, shown, checked=len(calls))
    return CheckResult(
        "failures by confidence",
        WARNING,
        f"{shown}: calls with high confidence fail as often as those with low confidence",
        "this confidence does not separate good calls from bad ones; use that of the call's own tokens ('joulebench proxy')",
        checked=len(calls),
    )
