"""The comparison of tasks: which one was slow, dear, unsure or throttled, and which model is best at it?"""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.absence import NO_TASKS
from scripts.dashboards.costs import CURRENCY
from scripts.dashboards.fields import Json, Query, override, steps
from scripts.dashboards.frame import marks, variables
from scripts.dashboards.layout import Layout, dashboard
from scripts.dashboards.live_tasks import joules_by_model, time_by_activity
from scripts.dashboards.live_tiles import NOT_OK, SUCCESSFUL, cost_tiles, energy_tile, not_ok_tile, source_tile
from scripts.dashboards.panels import bargauge, stat
from scripts.dashboards.promql import in_range, latest, per_task, quantile_so_far, ratio, total
from scripts.dashboards.task_rows import INFO, NAMED, VALUES, tasks_table, throttled, window_link
from scripts.dashboards.tool_confidence import confidence_by_tool

from joulebench import metrics as m

UID = "llm-tasks"
SHOWN = 10
COLUMNS = (
    "From",
    "Duration",
    "Prompt",
    "Output",
    "Speed",
    "TTFT",
    "Confidence",
    "Least sure",
    "Wh",
    "Local cost",
    "API cost",
    "Local / API",
    "Throttled",
)


def build() -> Json:
    layout = Layout()
    layout.row("All tasks in this time range")
    layout.all([number_of_tasks(), passed_share(), joules_per_pass(), *cost_tiles(), not_ok_tile(), least_sure()], 3, 4)
    layout.add(source_tile(), 3, 4)
    layout.add(task_table(), 24, 12)
    layout.row("The most of it")
    layout.all([slowest(), dearest(), unsurest(), most_throttled()], 12, 8)
    layout.row("Models beside each other")
    layout.all([success_by_model(), joules_by_model(), cost_by_model(), speed_by_model()], 12, 6)
    layout.all([first_token_by_model(), tool_outcomes_by_model()], 12, 7)
    layout.add(confidence_by_tool(), 24, 8)
    layout.row("Time and energy as a whole")
    layout.add(time_by_activity(), 12, 7)
    layout.add(energy_tile(), 12, 7)
    return dashboard(
        UID,
        "Joulebench: tasks",
        "Which task was slow, dear, unsure or throttled, and how do models compare?",
        layout,
        variables=variables(*costs.variables()),
        annotations=marks(),
        since="now-1h",
        refresh="30s",
    )


def number_of_tasks() -> Json:
    return stat(
        "Tasks",
        "Tasks that ran in this time range, those that go on too.",
        [Query(f"count({INFO})", "tasks", "instant")],
        "none",
    )


def passed_share() -> Json:
    graded = f"count{in_range(latest(m.TASK_SUCCESS))}"
    return stat(
        "Passed",
        "Share of the tasks with a verdict that passed. Tasks without a verdict do not count.",
        [Query(f"({SUCCESSFUL} or 0 * {graded}) / ({graded} > 0)", "of graded tasks", "instant")],
        "percentunit",
        decimals=0,
    )


def joules_per_pass() -> Json:
    return stat(
        "Joules per pass",
        "Energy of all tasks in this time range, failed ones too, by the tasks that passed.",
        [Query(ratio(total(m.TASK_ENERGY), SUCCESSFUL), "per passed task", "instant")],
        "joule",
        decimals=1,
    )


def least_sure() -> Json:
    return stat(
        "Least sure call",
        "Lowest confidence of any tool call in this time range whose tokens were found.",
        [Query(f"min({per_task(m.TASK_CONFIDENCE_MIN)})", "lowest", "instant")],
        "percentunit",
        thresholds=steps((None, "orange"), (0.5, "text")),
        decimals=0,
    )


def task_table() -> Json:
    return tasks_table(
        "Tasks one by one",
        "One row a task. A click on the name opens its details at the exact time of the task. Wh, costs and throttled seconds are"
        " those of all chosen GPUs; API is the cost of the same tokens at the chosen API model; throttled counts heat only, from"
        " samples within the task. n/a: not known, never 0.",
        COLUMNS,
        [window_link("llm-task", "Details of this task", with_task=True), window_link("llm-live", "The live board at that time")],
        gauges=True,
        narrow=True,
    )


def top(expr: str, how: str = "topk") -> Query:
    """The first of the tasks by ``expr``, with their names."""
    return Query(f"{how}({SHOWN}, ({expr}) * {NAMED} {INFO})", "{{task_name}} ({{task_id}})", "instant")


