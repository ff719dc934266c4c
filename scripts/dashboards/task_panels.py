"""Panels of tasks that several boards show: tables with a row per task, links from a row to its time, totals of the range.

A task in the range counts in full, also where it began before. Rows of a table come from queries that share their key columns
and nothing else: Grafana's merge joins on exactly the fields that all of them have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from scripts.dashboards.layout import choice_variable, query_variable
from scripts.dashboards.panels import (
    ABSENCE,
    NO_TASKS,
    Json,
    Query,
    bargauge,
    hidden,
    or_absence,
    override,
    stat,
    table,
)
from scripts.dashboards.promql import (
    COMPLETION,
    JOB,
    PROMPT,
    TASK_LABELS,
    THERMAL,
    TOOL_OK,
    api_cost,
    latest,
    local_cost,
    per_task,
    ratio,
    total,
    used_energy,
)

from joulebench import metrics as m
from joulebench.units import JOULES_PER_KWH

PRICES = Path(__file__).resolve().parents[2] / "prometheus/prices.yml"
CURRENCY = f"currency{yaml.safe_load(PRICES.read_text())['currency']}"
"""Grafana's unit; a dashboard cannot take it from a series, so the dashboards are built anew when the currency changes."""

JOULES_PER_WH = JOULES_PER_KWH / 1000
LOOK_BEYOND = 15
"""Seconds after the end of a task until its end, energy and charge have surely been scraped."""
CHARGED = (
    "Energy and machine time are those that tasks are charged: shared evenly while tasks of one worker overlap. Over several"
    " workers at once the export's shares are final."
)
STATUS_COLOURS = {"success": "green", "failure": "red", "timeout": "orange", "error": "red", "unknown": "text", "running": "blue"}

_INFO = latest(m.TASK_INFO)
_EVERY = f"max by ({TASK_LABELS}) ({_INFO})"
INFO = f"max by ({TASK_LABELS}, task_name, task_key, model) ({_INFO})"
STATUS = (
    f"max by ({TASK_LABELS}, status) ({latest(m.TASK_STATUS)})"
    f' or on ({TASK_LABELS}) label_replace({_EVERY}, "status", "running", "", "")'
)
_ENDED = f"max by ({TASK_LABELS}) ({latest(m.TASK_END)}) + {LOOK_BEYOND}"
THROTTLED = f"sum by ({TASK_LABELS}) (max by ({TASK_LABELS}, gpu, uuid) ({latest(m.TASK_THROTTLED, THERMAL)}))"
"""By heat; the two reasons may overlap, so the longer one counts."""

VALUES: dict[str, str] = {
    "From": f"floor(1000 * max by ({TASK_LABELS}) ({latest(m.TASK_START)}))",
    "Until": f"floor(1000 * ({_ENDED} or on ({TASK_LABELS}) 0 * {_EVERY} + time()))",
    "Duration": f"max by ({TASK_LABELS}) ({latest(m.TASK_DURATION)})",
    "Prompt": per_task(m.TASK_TOKENS, PROMPT),
    "Output": per_task(m.TASK_TOKENS, COMPLETION),
    "Speed": ratio(per_task(m.TASK_DECODE_TOKENS), per_task(m.TASK_DECODE, suffix="_sum")),
    "TTFT": ratio(per_task(m.TASK_TTFT, suffix="_sum"), per_task(m.TASK_TTFT, suffix="_count")),
    "Energy": per_task(m.TASK_ENERGY),
    "Energy ±": f"({per_task(m.TASK_ENERGY_HIGH)} - {per_task(m.TASK_ENERGY_LOW)}) / 2",
    "Charged": per_task(m.TASK_CHARGED_ENERGY),
    "Local cost": local_cost(by=TASK_LABELS),
    "API cost": api_cost(by=TASK_LABELS),
    "Confidence": ratio(per_task(m.TASK_CONFIDENCE, suffix="_sum"), per_task(m.TASK_CONFIDENCE, suffix="_count")),
    "Lowest": per_task(m.TASK_CONFIDENCE_MIN),
    "LLM calls": per_task(m.TASK_LLM_CALLS),
    "Throttled": THROTTLED,
}

_FORMATS: dict[str, Json] = {
    "From": {"unit": "time:MM-DD HH:mm:ss", "custom__width": 125},
    "Duration": {"unit": "s", "decimals": 1, "custom__width": 95},
    "Prompt": {"unit": "none", "custom__width": 66},
    "Output": {"unit": "none", "custom__width": 70},
    "Speed": {"unit": "suffix:tok/s", "decimals": 1, "custom__width": 95},
    "TTFT": {"unit": "s", "custom__width": 72},
    "Energy": {"unit": "joule", "decimals": 1, "custom__width": 110},
    "Energy ±": {"unit": "joule", "decimals": 1, "custom__width": 80},
    "Charged": {"unit": "joule", "decimals": 1, "custom__width": 110},
    "Local cost": {"unit": CURRENCY, "custom__width": 90},
    "API cost": {"unit": CURRENCY, "custom__width": 90},
    "Confidence": {"unit": "percentunit", "decimals": 0, "custom__width": 92},
    "Lowest": {"unit": "percentunit", "decimals": 0, "custom__width": 82},
    "LLM calls": {"custom__width": 80},
    "Throttled": {"unit": "s", "decimals": 1, "custom__width": 85},
}
GAUGES: dict[str, Json] = {
    "Duration": {"color": {"mode": "fixed", "fixedColor": "blue"}, "fieldMinMax": True},
    "Charged": {"color": {"mode": "fixed", "fixedColor": "orange"}, "fieldMinMax": True},
    "Confidence": {"color": {"mode": "fixed", "fixedColor": "green"}, "max": 1},
    "Lowest": {"color": {"mode": "fixed", "fixedColor": "green"}, "max": 1},
}
"""Cells with a bar. Without fieldMinMax, Grafana takes the range of all columns together, and times dwarf everything else."""


