"""A comparison as text and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from joulebench.analysis.bootstrap import RESAMPLES, Estimate
from joulebench.analysis.compare import BETTER, PERHAPS_BETTER, PERHAPS_WORSE, WORSE, Comparison, Difference, Pair, told_together
from joulebench.analysis.measures import SUCCESS_RATE, Measure

_MOST_EXCLUDED = 10


def number(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if percent else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(estimate: Estimate, *, percent: bool = False) -> str:
    if estimate.interval is None:
        return ""
    low, high = (
        "unbounded" if bound is None else number(bound, percent=percent)
        for bound in (estimate.interval.low, estimate.interval.high)
    )
    return f"[{low} to {high}]"


def as_text(comparison: Comparison) -> str:
    lines: list[str] = []
    for pair in comparison.pairs:
        lines += [*_pair(pair), ""]
    lines += _excluded(comparison)
    lines.append(
        f"Intervals: 95 %, from {RESAMPLES} resamples of whole tasks. Energy per success counts the joules of failures too."
    )
    lines.append(together(told_together(comparison.pairs)))
    return "\n".join(lines).rstrip()


def together(counts: Sequence[int]) -> str:
    """How it is treated that many differences are told; ``counts`` as compare.told_together gives them."""
    primary, others = counts
    if not primary + others:
        return ""
    return (
        f"Findings are corrected for the {primary} differences of energy per success and success rate that are told here, and for"
        f" the {others} others by themselves (Holm, 5 % each); intervals are not. 'perhaps': by its own interval only."
    )


def _pair(pair: Pair) -> Iterator[str]:
    yield f"{pair.arm} against {pair.base}: {pair.tasks} tasks in common, {pair.attempts[1]} against {pair.attempts[0]} attempts"
    yield from (f"  refused: {why}" for why in pair.refusals)
    yield from (f"  note: {note}" for note in pair.notes)
    if not pair.differences:
        return
    table = [("", _cut(pair.base), _cut(pair.arm), "difference", "finding")]
    for one in pair.differences:
        percent = one.measure is SUCCESS_RATE
        base, arm, difference = (_cell(each, percent) for each in (one.base, one.arm, one.difference))
        table.append((f"{one.measure.label}{_unit(one.measure)}", base, arm, difference, _finding(pair, one)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _finding(pair: Pair, one: Difference) -> str:
    if one.finding not in (BETTER, WORSE, PERHAPS_BETTER, PERHAPS_WORSE):
        return one.finding
    times = "" if one.quotient.value is None else f" ({one.quotient.value:.2f} times {interval(one.quotient)})"
    return f"{_cut(pair.arm)} is {one.finding}{times}"


def _unit(measure: Measure) -> str:
    return f" ({measure.unit})" if measure.unit else ""


def _cell(estimate: Estimate, percent: bool) -> str:
    return f"{number(estimate.value, percent=percent)} {interval(estimate, percent=percent)}".rstrip()


def _cut(label: str) -> str:
    return label if len(label) <= 28 else f"{label[:12]}...{label[-13:]}"


def _excluded(comparison: Comparison) -> Iterator[str]:
    if not comparison.excluded:
        return
    counted = Counter((one.arm, one.reason) for one in comparison.excluded)
    yield "left out:"
    for (arm, reason), count in counted.most_common(_MOST_EXCLUDED):
        first = next(one.task_id for one in comparison.excluded if (one.arm, one.reason) == (arm, reason))
        yield f"  {count} of {arm}: {reason}, as {first}"
    if len(counted) > _MOST_EXCLUDED:
        yield f"  and for {len(counted) - _MOST_EXCLUDED} more reasons; --format json tells all"
    yield ""


def estimate_values(estimate: Estimate) -> dict[str, float | None]:
    """``low`` and ``high`` are null without an interval, and where it has no bound."""
    bounds = estimate.interval
    return {"value": estimate.value, "low": bounds.low if bounds else None, "high": bounds.high if bounds else None}


def as_values(comparison: Comparison) -> dict[str, Any]:
    return {
        "arms": [
            {"label": arm.label, "run": arm.run, "model": arm.model, "attempts": len(arm.rows), "simulated": arm.simulated}
            for arm in comparison.arms
        ],
        "pairs": [pair_values(pair) for pair in comparison.pairs],
        "excluded": [
            {"arm": one.arm, "task_id": one.task_id, "reason": one.reason, "file": one.file} for one in comparison.excluded
        ],
        "interval": {"level": 0.95, "resamples": RESAMPLES, "clustered_by": "task"},
        "correction": {"method": "holm", "differences": list(told_together(comparison.pairs))},
    }


def pair_values(pair: Pair) -> dict[str, Any]:
    return {
        "base": pair.base,
        "arm": pair.arm,
        "tasks": pair.tasks,
        "attempts": {"base": pair.attempts[0], "arm": pair.attempts[1]},
        "refusals": list(pair.refusals),
        "notes": list(pair.notes),
        "measures": {
            one.measure.key: {
                "unit": one.measure.unit,
                "lower_is_better": one.measure.lower_is_better,
                "base": estimate_values(one.base),
                "arm": estimate_values(one.arm),
                "difference": estimate_values(one.difference),
                "quotient": estimate_values(one.quotient),
                "p": one.difference.p,
                "p_adjusted": one.adjusted,
                "finding": one.finding,
            }
            for one in pair.differences
        },
    }
