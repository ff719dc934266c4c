"""Numbers, intervals and comparisons as text and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from joulebench.analysis.comparison import (
    BETTER,
    PERHAPS_BETTER,
    PERHAPS_WORSE,
    SUCCESS_RATE,
    WORSE,
    Arm,
    Comparison,
    Difference,
    Excluded,
    Measure,
    Pair,
    comparison_counts,
)
from joulebench.analysis.statistics import PERMUTATIONS, RESAMPLES, Estimate
from joulebench.devices import format_devices
from joulebench.schema.scopes import GPU, add_scopes

_MOST_EXCLUDED = 10


def format_number(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def format_interval(estimate: Estimate, *, percent: bool = False) -> str:
    if estimate.interval is None:
        return ""
    low, high = (
        "unbounded" if bound is None else format_number(bound, percent=percent)
        for bound in (estimate.interval.low, estimate.interval.high)
    )
    return f"[{low} to {high}]"


def comparison_text(comparison: Comparison) -> str:
    lines: list[str] = []
    if comparison.scopes != (GPU,):
        lines += [f"Joules of {' + '.join(comparison.scopes)}, by {', '.join(_meters(comparison))}.", ""]
    for pair in comparison.pairs:
        lines += [*_pair(pair), ""]
    lines += _devices(comparison.arms)
    lines += _excluded(comparison)
    lines.append(
        f"Intervals: 95 %, from {RESAMPLES} resamples of whole tasks. Energy per success includes the joules of failures."
    )
    lines.append(correction_note(comparison_counts(comparison.pairs)))
    return "\n".join(lines).rstrip()


def _meters(comparison: Comparison) -> list[str]:
    """Names of the meters behind the joules of all arms."""
    attempts = [attempt for arm in comparison.arms for attempt in arm.attempts]
    energies = [add_scopes(attempt.scopes, comparison.scopes) for attempt in attempts]
    return list(dict.fromkeys(energy.meter for energy in energies if energy is not None))


def correction_note(counts: Sequence[int]) -> str:
    """How findings are corrected for the number of comparisons; ``counts`` as ``comparison_counts`` gives them."""
    primary, others = counts
    if not primary + others:
        return ""
    return (
        f"p-values: McNemar's exact test for success rates, else permutation of whole tasks; Holm-corrected over the {primary}"
        f" differences of energy per success and success rate shown here and over the {others} others (5 % each); intervals are"
        " not corrected. 'perhaps': before the correction only."
    )


def _pair(pair: Pair) -> Iterator[str]:
    yield f"{pair.arm} against {pair.base}: {pair.tasks} tasks in common, {pair.attempts[1]} against {pair.attempts[0]} attempts"
    yield from (f"  refused: {why}" for why in pair.refusals)
    yield from (f"  note: {note}" for note in pair.notes)
    if not pair.differences:
        return
    table = [("", _cut(pair.base), _cut(pair.arm), "difference", "finding")]
    for each in pair.differences:
        percent = each.measure is SUCCESS_RATE
        base, arm, difference = (_cell(estimate, percent) for estimate in (each.base, each.arm, each.difference))
        table.append((f"{each.measure.label}{_unit(each.measure)}", base, arm, difference, _finding(pair, each)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _finding(pair: Pair, difference: Difference) -> str:
    if difference.finding not in (BETTER, WORSE, PERHAPS_BETTER, PERHAPS_WORSE):
        return difference.finding
    quotient = difference.quotient
    times = "" if quotient.value is None else f" ({quotient.value:.2f} times {format_interval(quotient)})"
    return f"{_cut(pair.arm)} is {difference.finding}{times}"


def _unit(measure: Measure) -> str:
    return f" ({measure.unit})" if measure.unit else ""


def _cell(estimate: Estimate, percent: bool) -> str:
    return f"{format_number(estimate.value, percent=percent)} {format_interval(estimate, percent=percent)}".rstrip()


def _cut(label: str) -> str:
    return label if len(label) <= 28 else f"{label[:12]}...{label[-13:]}"


def _devices(arms: Sequence[Arm]) -> Iterator[str]:
    named = [arm for arm in arms if arm.device_bases]
    if not named:
        return
    yield "devices:"
    for arm in named:
        yield f"  {arm.label}: {' or '.join(arm.device_bases)}, {format_devices(arm.devices)}"
    yield ""


def _excluded(comparison: Comparison) -> Iterator[str]:
    if not comparison.excluded:
        return
    counted = Counter((each.arm, each.reason) for each in comparison.excluded)
    yield "excluded:"
    for (arm, reason), count in counted.most_common(_MOST_EXCLUDED):
        first = next(each.task_id for each in comparison.excluded if (each.arm, each.reason) == (arm, reason))
        yield f"  {count} of {arm}: {reason}, as {first}"
    if len(counted) > _MOST_EXCLUDED:
        yield f"  and for {len(counted) - _MOST_EXCLUDED} more reasons; --format json lists all"
    yield ""


def estimate_values(estimate: Estimate) -> dict[str, float | None]:
    """``low`` and ``high`` are null without an interval, and where it has no bound."""
    bounds = estimate.interval
    return {"value": estimate.value, "low": bounds.low if bounds else None, "high": bounds.high if bounds else None}


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    return {
        "arms": [
            {
                "label": arm.label,
                "run": arm.run,
                "model": arm.model,
                "attempts": len(arm.attempts),
                "simulated": arm.simulated,
                "device_bases": list(arm.device_bases),
                "devices": list(arm.devices),
            }
            for arm in comparison.arms
        ],
        "scopes": list(comparison.scopes),
        "pairs": [pair_values(pair) for pair in comparison.pairs],
        "excluded": [excluded_values(each) for each in comparison.excluded],
        "interval": {"level": 0.95, "resamples": RESAMPLES, "clustered_by": "task"},
        "test": {"method": "permutation of whole tasks, McNemar for success rates", "permutations": PERMUTATIONS},
        "correction": {"method": "holm", "differences": list(comparison_counts(comparison.pairs))},
    }


def pair_values(pair: Pair) -> dict[str, Any]:
    return {
        "base": pair.base,
        "arm": pair.arm,
        "tasks": pair.tasks,
        "attempts": {"base": pair.attempts[0], "arm": pair.attempts[1]},
        "refusals": list(pair.refusals),
        "notes": list(pair.notes),
        "measures": {each.measure.key: difference_values(each) for each in pair.differences},
    }


def difference_values(difference: Difference) -> dict[str, Any]:
    return {
        "unit": difference.measure.unit,
        "lower_is_better": difference.measure.lower_is_better,
        "base": estimate_values(difference.base),
        "arm": estimate_values(difference.arm),
        "difference": estimate_values(difference.difference),
        "quotient": estimate_values(difference.quotient),
        "tasks": difference.tasks,
        "p": difference.p,
        "p_adjusted": difference.adjusted,
        "finding": difference.finding,
        **({} if difference.discordant is None else {"discordant_tasks": difference.discordant}),
        **({} if difference.tasks_needed is None else {"tasks_needed": difference.tasks_needed}),
    }


def excluded_values(excluded: Excluded) -> dict[str, Any]:
    return {
        "arm": excluded.arm,
        "task_id": excluded.task_id,
        "reason": excluded.reason,
        "file": excluded.file,
        "energy_only": excluded.energy_only,
    }
