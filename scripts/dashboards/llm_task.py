"""One task in detail: where its time went, how sure it was, what the hardware did meanwhile.

Reached from the rows of the task tables, which set run, task and the exact time.
"""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.absence import NO_CALLS
from scripts.dashboards.fields import Json, Query, override
from scripts.dashboards.frame import marks, variables
from scripts.dashboards.layout import Layout, annotation, dashboard
from scripts.dashboards.live_gpu import gpu_panels
from scripts.dashboards.live_proxy import task_panels as proxied
from scripts.dashboards.panels import bargauge, timeseries
from scripts.dashboards.promql import COMPLETION, PROMPT, TASK_LABELS, select
from scripts.dashboards.task_key import task_variable
from scripts.dashboards.task_rows import tasks_table, window_link
from scripts.dashboards.task_tiles import TASK, total, wide_tiles

from joulebench import metrics as m
from joulebench.metrics import Metric

UID = "llm-task"
PARTS = {"prefill": m.TASK_PREFILL, "decode": m.TASK_DECODE, "load and queue": m.TASK_LOAD, "tools": m.TASK_TOOL_DURATION}
HARDWARE = (
    "Phase of each worker",
    "Throttling by reason",
    "Power and limit",
    "Temperature",
    "Utilization and VRAM",
    "Throttled share of time",
)


def build() -> Json:
    layout = Layout()
    layout.row("The task")
    layout.add(header(), 24, 5)
    for panel, width in wide_tiles():
        layout.add(panel, width, 4)
    layout.row("What it did")
    layout.all([time_split(), time_course(), token_course(), speed_course(), tool_outcomes(), confidence_course()], 12, 7)
    layout.row("What the hardware did meanwhile")
    known = {panel["title"]: panel for panel in gpu_panels()}
    layout.all([known[title] for title in HARDWARE], 12, 7)
    layout.row("At the metering proxy", collapsed=True)
    layout.all(proxied(TASK)[:2], 12, 7)
    layout.all(proxied(TASK)[2:], 8, 4)
    return dashboard(
        UID,
        "Joulebench: task detail",
        "What happened in this task: where did its time go, how sure was the model, what did the hardware do?",
        layout,
        variables=variables(task_variable(), *costs.variables(), single_run=True),
        annotations=marks(running_mark()),
        refresh="30s",
    )


def running_mark() -> Json:
    running = f"{select(m.TASK_INFO, TASK)} unless on ({TASK_LABELS}) {select(m.TASK_END, TASK)}"
    return annotation("The task", running, "purple", "{{task_name}}", "{{model}}, task {{task_id}}", step="1s")


def growing(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """A total of the task as it grows."""
    return f"sum(max_over_time({select(metric, TASK, *matchers, suffix=suffix)}[$__rate_interval]))"


def header() -> Json:
    return tasks_table(
        "Tasks in this time",
        "The task, and others that ran at the same time: their joules come from the same counters.",
        ("From", "Duration", "Prompt", "Output", "Speed", "TTFT", "Least sure", "Energy"),
        [window_link(UID, "Details of this task", with_task=True), window_link("llm-live", "The live board at that time")],
    )


def time_split() -> Json:
    llm, begun = total(m.TASK_LLM_DURATION, suffix="_sum"), total(m.TASK_DURATION)
    return bargauge(
        "Where its time went",
        "Prefill, decoding and loading by the server's clock, tools by the benchmark's. The rest is the benchmark's own time and"
        " the network's.",
        [
            *(Query(total(metric, suffix="_sum"), name, "instant") for name, metric in PARTS.items()),
            Query(f"{begun} - {llm} - {total(m.TASK_TOOL_DURATION, suffix='_sum')}", "outside of calls", "instant"),
        ],
        "s",
        empty=NO_CALLS,
    )


def time_course() -> Json:
    return timeseries(
        "Seconds by activity, as they add up",
        "A step is one call: its parts are known when it ends.",
        [Query(growing(metric, suffix="_sum"), name) for name, metric in PARTS.items()],
        "s",
        stacked=True,
        empty=NO_CALLS,
    )


def token_course() -> Json:
    return timeseries(
        "Tokens, as they add up",
        "A call's tokens count when it ends. Prompt tokens grow with every call, since each sends the talk so far again.",
        [Query(growing(m.TASK_TOKENS, PROMPT), "prompt"), Query(growing(m.TASK_TOKENS, COMPLETION), "completion")],
        "none",
        empty=NO_CALLS,
    )


def speed_course() -> Json:
    prefilled = f"{growing(m.TASK_TOKENS, PROMPT)} / ({growing(m.TASK_PREFILL, suffix='_sum')} > 0)"
    return timeseries(
        "Speed until then",
        "Tokens by the server's seconds from the start of the task on: decoded ones, and prompt tokens (right axis). Prompt"
        " tokens that the server took from its cache make prefill look fast.",
        [
            Query(f"{growing(m.TASK_DECODE_TOKENS)} / ({growing(m.TASK_DECODE, suffix='_sum')} > 0)", "decode"),
            Query(prefilled, "prefill"),
        ],
        "suffix:tok/s",
        overrides=[override("prefill", custom__axisPlacement="right")],
        empty=NO_CALLS,
    )


def tool_outcomes() -> Json:
    return bargauge(
        "Tool calls by outcome",
        "Tool calls that the model tried: ok, malformed, of a tool that does not exist, with wrong arguments, or failed.",
        [Query(total(m.TASK_TOOL_CALLS, by="outcome"), "{{outcome}}", "instant")],
        "none",
        empty=NO_CALLS,
    )


def confidence_course() -> Json:
    mean = f"{growing(m.TASK_CONFIDENCE, suffix='_sum')} / ({growing(m.TASK_CONFIDENCE, suffix='_count')} > 0)"
    return timeseries(
        "Confidence until then",
        "Mean and lowest confidence of the tool calls from the start of the task on.",
        [Query(mean, "mean"), Query(f"min({select(m.TASK_CONFIDENCE_MIN, TASK)})", "lowest")],
        "percentunit",
        maximum=1,
        empty=NO_CALLS,
    )
