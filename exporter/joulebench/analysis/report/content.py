"""All numbers of a report as plain values, from which every format is made, so that none can tell another story.

A number that is not known is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from joulebench.analysis import compare, measures
from joulebench.analysis.compare import Arm, Comparison
from joulebench.analysis.report import costs, verdict
from joulebench.analysis.runs import Row, Run
from joulebench.analysis.show_comparison import estimate_values, pair_values
from joulebench.prices import PriceList

Content = dict[str, Any]

PHASES = ("prefill", "decode", "llm_unsplit", "load", "tool_wait", "other")
MOST_TIMELINES = 2000
MOST_DOUBTS = 20
"""Tasks of a model whose confidence is told by itself, the least sure first; every task has its lowest confidence beside it."""
MOST_PAIRED = 12
"""Arms of which every pair is compared; of more, each with the one that spends the fewest joules per success."""


def build(
    found: Sequence[Run],
    prices: PriceList | None,
    utilisation: float,
    allow: Collection[str],
    created: str,
    *,
    findings: Sequence[Content] = (),
    failures: Content | None = None,
) -> Content:
    """``findings`` and ``failures`` as ``report.findings`` and ``report.failures`` read them; ``created``: when, as text."""
    arms = compare.arms_of([(run, None) for run in found])
    kept = {arm.label: [row for row in arm.rows if not compare.reasons(row, allow)] for arm in arms}
    models = [_model(arm, kept[arm.label]) for arm in arms]
    for model in models:
        model["pareto"] = _on_front(model, models)
    compared = compare.settled([pair for one in _comparisons(arms, models, allow) for pair in one.pairs])
    pairs = [pair_values(pair) for pair in compared]
    excluded = [
        {"arm": one.arm, "task_id": one.task_id, "reason": one.reason, "file": one.file}
        for arm in arms
        for one in compare.excluded(arm, allow)
    ]
    told = [one for prediction in failures["predictions"] for one in prediction["risks"]] if failures else []
    risks = {(one["run"], one["task_id"], one["worker"]): one for one in told}
    content: Content = {
        "created": created,
        "simulated": any(arm.simulated for arm in arms),
        "allowed": sorted(allow),
        "runs": [_run(run) for run in found],
        "models": models,
        "pairs": pairs,
        "told_together": list(compare.told_together(compared)),
        "tasks": [_task(arm, row, allow, risks) for arm in arms for row in arm.rows],
        "excluded": excluded,
        "findings": list(findings),
        "failures": _without_risks(failures),
        "cost": None if prices is None else costs.build(kept, prices, utilisation),
    }
    return {"verdict": verdict.sentences(content), **content}


def timelines(found: Sequence[Run]) -> list[Content]:
    return [
        {
            "label": f"{row.task_id} · {row.model} · {row.status} · {run.name}",
            "events": row.timeline.events,
            "power": row.timeline.power,
            "samples": row.timeline.samples,
            "seconds": row.seconds,
            "util": row.util_percent,
            "temp": row.max_temp_c,
            "simulated": row.simulated,
        }
        for run, row in shown(found)
        if row.timeline is not None
    ]


def shown(found: Sequence[Run]) -> list[tuple[Run, Row]]:
    """Those whose timelines a page holds: the failures first, then the longest, as many as it can."""
    rows = [(run, row) for run in found for row in run.rows if row.timeline is not None]
    rows.sort(key=lambda one: (one[1].success is True, -(one[1].seconds or 0.0)))
    return rows[:MOST_TIMELINES]


def _comparisons(arms: Sequence[Arm], models: Sequence[Content], allow: Collection[str]) -> Iterator[Comparison]:
    if 2 <= len(arms) <= MOST_PAIRED:
        yield compare.compare(arms, allow)
    elif len(arms) > MOST_PAIRED:
        best = verdict.least(models)
        base = next((arm for arm in arms if best is not None and arm.label == best["label"]), arms[0])
        yield from (compare.compare([base, arm], allow) for arm in arms if arm is not base)


def _run(run: Run) -> Content:
    return {
        "run": run.name,
        "attempts": len(run.rows),
        "planned": run.planned,
        "missing": run.missing,
        "suites": sorted({row.suite for row in run.rows}),
        "gpus": sorted({" + ".join(row.gpus) for row in run.rows if row.gpus}),
        "notes": list(run.notes),
    }


def _model(arm: Arm, kept: Sequence[Row]) -> Content:
    decoded = [(row.decode_tokens, row.decode_seconds) for row in kept]
    tokens = sum(a for a, b in decoded if a is not None and b is not None)
    seconds = sum(b for a, b in decoded if a is not None and b is not None)
    return {
        "label": arm.label,
        "run": arm.run,
        "model": arm.model,
        "simulated": arm.simulated,
        "attempts": len(arm.rows),
        "counted": len(kept),
        "tasks": len({row.task for row in kept}),
        "successes": sum(row.success is True for row in kept),
        "measures": {key: estimate_values(one) for key, one in measures.of_rows(kept).items()} if kept else {},
        "joules": _sum(row.joules for row in kept),
        "joules_low": _sum(row.joules_low for row in kept),
        "joules_high": _sum(row.joules_high for row in kept),
        "ttft_seconds": _mean(row.ttft_seconds for row in kept),
        "decode_tokens_per_second": tokens / seconds if seconds else None,
        "seconds_share": _shares([row.seconds_by_phase for row in kept]),
        "joules_share": _shares([row.joules_by_phase for row in kept]),
        "confidence": _mean(row.confidence for row in kept),
        "least_confidence": min((row.least_confidence for row in kept if row.least_confidence is not None), default=None),
        "throttled_seconds": _sum((row.throttled_seconds for row in arm.rows), some=True),
        "max_temp_c": max((row.max_temp_c for row in arm.rows if row.max_temp_c is not None), default=None),
        "peak_vram_mib": max((row.peak_vram_mib for row in arm.rows if row.peak_vram_mib is not None), default=None),
        "quality": dict(Counter(row.quality for row in arm.rows)),
    }


def _without_risks(failures: Content | None) -> Content | None:
    """They stand with the tasks."""
    if failures is None:
        return None
    told = [{key: value for key, value in one.items() if key != "risks"} for one in failures["predictions"]]
    tasks: list[Content] = []
    seen = Counter[str]()
    for one in failures["tasks"]:
        seen[one["model"]] += 1
        if seen[one["model"]] <= MOST_DOUBTS:
            tasks.append(one)
    return {**failures, "predictions": told, "tasks": tasks}


Risks = Mapping[tuple[str, str, str], Content]
"""By run, task_id and worker."""


def _task(arm: Arm, row: Row, allow: Collection[str], risks: Risks) -> Content:
    risk = risks.get((row.run, row.task_id, row.worker), {})
    return {
        "arm": arm.label,
        "task_id": row.task_id,
        "name": row.name,
        "status": row.status,
        "success": row.success,
        "seconds": row.seconds,
        "joules": row.joules,
        "joules_low": row.joules_low,
        "joules_high": row.joules_high,
        "ttft_seconds": row.ttft_seconds,
        "decode_tokens_per_second": row.decode_tokens / row.decode_seconds if row.decode_tokens and row.decode_seconds else None,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "seconds_share": _shares([row.seconds_by_phase]),
        "tool_calls": row.tool_calls,
        "least_confidence": row.least_confidence,
        "failure_risk": risk.get("risk"),
        "failure_risk_reason": risk.get("why", ""),
        "throttled_seconds": row.throttled_seconds,
        "quality": row.quality,
        "reasons": list(row.reasons),
        "excluded": compare.reasons(row, allow),
        "simulated": row.simulated,
    }


def _on_front(one: Content, models: Sequence[Content]) -> bool:
    """Whether no other has as many successes for fewer joules each, or more for as many. One without successes is not on it."""

    def place(model: Content) -> tuple[float, float] | None:
        joules = model["measures"].get("joules_per_success", {}).get("value")
        rate = model["measures"].get("success_rate", {}).get("value")
        return None if joules is None or rate is None else (joules, -rate)

    mine = place(one)
    others = [other for model in models if model is not one and (other := place(model)) is not None]
    return mine is not None and not any(a <= mine[0] and b <= mine[1] and (a, b) != mine for a, b in others)


def _shares(by_phase: Sequence[Mapping[str, float]]) -> dict[str, float]:
    sums = Counter[str]()
    for one in by_phase:
        sums.update(one)
    whole = sum(sums.values())
    return {phase: sums[phase] / whole for phase in PHASES if phase in sums} if whole else {}


def _sum(values: Iterator[float | None], *, some: bool = False) -> float | None:
    """Of all of them, or with ``some`` of those that are known; None where none is."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if known and (some or len(known) == len(found)) else None


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
