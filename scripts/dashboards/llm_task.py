"""One task in detail: where its time went, how sure the model was, what the hardware did meanwhile.

Reached from the rows of the task tables, which set run, task and time.
"""

from __future__ import annotations

from scripts.dashboards import proxy_panels
from scripts.dashboards.gpu_panels import phase_timeline, power, source_tile, temperature, throttling_timeline, utilization
from scripts.dashboards.layout import Layout, annotation, dashboard, marks, query_variable, variables
from scripts.dashboards.panels import ABSENCE, NO_CALLS, Json, Query, bargauge, or_unknown, override, stat, steps, timeseries
from scripts.dashboards.promql import (
    JOB,
    PROMPT,
    TASK,
    TASK_LABELS,
    THERMAL,
    api_cost,
    latest,
    local_cost,
    ratio,
    select,
    total,
)
from scripts.dashboards.task_panels import CURRENCY, price_variables, tasks_table, window_link

from joulebench import metrics as m
from joulebench.metrics import Metric

UID = "llm-task"
PARTS = {"prefill": m.TASK_PREFILL, "decode": m.TASK_DECODE, "load and queue": m.TASK_LOAD, "tools": m.TASK_TOOL_DURATION}


def build() -> Json:
    layout = Layout()
    layout.row("The task")
    layout.add(tasks_of_this_time(), 24, 5)
    for panel, width in tiles():
        layout.add(panel, width, 4)
    layout.row("Timeline")
    layout.all([time_breakdown(), average_speed(), confidence_over_time()], 8, 7)
    layout.row("Hardware at the same time")
    layout.all([phase_timeline(), throttling_timeline(), power(), temperature()], 12, 7)
    layout.add(utilization(), 24, 6)
    layout.row("Metering proxy", collapsed=True)
    layout.add(proxy_panels.time_of_task(TASK), 24, 6)
    return dashboard(
        UID,
        "Joulebench: task detail",
        "What happened in this task: where did its time go, how sure was the model, what did the hardware do?",
        layout,
        variables=variables(*task_variables(), *price_variables(), single_run=True),
        annotations=marks(running_mark()),
        refresh="30s",
    )


def task_variables() -> list[Json]:
    """The key comes from the address of a link; queries select by the id that belongs to it."""
    tasks = f'{m.TASK_INFO.name}{{{JOB}, run_id=~"$run_id"'
    return [
        query_variable("task_key", "Task", f"{tasks}}}", single=True, newest_first=True),
        query_variable("task_id", "Task id", f'{tasks}, task_key="$task_key"}}', single=True, shown=False),
    ]


def running_mark() -> Json:
    running = f"{select(m.TASK_INFO, TASK)} unless on ({TASK_LABELS}) {select(m.TASK_END, TASK)}"
    return annotation("The task", running, "purple", "{{task_name}}", "{{model}}, task {{task_id}}", step="1s")


def tasks_of_this_time() -> Json:
    return tasks_table(
        "Tasks in this time range",
        "The task, and others that ran at the same time. Energy is that of the task's window; Charged is its share where tasks"
        " overlap.",
        ("From", "Duration", "Prompt", "Output", "Speed", "TTFT", "Lowest", "Energy", "Charged"),
        [window_link(UID, "Details of this task", with_task=True), window_link("llm-live", "The live board at that time")],
    )


def or_not_known(expr: str, legend: str) -> Query:
    """A number of the task, or n/a where it is not known, such as the confidence of calls without logprobs."""
    return Query(or_unknown(expr, latest(m.TASK_INFO, TASK)), legend, "instant")


