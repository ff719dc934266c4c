"""All numbers of a report as plain values, from which every format is made, so that they agree.

An unknown number is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from joulebench.analysis import comparison
from joulebench.analysis.bottlenecks.balance import balance_of_tasks
from joulebench.analysis.bottlenecks.bottlenecks import find_bottlenecks
from joulebench.analysis.bottlenecks.kv_cache import kv_cache_of_tasks
from joulebench.analysis.bottlenecks.tasks import Finding, load_task_runs
from joulebench.analysis.bottlenecks.throttling import throttling_of_tasks
from joulebench.analysis.comparison import PER_SUCCESS, Arm, Comparison
from joulebench.analysis.cost import cost_values
from joulebench.analysis.emissions import emission_rows
from joulebench.analysis.prediction.failures import predict_failures
from joulebench.analysis.prediction.low_confidence import summarize_low_confidence
from joulebench.analysis.prediction.records import load_task_records
from joulebench.analysis.prediction.text import failure_values
from joulebench.analysis.report.summary import lowest_energy_model, summary_sentences
from joulebench.analysis.runs import Attempt, RunResults, charge_scopes
from joulebench.analysis.text import estimate_values, excluded_values, pair_values
from joulebench.meters import INSIDE, SCOPES
from joulebench.prices import PriceList
from joulebench.schema.scopes import GPU

Content = dict[str, Any]

PHASES = ("prefill", "decode", "llm_unsplit", "load", "tool_wait", "other")
MOST_LOW_CONFIDENCE = 20
"""Tasks of a model in the table of confidence by task, the lowest first; the table of tasks has that of every task."""
NOTED_SHARE = 0.01
"""Share of the joules of a model below which no note says that a phase is not exact."""
MOST_PAIRED = 12
"""Arms of which every pair is compared; of more, each with the one that uses the fewest joules per success."""


def build_content(
    runs: Sequence[RunResults],
    prices: PriceList | None,
    utilization: float,
    allow: Collection[str],
    created: str,
    *,
    findings: Sequence[Content] = (),
    failures: Content | None = None,
    cache: bool = True,
) -> Content:
    """``findings`` and ``failures`` as ``load_findings`` and ``load_failures`` give them; ``created``: when, as text.

    ``cache`` False: the API cost as if no prompt token had been cached.
    """
    arms = comparison.arms_of_runs([(run, None) for run in runs])
    counted = {arm.label: [each for each in arm.attempts if not comparison.exclusion_reasons(each, allow)] for arm in arms}
    models = [_model(arm, counted[arm.label]) for arm in arms]
    for model in models:
        model["pareto"] = _on_pareto_front(model, models)
    pairs = comparison.apply_holm([pair for each in _comparisons(arms, models, allow) for pair in each.pairs])
    predicted = [risk for prediction in failures["predictions"] for risk in prediction["risks"]] if failures else []
    risks = {(risk["run"], risk["task_id"], risk["worker"]): risk for risk in predicted}
    content: Content = {
        "created": created,
        "simulated": any(arm.simulated for arm in arms),
        "allowed": sorted(allow),
        "runs": [_run(run) for run in runs],
        "models": models,
        "scopes": [row for arm in arms for row in scope_rows(arm)],
        "emissions": emission_rows(arms),
        "pairs": [pair_values(pair) for pair in pairs],
        "comparison_counts": list(comparison.comparison_counts(pairs)),
        "tasks": [_task(arm, attempt, allow, risks) for arm in arms for attempt in arm.attempts],
        "excluded": [excluded_values(each) for arm in arms for each in comparison.excluded_attempts(arm, allow)],
        "findings": list(findings),
        "failures": _without_risks(failures),
        "cost": None if prices is None else cost_values(counted, prices, utilization, cache=cache),
    }
    return {"summary": summary_sentences(content), **content}


def scope_rows(arm: Arm) -> list[Content]:
    """The joules of each scope that a meter measured, over all attempts of an arm. None where only the GPUs were measured.

    Attempts without joules of a scope do not count for it; ``gpu_share``, of a scope that the GPUs are
    inside, is over those that have both.
    """
    scopes = [scope for scope in SCOPES if any(scope in attempt.scopes for attempt in arm.attempts)]
    if not any(scope != GPU for scope in scopes):
        return []
    rows = []
    for scope in scopes:
        known = [each for each in arm.attempts if scope in each.scopes and each.scopes[scope].joules is not None]
        energies = [each.scopes[scope] for each in known]
        both = [each for each in known if GPU in each.scopes and each.scopes[GPU].joules is not None]
        gpu, own = (_sum(each.scopes[name].joules for each in both) for name in (GPU, scope))
        seconds = _sum(each.seconds for each in known)
        joules = _sum(energy.joules for energy in energies)
        estimate = (
            comparison.measure_estimates([charge_scopes(each, [scope]) for each in known])[PER_SUCCESS.key] if known else None
        )
        rows.append(
            {
                "arm": arm.label,
                "scope": scope,
                "meters": list(dict.fromkeys(energy.meter for energy in energies)),
                "simulated": any(energy.simulated for energy in energies),
                "attempts": len(arm.attempts),
                "known": len(known),
                "joules": joules,
                "joules_low": _sum(energy.low for energy in energies),
                "joules_high": _sum(energy.high for energy in energies),
                "mean_watts": None if joules is None or not seconds else joules / seconds,
                "gpu_share": None if GPU not in INSIDE[scope] or not own or gpu is None else gpu / own,
                "joules_per_success": None if estimate is None else estimate_values(estimate),
                "quality": dict(Counter(energy.quality for energy in energies)),
            }
        )
    return rows


def load_findings(directories: Iterable[Path]) -> list[Content]:
    """Findings of all bottleneck analyses over all runs; a finding that two analyses make is listed once."""
    tasks = load_task_runs(directories)
    findings: dict[tuple[str, str], Finding] = {}
    for of_model in (
        *(each.findings for each in find_bottlenecks(tasks)),
        *(each.findings for each in throttling_of_tasks(tasks)),
        *(each.findings for each in balance_of_tasks(tasks)),
        *(each.findings for each in kv_cache_of_tasks(tasks)),
    ):
        for finding in of_model:
            findings.setdefault((finding.scope, finding.kind), finding)
    return [{**asdict(finding), "tasks": list(finding.tasks)} for finding in findings.values()]


def load_failures(directories: Iterable[Path]) -> Content:
    """Failure predictions and low confidence over all runs."""
    tasks = load_task_records(list(directories))
    return failure_values(predict_failures(tasks), summarize_low_confidence(tasks))


def _comparisons(arms: Sequence[Arm], models: Sequence[Content], allow: Collection[str]) -> Iterator[Comparison]:
    if 2 <= len(arms) <= MOST_PAIRED:
        yield comparison.compare(arms, allow)
    elif len(arms) > MOST_PAIRED:
        best = lowest_energy_model(models)
        base = next((arm for arm in arms if best is not None and arm.label == best["label"]), arms[0])
        yield from (comparison.compare([base, arm], allow) for arm in arms if arm is not base)


def _run(run: RunResults) -> Content:
    return {
        "run": run.name,
        "attempts": len(run.attempts),
        "planned": run.planned,
        "missing": run.missing,
        "suites": sorted({each.suite for each in run.attempts}),
        "gpus": sorted({" + ".join(each.gpus) for each in run.attempts if each.gpus}),
        "device_bases": dict(Counter(each.device_basis for each in run.attempts if each.device_basis)),
        "devices": sorted({device for each in run.attempts for device in each.devices}),
        "notes": list(run.notes),
    }


def _model(arm: Arm, counted: Sequence[Attempt]) -> Content:
    decoded = [(each.decode_tokens, each.decode_seconds) for each in counted]
    tokens = sum(a for a, b in decoded if a is not None and b is not None)
    seconds = sum(b for a, b in decoded if a is not None and b is not None)
    return {
        "label": arm.label,
        "run": arm.run,
        "model": arm.model,
        "simulated": arm.simulated,
        "attempts": len(arm.attempts),
        "counted": len(counted),
        "tasks": len({each.task for each in counted}),
        "without_joules": sum(each.joules is None for each in counted),
        "successes": sum(each.success is True for each in counted),
        "measures": {key: estimate_values(estimate) for key, estimate in comparison.measure_estimates(counted).items()}
        if counted
        else {},
        "joules": _sum(each.joules for each in counted),
        "joules_low": _sum(each.joules_low for each in counted),
        "joules_high": _sum(each.joules_high for each in counted),
        "ttft_seconds": _mean(each.ttft_seconds for each in counted),
        "decode_tokens_per_second": tokens / seconds if seconds else None,
        "seconds_share": _shares([each.seconds_by_phase for each in counted]),
        "joules_share": _shares([each.joules_by_phase for each in counted]),
        "phase_notes": list(_phase_notes([each for each in counted if each.joules_by_phase])),
        "confidence": _mean(each.confidence for each in counted),
        "least_confidence": min((each.least_confidence for each in counted if each.least_confidence is not None), default=None),
        "throttled_seconds": _sum((each.throttled_seconds for each in arm.attempts), some=True),
        "max_temp_c": max((each.max_temp_c for each in arm.attempts if each.max_temp_c is not None), default=None),
        "peak_vram_mib": max((each.peak_vram_mib for each in arm.attempts if each.peak_vram_mib is not None), default=None),
        "quality": dict(Counter(each.quality for each in arm.attempts)),
    }


def _phase_notes(attempts: Sequence[Attempt]) -> Iterator[str]:
    """What the energy by phase rests on, where it is not as exact as it can be."""
    shares = _shares([each.joules_by_phase for each in attempts])
    short = Counter(phase for each in attempts for phase in each.short_phases if shares.get(phase, 0.0) >= NOTED_SHARE)
    if short:
        phases = ", ".join(f"{phase.replace('_', ' ')} in {count} of {len(attempts)} tasks" for phase, count in short.items())
        yield f"the bounds of a phase lie more than 20 % of its joules apart: {phases}"
    if stored := sum(each.phase_source == "prometheus" for each in attempts):
        yield (
            f"the energy of phases comes from samples in Prometheus in {stored} of {len(attempts)} tasks, coarser than the"
            " exporter's own record"
        )


def _without_risks(failures: Content | None) -> Content | None:
    """The risks are in the table of tasks."""
    if failures is None:
        return None
    predictions = [{key: value for key, value in each.items() if key != "risks"} for each in failures["predictions"]]
    tasks: list[Content] = []
    seen = Counter[str]()
    for task in failures["tasks"]:
        seen[task["model"]] += 1
        if seen[task["model"]] <= MOST_LOW_CONFIDENCE:
            tasks.append(task)
    return {**failures, "predictions": predictions, "tasks": tasks}


Risks = Mapping[tuple[str, str, str], Content]
"""By run, task_id and worker."""


def _task(arm: Arm, each: Attempt, allow: Collection[str], risks: Risks) -> Content:
    risk = risks.get((each.run, each.task_id, each.worker), {})
    return {
        "arm": arm.label,
        "task_id": each.task_id,
        "name": each.name,
        "status": each.status,
        "success": each.success,
        "seconds": each.seconds,
        "joules": each.joules,
        "joules_low": each.joules_low,
        "joules_high": each.joules_high,
        "ttft_seconds": each.ttft_seconds,
        "decode_tokens_per_second": each.decode_tokens / each.decode_seconds
        if each.decode_tokens and each.decode_seconds
        else None,
        "prompt_tokens": each.prompt_tokens,
        "completion_tokens": each.completion_tokens,
        "seconds_share": _shares([each.seconds_by_phase]),
        "tool_calls": each.tool_calls,
        "least_confidence": each.least_confidence,
        "failure_risk": risk.get("risk"),
        "failure_risk_reason": risk.get("why", ""),
        "throttled_seconds": each.throttled_seconds,
        "quality": each.quality,
        "reasons": list(each.reasons),
        "device_basis": each.device_basis,
        "devices": list(each.devices),
        "excluded": [reason for reason in each.exclusions if reason not in allow],
        "simulated": each.simulated,
    }


def _on_pareto_front(own: Content, models: Sequence[Content]) -> bool:
    """Whether no other model has as many successes for fewer joules each, or more for as many; False without successes."""

    def place(model: Content) -> tuple[float, float] | None:
        joules = model["measures"].get("joules_per_success", {}).get("value")
        rate = model["measures"].get("success_rate", {}).get("value")
        return None if joules is None or rate is None else (joules, -rate)

    mine = place(own)
    others = [other for model in models if model is not own and (other := place(model)) is not None]
    return mine is not None and not any(a <= mine[0] and b <= mine[1] and (a, b) != mine for a, b in others)


def _shares(by_phase: Sequence[Mapping[str, float]]) -> dict[str, float]:
    sums = Counter[str]()
    for phases in by_phase:
        sums.update(phases)
    total = sum(sums.values())
    return {phase: sums[phase] / total for phase in PHASES if phase in sums} if total else {}


def _sum(values: Iterator[float | None], *, some: bool = False) -> float | None:
    """Sum of all values, or with ``some`` of the known ones; None where there is none."""
    given = list(values)
    known = [value for value in given if value is not None]
    return sum(known) if known and (some or len(known) == len(given)) else None


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
