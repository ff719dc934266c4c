"""The cost dashboard: local or API, and why? Costs here, those of the same tokens elsewhere, and what both were reckoned with."""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.absence import NO_COSTS
from scripts.dashboards.cost_prices import api_prices, assumptions, oldest_price, own_prices
from scripts.dashboards.cost_utilization import (
    API,
    LOCAL,
    TOKENS,
    at_utilization,
    break_even,
    by_utilization,
    tokens_to_break_even,
    utilization_needed,
)
from scripts.dashboards.costs import CURRENCY
from scripts.dashboards.fields import Json, Query, override, states, steps
from scripts.dashboards.frame import marks, variables
from scripts.dashboards.layout import Layout, dashboard
from scripts.dashboards.live_tasks import joules_by_model
from scripts.dashboards.live_tiles import energy_tile, source_tile
from scripts.dashboards.llm_tasks import by_model, cost_by_model
from scripts.dashboards.panels import bargauge, stat, table, timeseries
from scripts.dashboards.promql import COMPLETION, PROMPT, in_range, latest, per_task, recorded, select, total

from joulebench import metrics as m
from joulebench.units import JOULES_PER_KWH

UID = "llm-cost"
MILLION = 1_000_000
WHOLE = f"sum(increase({select(m.GPU_ENERGY)}[$__range]))"


def build() -> Json:
    layout = Layout()
    layout.row("Local or API?")
    layout.add(local_cost(), 5, 4)
    layout.all([api_cost(), local_by_api()], 3, 4)
    layout.add(break_even(), 4, 4)
    layout.all([included(), oldest_price(), source_tile()], 3, 4)
    layout.all([cumulative(), same_tokens()], 12, 9)
    layout.row("With idle hours: what does it cost at a utilization?")
    layout.all([at_utilization(), tokens_to_break_even()], 6, 6)
    layout.add(utilization_needed(), 12, 6)
    layout.add(by_utilization(), 24, 8)
    layout.row("By model")
    layout.add(model_table(), 24, 6)
    layout.all([cost_by_model(), joules_by_model()], 12, 6)
    layout.row("Energy")
    layout.add(energy_tile(), 8, 7)
    layout.all([in_and_outside(), per_thousand()], 8, 7)
    layout.add(cost_rate(), 24, 7)
    layout.row("Prices and assumptions")
    layout.all([own_prices(), api_prices()], 12, 7)
    layout.add(assumptions(), 24, 4)
    return dashboard(
        UID,
        "Joulebench: cost & energy",
        "What do the tasks cost here, what would the same tokens cost at an API, and what does it depend on?",
        layout,
        variables=variables(*costs.variables(whole=True)),
        annotations=marks(),
        since="now-1h",
        refresh="30s",
    )


def local_cost() -> Json:
    return stat(
        "Here",
        "Cost of the tasks in this time range on this hardware, and that of all energy in it, idle time included.",
        [
            Query(LOCAL, "tasks", "instant"),
            Query(
                f"{WHOLE} * {costs.electricity()} + {costs.hardware()} * ($__to - $__from) / 1000", "with idle time", "instant"
            ),
        ],
        CURRENCY,
    )


def api_cost() -> Json:
    return stat(
        "As API calls",
        "Cost of the same tokens at the chosen API model.",
        [Query(API, "$api_model", "instant")],
        CURRENCY,
    )


def local_by_api() -> Json:
    return stat(
        "Here / API",
        "Cost of the tasks here as a share of that at the chosen API model. Below 100 % it is cheaper here.",
        [Query(f"{LOCAL} / ({API} > 0)", "of the API's cost", "instant")],
        "percentunit",
        thresholds=steps((None, "green"), (1, "orange")),
        decimals=0,
    )


def included() -> Json:
    return stat(
        "Local costs include",
        "Only electricity of the GPUs, or the machine's own price too, where the price list or the variable gives one. The"
        " electricity of CPU, memory and cooling is never in it.",
        [Query(f"count({costs.hardware()} > 0) or 0 * max({select(m.PRICE_ELECTRICITY)})", "", "instant")],
        "none",
        mappings=states({0: ("GPU electricity only", "text"), 1: ("GPU electricity and hardware", "text")}),
    )


def cumulative() -> Json:
    counter = select(m.GPU_ENERGY)
    whole = f"sum({counter_since_start(counter)})"
    return timeseries(
        "Cost as it adds up",
        "Here: the tasks that have ended, and all energy with the idle time between them. API: the same tokens at the chosen API"
        " model. Tasks that began before the left edge are counted whole.",
        [
            Query(LOCAL, "here, tasks"),
            Query(f"{whole} * {costs.electricity()} + {costs.hardware()} * (time() - $__from / 1000)", "here, with idle time"),
            Query(API, "API $api_model"),
        ],
        CURRENCY,
        empty=NO_COSTS,
    )


