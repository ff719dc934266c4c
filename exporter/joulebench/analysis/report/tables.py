"""The tables of a report as rows of text, the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from joulebench.analysis.comparison import MEASURES, SUCCESS_RATE
from joulebench.analysis.emissions import emission_notes, format_factor
from joulebench.analysis.report.content import PHASES, Content
from joulebench.analysis.text import correction_note, format_number
from joulebench.devices import format_devices

ALGEBRA = (
    "local(u) = E + H / u + I (1 - u) / u, where u is the share of its hours in which the machine works on tasks;"
    " E = kWh of the tasks x price x PUE, H = their hours x price of an hour of the machine (its price / its years),"
    " I = their hours x idle kW x price x PUE. Prices follow the time of use; idle hours pay the mean over a day.",
    "From an API the same tokens cost A = prompt x ((1 - c) x prompt price + c x cached price) + completion x its price, where"
    " c is the cached share of the prompt tokens.",
    "Both are equal at u = (H + I) / (A - E + I); tokens per day at break-even = tokens per busy second x 86,400 x u."
    " The API is assumed to succeed as often as the model did here.",
)


@dataclass(frozen=True, slots=True)
class Table:
    """By place: columns that are ``numbers``, ``names`` that stay on one line, and ``labels`` of models, which need some room."""

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    notes: Sequence[str] = ()
    names: frozenset[int] = frozenset()
    labels: frozenset[int] = frozenset()


def _bounded(estimate: Mapping[str, Any] | None, *, percent: bool = False) -> str:
    """The value with its interval in brackets, if there is one."""
    if estimate is None or (estimate["value"] is None and estimate["low"] is None):
        return "-"
    value = format_number(estimate["value"], percent=percent)
    low, high = estimate["low"], estimate["high"]
    if low is None and high is None:
        return value
    ends = ("unbounded" if end is None else format_number(end, percent=percent) for end in (low, high))
    return f"{value} [{' to '.join(ends)}]"


def all_tables(content: Content) -> Iterator[Table]:
    yield models_table(content)
    if content["scopes"]:
        yield scopes_table(content)
    if content["emissions"]:
        yield emissions_table(content)
    yield phases_table(content)
    yield findings_table(content)
    yield from comparison_tables(content)
    if content["cost"] is not None:
        yield costs_table(content)
    if content["failures"] is not None:
        yield from failure_tables(content["failures"])
    yield tasks_table(content)
    yield excluded_table(content)
    yield runs_table(content)


def models_table(content: Content) -> Table:
    columns = ["model", "Pareto front", "successes / attempts", *(_head(m.label, m.unit) for m in MEASURES)]
    columns += ["TTFT (s)", "decode tokens/s", "confidence", "lowest", "throttled (s)", "max °C", "peak VRAM (MiB)", "quality"]
    rows = [
        [
            _marked(model["label"], model["simulated"]),
            "yes" if model["pareto"] else "",
            f"{model['successes']} / {model['counted']}",
            *(_bounded(model["measures"].get(m.key), percent=m is SUCCESS_RATE) for m in MEASURES),
            *(
                format_number(model[key])
                for key in ("ttft_seconds", "decode_tokens_per_second", "confidence", "least_confidence")
            ),
            *(format_number(model[key]) for key in ("throttled_seconds", "max_temp_c", "peak_vram_mib")),
            ", ".join(f"{count} {quality}" for quality, count in model["quality"].items()),
        ]
        for model in content["models"]
    ]
    notes = [
        "95 % intervals in brackets, each by itself, by resampling whole tasks. Energy per successful task includes the"
        " joules of failures.",
        "Measured coverage of these intervals: 95 to 97 %; of 20 to 50 tasks with very unequal joules down to 91 %.",
    ]
    return Table("models", "Models", columns, rows, frozenset(range(2, len(columns) - 1)), notes, labels=frozenset((0,)))


def scopes_table(content: Content) -> Table:
    columns = ["model", "scope", "meter", "attempts with joules", "J", "J, low to high", "mean W", "J per success", "GPU share"]
    rows = [
        [
            row["arm"],
            _marked(row["scope"], row["simulated"]),
            ", ".join(row["meters"]) or "-",
            f"{row['known']} / {row['attempts']}",
            format_number(row["joules"]),
            "" if row["joules_low"] is None else f"{format_number(row['joules_low'])} to {format_number(row['joules_high'])}",
            format_number(row["mean_watts"]),
            _bounded(row["joules_per_success"]),
            format_number(row["gpu_share"], percent=True),
            ", ".join(f"{count} {quality}" for quality, count in row["quality"].items()),
        ]
        for row in content["scopes"]
    ]
    notes = [
        "What each meter counted over the tasks, shares where tasks overlapped. Scopes inside each other (GPU in host in wall)"
        " are never added; the GPU share is that of the GPUs' own joules in the scope, over attempts that have both.",
    ]
    names = frozenset((1, 2))
    return Table("scopes", "Energy by scope", [*columns, "quality"], rows, frozenset(range(3, 9)), notes, names, frozenset((0,)))


def emissions_table(content: Content) -> Table:
    columns = ["model", "emission", "joules of", "attempts with an amount", "amount", "low to high", "per success", "per kWh"]
    rows = [
        [
            row["arm"],
            _marked(f"{row['kind']}, {row['unit']}", row["simulated"]),
            ", ".join(row["of"]),
            f"{row['known']} / {row['attempts']}",
            format_number(row["amount"]),
            "" if row["amount_low"] is None else f"{format_number(row['amount_low'])} to {format_number(row['amount_high'])}",
            _bounded(row["per_success"]),
            format_factor(row),
            "; ".join(row["sources"]),
            ", ".join(row["dates"]),
            ", ".join(f"{count} {quality}" for quality, count in row["quality"].items()),
        ]
        for row in content["emissions"]
    ]
    notes = [
        "Joules times a factor that the export was given (--meters); Joulebench has none of its own. Carbon in grams of CO2"
        " equivalent, water in litres. Amounts per success include those of failures.",
        *(f"Note: {note}." for note in emission_notes(content["emissions"])),
    ]
    numbers, names = frozenset(range(3, 8)), frozenset((1, 2, 9))
    columns += ["source of the factor", "date of the factor", "quality"]
    return Table("emissions", "Carbon and water", columns, rows, numbers, notes, names, frozenset((0,)))


def phases_table(content: Content) -> Table:
    rows = []
    for model in content["models"]:
        for what, unit in (("seconds_share", "time"), ("joules_share", "joules")):
            shares = [model[what].get(phase) for phase in PHASES]
            rows.append([model["label"], unit, *(format_number(share, percent=True) for share in shares)])
    named = [phase.replace("_", " ").replace("llm", "LLM") for phase in PHASES]
    return Table(
        "phases",
        "Time and energy by phase",
        ["model", "share of", *named],
        rows,
        frozenset(range(2, 8)),
        [f"{model['label']}: {note}." for model in content["models"] for note in model["phase_notes"]],
        labels=frozenset((0,)),
    )


def findings_table(content: Content) -> Table:
    rows = [
        [each["scope"], each["kind"], each["evidence"], each["gain"] or "-", each["next_step"], ", ".join(each["tasks"])]
        for each in content["findings"]
    ]
    columns = ["model", "finding", "evidence", "estimated gain", "next step", "clearest in"]
    return Table("findings", "Bottlenecks", columns, rows, labels=frozenset((0, 1)))


def comparison_tables(content: Content) -> Iterator[Table]:
    for place, pair in enumerate(content["pairs"]):
        rows = []
        for measure in MEASURES:
            each = pair["measures"].get(measure.key)
            if each is not None:
                percent = measure is SUCCESS_RATE
                cells = [_bounded(each[name], percent=percent) for name in ("base", "arm", "difference")]
                rows.append([_head(measure.label, measure.unit), *cells, _bounded(each["quotient"]), each["finding"]])
        notes = [*(f"Refused: {why}" for why in pair["refusals"]), *(f"Note: {note}" for note in pair["notes"])]
        notes.insert(
            0, f"{pair['tasks']} tasks in common, {pair['attempts']['arm']} against {pair['attempts']['base']} attempts."
        )
        if place == 0 and (corrected := correction_note(content["comparison_counts"])):
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


def costs_table(content: Content) -> Table:
    cost = content["cost"]
    unit = cost["currency"]
    columns = ["model", f"local, task ({unit})", f"local, success ({unit})", "electricity", "hardware", "idle"]
    columns += ["API", f"API, task ({unit})", f"API, success ({unit})", "break-even utilization", "break-even tokens/day"]
    rows = []
    for arm in cost["arms"]:
        here = arm["local"]
        parts = [format_number(here[key] / here["total"] if here["total"] else None, percent=True) for key in columns[3:6]]
        local = [arm["label"], format_number(here["per_task"]), format_number(here["per_success"]), *parts]
        if not arm["apis"]:
            rows.append([*local, "none listed", "", "", "", ""])
        for api in arm["apis"]:
            even = format_number(api["utilization"], percent=True) if api["utilization"] is not None else api["finding"]
            each = [format_number(api[key]) for key in ("per_task", "per_success")]
            rows.append([*local, api["model"], *each, even, format_number(api["tokens_per_day"])])
    listed = ", ".join(f"{api['model']} {api['as_of']}" for api in cost["apis"])
    dates = ", ".join(f"{what} {day}" for what, day in cost["as_of"].items())
    notes = [
        *ALGEBRA,
        f"Here u = {format_number(cost['utilization'], percent=True)}.",
        f"Prices as of: {dates or 'none'}; APIs: {listed or 'none'}.",
        *map(_cached_note, cost["arms"]),
        *(f"Note: {note}." for note in cost["not_included"]),
    ]
    return Table("costs", "Cost", columns, rows, frozenset((1, 2, 3, 4, 5, 7, 8, 10)), notes, frozenset((6,)), frozenset((0,)))


def _cached_note(arm: Content) -> str:
    share = format_number(arm["work"]["cached_share"], percent=True)
    return f"Cached share of the prompt tokens of {arm['label']}: {share}, {arm['work']['cached_source']}."


def failure_tables(failures: Content) -> Iterator[Table]:
    yield prediction_table(failures)
    yield _confidence_by("low-confidence-tools", "Confidence by tool", "tool", "tasks", failures["tools"])
    yield _confidence_by("low-confidence-tasks", "Lowest confidence by task", "task", "attempts", failures["tasks"])
    yield worst_calls_table(failures)


def prediction_table(failures: Content) -> Table:
    rows = []
    for entry in failures["predictions"]:
        start = [entry["model"], format_number(entry["tasks"]), format_number(entry["failures"])]
        if entry["refused"]:
            more = "" if entry["more_tasks"] is None else f", in about {entry['more_tasks']} more tasks at this rate"
            rows.append([*start, *[""] * 5, f"refused: {entry['refused']}{more}"])
            continue
        area = {"value": entry["auroc"], "low": entry["auroc_low"], "high": entry["auroc_high"]}
        worth = [
            _bounded(area),
            format_number(entry["brier"]),
            format_number(entry["brier_base"]),
            _bounded(entry["skill"]),
            f"{format_number(entry['ece'])} [{format_number(entry['ece_noise'])}]",
        ]
        rows.append([*start, *worth, entry["summary"]])
    columns = ["model", "tasks", "failures", "AUROC", "Brier", "Brier of the base rate", "skill", "ECE", "finding"]
    notes = [
        "The failure risk of each task (see Tasks) comes from a logistic regression over the confidence measures that"
        " was fitted to and calibrated on tasks of other names. Skill = 1 - Brier / Brier of the base rate: 0 is no better.",
        "ECE: in brackets the one that perfectly calibrated risks of as many tasks would show.",
    ]
    return Table("prediction", "Failure prediction", columns, rows, frozenset(range(1, 8)), notes, labels=frozenset((0,)))


def _confidence_by(key: str, title: str, what: str, units: str, summaries: Sequence[Content]) -> Table:
    rows = [
        [
            each["name"],
            each["model"],
            *(format_number(each[name]) for name in ("calls", "scored", "attempts")),
            _bounded(each["confidence"]),
            _bounded(each["failed"], percent=True),
        ]
        for each in summaries
    ]
    columns = [what, "model", "calls", "with a confidence", units, "mean confidence", "calls that failed"]
    return Table(key, title, columns, rows, frozenset(range(2, 7)), labels=frozenset((0, 1)))


def worst_calls_table(failures: Content) -> Table:
    outcome = {True: "success", False: "failure", None: "unknown"}
    rows = [
        [
            entry["kind"],
            format_number(entry["score"]),
            entry["tool"],
            "-" if entry["args"] is None else entry["args"],
            entry["outcome"],
            "-" if entry["answer"] is None else entry["answer"],
            entry["task_id"],
            outcome[entry["success"]],
            entry["model"],
        ]
        for entry in failures["calls"]
    ]
    columns = ["why listed", "confidence", "tool", "arguments", "outcome", "answer or error", "task", "task's outcome", "model"]
    notes = ["For each model the calls with the lowest confidence, and failed calls with the highest. Text is from the journal."]
    return Table(
        "low-confidence-calls", "Worst tool calls", columns, rows, frozenset((1,)), notes, frozenset((0, 4, 6)), frozenset((8,))
    )


def tasks_table(content: Content) -> Table:
    columns = ["task", "model", "status", "s", "J", "J, low to high", "TTFT (s)", "decode tokens/s", "tokens in", "tokens out"]
    columns += ["tool wait", "tool calls", "lowest confidence", "failure risk", "throttled (s)", "devices", "quality", "reasons"]
    rows = [
        [
            task["task_id"],
            _marked(task["arm"], task["simulated"]),
            task["status"],
            *(format_number(task[key]) for key in ("seconds", "joules")),
            "" if task["joules_low"] is None else f"{format_number(task['joules_low'])} to {format_number(task['joules_high'])}",
            *(
                format_number(task[key])
                for key in ("ttft_seconds", "decode_tokens_per_second", "prompt_tokens", "completion_tokens")
            ),
            format_number(task["seconds_share"].get("tool_wait"), percent=True),
            *(format_number(task[key]) for key in ("tool_calls", "least_confidence")),
            format_number(task["failure_risk"], percent=True),
            format_number(task["throttled_seconds"]),
            _device_count(task),
            task["quality"] + (" (excluded)" if task["excluded"] else ""),
            ", ".join(task["reasons"]),
        ]
        for task in content["tasks"]
    ]
    return Table("tasks", "Tasks", columns, rows, frozenset(range(3, 15)), (), frozenset((0, 2, 15)), frozenset((1,)))


def _device_count(task: Content) -> str:
    """How many, and how they are known; their names are in the table of runs."""
    return f"{len(task['devices'])} {task['device_basis']}" if task["device_basis"] else "-"


def excluded_table(content: Content) -> Table:
    rows = [
        [each["task_id"], each["arm"], each["reason"] + (" (energy only)" if each["energy_only"] else ""), each["file"]]
        for each in content["excluded"]
    ]
    return Table(
        "excluded",
        "Excluded attempts",
        ["task", "model", "reason", "file"],
        rows,
        names=frozenset((0, 3)),
        labels=frozenset((1,)),
    )


def runs_table(content: Content) -> Table:
    rows = [
        [
            run["run"],
            *(format_number(run[key]) for key in ("attempts", "planned", "missing")),
            ", ".join(run["suites"]),
            ", ".join(run["gpus"]) or "-",
            ", ".join(f"{count} {basis}" for basis, count in run["device_bases"].items()) or "-",
            format_devices(run["devices"]) if run["devices"] else "-",
            "; ".join(run["notes"]),
        ]
        for run in content["runs"]
    ]
    columns = ["run", "attempts", "planned", "missing", "suites", "GPUs", "devices are", "devices", "notes"]
    notes = [
        "A task is charged for its devices: declared by the run, observed as used by the model server, or assumed, which is all"
        " GPUs of the exporter."
    ]
    return Table("runs", "Runs", columns, rows, frozenset((1, 2, 3)), notes, names=frozenset((0,)))


def _head(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label


def _marked(label: str, simulated: bool) -> str:
    return f"{label} (SIMULATED)" if simulated else label
