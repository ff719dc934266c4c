"""The comparison of tasks: which one was slow, dear, unsure or throttled, and how do models compare?"""

from __future__ import annotations

from scripts.dashboards.gpu_panels import source_tile
from scripts.dashboards.layout import Layout, dashboard, marks, variables
from scripts.dashboards.panels import NO_TASKS, Json, Query, bargauge, override, stat, steps, table
from scripts.dashboards.promql import (
    TASK_LABELS,
    THERMAL,
    TOOL_OK,
    added,
    api_cost,
    latest,
    local_cost,
    per_task,
    quantile_so_far,
    ratio,
    total,
)
from scripts.dashboards.task_panels import (
    CHARGED,
    CURRENCY,
    INFO,
    THROTTLED,
    VALUES,
    cost_tiles,
    failed_tools_tile,
    joules_per_success,
    price_variables,
    tasks_table,
    time_breakdown,
    unmeasured_tasks,
    window_link,
)

from joulebench import metrics as m

UID = "llm-tasks"
SHOWN = 10
GUESS = 'le="0.5"'
NAMED = f"on ({TASK_LABELS}) group_left (task_name)"
COLUMNS = (
    *("From", "Duration", "Prompt", "Output", "Speed", "TTFT", "Confidence", "Lowest", "Charged", "Local cost", "API cost"),
    "Throttled",
)
BAR: Json = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}


def build() -> Json:
    layout = Layout()
    layout.row("Tasks in this time range")
    layout.all([number_of_tasks(), success_rate(), joules_per_success(), *cost_tiles()], 3, 4)
    layout.all([failed_tools_tile(), lowest_confidence(), source_tile()], 3, 4)
    layout.add(task_table(), 24, 12)
    layout.row("Top 10 tasks")
    layout.all([slowest(), most_energy(), least_certain(), most_throttled()], 12, 8)
    layout.row("Model comparison")
    layout.add(model_table(), 24, 6)
    layout.add(confidence_by_tool(), 24, 8)
    layout.row("Totals")
    layout.add(time_breakdown(), 24, 7)
    return dashboard(
        UID,
        "Joulebench: tasks",
        "Which task was slow, dear, unsure or throttled, and how do models compare? For intervals and tests: joulebench report.",
        layout,
        variables=variables(*price_variables()),
        annotations=marks(task_starts=False),
        since="now-1h",
        refresh="30s",
    )


def number_of_tasks() -> Json:
    return stat(
        "Tasks",
        "Tasks that ran in this time range, running ones too; and finished ones whose energy is not known and in no sum here.",
        [
            Query(f"count({latest(m.TASK_INFO)})", "tasks", "instant"),
            Query(unmeasured_tasks(), "without energy", "instant"),
        ],
        "none",
        overrides=[override("without energy", thresholds=steps((None, "text"), (1, "orange")))],
    )


def success_rate() -> Json:
    return stat(
        "Success rate",
        "Share of the tasks with a verdict that passed. Tasks without a verdict do not count.",
        [Query(f"avg({latest(m.TASK_SUCCESS)})", "of graded tasks", "instant")],
        "percentunit",
        decimals=0,
    )


def lowest_confidence() -> Json:
    return stat(
        "Lowest confidence",
        "Lowest confidence of any tool call in this time range whose tokens were located.",
        [Query(f"min({latest(m.TASK_CONFIDENCE_MIN)})", "lowest", "instant")],
        "percentunit",
        thresholds=steps((None, "orange"), (0.5, "text")),
        decimals=0,
    )


def task_table() -> Json:
    return tasks_table(
        "Tasks by time",
        "One row per task. A click on the name opens its details at the time of the task. API cost is that of the same tokens at"
        f" the chosen API model; Throttled counts heat only. {CHARGED} n/a: not known, never 0.",
        COLUMNS,
        [window_link("llm-task", "Details of this task", with_task=True), window_link("llm-live", "The live board at that time")],
        gauges=True,
        narrow=True,
    )


def top(expr: str, how: str = "topk") -> Query:
    """The first tasks by ``expr``, with their names."""
    return Query(f"{how}({SHOWN}, ({expr}) * {NAMED} {INFO})", "{{task_name}} ({{task_id}})", "instant")


def slowest() -> Json:
    return bargauge(
        "Slowest tasks", "Tasks with the longest duration.", [top(VALUES["Duration"])], "s", decimals=1, empty=NO_TASKS
    )


def most_energy() -> Json:
    return bargauge(
        "Tasks with the most energy",
        f"Tasks by the joules that they are charged. {CHARGED}",
        [top(VALUES["Charged"])],
        "joule",
        decimals=1,
        empty=NO_TASKS,
    )


