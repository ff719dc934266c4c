"""One value a task: the queries behind every table and chart that compares tasks, and the links from a row to its time window.

Rows of a table come from several queries that share their key columns, and nothing but those; Grafana's merge joins on exactly
the fields that all of them have.
"""

from __future__ import annotations

from collections.abc import Sequence

from scripts.dashboards.absence import NO_TASKS
from scripts.dashboards.costs import CURRENCY, api_cost_per_task, local_cost_per_task
from scripts.dashboards.fields import Json, Query, hidden, override
from scripts.dashboards.panels import table
from scripts.dashboards.promql import COMPLETION, PROMPT, TASK_LABELS, in_range, latest, per_task, ratio, select
from scripts.dashboards.task_key import keyed

from joulebench import metrics as m
from joulebench.units import JOULES_PER_KWH

STATUS_COLOURS = {"success": "green", "failure": "red", "timeout": "orange", "error": "red", "unknown": "text", "running": "blue"}
THERMAL = f'reason=~"{"|".join(m.THERMAL_REASONS)}"'
NAMED = f"on ({TASK_LABELS}) group_left (task_name, model)"

INFO = f"max by ({TASK_LABELS}, task_name, model) {in_range(latest(m.TASK_INFO))}"


_EVERY = f"max by ({TASK_LABELS}) {in_range(latest(m.TASK_INFO))}"
_BEGUN = f"max by ({TASK_LABELS}) {in_range(latest(m.TASK_START))}"
_ENDED = f"max by ({TASK_LABELS}) {in_range(latest(m.TASK_END))}"
STATUS = (
    f"max by ({TASK_LABELS}, status) {in_range(latest(m.TASK_STATUS))}"
    f' or on ({TASK_LABELS}) label_replace({_EVERY}, "status", "running", "", "")'
)


def throttled() -> str:
    """Seconds for which heat held clocks down while the task ran, all chosen GPUs together: as the exporter's memory gives them,
    pushed with the task's energy. Until then, and where they are not known, the growth of the time counters over the samples in
    which the task has begun and not ended."""
    pushed = f"sum by ({TASK_LABELS}) (max by ({TASK_LABELS}, gpu, uuid) {in_range(latest(m.TASK_THROTTLED, THERMAL))})"
    counters = f"sum(max by (instance, gpu) (last_over_time({select(m.GPU_THROTTLE_SECONDS, THERMAL)}[5s])))"
    running = f"max by ({TASK_LABELS}) ({select(m.TASK_INFO)} unless on ({TASK_LABELS}) {select(m.TASK_END)})"
    while_running = f"({running} * on () group_left () {counters})[$__range:$__interval]"
    return f"({pushed} or on ({TASK_LABELS}) max_over_time({while_running}) - min_over_time({while_running}))"


VALUES: dict[str, str] = {
    "From": f"floor(1000 * {_BEGUN})",
    "Until": f"floor(1000 * ({_ENDED} or on ({TASK_LABELS}) 0 * {_EVERY} + time()))",
    "Duration": f"max by ({TASK_LABELS}) {in_range(latest(m.TASK_DURATION))}",
    "Prompt": per_task(m.TASK_TOKENS, PROMPT),
    "Output": per_task(m.TASK_TOKENS, COMPLETION),
    "Speed": ratio(per_task(m.TASK_DECODE_TOKENS), per_task(m.TASK_DECODE, suffix="_sum")),
    "TTFT": ratio(per_task(m.TASK_TTFT, suffix="_sum"), per_task(m.TASK_TTFT, suffix="_count")),
    "Energy": per_task(m.TASK_ENERGY),
    "Energy ±": f"({per_task(m.TASK_ENERGY_HIGH)} - {per_task(m.TASK_ENERGY_LOW)}) / 2",
    "Wh": f"{per_task(m.TASK_ENERGY)} / {JOULES_PER_KWH / 1000:.0f}",
    "Local cost": local_cost_per_task(),
    "API cost": api_cost_per_task(),
    "Local / API": f"{local_cost_per_task()} / ({api_cost_per_task()} > 0)",
    "Confidence": ratio(per_task(m.TASK_CONFIDENCE, suffix="_sum"), per_task(m.TASK_CONFIDENCE, suffix="_count")),
    "Least sure": per_task(m.TASK_CONFIDENCE_MIN),
    "LLM calls": per_task(m.TASK_LLM_CALLS),
    "Tool calls": per_task(m.TASK_TOOL_CALLS),
    "Throttled": throttled(),
}