def counter_since_start(counter: str) -> str:
    return f"last_over_time({counter}[5s]) - min_over_time({counter}[$__range] @ end())"


def same_tokens() -> Json:
    every_prompt, every_completion = (price('".+"', "api_model") for price in (costs.prompt_token, costs.completion_token))
    prompt = f"{total(m.TASK_TOKENS, PROMPT)} * on () group_right () {every_prompt}"
    completion = f"{total(m.TASK_TOKENS, COMPLETION)} * on () group_right () {every_completion}"
    return bargauge(
        "The same tokens elsewhere",
        "What the tokens of these tasks would cost at each model of the price list, beside their cost here. A dearer model may"
        " need fewer tokens or pass more tasks; that is not known here.",
        [
            Query(LOCAL, "here, tasks", "instant"),
            Query(f"sort_desc({prompt} + on (api_model) {completion})", "{{api_model}}", "instant"),
        ],
        CURRENCY,
        empty=NO_COSTS,
    )


def model_table() -> Json:
    tokens = f"({by_model(per_task(m.TASK_TOKENS, PROMPT))} + {by_model(per_task(m.TASK_TOKENS, COMPLETION))})"
    tasks = f"count by (model) {in_range(latest(m.TASK_INFO))}"
    passed = f"({by_model(in_range(latest(m.TASK_SUCCESS)) + ' == 1')} or 0 * {tasks})"
    energy = by_model(per_task(m.TASK_ENERGY))
    local, api = by_model(costs.local_cost_per_task()), by_model(costs.api_cost_per_task())
    values: dict[str, tuple[str, Json]] = {
        "Tasks": (tasks, {}),
        "Passed": (passed, {}),
        "Energy": (energy, {"unit": "joule", "decimals": 1}),
        "Wh per task": (f"{energy} / {JOULES_PER_KWH / 1000:.0f} / ({tasks} > 0)", {"unit": "watth", "decimals": 2}),
        "Wh per 1k tokens": (f"{energy} / {JOULES_PER_KWH / MILLION} / ({tokens} > 0)", {"unit": "watth", "decimals": 2}),
        "Here, per task": (f"{local} / ({tasks} > 0)", {"unit": CURRENCY}),
        "API, per task": (f"{api} / ({tasks} > 0)", {"unit": CURRENCY}),
        "Here, 1M tokens": (f"{local} * {MILLION} / ({tokens} > 0)", {"unit": CURRENCY, "decimals": 2}),
        "API, 1M tokens": (f"{api} * {MILLION} / ({tokens} > 0)", {"unit": CURRENCY, "decimals": 2}),
        "Here / API": (f"{local} / ({api} > 0)", {"unit": "percentunit", "decimals": 0}),
    }
    fields = {f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(values)}
    return table(
        "Models",
        "One row a model, over the tasks in this time range. Tokens are prompt and completion together. n/a: not known.",
        [Query(expr, "__auto", "table") for expr, _ in values.values()],
        {"model": "Model", **fields},
        overrides=[
            override("Model", custom__minWidth=160),
            *(override(name, custom__width=135, **shown) for name, (_, shown) in values.items()),
        ],
        sort="Energy",
        empty=NO_COSTS,
    )


def in_and_outside() -> Json:
    return bargauge(
        "Energy inside and outside of tasks",
        "Of all chosen GPUs in this time range. Joules of tasks that overlap are counted for each of them, so that their sum may"
        " be more than the whole.",
        [
            Query(total(m.TASK_ENERGY), "in tasks", "instant"),
            Query(f"clamp_min({WHOLE} - {total(m.TASK_ENERGY)}, 0)", "outside of tasks", "instant"),
        ],
        "joule",
        decimals=1,
        empty=NO_COSTS,
    )


def per_thousand() -> Json:
    energy = f"{total(m.TASK_ENERGY)} / {JOULES_PER_KWH / MILLION}"
    return stat(
        "Wh per 1,000 tokens",
        "Energy of the tasks by their tokens: prompt and completion together, and completion alone.",
        [
            Query(f"{energy} / ({TOKENS} > 0)", "all tokens", "instant"),
            Query(f"{energy} / ({total(m.TASK_TOKENS, COMPLETION)} > 0)", "completion tokens", "instant"),
        ],
        "watth",
        decimals=2,
    )


def cost_rate() -> Json:
    watts = recorded("instance:joulebench_gpu_energy_joules:rate1m")
    return timeseries(
        "Cost of an hour at this pace",
        "What an hour would cost at the power of the last minute, with the machine's price where there is one.",
        [Query(f"(sum({watts}) * {costs.electricity()} + {costs.hardware()}) * 3600", "here")],
        CURRENCY,
        empty=NO_COSTS,
    )
