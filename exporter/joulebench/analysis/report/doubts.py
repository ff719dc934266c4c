"""The tables of failure prediction: what the risks are worth, which tools and tasks make a model unsure, and the worst calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from joulebench.analysis.report.table import Table, bounded
from joulebench.analysis.show_comparison import number

Content = dict[str, Any]


def all_of(failures: Content) -> Iterator[Table]:
    yield prediction(failures)
    yield _doubts("doubt-tools", "Confidence by tool", "tool", "tasks", failures["tools"])
    yield _doubts(
        "doubt-tasks", "Confidence by task: those of which each model is least sure", "task", "tries", failures["tasks"]
    )
    yield calls(failures)


def prediction(failures: Content) -> Table:
    rows = []
    for one in failures["predictions"]:
        start = [one["model"], number(one["tasks"]), number(one["failures"])]
        if one["refused"]:
            more = "" if one["more_tasks"] is None else f", in about {one['more_tasks']} more tasks at this rate"
            rows.append([*start, *[""] * 5, f"refused: {one['refused']}{more}"])
            continue
        area = {"value": one["auroc"], "low": one["auroc_low"], "high": one["auroc_high"]}
        worth = [bounded(area), number(one["brier"]), number(one["brier_base"]), bounded(one["skill"]), number(one["ece"])]
        rows.append([*start, *worth, one["told"]])
    columns = ["model", "tasks", "failures", "AUROC", "Brier", "Brier of the base rate", "skill", "ECE", "finding"]
    notes = [
        "The failure risk of each task, in the table of tasks, comes from a logistic regression over the confidence measures that"
        " was fitted to and calibrated on tasks of other names. Skill = 1 - Brier / Brier of the base rate: 0 is worth nothing.",
        *([f"No prediction: {failures['note']}"] if failures["note"] else []),
    ]
    return Table("prediction", "Failure prediction", columns, rows, frozenset(range(1, 8)), notes, labels=frozenset((0,)))


def _doubts(key: str, title: str, what: str, units: str, found: Sequence[Content]) -> Table:
    rows = [
        [
            one["name"],
            one["model"],
            *(number(one[name]) for name in ("calls", "scored", "attempts")),
            bounded(one["confidence"]),
            bounded(one["failed"], percent=True),
        ]
        for one in found
    ]
    columns = [what, "model", "calls", "with a confidence", units, "mean confidence", "calls that failed"]
    return Table(key, title, columns, rows, frozenset(range(2, 7)), labels=frozenset((0, 1)))


def calls(failures: Content) -> Table:
    outcome = {True: "success", False: "failure", None: "unknown"}
    rows = [
        [
            one["kind"],
            number(one["score"]),
            one["tool"],
            "-" if one["args"] is None else one["args"],
            one["outcome"],
            "-" if one["answer"] is None else one["answer"],
            one["task_id"],
            outcome[one["success"]],
            one["model"],
        ]
        for one in failures["calls"]
    ]
    columns = ["why listed", "confidence", "tool", "arguments", "outcome", "answer or error", "task", "task's outcome", "model"]
    notes = [
        "Of each model the calls with the lowest confidence, and those that failed with the highest. Text is from the journal."
    ]
    return Table("doubt-calls", "Worst tool calls", columns, rows, frozenset((1,)), notes, frozenset((0, 4, 6)), frozenset((8,)))