_FORMATS: dict[str, Json] = {
    "From": {"unit": "time:MM-DD HH:mm:ss", "custom__width": 120},
    "Duration": {"unit": "s", "decimals": 1, "custom__width": 95},
    "Prompt": {"unit": "none", "custom__width": 62},
    "Output": {"unit": "none", "custom__width": 62},
    "Speed": {"unit": "suffix:tok/s", "decimals": 1, "custom__width": 90},
    "TTFT": {"unit": "s", "custom__width": 72},
    "Energy": {"unit": "joule", "decimals": 1, "custom__width": 110},
    "Energy ±": {"unit": "joule", "decimals": 1, "custom__width": 80},
    "Wh": {"unit": "watth", "decimals": 1, "custom__width": 90},
    "Local cost": {"unit": CURRENCY, "custom__width": 88},
    "API cost": {"unit": CURRENCY, "custom__width": 88},
    "Local / API": {"unit": "percentunit", "decimals": 0, "custom__width": 85},
    "Confidence": {"unit": "percentunit", "decimals": 0, "custom__width": 90},
    "Least sure": {"unit": "percentunit", "decimals": 0, "custom__width": 85},
    "LLM calls": {"custom__width": 80},
    "Tool calls": {"custom__width": 80},
    "Throttled": {"unit": "s", "decimals": 1, "custom__width": 78},
}
GAUGES: dict[str, Json] = {
    "Duration": {"color": {"mode": "fixed", "fixedColor": "blue"}, "fieldMinMax": True},
    "Energy": {"color": {"mode": "fixed", "fixedColor": "orange"}, "fieldMinMax": True},
    "Confidence": {"color": {"mode": "fixed", "fixedColor": "green"}, "max": 1},
    "Least sure": {"color": {"mode": "fixed", "fixedColor": "green"}, "max": 1},
}
"""Cells with a bar. Without fieldMinMax, Grafana takes the range of all columns together, and times dwarf everything else."""


def tasks_table(
    title: str, description: str, shown: Sequence[str], links: Sequence[Json], *, gauges: bool = False, narrow: bool = False
) -> Json:
    """``shown``: keys of VALUES as columns, in this order; From and Until are there for the links. ``gauges``: bars in cells.
    ``narrow``: without the columns that say which run a task belongs to."""
    values = [*dict.fromkeys((*shown, "From", "Until"))]
    queries = [keyed(INFO), STATUS, *(VALUES[name] for name in values)]
    fields = {name: f"Value #{chr(ord('A') + place)}" for place, name in enumerate(("", " ", *values))}
    columns = {"task_name": "Task", "task_id": "Id", "model": "Model", "status": "Status"}
    columns |= {fields[name]: name for name in values}
    columns |= {"run_id": "Run", "worker": "Worker", "key": "Key"}
    cells = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    overrides = [
        override("Task", links=[*links], custom__minWidth=155),
        override("Model", custom__width=105),
        override("Status", mappings=[status_mapping()], custom__cellOptions={"type": "color-text"}, custom__width=75),
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
    """To the dashboard ``uid`` at the exact time of the row's task."""
    url = (
        f"/d/{uid}?from=${{__data.fields.From.numeric}}&to=${{__data.fields.Until.numeric}}"
        "&var-run_id=${__data.fields.Run}&${datasource:queryparam}&${job:queryparam}&${instance:queryparam}&${gpu:queryparam}"
    )
    return {"title": title, "url": url + ("&var-task_id=${__data.fields.Key}" if with_task else ""), "targetBlank": False}


def status_mapping() -> Json:
    options = {name: {"color": colour, "index": place} for place, (name, colour) in enumerate(STATUS_COLOURS.items())}
    return {"type": "value", "options": options}