def slowest() -> Json:
    return bargauge(
        "Slowest tasks", "Tasks with the longest duration.", [top(VALUES["Duration"])], "s", decimals=1, empty=NO_TASKS
    )


def dearest() -> Json:
    return bargauge(
        "Tasks with the most energy",
        "Tasks that took the most joules.",
        [top(per_task(m.TASK_ENERGY))],
        "joule",
        decimals=1,
        empty=NO_TASKS,
    )


def unsurest() -> Json:
    return bargauge(
        "Least sure tasks",
        "Lowest confidence of a tool call in the task, the least sure tasks first.",
        [top(per_task(m.TASK_CONFIDENCE_MIN), "bottomk")],
        "percentunit",
        decimals=0,
        maximum=1,
        empty=NO_TASKS,
    )


def most_throttled() -> Json:
    return bargauge(
        "Throttled tasks",
        f"Seconds for which heat ({' or '.join(m.THERMAL_REASONS)}) held clocks down while the task ran.",
        [top(throttled())],
        "s",
        decimals=1,
        empty=NO_TASKS,
    )


def by_model(expr: str) -> str:
    return f"sum by (model) (({expr}) * {costs.BY_MODEL} {INFO})"


def success_by_model() -> Json:
    passed, graded = f"{in_range(latest(m.TASK_SUCCESS))} == 1", in_range(latest(m.TASK_SUCCESS))
    tasks = f"count by (model) ({graded} * {costs.BY_MODEL} {INFO})"
    return bargauge(
        "Passed, by model",
        "Share of a model's graded tasks that passed, and how many there are: a share of few says little.",
        [
            Query(f"({by_model(passed)} or 0 * {tasks}) / ({tasks} > 0)", "{{model}} passed", "instant"),
            Query(tasks, "{{model}} graded", "instant"),
        ],
        "percentunit",
        decimals=0,
        maximum=1,
        overrides=[override("/graded$/", by="byRegexp", unit="none", max=None)],
        empty=NO_TASKS,
    )


def cost_by_model() -> Json:
    passed = by_model(f"{in_range(latest(m.TASK_SUCCESS))} == 1")
    return bargauge(
        "Cost per passed task, by model",
        "Local cost of all tasks of a model, and that of their tokens at the chosen API model, by the tasks that passed.",
        [
            Query(f"{by_model(costs.local_cost_per_task())} / ({passed} > 0)", "{{model}} here", "instant"),
            Query(f"{by_model(costs.api_cost_per_task())} / ({passed} > 0)", "{{model}} at API", "instant"),
        ],
        CURRENCY,
        empty=NO_TASKS,
    )


def speed_by_model() -> Json:
    seconds = by_model(per_task(m.TASK_DECODE, suffix="_sum"))
    return bargauge(
        "Output speed, by model",
        "Decoded tokens by the time the server spent on decoding.",
        [Query(f"{by_model(per_task(m.TASK_DECODE_TOKENS))} / ({seconds} > 0)", "{{model}}", "instant")],
        "suffix:tok/s",
        decimals=1,
        empty=NO_TASKS,
    )


def first_token_by_model() -> Json:
    return bargauge(
        "Time to first token, by model",
        "Median and 95th percentile of the streamed calls of the runs in this time range, interpolated within the histogram's"
        " buckets.",
        [
            Query(quantile_so_far(0.5, m.CALL_TTFT, "model"), "{{model}} p50", "instant"),
            Query(quantile_so_far(0.95, m.CALL_TTFT, "model"), "{{model}} p95", "instant"),
        ],
        "s",
        empty=NO_TASKS,
    )


def tool_outcomes_by_model() -> Json:
    every = by_model(per_task(m.TASK_TOOL_CALLS))
    bad = by_model(per_task(m.TASK_TOOL_CALLS, NOT_OK))
    sums = by_model(per_task(m.TASK_CONFIDENCE, suffix="_sum"))
    counts = by_model(per_task(m.TASK_CONFIDENCE, suffix="_count"))
    return bargauge(
        "Tool calls, by model",
        "Share of a model's tool calls that did not end ok, its mean confidence, and the number of its calls.",
        [
            Query(f"({bad} or 0 * {every}) / ({every} > 0)", "{{model}} not ok", "instant"),
            Query(f"{sums} / ({counts} > 0)", "{{model}} confidence", "instant"),
            Query(every, "{{model}} calls", "instant"),
        ],
        "percentunit",
        decimals=0,
        maximum=1,
        overrides=[override("/calls$/", by="byRegexp", unit="none", max=None)],
        empty=NO_TASKS,
    )
