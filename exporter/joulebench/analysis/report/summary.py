"""The summary in three sentences: joules, successes, and caveats about both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from joulebench.analysis.comparison import BETTER, NONE, PERHAPS_BETTER, PERHAPS_WORSE, WORSE
from joulebench.analysis.text import format_number

Values = Mapping[str, Any]


def summary_sentences(content: Values) -> list[str]:
    models: Sequence[Values] = content["models"]
    best = lowest_energy_model(models)
    if best is None:
        first = "No model finished a task that counts, so there are no joules per successful task."
        return [first, _rates(models), _caveats(content)]
    return [_energy(best, content), _success(best, content), _caveats(content)]


def lowest_energy_model(models: Sequence[Values]) -> Values | None:
    """The model with the fewest joules per success."""
    known = [model for model in models if _value(model, "joules_per_success") is not None]
    return min(known, key=lambda model: float(_value(model, "joules_per_success") or 0.0), default=None)


def _energy(best: Values, content: Values) -> str:
    energy = f"{_bounded(best, 'joules_per_success', 'J')} per successful task"
    if len(content["models"]) == 1:
        return f"{best['label']} uses {energy}, including the joules of its failures."
    others = _findings(best, content, "joules_per_success")
    open_ = [(label, finding) for label, finding in others if finding != BETTER]
    if not open_:
        return f"{best['label']} uses the fewest joules: {energy}, a difference shown against every other model."
    label, finding = open_[0]
    more = f" (and {len(open_) - 1} more)" if len(open_) > 1 else ""
    explained = {
        NONE: f"no difference is shown in {_in_common(best, label, content)} tasks; more tasks would narrow the interval",
        PERHAPS_BETTER: f"it is better only before the correction for {content['comparison_counts'][0]} comparisons",
    }
    why = f"against {label}{more} {explained[finding]}" if finding in explained else f"against {label}{more}: {finding}"
    return f"No winner by energy can be named: {best['label']} has the lowest, {energy}, but {why}."


def _success(best: Values, content: Values) -> str:
    mine = f"{best['label']} finishes {_bounded(best, 'success_rate', percent=True)} of its tasks"
    if len(content["models"]) == 1:
        return f"{mine}."
    findings = _findings(best, content, "success_rate")
    words_by_finding = {
        BETTER: "more than {}",
        WORSE: "fewer than {}",
        PERHAPS_BETTER: "perhaps more than {}",
        PERHAPS_WORSE: "perhaps fewer than {}",
        NONE: "no difference shown from {}",
    }
    parts = []
    for finding, words in words_by_finding.items():
        named = [label for label, each in findings if each == finding]
        if named:
            parts.append(words.format(_listed(named)))
    other = [label for label, each in findings if each not in words_by_finding]
    if other:
        parts.append(f"not compared with {_listed(other)}")
    return f"{mine}: {'; '.join(parts)}."


def _rates(models: Sequence[Values]) -> str:
    return f"{sum(model['successes'] for model in models)} of {sum(model['counted'] for model in models)} attempts succeeded."


def _caveats(content: Values) -> str:
    attempts = sum(model["attempts"] for model in content["models"])
    reasons = [(str(each["reason"]).partition(" (")[0], each["energy_only"]) for each in content["excluded"]]
    excluded = Counter(reason for reason, energy_only in reasons if not energy_only)
    parts = []
    if content["simulated"]:
        parts.append("the joules are those of a SIMULATED GPU and say nothing about a real one")
    why = ", ".join(f"{count} {reason}" for reason, count in excluded.most_common())
    excluded_count = excluded.total()
    parts.append(
        f"{excluded_count} of {attempts} attempts do not count ({why})" if excluded else f"all {attempts} attempts count"
    )
    if without_joules := sum(energy_only for _, energy_only in reasons):
        parts.append(f"{without_joules} attempts without joules count for success and time only")
    if missing := sum(run["missing"] for run in content["runs"]):
        parts.append(f"{missing} planned tasks left no result")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _findings(best: Values, content: Values, key: str) -> list[tuple[str, str]]:
    """(other model, finding about the best model against it)"""
    opposite = {BETTER: WORSE, WORSE: BETTER, PERHAPS_BETTER: PERHAPS_WORSE, PERHAPS_WORSE: PERHAPS_BETTER}
    findings = []
    for pair in content["pairs"]:
        if best["label"] not in (pair["base"], pair["arm"]):
            continue
        other = pair["arm"] if pair["base"] == best["label"] else pair["base"]
        if pair["refusals"]:
            findings.append((other, f"not compared, {pair['refusals'][0].partition(';')[0]}"))
            continue
        finding = pair["measures"][key]["finding"]
        findings.append((other, finding if pair["arm"] == best["label"] else opposite.get(finding, finding)))
    return findings


def _in_common(best: Values, label: str, content: Values) -> int:
    return next((int(pair["tasks"]) for pair in content["pairs"] if {pair["base"], pair["arm"]} == {best["label"], label}), 0)


def _value(model: Values, key: str) -> float | None:
    value = model["measures"].get(key, {}).get("value")
    return None if value is None else float(value)


def _bounded(model: Values, key: str, unit: str = "", *, percent: bool = False) -> str:
    each = model["measures"][key]
    text = f"{format_number(each['value'], percent=percent)} {unit}".rstrip()
    if each["low"] is None and each["high"] is None:
        return text
    low, high = ("unbounded" if each[bound] is None else format_number(each[bound], percent=percent) for bound in ("low", "high"))
    return f"{text} [{low} to {high}]"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