def price_variables() -> list[Json]:
    return [
        query_variable("api_model", "API model", f"{m.PRICE_API.name}{{{JOB}}}", single=True),
        choice_variable("cached", "Cached prompt tokens at the API", {"as in the run": "as_run", "none": "none"}),
    ]


def tasks_table(
    title: str, description: str, shown: Sequence[str], links: Sequence[Json], *, gauges: bool = False, narrow: bool = False
) -> Json:
    """``shown``: keys of VALUES as columns, in this order; From and Until are there for the links. ``gauges``: bars in cells.
    ``narrow``: without the columns that say which run a task belongs to."""
    values = [*dict.fromkeys((*shown, "From", "Until"))]
    queries = [INFO, STATUS, *(VALUES[name] for name in values)]
    fields = {name: f"Value #{chr(ord('A') + place)}" for place, name in enumerate(("", " ", *values))}
    columns = {"task_name": "Task", "task_id": "Id", "model": "Model", "status": "Status"}
    columns |= {fields[name]: name for name in values}
    columns |= {"run_id": "Run", "worker": "Worker", "task_key": "Key"}
    cells = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    overrides = [
        override("Task", links=[*links], custom__minWidth=155),
        override("Model", custom__width=108),
        override("Status", mappings=[status_mapping()], custom__cellOptions={"type": "color-text"}, custom__width=76),
        override("Run", custom__width=150),
        override("Id", custom__width=118),
        override("Worker", custom__width=110),
        hidden("Until"),
        hidden("Key"),
        *(override(name, **_FORMATS[name]) for name in values if name in _FORMATS),
        *(override(name, min=0, custom__cellOptions=cells, **how) for name, how in GAUGES.items() if gauges and name in values),
    ]
    if narrow:
        overrides += [hidden("Run"), hidden("Worker")]
    return table(
        title,
        description,
        [Query(expr, "__auto", "table") for expr in queries],
        columns,
        drop=("job", fields[""], fields[" "]),
        overrides=overrides,
        sort="From",
        empty=NO_TASKS,
    )


def window_link(uid: str, title: str, *, with_task: bool = False) -> Json:
    """To the dashboard ``uid`` at the time of the row's task, and the moments after it in which its energy is pushed."""
    url = (
        f"/d/{uid}?from=${{__data.fields.From.numeric}}&to=${{__data.fields.Until.numeric}}"
        "&var-run_id=${__data.fields.Run}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}&${gpu:queryparam}"
    )
    return {"title": title, "url": url + ("&var-task_key=${__data.fields.Key}" if with_task else ""), "targetBlank": False}


def status_mapping() -> Json:
    options = {name: {"color": colour, "index": place} for place, (name, colour) in enumerate(STATUS_COLOURS.items())}
    return {"type": "value", "options": options}


def joules_per_success() -> Json:
    return stat(
        "Joules per success",
        f"Energy charged to all tasks in this time range, failed ones too, divided by the tasks that passed. {CHARGED}",
        [Query(ratio(total(m.TASK_CHARGED_ENERGY), total(m.TASK_SUCCESS)), "per passed task", "instant")],
        "joule",
        decimals=1,
    )


def cost_tiles() -> list[Json]:
    return [
        stat(
            "Local cost",
            "Electricity of the tasks in this time range by the price list, and hardware where the list has a price for it."
            f" {CHARGED}",
            [Query(local_cost(), "tasks", "instant")],
            CURRENCY,
        ),
        stat(
            "API cost",
            "Cost of the same tokens at the chosen API model. Prompt tokens from the cache have the API's price for cached"
            " tokens, as many as the model server reported, or none, as chosen above.",
            [Query(api_cost(), "$api_model", "instant")],
            CURRENCY,
        ),
    ]


def energy_tile() -> Json:
    return stat(
        "Energy",
        "All GPUs over this time range, idle time included, as the difference of their counters; and what finished tasks are"
        f" charged of it. {CHARGED}",
        [
            Query(or_absence(used_energy()), "all GPUs", "instant"),
            Query(total(m.TASK_CHARGED_ENERGY), "in tasks", "instant"),
        ],
        "joule",
        mappings=ABSENCE,
        decimals=1,
    )


def failed_tools_tile() -> Json:
    return stat(
        "Failed tool calls",
        "Share of the tool calls in this time range that were malformed, undeclared, had invalid arguments or ended in an error.",
        [Query(f"1 - {ratio(total(m.TASK_TOOL_CALLS, TOOL_OK), total(m.TASK_TOOL_CALLS))}", "failed", "instant")],
        "percentunit",
        decimals=0,
    )


def time_breakdown() -> Json:
    parts = {"prefill": m.TASK_PREFILL, "decode": m.TASK_DECODE, "load and queue": m.TASK_LOAD, "tools": m.TASK_TOOL_DURATION}
    queries = [Query(total(metric, suffix="_sum"), name, "instant") for name, metric in parts.items()]
    return bargauge(
        "Time breakdown",
        "Seconds of the tasks in this time range: prefill, decode and loading by the server's clock, tools by the benchmark's;"
        " and all time in LLM calls for comparison.",
        [*queries, Query(total(m.TASK_LLM_DURATION, suffix="_sum"), "LLM calls", "instant")],
        "s",
        empty=NO_TASKS,
    )


def unmeasured_tasks() -> str:
    """Number of finished tasks in the range without a charged energy."""
    ended, charged = f"max by ({TASK_LABELS}) ({latest(m.TASK_END)})", per_task(m.TASK_CHARGED_ENERGY)
    return f"count({ended} unless {charged}) or 0 * count({ended})"
