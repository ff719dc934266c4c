"""Carbon and water of the models of runs that were exported with emission factors, over all attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from joulebench.analysis.comparison import PER_SUCCESS, Arm, measure_estimates
from joulebench.analysis.text import estimate_values, format_number
from joulebench.parsing import sum_or_none
from joulebench.schema.columns import EMISSION_UNITS
from joulebench.schema.result import EmissionResult
from joulebench.units import kwh_from_joules

Row = Mapping[str, Any]


def emission_rows(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """A row for each arm and kind that has a factor. Sums are over the attempts whose amount is known; ``factor`` is their amount
    for a kWh, ``factor_low`` and ``factor_high`` the lowest and the highest of any attempt."""
    return [_row(arm, kind) for arm in arms for kind in EMISSION_UNITS if any(kind in each.emissions for each in arm.attempts)]


def _row(arm: Arm, kind: str) -> dict[str, Any]:
    attempts = [each for each in arm.attempts if kind in each.emissions]
    known = [each for each in attempts if each.emissions[kind].amount is not None]
    emissions = [each.emissions[kind] for each in known]
    amount, joules = (sum_or_none(values) for values in ([e.amount for e in emissions], [e.joules for e in emissions]))
    # The estimator of joules per success, over amounts: an attempt that failed counts with what it emitted.
    charged = [replace(each, joules=each.emissions[kind].amount) for each in known]
    per_success = measure_estimates(charged)[PER_SUCCESS.key] if charged else None
    given = [each.emissions[kind] for each in attempts]
    return {
        "arm": arm.label,
        "kind": kind,
        "unit": EMISSION_UNITS[kind],
        "attempts": len(arm.attempts),
        "known": len(known),
        "amount": amount,
        "amount_low": sum_or_none(e.low for e in emissions),
        "amount_high": sum_or_none(e.high for e in emissions),
        "per_success": None if per_success is None else estimate_values(per_success),
        "factor": None if amount is None or not joules else amount / kwh_from_joules(joules),
        "factor_low": min((e.factor_low for e in emissions if e.factor_low is not None), default=None),
        "factor_high": max((e.factor_high for e in emissions if e.factor_high is not None), default=None),
        "of": _distinct(e.of for e in given),
        "sources": _distinct(e.source for e in given),
        "dates": _distinct(_date(e) for e in given),
        "simulated": any(e.simulated for e in emissions),
        "quality": dict(Counter(e.quality for e in given)),
        "reasons": dict(Counter(reason for e in given if e.amount is None for reason in e.reasons)),
    }


def _date(emission: EmissionResult) -> str | None:
    """The day of a constant; of a series its query, since its samples have their own times."""
    return emission.date if emission.query is None else f"series {emission.query}"


def _distinct(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def emission_notes(rows: Sequence[Row]) -> Iterator[str]:
    """What a reader of the rows has to know: factors that differ between models or among the tasks of one."""
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        factors = {(tuple(row["of"]), tuple(row["sources"]), tuple(row["dates"])) for row in own}
        if len(factors) > 1:
            yield f"{kind}: the models have different factors, so a difference between them is not of the models alone"
        for row in own:
            if max(map(len, (row["of"], row["sources"], row["dates"]))) > 1:
                yield f"{kind} of {row['arm']}: its tasks have several factors"


def format_factor(row: Row) -> str:
    """The factor for a kWh, and its range where it is not the same for all tasks."""
    low, high = row["factor_low"], row["factor_high"]
    if row["factor"] is None or low is None or high is None:
        return "-"
    known = format_number(row["factor"])
    return known if low == high else f"{known} ({format_number(low)} to {format_number(high)})"


def emissions_text(rows: Sequence[Row]) -> str:
    """Lines for ``compare``; empty without a row."""
    if not rows:
        return ""
    lines = ["emissions, of all attempts:"]
    for row in rows:
        each, unit = row["per_success"], row["unit"]
        per_success = "unknown" if each is None or each["value"] is None else f"{format_number(each['value'])} {unit}"
        if each is not None and each["low"] is not None and each["high"] is not None:
            per_success += f" [{format_number(each['low'])} to {format_number(each['high'])}]"
        simulated = ", SIMULATED joules" if row["simulated"] else ""
        lines.append(
            f"  {row['arm']}: {row['kind']} {per_success} per success, {format_number(row['amount'])} {unit} in {row['known']} of"
            f" {row['attempts']} attempts; of {' and '.join(row['of'])}, {format_factor(row)} {unit}/kWh,"
            f" {'; '.join(row['sources'])} ({', '.join(row['dates'])}){simulated}"
        )
    return "\n".join([*lines, *(f"  note: {note}" for note in emission_notes(rows))])