def tiles() -> list[tuple[Json, int]]:
    """With their widths, two lines of 24 columns."""
    begun, ended = total(m.TASK_START, TASK), total(m.TASK_END, TASK)
    high, low = total(m.TASK_ENERGY_HIGH, TASK), total(m.TASK_ENERGY_LOW, TASK)
    heat = f"sum(max by (gpu, uuid) ({latest(m.TASK_THROTTLED, TASK, THERMAL)}))"
    confidence = ratio(total(m.TASK_CONFIDENCE, TASK, suffix="_sum"), total(m.TASK_CONFIDENCE, TASK, suffix="_count"))
    speed = ratio(total(m.TASK_DECODE_TOKENS, TASK), total(m.TASK_DECODE, TASK, suffix="_sum"))
    ttft = ratio(total(m.TASK_TTFT, TASK, suffix="_sum"), total(m.TASK_TTFT, TASK, suffix="_count"))
    return [
        (
            stat(
                "Duration",
                "By the benchmark's monotonic clock once the task has ended; until then the time since its start.",
                [
                    Query(f"{total(m.TASK_DURATION, TASK)} or (time() - {begun} unless {ended})", "task", "instant"),
                    Query(total(m.TASK_LLM_DURATION, TASK, suffix="_sum"), "in LLM calls", "instant"),
                ],
                "s",
                decimals=1,
            ),
            6,
        ),
        (
            stat(
                "Energy",
                "Joules of all GPUs from the start of the task to its end, half the distance of the guaranteed bounds, what the"
                " task is charged where tasks overlap, and the joules during its LLM calls. It comes a moment after the end.",
                [
                    or_not_known(total(m.TASK_ENERGY, TASK), "window"),
                    or_not_known(f"({high} - {low}) / 2", "±"),
                    or_not_known(total(m.TASK_CHARGED_ENERGY, TASK), "charged"),
                    or_not_known(total(m.TASK_CALL_ENERGY, TASK, suffix="_sum"), "in LLM calls"),
                ],
                "joule",
                decimals=1,
                mappings=ABSENCE,
            ),
            9,
        ),
        (
            stat(
                "Tokens",
                "As the server counted them; cached prompt tokens where it reports them.",
                [Query(total(m.TASK_TOKENS, TASK, by="token"), "{{token}}", "instant")],
                "none",
            ),
            6,
        ),
        (source_tile(), 3),
        (
            stat(
                "Cost",
                "Local cost of the charged energy and machine time, and that of the same tokens at the chosen API model.",
                [or_not_known(local_cost(TASK), "local"), or_not_known(api_cost(TASK), "$api_model")],
                CURRENCY,
                value_size=26,
                mappings=ABSENCE,
            ),
            5,
        ),
        (
            stat(
                "Throttled",
                "Seconds of the task in which heat lowered clocks, all chosen GPUs together.",
                [or_not_known(heat, "by heat")],
                "s",
                thresholds=steps((None, "text"), (0.0001, "orange")),
                decimals=1,
                mappings=ABSENCE,
            ),
            3,
        ),
        (
            stat(
                "Speed",
                "Completion tokens divided by the time that the server spent on decoding; mean time to first token of the"
                " streamed calls.",
                [or_not_known(speed, "decode"), or_not_known(ttft, "mean TTFT")],
                "suffix:tok/s",
                decimals=1,
                overrides=[override("mean TTFT", unit="s", decimals=2)],
                mappings=ABSENCE,
            ),
            4,
        ),
        (
            stat(
                "Confidence",
                "Of the tool calls whose tokens were located, and their number.",
                [
                    or_not_known(f"min({latest(m.TASK_CONFIDENCE_MIN, TASK)})", "lowest"),
                    or_not_known(confidence, "mean"),
                    or_not_known(f"max({latest(m.TASK_CONFIDENCE_MAX, TASK)})", "highest"),
                    or_not_known(total(m.TASK_CONFIDENCE, TASK, suffix="_count"), "calls"),
                ],
                "percentunit",
                decimals=0,
                overrides=[override("calls", unit="none")],
                mappings=ABSENCE,
            ),
            6,
        ),
        (
            stat(
                "Calls",
                "LLM calls, those that failed, and tool calls by outcome.",
                [
                    Query(total(m.TASK_LLM_CALLS, TASK), "LLM", "instant"),
                    Query(total(m.TASK_LLM_ERRORS, TASK), "failed LLM", "instant"),
                    Query(f"{total(m.TASK_TOOL_CALLS, TASK, by='outcome')} > 0", "tool {{outcome}}", "instant"),
                ],
                "none",
            ),
            6,
        ),
    ]


def growing(metric: Metric, *matchers: str, suffix: str = "") -> str:
    """A total of the task as it grows."""
    return f"sum(max_over_time({select(metric, TASK, *matchers, suffix=suffix)}[$__rate_interval]))"


def time_breakdown() -> Json:
    llm, duration = total(m.TASK_LLM_DURATION, TASK, suffix="_sum"), total(m.TASK_DURATION, TASK)
    return bargauge(
        "Time breakdown",
        "Prefill, decode and loading by the server's clock, tools by the benchmark's. The rest is the benchmark's own time and"
        " the network's.",
        [
            *(Query(total(metric, TASK, suffix="_sum"), name, "instant") for name, metric in PARTS.items()),
            Query(f"{duration} - {llm} - {total(m.TASK_TOOL_DURATION, TASK, suffix='_sum')}", "outside of calls", "instant"),
        ],
        "s",
        empty=NO_CALLS,
    )


def average_speed() -> Json:
    prefilled = f"{growing(m.TASK_TOKENS, PROMPT)} / ({growing(m.TASK_PREFILL, suffix='_sum')} > 0)"
    return timeseries(
        "Average speed",
        "Tokens divided by the server's seconds since the start of the task: decode, and prefill (right axis). Prompt tokens from"
        " the cache make prefill look fast.",
        [
            Query(f"{growing(m.TASK_DECODE_TOKENS)} / ({growing(m.TASK_DECODE, suffix='_sum')} > 0)", "decode"),
            Query(prefilled, "prefill"),
        ],
        "suffix:tok/s",
        overrides=[override("prefill", custom__axisPlacement="right")],
        empty=NO_CALLS,
    )


def confidence_over_time() -> Json:
    mean = f"{growing(m.TASK_CONFIDENCE, suffix='_sum')} / ({growing(m.TASK_CONFIDENCE, suffix='_count')} > 0)"
    return timeseries(
        "Confidence over time",
        "Mean and lowest confidence of the tool calls since the start of the task.",
        [Query(mean, "mean"), Query(f"min({select(m.TASK_CONFIDENCE_MIN, TASK)})", "lowest")],
        "percentunit",
        maximum=1,
        empty=NO_CALLS,
    )
