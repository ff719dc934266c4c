"""Failure prediction and doubts as text, as plain values and as a table to join on run_id and task_id."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from joulebench.analysis.prediction.doubts import Doubt, DoubtfulCall, Doubts
from joulebench.analysis.prediction.failures import Prediction
from joulebench.analysis.show_comparison import estimate_values, interval, number
from joulebench.results.write import csv_cell

COLUMNS = ("run_id", "task_id", "worker", "task_name", "model_name", "success", "tool_calls", "min_tool_confidence")
RISK = ("failure_risk", "failure_risk_reason")
_MOST = 10
_NOTES = (
    "failure_risk: P(failure) by a logistic regression over the confidence measures, fitted to and calibrated on tasks of other"
    " names.",
    "Skill: 1 - Brier / Brier of the base rate; 0 is worth nothing. Intervals: 95 %, by resampling whole tasks.",
)


def _plain(record: Any) -> dict[str, Any]:
    """Its fields as they are; dataclasses.asdict copies all that is below, which takes seconds of ten thousand tasks."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def as_csv(predictions: Sequence[Prediction]) -> str:
    """One line for each task; the risk is empty where there is none, and the reason stands beside it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *RISK])
    for one in (risk for prediction in predictions for risk in prediction.risks):
        known = (one.run, one.task_id, one.worker, one.name, one.model, one.success, one.calls, one.least_confidence)
        writer.writerow([csv_cell(value) for value in (*known, one.risk, one.why)])
    return out.getvalue()


def as_values(predictions: Sequence[Prediction], doubts: Doubts) -> dict[str, Any]:
    return {
        "predictions": [prediction_values(one) for one in predictions],
        "tools": [doubt_values(one) for one in doubts.tools],
        "tasks": [doubt_values(one) for one in doubts.tasks],
        "calls": [_plain(one) for one in doubts.calls],
    }


def prediction_values(one: Prediction) -> dict[str, Any]:
    return {
        **_plain(one),
        "runs": list(one.runs),
        "skill": estimate_values(one.skill),
        "beats_base_rate": one.beats_base_rate,
        "told": one.told,
        "bins": [_plain(each) for each in one.bins],
        "risks": [_plain(each) for each in one.risks],
    }


def doubt_values(one: Doubt) -> dict[str, Any]:
    return {**_plain(one), "confidence": estimate_values(one.confidence), "failed": estimate_values(one.failed)}


def as_text(predictions: Sequence[Prediction], doubts: Doubts) -> str:
    lines: list[str] = []
    for one in predictions:
        lines += [*_prediction(one), ""]
        for what, found in (("tool", doubts.tools), ("task", doubts.tasks)):
            lines += [*_doubts(what, [each for each in found if each.model == one.model]), ""]
        lines += [*_calls([each for each in doubts.calls if each.model == one.model]), ""]
    return "\n".join([*lines, *_NOTES])


def _prediction(one: Prediction) -> Iterator[str]:
    yield f"model {one.model}: {one.failures} failures in {one.tasks} tasks with a confidence; runs {', '.join(one.runs)}"
    if one.refused:
        yield f"  refused: {refusal(one)}"
        return
    area = "unknown" if one.auroc_low is None else f"{one.auroc_low:.3f} to {one.auroc_high:.3f}"
    yield f"  AUROC {number(one.auroc)} [{area}]: {one.told}"
    skill = f"{number(one.skill.value)} {interval(one.skill)}"
    yield f"  Brier {number(one.brier)}, of the base rate {number(one.brier_base)}; skill {skill}"
    yield f"  {'risk':>6} {'failed':>7} {'95 % CI':<14} {'n':>5}   ECE {number(one.ece)}"
    for bin_ in one.bins:
        bounds = f"{100 * bin_.low:.0f} to {100 * bin_.high:.0f} %"
        yield f"  {100 * bin_.risk:>4.0f} % {100 * bin_.failed:>5.0f} % {bounds:<14} {bin_.n:>5}"
    yield "  the riskiest:"
    riskiest = sorted((risk for risk in one.risks if risk.risk is not None), key=lambda risk: -(risk.risk or 0.0))
    for risk in riskiest[:_MOST]:
        outcome = {True: "succeeded", False: "failed", None: "outcome unknown"}[risk.success]
        yield f"    {100 * (risk.risk or 0.0):>4.0f} %  {risk.task_id} in {risk.run}: {outcome}"


def refusal(one: Prediction) -> str:
    more = "" if one.more_tasks is None else f" (at this rate in about {one.more_tasks} more tasks)"
    return f"{one.refused}{more}"


def _doubts(what: str, found: Sequence[Doubt]) -> Iterator[str]:
    yield f"confidence by {what}, the least sure first"
    yield f"  {'confidence':<24} {'failed calls':<28} {'n':>5} {'tasks' if what == 'tool' else 'tries':>5}  {what}"
    for one in found[:_MOST]:
        sure = f"{number(one.confidence.value)} {interval(one.confidence)}"
        failed = f"{number(one.failed.value, percent=True)} {interval(one.failed, percent=True)}"
        yield f"  {sure:<24} {failed:<28} {one.calls:>5} {one.attempts:>5}  {one.name}"
    if len(found) > _MOST:
        yield f"  and {len(found) - _MOST} more; --format json tells all"


def _calls(found: Sequence[DoubtfulCall]) -> Iterator[str]:
    yield "worst tool calls"
    for one in found:
        text = "its text is in no journal here" if one.args is None else f"{one.args} -> {one.answer}"
        yield f"  {one.kind}: {one.score:.3f} {one.tool} ({one.outcome}) in {one.task_id}: {text}"
    if not found:
        yield "  none has a confidence"
