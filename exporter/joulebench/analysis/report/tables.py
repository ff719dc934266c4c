"""The tables of a report as rows of text, the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from joulebench.analysis.measures import MEASURES, SUCCESS_RATE
from joulebench.analysis.report import doubts
from joulebench.analysis.report.content import PHASES, Content
from joulebench.analysis.report.table import Table, bounded
from joulebench.analysis.show_comparison import number, together

ALGEBRA = (
    "local(u) = E + H / u + I (1 - u) / u, with u the share of its hours in which the machine works on tasks;"
    " E = kWh of the tasks x price x PUE, H = their hours x price of an hour of the machine (its price / its years),"
    " I = their hours x idle kW x price x PUE.",
    "From an API the same tokens cost A = (prompt - cached) x its price + cached x its price + completion x its price.",
    "Both are equal at u = (H + I) / (A - E + I); tokens per day at break-even = tokens per busy second x 86,400 x u."
    " The API is taken to succeed as often as the model did here.",
)


def all_of(content: Content) -> Iterator[Table]:
    yield models(content)
    yield phases(content)
    yield findings(content)
    yield from comparisons(content)
    if content["cost"] is not None:
        yield costs(content)
    if content["failures"] is not None:
        yield from doubts.all_of(content["failures"])
    yield tasks(content)
    yield excluded(content)
    yield runs(content)


def models(content: Content) -> Table:
    columns = ["model", "Pareto front", "successes / attempts", *(_head(m.label, m.unit) for m in MEASURES)]
    columns += ["TTFT (s)", "decode tokens/s", "confidence", "lowest", "throttled (s)", "max °C", "peak VRAM (MiB)", "quality"]
    rows = [
        [
            _marked(model["label"], model["simulated"]),
            "yes" if model["pareto"] else "",
            f"{model['successes']} / {model['counted']}",
            *(bounded(model["measures"].get(m.key), percent=m is SUCCESS_RATE) for m in MEASURES),
            *(number(model[key]) for key in ("ttft_seconds", "decode_tokens_per_second", "confidence", "least_confidence")),
            *(number(model[key]) for key in ("throttled_seconds", "max_temp_c", "peak_vram_mib")),
            ", ".join(f"{count} {quality}" for quality, count in model["quality"].items()),
        ]
        for model in content["models"]
    ]
    notes = [
        "95 % intervals in brackets, each by itself, by resampling whole tasks. Energy per successful task counts the joules of"
        " failures too."
    ]
    return Table("models", "Models", columns, rows, frozenset(range(2, len(columns) - 1)), notes, labels=frozenset((0,)))


def phases(content: Content) -> Table:
    rows = []
    for model in content["models"]:
        for what, unit in (("seconds_share", "time"), ("joules_share", "joules")):
            shares = [model[what].get(phase) for phase in PHASES]
            rows.append([model["label"], unit, *(number(share, percent=True) for share in shares)])
    named = [phase.replace("_", " ").replace("llm", "LLM") for phase in PHASES]
    return Table(
        "phases",
        "Phases: where time and joules went",
        ["model", "share of", *named],
        rows,
        frozenset(range(2, 8)),
        labels=frozenset((0,)),
    )


def findings(content: Content) -> Table:
    rows = [
        [one["scope"], one["kind"], one["evidence"], one["gain"] or "-", one["next_step"], ", ".join(one["tasks"])]
        for one in content["findings"]
    ]
    columns = ["of", "finding", "evidence", "estimated gain", "next step", "clearest in"]
    return Table("findings", "What limits them", columns, rows, labels=frozenset((0, 1)))


def comparisons(content: Content) -> Iterator[Table]:
    for place, pair in enumerate(content["pairs"]):
        rows = []
        for measure in MEASURES:
            one = pair["measures"].get(measure.key)
            if one is not None:
                percent = measure is SUCCESS_RATE
                cells = [bounded(one[name], percent=percent) for name in ("base", "arm", "difference")]
                rows.append([_head(measure.label, measure.unit), *cells, bounded(one["quotient"]), one["finding"]])
        notes = [*(f"Refused: {why}" for why in pair["refusals"]), *(f"Note: {note}" for note in pair["notes"])]
        notes.insert(
            0, f"{pair['tasks']} tasks in common, {pair['attempts']['arm']} against {pair['attempts']['base']} attempts."
        )
        if place == 0 and (corrected := together(content["told_together"])):
            notes.append(corrected)
        columns = ["", pair["base"], pair["arm"], "difference", "times", f"{pair['arm']} is"]
        yield Table(
            f"pair-{place}",
            f"{pair['arm']} against {pair['base']}",
            columns,
            rows,
            frozenset((1, 2, 3, 4)),
            notes,
            names=frozenset((5,)),
            labels=frozenset((0,)),
        )


def costs(content: Content) -> Table:
    cost = content["cost"]
    unit = cost["currency"]
    columns = ["model", f"local, task ({unit})", f"local, success ({unit})", "electricity", "hardware", "idle"]
    columns += ["API", f"API, task ({unit})", f"API, success ({unit})", "break-even utilisation", "break-even tokens/day"]
    rows = []
    for arm in cost["arms"]:
        here = arm["local"]
        parts = [number(here[key] / here["total"] if here["total"] else None, percent=True) for key in columns[3:6]]
        local = [arm["label"], number(here["per_task"]), number(here["per_success"]), *parts]
        if not arm["apis"]:
            rows.append([*local, "none listed", "", "", "", ""])
        for api in arm["apis"]:
            even = number(api["utilisation"], percent=True) if api["utilisation"] is not None else api["finding"]
            each = [number(api[key]) for key in ("per_task", "per_success")]
            rows.append([*local, api["model"], *each, even, number(api["tokens_per_day"])])
    listed = ", ".join(f"{api['model']} {api['as_of']}" for api in cost["apis"])
    dates = ", ".join(f"{what} {day}" for what, day in cost["as_of"].items())
    notes = [
        *ALGEBRA,
        f"Here u = {number(cost['utilisation'], percent=True)}. Prices as of: {dates or 'none'}; APIs: {listed or 'none'}.",
        *(f"Left out: {note}." for note in cost["left_out"]),
    ]
    return Table("costs", "Cost", columns, rows, frozenset((1, 2, 3, 4, 5, 7, 8, 10)), notes, frozenset((6,)), frozenset((0,)))


def tasks(content: Content) -> Table:
    columns = ["task", "model", "status", "s", "J", "J, low to high", "TTFT (s)", "decode tokens/s", "tokens in", "tokens out"]
    columns += ["tool wait", "tool calls", "lowest confidence", "failure risk", "throttled (s)", "quality", "reasons"]
    rows = [
        [
            task["task_id"],
            _marked(task["arm"], task["simulated"]),
            task["status"],
            *(number(task[key]) for key in ("seconds", "joules")),
            "" if task["joules_low"] is None else f"{number(task['joules_low'])} to {number(task['joules_high'])}",
            *(number(task[key]) for key in ("ttft_seconds", "decode_tokens_per_second", "prompt_tokens", "completion_tokens")),
            number(task["seconds_share"].get("tool_wait"), percent=True),
            *(number(task[key]) for key in ("tool_calls", "least_confidence")),
            number(task["failure_risk"], percent=True),
            number(task["throttled_seconds"]),
            task["quality"] + (" (left out)" if task["excluded"] else ""),
            ", ".join(task["reasons"]),
        ]
        for task in content["tasks"]
    ]
    return Table("tasks", "Tasks", columns, rows, frozenset(range(3, 15)), (), frozenset((0, 2)), frozenset((1,)))


def excluded(content: Content) -> Table:
    rows = [[one["task_id"], one["arm"], one["reason"], one["file"]] for one in content["excluded"]]
    return Table(
        "excluded",
        "Left out, and why",
        ["task", "model", "reason", "file"],
        rows,
        names=frozenset((0, 3)),
        labels=frozenset((1,)),
    )


def runs(content: Content) -> Table:
    rows = [
        [
            run["run"],
            *(number(run[key]) for key in ("attempts", "planned", "missing")),
            ", ".join(run["suites"]),
            ", ".join(run["gpus"]) or "-",
            "; ".join(run["notes"]),
        ]
        for run in content["runs"]
    ]
    columns = ["run", "attempts", "planned", "missing", "suites", "GPUs", "notes"]
    return Table("runs", "Runs", columns, rows, frozenset((1, 2, 3)), names=frozenset((0,)))


def _head(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label


def _marked(label: str, simulated: bool) -> str:
    return f"{label} (SIMULATED)" if simulated else label
