"""Confidence reports and failure predictions as text, as plain values, and as a table to join by run and task."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from joulebench.analysis.prediction.confidence import (
    ABOVE,
    LEAST_FAILURES,
    LEAST_SUCCESSES,
    REGRESSION,
    ConfidenceReport,
    LevelResult,
    MeasureResult,
    Saving,
)
from joulebench.analysis.prediction.failures import Prediction
from joulebench.analysis.prediction.low_confidence import ConfidenceSummary, LowConfidence, WorstCall
from joulebench.analysis.prediction.records import NO_ERROR_SEEN
from joulebench.analysis.text import estimate_values, format_interval, format_number
from joulebench.results.write import csv_cell

_HEAD = (
    f"  {'measure':<14} {'n':>5} {'failures':>8} {'base':>5}  {'AUROC':>5} {'95 % CI':<13}"
    f" {'Brier':>6} {'ECE':>6} {'noise':>6} {'AURC':>6}  finding"
)
_CONFIDENCE_NOTES = (
    "AUROC: chance is 0.5; intervals by DeLong's variance, clustered by task.",
    "ECE: 'noise' is what perfectly calibrated scores would show with as many samples.",
    "base: share of successes. AURC: less is better, chance is 1 - base.",
    f"{REGRESSION}: logistic regression over all measures, each task predicted by a fit to other tasks.",
    f"{NO_ERROR_SEEN}: whether all calls of the task succeeded, which needs no confidence.",
    "Each row is one of many comparisons: the best of them looks better here than it will be on new tasks.",
)


def confidence_text(reports: Sequence[ConfidenceReport]) -> str:
    lines: list[str] = []
    for report in reports:
        lines += [*_confidence_of_model(report), ""]
    lines += _CONFIDENCE_NOTES
    return "\n".join(lines)


def _confidence_of_model(report: ConfidenceReport) -> Iterator[str]:
    yield (
        f"model {report.model}: {report.calls} tool calls, {report.scored_calls} with a score, in {report.tasks} tasks"
        f" ({report.without_call} without a call); runs {', '.join(report.runs)}"
    )
    for level in report.levels:
        yield from _level(level)
    if report.refused:
        yield f"no claim for {report.model}: no level has {LEAST_FAILURES} failures and {LEAST_SUCCESSES} successes"
        return
    yield from _savings(report.savings, simulated=report.simulated)


def _level(level: LevelResult) -> Iterator[str]:
    rate = "" if level.base_rate is None else f", {100 * level.base_rate:.1f} % good"
    yield f"{level.level}: n {level.n}, failures {level.failures}{rate}"
    if level.refused:
        yield f"  refused: {level.refused}"
        return
    yield _HEAD
    yield from map(_measure, level.measures)
    if not any(row.finding == ABOVE and row.measure != NO_ERROR_SEEN for row in level.measures):
        yield "  a null result: no measure separates successes from failures better than chance"


def _measure(row: MeasureResult) -> str:
    start = f"  {row.measure:<14} {row.n:>5} {row.failures:>8} {_number(row.base_rate, 5, 2)}"
    if row.refused:
        return f"{start}  refused: {row.refused}"
    interval = "unknown" if row.auroc_low is None else f"{row.auroc_low:.3f}-{row.auroc_high:.3f}"
    return (
        f"{start}  {_number(row.auroc, 5)} {interval:<13} {_number(row.brier, 6)}"
        f" {_number(row.ece, 6)} {_number(row.ece_noise, 6)} {_number(row.aurc, 6)}"
        f"  {row.finding}"
    )


def _savings(savings: Sequence[Saving], *, simulated: bool) -> Iterator[str]:
    yield "giving a task up at its first call with a score below a threshold" + (
        " (joules of a SIMULATED GPU)" if simulated else ""
    )
    yield f"  {'threshold':>9} {'given up':>8} {'failures':>8} {'lost successes':>14} {'joules saved in failures':>25}"
    for each in savings:
        saved = "unknown" if each.saved_joules is None else f"{each.saved_joules:.0f}"
        if each.saved_joules is not None and each.all_joules:
            saved += f" ({100 * each.saved_joules / each.all_joules:.0f} %)"
        yield f"  {each.threshold:>9.2f} {each.given_up:>8} {each.failures:>8} {each.lost_successes:>14} {saved:>25}"


def _number(value: float | None, width: int, digits: int = 3) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"


COLUMNS = ("run_id", "task_id", "worker", "task_name", "model_name", "success", "tool_calls", "min_tool_confidence")
RISK = ("failure_risk", "failure_risk_reason")
_MOST = 10
_FAILURE_NOTES = (
    "failure_risk: P(failure) by a logistic regression over the confidence measures, fitted to and calibrated on tasks of other"
    " names.",
    "Skill: 1 - Brier / Brier of the base rate; 0 is no better. Intervals: 95 %, by resampling whole tasks.",
)


def field_values(record: Any) -> dict[str, Any]:
    """Its fields as they are; dataclasses.asdict copies all that is below, which takes seconds of ten thousand tasks."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def risks_csv(predictions: Sequence[Prediction]) -> str:
    """One line for each task; the risk is empty where there is none, and the reason stands beside it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *RISK])
    for each in (risk for prediction in predictions for risk in prediction.risks):
        known = (each.run, each.task_id, each.worker, each.name, each.model, each.success, each.calls, each.least_confidence)
        writer.writerow([csv_cell(value) for value in (*known, each.risk, each.why)])
    return out.getvalue()


def failure_values(predictions: Sequence[Prediction], low: LowConfidence) -> dict[str, Any]:
    return {
        "predictions": [prediction_values(entry) for entry in predictions],
        "tools": [summary_values(each) for each in low.tools],
        "tasks": [summary_values(each) for each in low.tasks],
        "calls": [field_values(entry) for entry in low.calls],
    }


def prediction_values(prediction: Prediction) -> dict[str, Any]:
    return {
        **field_values(prediction),
        "runs": list(prediction.runs),
        "skill": estimate_values(prediction.skill),
        "beats_base_rate": prediction.beats_base_rate,
        "summary": prediction.summary,
        "bins": [field_values(each) for each in prediction.bins],
        "risks": [field_values(each) for each in prediction.risks],
    }


def summary_values(summary: ConfidenceSummary) -> dict[str, Any]:
    return {
        **field_values(summary),
        "confidence": estimate_values(summary.confidence),
        "failed": estimate_values(summary.failed),
    }


def failures_text(predictions: Sequence[Prediction], low: LowConfidence) -> str:
    lines: list[str] = []
    for entry in predictions:
        lines += [*_prediction(entry), ""]
        for what, summaries in (("tool", low.tools), ("task", low.tasks)):
            lines += [*_summaries(what, [each for each in summaries if each.model == entry.model]), ""]
        lines += [*_calls([each for each in low.calls if each.model == entry.model]), ""]
    return "\n".join([*lines, *_FAILURE_NOTES])


def _prediction(prediction: Prediction) -> Iterator[str]:
    runs = ", ".join(prediction.runs)
    yield f"model {prediction.model}: {prediction.failures} failures in {prediction.tasks} tasks with a confidence; runs {runs}"
    if prediction.refused:
        yield f"  refused: {refusal(prediction)}"
        return
    area = "unknown" if prediction.auroc_low is None else f"{prediction.auroc_low:.3f} to {prediction.auroc_high:.3f}"
    yield f"  AUROC {format_number(prediction.auroc)} [{area}]: {prediction.summary}"
    skill = f"{format_number(prediction.skill.value)} {format_interval(prediction.skill)}"
    yield f"  Brier {format_number(prediction.brier)}, of the base rate {format_number(prediction.brier_base)}; skill {skill}"
    calibration = f"   ECE {format_number(prediction.ece)}, {format_number(prediction.ece_noise)} if perfectly calibrated"
    yield f"  {'risk':>6} {'failed':>7} {'95 % CI':<14} {'n':>5}{calibration}"
    for bin_ in prediction.bins:
        bounds = f"{100 * bin_.low:.0f} to {100 * bin_.high:.0f} %"
        yield f"  {100 * bin_.risk:>4.0f} % {100 * bin_.failed:>5.0f} % {bounds:<14} {bin_.n:>5}"
    yield "  the riskiest:"
    riskiest = sorted((risk for risk in prediction.risks if risk.risk is not None), key=lambda risk: -(risk.risk or 0.0))
    for risk in riskiest[:_MOST]:
        outcome = {True: "succeeded", False: "failed", None: "outcome unknown"}[risk.success]
        yield f"    {100 * (risk.risk or 0.0):>4.0f} %  {risk.task_id} in {risk.run}: {outcome}"


def refusal(prediction: Prediction) -> str:
    more = "" if prediction.more_tasks is None else f" (at this rate in about {prediction.more_tasks} more tasks)"
    return f"{prediction.refused}{more}"


def _summaries(what: str, summaries: Sequence[ConfidenceSummary]) -> Iterator[str]:
    yield f"confidence by {what}, the lowest first"
    yield f"  {'confidence':<24} {'failed calls':<28} {'n':>5} {'tasks' if what == 'tool' else 'tries':>5}  {what}"
    for each in summaries[:_MOST]:
        mean = f"{format_number(each.confidence.value)} {format_interval(each.confidence)}"
        failed = f"{format_number(each.failed.value, percent=True)} {format_interval(each.failed, percent=True)}"
        yield f"  {mean:<24} {failed:<28} {each.calls:>5} {each.attempts:>5}  {each.name}"
    if len(summaries) > _MOST:
        yield f"  and {len(summaries) - _MOST} more; --format json lists all"


def _calls(calls: Sequence[WorstCall]) -> Iterator[str]:
    yield "worst tool calls"
    for each in calls:
        text = "its text is in no journal here" if each.args is None else f"{each.args} -> {each.answer}"
        yield f"  {each.kind}: {each.score:.3f} {each.tool} ({each.outcome}) in {each.task_id}: {text}"
    if not calls:
        yield "  none has a confidence"