def least_certain() -> Json:
    return bargauge(
        "Tasks with the lowest confidence",
        "Tasks by the lowest confidence of one of their tool calls.",
        [top(per_task(m.TASK_CONFIDENCE_MIN), "bottomk")],
        "percentunit",
        decimals=0,
        maximum=1,
        empty=NO_TASKS,
    )


def most_throttled() -> Json:
    return bargauge(
        "Throttled tasks",
        f"Seconds for which heat ({' or '.join(m.THERMAL_REASONS)}) lowered clocks while the task ran.",
        [top(THROTTLED)],
        "s",
        decimals=1,
        empty=NO_TASKS,
    )


def model_table() -> Json:
    tasks, passed = f"count by (model) ({latest(m.TASK_INFO)})", total(m.TASK_SUCCESS, by="model")
    tools = total(m.TASK_TOOL_CALLS, by="model")
    confidences = (total(m.TASK_CONFIDENCE, suffix=suffix, by="model") for suffix in ("_sum", "_count"))
    decoded = total(m.TASK_DECODE_TOKENS, by="model")
    percent: Json = {"unit": "percentunit", "decimals": 0}
    values: dict[str, tuple[str, Json]] = {
        "Tasks": (tasks, {"custom__width": 70}),
        "Success rate": (f"avg by (model) ({latest(m.TASK_SUCCESS)})", {**percent, "max": 1}),
        "Joules per success": (
            ratio(total(m.TASK_CHARGED_ENERGY, by="model"), passed),
            {"unit": "joule", "decimals": 1, "custom__width": 145},
        ),
        "Local cost": (local_cost(by="model"), {"unit": CURRENCY}),
        "API cost": (api_cost(by="model"), {"unit": CURRENCY}),
        "Decode speed": (
            ratio(decoded, total(m.TASK_DECODE, suffix="_sum", by="model")),
            {"unit": "suffix:tok/s", "decimals": 1},
        ),
        "TTFT p50": (quantile_so_far(0.5, m.CALL_TTFT, "model"), {"unit": "s"}),
        "TTFT p95": (quantile_so_far(0.95, m.CALL_TTFT, "model"), {"unit": "s"}),
        "Tool calls": (tools, {"unit": "none", "custom__width": 85}),
        "Failed": (f"1 - {ratio(total(m.TASK_TOOL_CALLS, TOOL_OK, by='model'), tools)}", {**percent, "custom__width": 75}),
        "Confidence": (ratio(*confidences), percent),
        "Throttled": (f"sum by (model) ({added(m.RUN_THROTTLED, THERMAL)})", {"unit": "s", "decimals": 1}),
    }
    fields = {f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(values)}
    return table(
        "Models",
        "One row per model, over the tasks in this time range. TTFT is that of the runs until now; Failed is the share of tool"
        " calls; Confidence is the mean over tool calls; Throttled is time with lowered clocks by heat, of all GPUs."
        f" {CHARGED} n/a: not known.",
        [Query(expr, "__auto", "table") for expr, _ in values.values()],
        {"model": "Model", **fields},
        overrides=[
            override("Model", custom__minWidth=150),
            *(override(name, **{"custom__width": 110, **shown}) for name, (_, shown) in values.items()),
        ],
        sort="Tasks",
        empty=NO_TASKS,
    )


def confidence_by_tool() -> Json:
    keys = ("model", "tool")

    def of(suffix: str, *matchers: str) -> str:
        return f"sum by ({', '.join(keys)}) ({latest(m.TOOL_CONFIDENCE, *matchers, suffix=suffix)})"

    shares = {
        "Mean": (ratio(of("_sum"), of("_count")), "green"),
        "10th percentile": (quantile_so_far(0.1, m.TOOL_CONFIDENCE, *keys), "blue"),
        "Share below 50 %": (ratio(of("_bucket", GUESS), of("_count")), "orange"),
    }
    exprs = [of("_count"), *(expr for expr, _ in shares.values())]
    fields = {f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(("Calls", *shares))}
    return table(
        "Confidence by tool",
        "Tool calls whose tokens were located, of the runs in this time range until now: number, mean confidence, 10th"
        " percentile, and the share below 50 %. Tools are those that the benchmark declared (Run.declare_tools), 24 at most;"
        " other is all else, tools that do not exist too. Few calls say little.",
        [Query(expr, "__auto", "table") for expr in exprs],
        {"tool": "Tool", "model": "Model", **fields},
        overrides=[
            override("Tool", custom__minWidth=120),
            override("Calls", unit="none", custom__width=70),
            *(
                override(
                    name,
                    unit="percentunit",
                    decimals=0,
                    min=0,
                    max=1,
                    color={"mode": "fixed", "fixedColor": colour},
                    custom__cellOptions=BAR,
                )
                for name, (_, colour) in shares.items()
            ),
        ],
        sort="Calls",
        empty="No data: no tool call whose tokens were located (it needs logprobs)",
    )
