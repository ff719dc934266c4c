"""The live dashboard's tables: the tasks one by one, with a link to each one's time window, and what they come to."""

from __future__ import annotations

from scripts.dashboards.absence import NO_TASKS
from scripts.dashboards.fields import Json, Query
from scripts.dashboards.panels import bargauge
from scripts.dashboards.promql import TASK_LABELS, in_range, latest, per_task, total
from scripts.dashboards.task_rows import tasks_table, window_link

from joulebench import metrics as m

COLUMNS = (
    "From",
    "Duration",
    "Prompt",
    "Output",
    "Speed",
    "TTFT",
    "Energy",
    "Energy ±",
    "Least sure",
    "LLM calls",
    "Tool calls",
    "Throttled",
)


def task_panels(uid: str) -> list[tuple[Json, int, int]]:
    table_of_tasks = tasks_table(
        "Tasks",
        "One row a task, live and finished, in this time range. A click on the name leads to the task's details, or narrows all"
        " panels here to the time of the task. Energy comes a moment after the end; ± is half the distance of its guaranteed"
        " bounds. Empty: not known, never 0.",
        COLUMNS,
        [window_link("llm-task", "Details of this task", with_task=True), window_link(uid, "Only the time of this task")],
        narrow=True,
    )
    return [(table_of_tasks, 24, 11), (time_by_activity(), 12, 7), (joules_by_model(), 12, 7)]


def time_by_activity() -> Json:
    parts = {"prefill": m.TASK_PREFILL, "decode": m.TASK_DECODE, "load and queue": m.TASK_LOAD, "tools": m.TASK_TOOL_DURATION}
    queries = [Query(total(metric, suffix="_sum"), name, "instant") for name, metric in parts.items()]
    return bargauge(
        "Where the time went",
        "Seconds of the tasks in this time range: prefill, decoding and loading by the server's clock, tools by the benchmark's;"
        " LLM calls as a whole for comparison.",
        [*queries, Query(total(m.TASK_LLM_DURATION, suffix="_sum"), "LLM calls, whole", "instant")],
        "s",
        empty=NO_TASKS,
    )


def joules_by_model() -> Json:
    model = f"on ({TASK_LABELS}) group_left (model) {latest(m.TASK_INFO)}"
    energy = f"sum by (model) ({per_task(m.TASK_ENERGY)} * {model})"
    passed = f"sum by (model) (({in_range(latest(m.TASK_SUCCESS))} == 1) * {model})"
    return bargauge(
        "Joules per passed task, by model",
        "Energy of all tasks of a model in this time range, failed ones too, by the number of its tasks that passed. A model"
        " without a passed task is not shown.",
        [Query(f"{energy} / ({passed} > 0)", "{{model}}", "instant")],
        "joule",
        decimals=1,
        empty="No data: no passed task with an energy in this time range",
    )
